"""What an EnvoyFilter may say, before anyone looks into its values (mesh-semantics 1.7).

A patch that is wrong is skipped and told, so these findings are advice: one bad patch does not
take the others of its object away. Only what would make the whole object meaningless refuses it.
"""

from collections.abc import Iterator, Mapping, Sequence

from meltemi.api.envoy_filter import EnvoyConfigObjectPatch, EnvoyFilterSpec
from meltemi.api.meta import Json
from meltemi.api.validate import words
from meltemi.api.validate.words import Finding

_LISTS = ("ADD", "REMOVE", "MERGE", "INSERT_BEFORE", "INSERT_AFTER", "INSERT_FIRST", "REPLACE")
_LIST_MERGE = "MERGE_AND_REPLACE_LIST"
OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "LISTENER": ("ADD", "REMOVE", "MERGE", _LIST_MERGE),
    "FILTER_CHAIN": ("ADD", "REMOVE", "MERGE", _LIST_MERGE),
    "NETWORK_FILTER": (*_LISTS, _LIST_MERGE),
    "HTTP_FILTER": (*_LISTS, _LIST_MERGE),
    "LISTENER_FILTER": (*_LISTS, _LIST_MERGE),
    "ROUTE_CONFIGURATION": ("MERGE", _LIST_MERGE),
    "VIRTUAL_HOST": ("ADD", "REMOVE", "MERGE", _LIST_MERGE),
    "HTTP_ROUTE": (
        "ADD",
        "REMOVE",
        "MERGE",
        "INSERT_BEFORE",
        "INSERT_AFTER",
        "INSERT_FIRST",
        _LIST_MERGE,
    ),
    "CLUSTER": ("ADD", "REMOVE", "MERGE", _LIST_MERGE),
    "EXTENSION_CONFIG": ("ADD",),
    "BOOTSTRAP": ("MERGE",),
}
"""The operations that make sense for each kind of configuration."""
CONTEXTS = ("ANY", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY")
_ACTIONS = ("ANY", "ROUTE", "REDIRECT", "DIRECT_RESPONSE")
_DEEPEST = 64


def envoy_filter(spec: EnvoyFilterSpec) -> Iterator[Finding]:
    """What refuses the whole object."""
    if spec.workload_selector is not None and spec.target_refs:
        yield "spec.targetRefs", "workloadSelector and targetRefs exclude each other"
    if spec.workload_selector is not None:
        yield from words.labels(spec.workload_selector.labels, "spec.workloadSelector.labels")


def patch_findings(patch: EnvoyConfigObjectPatch) -> Iterator[tuple[str, str]]:
    """Why a patch cannot work, by field; nothing when it may."""
    allowed = OPERATIONS.get(patch.apply_to)
    operation = patch.patch.operation
    if allowed is None:
        yield "applyTo", f"{patch.apply_to!r} is none of {', '.join(OPERATIONS)}"
        return
    if operation not in allowed:
        yield (
            "patch.operation",
            f"{operation!r} is not possible for {patch.apply_to}: use {', '.join(allowed)}",
        )
    if operation != "REMOVE" and not patch.patch.value:
        yield "patch.value", f"{operation} needs a value"
    if patch.patch.filter_class not in ("", "UNSPECIFIED"):
        yield "patch.filterClass", "places nothing here: say where with INSERT_BEFORE and a match"
    yield from _match(patch)
    yield from _value(patch.patch.value or {}, "patch.value", 0)


def _match(patch: EnvoyConfigObjectPatch) -> Iterator[tuple[str, str]]:
    match = patch.match
    if match.context == "WAYPOINT":
        yield "match.context", "there are no waypoints: use SIDECAR_INBOUND, SIDECAR_OUTBOUND, ..."
    elif match.context not in CONTEXTS:
        yield "match.context", f"{match.context!r} is none of {', '.join(CONTEXTS)}"
    if match.proxy is not None and match.proxy.proxy_version:
        yield from _regex(match.proxy.proxy_version, "match.proxy.proxyVersion")
    given = {
        "listener": match.listener,
        "routeConfiguration": match.route_configuration,
        "cluster": match.cluster,
    }
    fitting = _FITTING.get(patch.apply_to, "")
    for name, value in given.items():
        if value is not None and name != fitting:
            yield f"match.{name}", f"{patch.apply_to} cannot be matched by {name}"
    if match.listener is not None and match.listener.port_name:
        yield "match.listener.portName", "listeners have no port names: use portNumber or name"
    vhost = match.route_configuration.vhost if match.route_configuration else None
    if vhost is not None and vhost.route is not None and vhost.route.action not in _ACTIONS:
        path = "match.routeConfiguration.vhost.route.action"
        yield path, f"{vhost.route.action!r} is none of {', '.join(_ACTIONS)}"


_FITTING = {
    **dict.fromkeys(
        ("LISTENER", "FILTER_CHAIN", "NETWORK_FILTER", "HTTP_FILTER", "LISTENER_FILTER"),
        "listener",
    ),
    **dict.fromkeys(("ROUTE_CONFIGURATION", "VIRTUAL_HOST", "HTTP_ROUTE"), "routeConfiguration"),
    "CLUSTER": "cluster",
}


def _regex(pattern: str, path: str) -> Iterator[tuple[str, str]]:
    for finding in words.regex(pattern, path):
        yield finding[0], finding[1]


def _value(value: Json, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """Regular expressions are capped before anyone compiles them."""
    if depth > _DEEPEST:
        yield path, f"nested deeper than {_DEEPEST} levels"
    elif isinstance(value, Mapping):
        for name, item in value.items():
            where = f"{path}.{name}"
            if name == "regex" and isinstance(item, str):
                yield from _regex(item, where)
            yield from _value(item, where, depth + 1)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for i, item in enumerate(value):
            yield from _value(item, f"{path}[{i}]", depth + 1)
