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
from meltemi.inject.overlay import overlay
from meltemi.inject.probes import merge_scrape, rewrite_probes
from meltemi.inject.template import PodFacts, init_container, proxy_container, volumes
from meltemi.inject.wishes import (
    InjectConfig,
    JsonObject,
    Refused,
    Wishes,
    wishes,
    yes_or_no,
)

__all__ = ["InjectConfig", "NotInjected", "Refused", "inject", "why_not"]

_LONGEST_LABEL = 63
_SCHEDULED_JOB = re.compile(r"-\d{8,11}$")
_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"


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
    text = labels.get(names.INJECT_LABEL, annotations.get(names.INJECT_LABEL, ""))
    wish = yes_or_no(str(text))
    if wish is False:
        return f"the pod says {names.INJECT_LABEL}: {text}"
    policy = namespace_labels.get(names.NAMESPACE_LABEL)
    if policy == "disabled":
        return f"the namespace says {names.NAMESPACE_LABEL}: disabled"
    if policy == "enabled" or wish:
        return ""
    return f"neither the namespace ({names.NAMESPACE_LABEL}) nor the pod asks for a proxy"


def inject(
    pod: Mapping[str, Json],
    namespace_labels: Mapping[str, str],
    config: InjectConfig,
    *,
    namespace: str,
) -> JsonObject | NotInjected:
    """The pod with its proxy. `pod` is not changed. Raises Refused."""
    reason = why_not(pod, namespace_labels, namespace=namespace)
    if reason:
        return NotInjected(reason)
    result: JsonObject = copy.deepcopy(dict(pod))
    meta = result["metadata"] = result.get("metadata") or {}
    spec = result["spec"] = result.get("spec") or {}
    annotations = meta.get("annotations") or {}
    wanted = wishes(annotations, config)
    if wanted.is_gateway:
        wanted = msgspec.structs.replace(
            wanted, is_native=False, rewrites_probes=False, merges_metrics=False
        )
    own = _named(spec, names.PROXY_CONTAINER)
    if own.get("restartPolicy") == "Always" and not wanted.is_gateway:
        wanted = msgspec.structs.replace(wanted, is_native=True)
    scrape = None
    if wanted.merges_metrics:
        merged, scrape = merge_scrape(annotations)
        annotations = {**annotations, **merged}
    _add(result, wanted, config, scrape, namespace=namespace)
    _label(result)
    meta["annotations"] = {
        **_default_container(spec),
        **annotations,
        names.STATUS_ANNOTATION: _status(wanted, config),
        names.REVISION_LABEL: config.revision,
    }
    return result


def _add(
    pod: JsonObject,
    wanted: Wishes,
    config: InjectConfig,
    scrape: Mapping[str, str] | None,
    *,
    namespace: str,
) -> None:
    """Put containers and volumes into the spec, under what the pod says itself."""
    spec = pod["spec"]
    apps: Sequence[JsonObject] = _others(spec.get("containers"))
    probers: Mapping[str, Json] = {}
    if wanted.rewrites_probes:
        apps, probers = rewrite_probes(apps)
    facts = PodFacts(
        workload=_owner_of(pod)[1],
        owner=_owner_path(pod, namespace),
        app_containers=[str(c.get("name")) for c in apps],
        ports=[port for c in apps for port in c.get("ports") or ()],
        probers=probers,
        scrape=scrape,
    )
    own = _named(spec, names.PROXY_CONTAINER)
    if own.get("image") == "auto":
        own = {name: value for name, value in own.items() if name != "image"}
    proxy = overlay(proxy_container(config, wanted, facts), own)
    inits = _others(spec.get("initContainers"))
    if wanted.is_gateway:
        # A gateway's container stands where its author has put it.
        listed = [c.get("name") for c in spec.get("containers") or ()]
        place = (
            listed.index(names.PROXY_CONTAINER) if names.PROXY_CONTAINER in listed else len(apps)
        )
        spec["containers"] = [*apps[:place], proxy, *apps[place:]]
    else:
        setup = overlay(init_container(wanted), _named(spec, names.INIT_CONTAINER))
        if wanted.is_native:
            spec["containers"], inits = list(apps), [setup, proxy, *inits]
        else:
            # Last, so that init containers before it still reach the network without a proxy.
            inits = [*inits, setup]
            spec["containers"] = [proxy, *apps] if wanted.holds_application else [*apps, proxy]
    if inits:
        spec["initContainers"] = inits
    present = {v.get("name") for v in spec.get("volumes") or ()}
    missing = [v for v in volumes(config) if v["name"] not in present]
    spec["volumes"] = [*(spec.get("volumes") or ()), *missing]


def _others(containers: Sequence[JsonObject] | None) -> list[JsonObject]:
    """Without those that are ours by name."""
    ours = (names.PROXY_CONTAINER, names.INIT_CONTAINER)
    return [c for c in containers or () if c.get("name") not in ours]


def _named(spec: Mapping[str, Json], name: str) -> JsonObject:
    """The user's own container of a name that is ours; empty without one."""
    both = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    return next((c for c in both if c.get("name") == name), {})


def _default_container(spec: Mapping[str, Json]) -> Mapping[str, str]:
    """`kubectl logs` and `exec` go to the application wherever the proxy stands."""
    apps = _others(spec.get("containers"))
    return {_DEFAULT_CONTAINER: str(apps[0].get("name"))} if apps else {}


def _status(wanted: Wishes, config: InjectConfig) -> str:
    inits = [] if wanted.is_gateway else [names.INIT_CONTAINER]
    proxies = [names.PROXY_CONTAINER]
    return json.dumps(
        {
            "initContainers": [*inits, *proxies] if wanted.is_native else inits,
            "containers": [] if wanted.is_native else proxies,
            "volumes": [v["name"] for v in volumes(config)],
            "imagePullSecrets": None,
            "revision": config.revision,
        }
    )


def _label(pod: JsonObject) -> None:
    meta = pod["metadata"]
    labels = meta.get("labels") or {}
    name = labels.get("app.kubernetes.io/name") or labels.get("app") or _owner_of(pod)[1]
    revision = labels.get("app.kubernetes.io/version") or labels.get("version") or "latest"
    added = {
        names.TLS_MODE_LABEL: "istio",
        names.CANONICAL_NAME_LABEL: name[:_LONGEST_LABEL].rstrip("-_."),
        names.CANONICAL_REVISION_LABEL: revision,
    }
    meta["labels"] = {**added, **labels}


def _owner_of(pod: Mapping[str, Json]) -> tuple[str, str, str]:
    """(kind, name, apiVersion) of what the user made: the Deployment, the CronJob, or the pod."""
    meta = pod.get("metadata") or {}
    owner = next((o for o in meta.get("ownerReferences") or () if o.get("controller")), None)
    if owner is None:
        return "Pod", str(meta.get("name") or str(meta.get("generateName", "")).rstrip("-")), "v1"
    kind, name, version = str(owner["kind"]), str(owner["name"]), str(owner["apiVersion"])
    hashed = (meta.get("labels") or {}).get("pod-template-hash")
    if kind == "ReplicaSet" and hashed and name.endswith(f"-{hashed}"):
        return "Deployment", name.removesuffix(f"-{hashed}"), version
    if kind == "Job" and _SCHEDULED_JOB.search(name):
        return "CronJob", _SCHEDULED_JOB.sub("", name), version
    return kind, name, version


def _owner_path(pod: Mapping[str, Json], namespace: str) -> str:
    kind, name, version = _owner_of(pod)
    return f"kubernetes://apis/{version}/namespaces/{namespace}/{kind.lower()}s/{name}"
