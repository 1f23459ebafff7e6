"""networking.istio.io/v1beta1 ProxyConfig, and the settings of one proxy by precedence.

Mesh (`defaultConfig`) under the root namespace's object, under the namespace's, under the one that
selects the pod, under the pod's annotation `proxy.istio.io/config` (mesh-semantics 1.7). It all
takes effect when a pod is injected.
"""

from collections.abc import Iterable, Mapping

from meltemi.api.meta import Api, Json, LabelSelector, Object


class ProxyImage(Api, frozen=True):
    image_type: str = ""


class ProxyConfigSpec(Api, frozen=True):
    selector: LabelSelector | None = None
    concurrency: int | None = None
    environment_variables: Mapping[str, str] = {}
    image: ProxyImage | None = None


class ProxyConfig(Object, frozen=True):
    spec: ProxyConfigSpec = ProxyConfigSpec()


def merged(base: Mapping[str, Json], over: Mapping[str, Json]) -> dict[str, Json]:
    """Maps merge key by key; anything else replaces."""
    found = dict(base)
    for name, value in over.items():
        below = found.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        found[name] = merged(below, value) if both else value  # type: ignore[arg-type]
    return found


def proxy_settings(
    defaults: Mapping[str, Json],
    objects: Iterable[ProxyConfig],
    *,
    namespace: str,
    labels: Mapping[str, str],
    root: str,
) -> dict[str, Json]:
    """The settings of a pod's proxy, all but its annotation; the oldest object of a level wins."""
    found = dict(defaults)
    ordered = sorted(objects, key=lambda o: o.age_order)
    for place, selects in ((root, False), (namespace, False), (namespace, True)):
        chosen = (o for o in ordered if o.metadata.namespace == place and _fits(o, labels, selects))
        level = next(chosen, None)
        if level is not None:
            found = merged(found, _settings(level.spec))
    return found


def _fits(obj: ProxyConfig, labels: Mapping[str, str], selects: bool) -> bool:
    wanted = obj.spec.selector.match_labels if obj.spec.selector else {}
    return bool(wanted) is selects and wanted.items() <= labels.items()


def _settings(spec: ProxyConfigSpec) -> dict[str, Json]:
    found: dict[str, Json] = {}
    if spec.concurrency is not None:
        found["concurrency"] = spec.concurrency
    if spec.environment_variables:
        found["proxyMetadata"] = dict(spec.environment_variables)
    if spec.image is not None and spec.image.image_type:
        found["image"] = {"imageType": spec.image.image_type}
    return found
