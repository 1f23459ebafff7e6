"""EnvoyFilters as values: their patches with parsed messages, and the proxies they are for."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from google.protobuf.json_format import ParseError

from meltemi.api.envoy_filter import (
    EnvoyConfigObjectMatch,
    EnvoyConfigObjectPatch,
    EnvoyFilter,
    PolicyTargetReference,
    ProxyMatch,
)
from meltemi.api.validate.envoy_filter import patch_findings
from meltemi.api.validate.words import compiled
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity
from meltemi.base.resource import NodeInfo
from meltemi.protos.pool import Protos, UnknownMessage

_LISTENER = "envoy.config.listener.v3"
_ROUTE = "envoy.config.route.v3"
MESSAGES: Mapping[str, str] = {
    "LISTENER": f"{_LISTENER}.Listener",
    "FILTER_CHAIN": f"{_LISTENER}.FilterChain",
    "NETWORK_FILTER": f"{_LISTENER}.Filter",
    "LISTENER_FILTER": f"{_LISTENER}.ListenerFilter",
    "HTTP_FILTER": "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
    "ROUTE_CONFIGURATION": f"{_ROUTE}.RouteConfiguration",
    "VIRTUAL_HOST": f"{_ROUTE}.VirtualHost",
    "HTTP_ROUTE": f"{_ROUTE}.Route",
    "CLUSTER": "envoy.config.cluster.v3.Cluster",
    "EXTENSION_CONFIG": "envoy.config.core.v3.TypedExtensionConfig",
    "BOOTSTRAP": "envoy.config.bootstrap.v3.Bootstrap",
}
_GATEWAY_LABEL = "gateway.networking.k8s.io/gateway-name"
_GATEWAY_GROUP = "gateway.networking.k8s.io"


class Patch(msgspec.Struct, frozen=True):
    """One patch, its value already a message of the right type."""

    source: ObjectKey
    path: str
    """`spec.configPatches[0]`."""
    apply_to: str
    operation: str
    match: EnvoyConfigObjectMatch
    value: bytes
    """The message's bytes; empty for REMOVE."""


class Filter(msgspec.Struct, frozen=True):
    """The patches of one EnvoyFilter, and whom they are for."""

    namespace: str
    labels: Mapping[str, str]
    targets: tuple[PolicyTargetReference, ...]
    order: tuple[object, ...]
    """Sorts by priority, then age and name; the root namespace is put first by `selected`."""
    patches: tuple[Patch, ...]


class PatchSet(msgspec.Struct, frozen=True):
    """The patches one proxy gets, in order. Equal sets share their patched resources."""

    id: str
    patches: tuple[Patch, ...]


def filter_from_object(protos: Protos, obj: EnvoyFilter) -> Outcome[Filter]:
    """Parse every value; a patch that cannot be parsed is told and left out."""
    patches: list[Patch] = []
    problems: list[Problem] = []
    for i, wanted in enumerate(obj.spec.config_patches):
        path = f"spec.configPatches[{i}]"
        if any(patch_findings(wanted)):
            continue  # validation has told why
        try:
            value = _value(protos, wanted)
        except UnknownMessage as error:
            problems.append(_unknown(obj.key, path, str(error.args[0])))
        except (ParseError, TypeError, ValueError, RecursionError) as error:
            message = f"not a {MESSAGES[wanted.apply_to]}: {' '.join(str(error).split())}"
            where = f"{path}.patch.value"
            problems.append(Problem(Code.BAD_VALUE, Severity.ERROR, obj.key, where, message))
        else:
            patches.append(
                Patch(obj.key, path, wanted.apply_to, wanted.patch.operation, wanted.match, value)
            )
    problems += _target_problems(obj)
    selector = obj.spec.workload_selector
    found = Filter(
        namespace=obj.metadata.namespace,
        labels=selector.labels if selector is not None else {},
        targets=obj.spec.target_refs,
        order=(obj.spec.priority, *obj.age_order),
        patches=tuple(patches),
    )
    return Outcome(found, tuple(problems))


def _value(protos: Protos, wanted: EnvoyConfigObjectPatch) -> bytes:
    if wanted.patch.operation == "REMOVE":
        return b""
    message = protos.from_dict(MESSAGES[wanted.apply_to], wanted.patch.value or {})
    body: bytes = message.SerializeToString(deterministic=True)
    return body


def _unknown(about: ObjectKey, path: str, name: str) -> Problem:
    return Problem(
        Code.NOT_SUPPORTED,
        Severity.ERROR,
        about,
        f"{path}.patch.value",
        f"the installed Envoy has no {name}: the extension is not built into it; use another one",
    )


def _target_problems(obj: EnvoyFilter) -> Iterator[Problem]:
    for i, target in enumerate(obj.spec.target_refs):
        if (target.group, target.kind) != (_GATEWAY_GROUP, "Gateway"):
            yield Problem(
                Code.NOT_SUPPORTED,
                Severity.WARNING,
                obj.key,
                f"spec.targetRefs[{i}]",
                f"{target.kind} selects nothing here: only a Gateway of {_GATEWAY_GROUP} does; "
                "use workloadSelector",
            )


def selected(node: NodeInfo, filters: Iterable[Filter], root: str) -> PatchSet | None:
    """The patches for one proxy: by priority, the root namespace's first, then the oldest."""
    chosen = [f for f in filters if _is_for(f, node, root)]
    chosen.sort(key=lambda f: (f.order[0], f.namespace != root, *f.order[1:]))
    patches = tuple(p for f in chosen for p in f.patches if _fits(p.match.proxy, node))
    patches = tuple(p for p in patches if p.apply_to != "BOOTSTRAP" and _may_apply(p, node))
    if not patches:
        return None
    digest = hashlib.blake2b(msgspec.msgpack.encode(patches, order="deterministic"), digest_size=8)
    return PatchSet(digest.hexdigest(), patches)


def bootstrap_patches(node: NodeInfo, filters: Iterable[Filter], root: str) -> tuple[bytes, ...]:
    """Bootstrap messages to merge for a proxy that is about to start."""
    chosen = [f for f in filters if _is_for(f, node, root)]
    chosen.sort(key=lambda f: (f.order[0], f.namespace != root, *f.order[1:]))
    return tuple(
        p.value
        for f in chosen
        for p in f.patches
        if p.apply_to == "BOOTSTRAP" and _fits(p.match.proxy, node)
    )


def _is_for(found: Filter, node: NodeInfo, root: str) -> bool:
    if found.namespace not in (node.namespace, root):
        return False
    if found.targets:
        named = node.labels.get(_GATEWAY_LABEL)
        return any(
            (t.group, t.kind) == (_GATEWAY_GROUP, "Gateway") and t.name == named
            for t in found.targets
        )
    return found.labels.items() <= node.labels.items()


def _may_apply(patch: Patch, node: NodeInfo) -> bool:
    context = patch.match.context
    return context == "ANY" or (context == "GATEWAY") is (node.kind == "router")


def _fits(match: ProxyMatch | None, node: NodeInfo) -> bool:
    """`proxyVersion` is a regular expression, run by RE2; metadata must be equal."""
    if match is None:
        return True
    version = str(node.metadata.get("ISTIO_VERSION", ""))
    if match.proxy_version and not compiled(match.proxy_version).search(version):
        return False
    return all(str(node.metadata.get(k)) == v for k, v in match.metadata.items())
