"""Which steps of a way EnvoyFilters may change: patches meet Envoy's messages, which nothing here
reads, so a step they touch is told as uncertain instead of stated."""

from collections.abc import Iterator, Sequence

from meltemi.api.envoy_filter import EnvoyFilter, ListenerMatch
from meltemi.base.resource import NodeInfo
from meltemi.compile import names
from meltemi.compile.patch import matching
from meltemi.compile.patch.select import Filter, Patch, selected
from meltemi.simulate.trace import Because, PassedOver, Trace
from meltemi.simulate.world import World

_LISTENERS = ("LISTENER", "FILTER_CHAIN", "NETWORK_FILTER", "LISTENER_FILTER", "HTTP_FILTER")


def uncertain(world: World, trace: Trace) -> tuple[PassedOver, ...]:
    """The steps that patches may change, each with the patch."""
    node = world.node(trace.proxy)
    found = [] if node is None else list(_on_the_way(_patches(world, node), trace, node))
    places = [place for branch in trace.branches for place in branch.places]
    for proxy in dict.fromkeys(p.arrival.proxy for p in places if p.arrival is not None):
        other = world.node(proxy)
        if other is not None:
            found += _at_the_end(_patches(world, other), proxy)
    return tuple(dict.fromkeys(found))


def _patches(world: World, node: NodeInfo) -> tuple[Patch, ...]:
    objects = world.objects.envoy_filters.values()
    chosen = selected(node, [_filter(found) for found in objects], world.root)
    return chosen.patches if chosen is not None else ()


def _filter(found: EnvoyFilter) -> Filter:
    """A filter whose patches have no values: only whom and what they are for is asked."""
    selector = found.spec.workload_selector
    patches = tuple(
        Patch(found.key, f"spec.configPatches[{i}]", p.apply_to, p.patch.operation, p.match, b"")
        for i, p in enumerate(found.spec.config_patches)
    )
    return Filter(
        namespace=found.metadata.namespace,
        labels=selector.labels if selector is not None else {},
        targets=found.spec.target_refs,
        order=(found.spec.priority, *found.age_order),
        patches=patches,
    )


def _on_the_way(patches: Sequence[Patch], trace: Trace, node: NodeInfo) -> Iterator[PassedOver]:
    context = matching.GATEWAY if node.kind == "router" else matching.SIDECAR_OUTBOUND
    for patch in patches:
        if not matching.in_context(patch, context):
            continue
        if patch.apply_to == "CLUSTER":
            for branch in trace.branches:
                if matching.cluster(patch, branch.cluster.name):
                    yield _told(f"cluster {branch.cluster.name}", patch)
        elif patch.apply_to in _LISTENERS:
            if _meets_listener(patch.match.listener, trace):
                name = trace.listener.name if trace.listener is not None else "(none)"
                yield _told(f"listener {name}", patch)
        elif trace.request is not None and (step := _route_step(patch, trace)):
            yield _told(step, patch)


def _meets_listener(match: ListenerMatch | None, trace: Trace) -> bool:
    """Added listeners may take what no other does."""
    if match is None or trace.listener is None:
        return True
    own = trace.listener.name
    by_port = match.port_number in (0, trace.connection.port)
    return match.name in ("", own) and (by_port or own == names.VIRTUAL_OUTBOUND)


def _route_step(patch: Patch, trace: Trace) -> str:
    """The step a patch of routes may change; empty: none. Without a route, hosts may be added."""
    wanted, route = patch.match.route_configuration, trace.route
    if route is None:
        missing = trace.chain is not None and trace.response is not None
        return "the answer" if missing and patch.operation != "REMOVE" else ""
    if not matching.route_configuration(wanted, route.configuration):
        return ""
    host = wanted.vhost if wanted is not None else None
    adds = patch.apply_to == "VIRTUAL_HOST" and patch.operation == "ADD"
    if host is not None and not adds and host.name not in ("", route.host.name):
        return ""
    named = host.route.name if host is not None and host.route is not None else ""
    edits = patch.operation in ("MERGE", "MERGE_AND_REPLACE_LIST", "REMOVE")
    if patch.apply_to == "HTTP_ROUTE" and edits and named not in ("", route.name):
        return ""
    return f"host {route.host.name}" if adds else f"route {route.choice.name}"


def _at_the_end(patches: Sequence[Patch], proxy: str) -> Iterator[PassedOver]:
    for patch in patches:
        if matching.in_context(patch, matching.SIDECAR_INBOUND):
            yield _told(f"arrival at {proxy}", patch)


def _told(step: str, patch: Patch) -> PassedOver:
    what = f"{patch.operation} of {patch.apply_to} may change it: what it does is not simulated"
    return PassedOver(step, what, (Because(*patch.source, patch.path),))
