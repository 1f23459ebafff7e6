"""Whether and how a pod gets its proxy. Pure: a pod in, a pod out, or the reason why not.

The rules are those of mesh-semantics 1.17. Injecting a pod that has its proxy changes nothing.
"""

import copy
import json
import re
from collections.abc import Mapping, Sequence

import msgspec

from meltemi.api import names
from meltemi.api.meta import Json
from meltemi.inject.template import (
    InjectConfig,
    JsonObject,
    PodFacts,
    init_container,
    proxy_container,
    volumes,
)

__all__ = ["InjectConfig", "NotInjected", "Refused", "inject", "why_not"]

_PROBES = {"readinessProbe": "readyz", "livenessProbe": "livez", "startupProbe": "startupz"}
_HASH = re.compile(r"-[a-z0-9]{1,10}$")


class Refused(ValueError):
    """The pod asks for a sidecar that cannot be given; the text names the field."""


class NotInjected(msgspec.Struct, frozen=True):
    reason: str


def why_not(pod: Mapping[str, Json], namespace_labels: Mapping[str, str], *, namespace: str) -> str:
    """Why a pod gets no proxy; empty when it gets one."""
    meta, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    annotations, labels = meta.get("annotations") or {}, meta.get("labels") or {}
    if namespace in names.IGNORED_NAMESPACES:
        return f"namespace {namespace} is never injected"
    if spec.get("hostNetwork"):
        return "the pod uses the host's network"
    if names.STATUS_ANNOTATION in annotations:
        return "the pod has its proxy already"
    wish = labels.get(names.INJECT_LABEL, annotations.get(names.INJECT_LABEL, ""))
    wish = str(wish).lower()
    if wish in ("false", "n", "no", "off"):
        return f"the pod says {names.INJECT_LABEL}: {wish}"
    policy = namespace_labels.get(names.NAMESPACE_LABEL)
    if policy == "disabled":
        return f"the namespace says {names.NAMESPACE_LABEL}: disabled"
    if policy == "enabled" or wish in ("true", "y", "yes", "on"):
        return ""
    return f"neither the namespace ({names.NAMESPACE_LABEL}) nor the pod asks for a proxy"


def inject(
    pod: JsonObject,
    namespace_labels: Mapping[str, str],
    config: InjectConfig,
    *,
    namespace: str,
) -> JsonObject | NotInjected:
    """The pod with its proxy. `pod` is not changed. Raises Refused."""
    reason = why_not(pod, namespace_labels, namespace=namespace)
    if reason:
        return NotInjected(reason)
    result = copy.deepcopy(pod)
    meta = result.setdefault("metadata", {})
    annotations = meta.setdefault("annotations", {})
    if annotations is None:
        annotations = meta["annotations"] = {}
    spec = result.setdefault("spec", {})
    templates = annotations.get(names.TEMPLATES_ANNOTATION, "sidecar").split(",")
    unknown = [t for t in templates if t.strip() not in ("sidecar", "gateway")]
    if unknown:
        raise Refused(
            f"annotation {names.TEMPLATES_ANNOTATION}: {unknown[0]!r} is no template; there are "
            "sidecar and gateway"
        )
    is_gateway = "gateway" in (t.strip() for t in templates)
    try:
        _add(result, spec, annotations, config, namespace=namespace, is_gateway=is_gateway)
    except ValueError as error:
        raise Refused(str(error)) from error
    _label(meta)
    annotations[names.STATUS_ANNOTATION] = json.dumps(
        {
            "initContainers": [] if is_gateway else [names.INIT_CONTAINER],
            "containers": [names.PROXY_CONTAINER],
            "volumes": [v["name"] for v in volumes(config)],
            "imagePullSecrets": None,
            "revision": "default",
        }
    )
    return result


def _add(
    pod: JsonObject,
    spec: JsonObject,
    annotations: dict[str, str],
    config: InjectConfig,
    *,
    namespace: str,
    is_gateway: bool,
) -> None:
    """Put containers and volumes into the spec, under what the pod says itself."""
    containers: list[JsonObject] = list(spec.get("containers") or [])
    apps = [c for c in containers if c.get("name") != names.PROXY_CONTAINER]
    probers = {} if is_gateway else _rewrite_probes(apps)
    facts = PodFacts(
        namespace=namespace,
        workload=_workload(pod),
        owner=_owner(pod, namespace),
        annotations=annotations,
        app_containers=[str(c.get("name")) for c in apps],
        ports=[port for c in apps for port in c.get("ports") or ()],
        probers=probers,
        scrape=None if is_gateway else _merge_scrape(annotations),
    )
    own = next((c for c in containers if c.get("name") == names.PROXY_CONTAINER), None)
    proxy = proxy_container(config, facts, "router" if is_gateway else "sidecar")
    if own is not None:
        proxy = _over(proxy, {k: v for k, v in own.items() if (k, v) != ("image", "auto")})
    inits: list[JsonObject] = list(spec.get("initContainers") or [])
    if not is_gateway:
        setup = init_container(config, facts)
        mine = next((c for c in inits if c.get("name") == names.INIT_CONTAINER), None)
        setup = _over(setup, mine) if mine is not None else setup
        inits = [setup, *(c for c in inits if c.get("name") != names.INIT_CONTAINER)]
    if annotations.get("sidecar.istio.io/nativeSidecar", "").lower() == "true" and not is_gateway:
        inits.insert(1, {**proxy, "restartPolicy": "Always"})
        spec["containers"] = apps
    elif own is not None:
        spec["containers"] = [
            proxy if c.get("name") == names.PROXY_CONTAINER else c for c in containers
        ]
    elif _holds_app(annotations):
        proxy.setdefault("lifecycle", {})
        spec["containers"] = [proxy, *apps]
    else:
        spec["containers"] = [*apps, proxy]
    if inits:
        spec["initContainers"] = inits
    present = {v.get("name") for v in spec.get("volumes") or ()}
    missing = [v for v in volumes(config) if v["name"] not in present]
    spec["volumes"] = [*(spec.get("volumes") or ()), *missing]


def _holds_app(annotations: Mapping[str, str]) -> bool:
    return "holdApplicationUntilProxyStarts: true" in annotations.get(
        "proxy.istio.io/config", ""
    ).replace('"', "")


def _label(meta: JsonObject) -> None:
    labels = meta.get("labels") or {}
    name = labels.get("app.kubernetes.io/name") or labels.get("app")
    revision = labels.get("app.kubernetes.io/version") or labels.get("version") or "latest"
    added = {
        names.TLS_MODE_LABEL: "istio",
        names.CANONICAL_NAME_LABEL: name or _HASH.sub("", _base_name(meta)),
        names.CANONICAL_REVISION_LABEL: revision,
        names.REVISION_LABEL: "default",
    }
    meta["labels"] = {**added, **labels}


def _base_name(meta: Mapping[str, Json]) -> str:
    return str(meta.get("name") or str(meta.get("generateName", "")).rstrip("-"))


def _workload(pod: Mapping[str, Json]) -> str:
    """The Deployment behind a ReplicaSet's pod, else the owner, else the pod (mesh-semantics)."""
    meta = pod.get("metadata") or {}
    owner = next((o for o in meta.get("ownerReferences") or () if o.get("controller")), None)
    if owner is None:
        return _base_name(meta)
    hashed = (meta.get("labels") or {}).get("pod-template-hash")
    name = str(owner["name"])
    if owner["kind"] == "ReplicaSet" and hashed:
        return name.removesuffix(f"-{hashed}")
    return name


def _owner(pod: Mapping[str, Json], namespace: str) -> str:
    meta = pod.get("metadata") or {}
    owner = next((o for o in meta.get("ownerReferences") or () if o.get("controller")), None)
    kind = str(owner["kind"]) if owner else "Pod"
    plural = {"ReplicaSet": "deployments"}.get(kind, kind.lower() + "s")
    version = "v1" if kind == "Pod" else "apps/v1" if not owner else str(owner["apiVersion"])
    return f"kubernetes://apis/{version}/namespaces/{namespace}/{plural}/{_workload(pod)}"


def _rewrite_probes(containers: Sequence[JsonObject]) -> dict[str, Json]:
    """Send the app's HTTP and TCP probes through the agent: they must pass in STRICT mode too."""
    probers: dict[str, Json] = {}
    for container in containers:
        ports = {p.get("name"): p.get("containerPort") for p in container.get("ports") or ()}
        for field, word in _PROBES.items():
            probe = container.get(field)
            if not probe:
                continue
            seconds = probe.get("timeoutSeconds", 1)
            path = f"/app-health/{container.get('name')}/{word}"
            if probe.get("httpGet"):
                asked = dict(probe["httpGet"])
                asked["port"] = ports.get(asked.get("port"), asked.get("port"))
                probers[path] = {"httpGet": asked, "timeoutSeconds": seconds}
            elif probe.get("tcpSocket"):
                asked = dict(probe["tcpSocket"])
                asked["port"] = ports.get(asked.get("port"), asked.get("port"))
                probers[path] = {"tcpSocket": asked, "timeoutSeconds": seconds}
            else:
                continue
            rest = {k: v for k, v in probe.items() if k not in ("httpGet", "tcpSocket")}
            container[field] = {
                **rest,
                "httpGet": {"path": path, "port": names.METRICS_PORT, "scheme": "HTTP"},
            }
    return probers


def _merge_scrape(annotations: dict[str, str]) -> dict[str, str] | None:
    """Point Prometheus at the merged metrics; what the pod said goes to the agent."""
    if annotations.get("prometheus.istio.io/merge-metrics", "").lower() == "false":
        return None
    said = None
    if annotations.get("prometheus.io/scrape", "").lower() == "true":
        said = {
            "scrape": "true",
            "path": annotations.get("prometheus.io/path", ""),
            "port": annotations.get("prometheus.io/port", ""),
        }
    elif annotations.get("prometheus.io/scrape", "").lower() == "false":
        return None
    annotations["prometheus.io/scrape"] = "true"
    annotations["prometheus.io/port"] = str(names.METRICS_PORT)
    annotations["prometheus.io/path"] = "/stats/prometheus"
    return said


def _over(base: JsonObject, own: Mapping[str, Json]) -> JsonObject:
    """The user's fields over the template's; lists of named things are merged by name."""
    merged = dict(base)
    for key, value in own.items():
        before = merged.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            merged[key] = _over(before, value)
        elif isinstance(value, list) and _is_named(value) and _is_named(before):
            theirs = {item["name"] for item in value}
            merged[key] = [i for i in before or () if i["name"] not in theirs] + value
        else:
            merged[key] = value
    return merged


def _is_named(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(i, dict) and "name" in i for i in value)
