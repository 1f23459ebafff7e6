"""What speaks of the host asked for and has no say, each with the reason: the answer to "why is
my VirtualService, DestinationRule, Gateway or Service ignored?".

The simulator has decided before; here nothing decides, objects that took no part are only asked
which of their fields kept them out.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from meltemi.api.networking import DestinationRule, VirtualService
from meltemi.base.keys import ObjectKey
from meltemi.base.resource import NodeInfo
from meltemi.compile import names
from meltemi.model.hosts import (
    export_list,
    full_gateway,
    full_host,
    is_visible,
    matches_host,
)
from meltemi.model.service import Service
from meltemi.simulate.hosts import without_port
from meltemi.simulate.resolving import names as searched
from meltemi.simulate.resolving import service_of
from meltemi.simulate.trace import Because, PassedOver, Trace
from meltemi.simulate.world import World

_SHOWN = 4
"""Names listed in a reason; more would hide the point."""
_NO_HTTP = "it has no http rules"


def overlooked(world: World, trace: Trace) -> tuple[PassedOver, ...]:
    """Objects about the host of a request that the way of it does not follow."""
    node = world.node(trace.proxy)
    if node is None:
        return ()
    seen = _Asker(world, node, trace)
    found = [*seen.services(), *seen.gateways(), *seen.virtual_services(), *seen.rules()]
    return tuple(dict.fromkeys(found))


class _Wrong(NamedTuple):
    """Why an object has no say, and the field that says so."""

    reason: str
    path: str


class _Asker:
    def __init__(self, world: World, node: NodeInfo, trace: Trace) -> None:
        self._world = world
        self._node = node
        self._trace = trace
        request = trace.request
        asked = without_port(request.authority) if request is not None else ""
        self._asked = asked or trace.connection.sni or trace.resolved.host
        self._is_gateway = node.kind == "router"
        spaces = searched(self._asked, node.namespace, world.domain)
        services = [s for s in map(self._service, spaces) if s is not None]
        self._meant = services[0] if services and not self._is_gateway else None
        self._hosts = {self._asked, *((self._meant.host,) if self._meant else ())}
        clusters = [branch.cluster.name for branch in trace.branches]
        self._in_force = world.rules_on(trace.proxy, clusters)
        self._used = {*_reasons(msgspec.to_builtins(trace)), *self._in_force}

    def _service(self, host: str) -> Service | None:
        return service_of(self._world, host)

    def services(self) -> Iterator[PassedOver]:
        """A service that is there and that the proxy does not know, or not on this port."""
        service, trace = self._meant, self._trace
        if service is None or trace.resolved.host.replace(".", "").isdecimal():
            return
        port = trace.connection.port
        clusters = {c for c in (b.cluster.name for b in trace.branches) if "|" in c}
        if clusters or (trace.response is not None and trace.route is not None and not self._lost):
            return
        if service.port(port) is None:
            ports = _listed(str(p.number) for p in service.ports)
            yield _passed(service.source, f"it has no port {port}: it has {ports}", "spec.ports")
        elif not is_visible(service.export_to, self._node.namespace):
            reason = f"it is not exported to namespace {self._node.namespace}"
            path = "spec.exportTo" if service.declared else "metadata.annotations"
            yield _passed(service.source, reason, path)
        else:
            sidecar = self._world.sidecar_of(self._node)
            if sidecar is not None and self._lost:
                hides = f"{sidecar} imports no host that covers {service.host}"
                because = (Because(*sidecar, "spec.egress"),)
                yield PassedOver(str(service.source), hides, because)

    @property
    def _lost(self) -> bool:
        """Whether the request met what is for unknown hosts."""
        route = self._trace.route
        clusters = {branch.cluster.name for branch in self._trace.branches}
        unknown = {names.PASSTHROUGH, names.BLACK_HOLE}
        return bool(clusters & unknown) or bool(
            route is not None and route.name in (names.BLOCK_ALL, names.ALLOW_ANY)
        )

    def gateways(self) -> Iterator[PassedOver]:
        """Gateways for the port asked that select other pods."""
        if not self._is_gateway or self._trace.listener is not None:
            return
        labels = self._node.labels
        for key, gateway in sorted(self._world.objects.gateways.items().items()):
            selector = gateway.spec.selector
            if not selector.items() <= labels.items():
                wanted = _listed(f"{k}={v}" for k, v in sorted(selector.items()))
                reason = f"its selector {wanted} does not select {self._node.name}"
                yield _passed(key, reason, "spec.selector")

    def virtual_services(self) -> Iterator[PassedOver]:
        for key, found in sorted(self._world.objects.virtual_services.items().items()):
            if key not in self._used and found.spec.hosts:
                wrong = self._of_virtual_service(key, found)
                if wrong is not None:
                    yield _passed(key, wrong.reason, wrong.path)

    def _of_virtual_service(self, key: ObjectKey, found: VirtualService) -> _Wrong | None:
        spec, space = found.spec, self._node.namespace
        means = [full_host(host, key.namespace, self._world.domain) for host in spec.hosts]
        if not any(matches_host(m, host) for m in means for host in self._hosts):
            return self._misnamed(spec.hosts, key.namespace, "spec.hosts[{}]")
        bound = {full_gateway(g, key.namespace) for g in spec.gateways or ("mesh",)}
        own = self._own_gateways() if self._is_gateway else {"mesh"}
        if not bound & own:
            return _unbound(bound, own, is_gateway=self._is_gateway)
        exported = export_list(spec.export_to, key.namespace)
        if not is_visible(exported, space):
            return _Wrong(f"it is not exported to namespace {space}", "spec.exportTo")
        if self._trace.request is not None and not spec.http:
            return _Wrong(_NO_HTTP, "spec")
        if self._trace.request is not None and self._trace.route is None and self._speaks_bytes:
            port = self._trace.connection.port
            reason = (
                f"port {port} is not declared to speak HTTP, so http rules do not apply: name it "
                "http-..., or set appProtocol"
            )
            return _Wrong(reason, "spec.http")
        takers = sorted(u for u in self._used if u.kind == "VirtualService")
        if takers:
            return _Wrong(f"{takers[0]} has the host: it is older or more exact", "spec.hosts")
        return None

    @property
    def _speaks_bytes(self) -> bool:
        return self._trace.chain is not None and self._trace.response is None

    def _own_gateways(self) -> set[str]:
        return {
            f"{key.namespace}/{key.name}"
            for key, gateway in self._world.objects.gateways.items().items()
            if gateway.spec.selector.items() <= self._node.labels.items()
        }

    def _misnamed(self, hosts: Sequence[str], space: str, path: str) -> _Wrong | None:
        """A short name of another namespace: it looks alike and means something else."""
        service = self._meant
        if service is None:
            return None
        for i, host in enumerate(hosts):
            meant = full_host(host, space, self._world.domain)
            if host.lower() == service.name.lower() and meant != service.host:
                reason = f"its host {host} means {meant}: write {service.host}"
                return _Wrong(reason, path.format(i))
        return None

    def rules(self) -> Iterator[PassedOver]:
        if self._is_gateway and self._trace.route is None:
            return
        clusters = [b.cluster.name for b in self._trace.branches]
        parsed = [told for told in map(names.parse, clusters) if told is not None]
        for key, found in sorted(self._world.objects.destination_rules.items().items()):
            if key in self._used:
                continue
            for host in dict.fromkeys(told.host for told in parsed):
                wrong = self._of_rule(key, found, host)
                if wrong is not None:
                    yield _passed(key, wrong.reason, wrong.path)
                    break

    def _of_rule(self, key: ObjectKey, found: DestinationRule, host: str) -> _Wrong | None:
        spec, space = found.spec, self._node.namespace
        if not matches_host(full_host(spec.host, key.namespace, self._world.domain), host):
            return self._misnamed((spec.host,), key.namespace, "spec.host")
        service = self._service(host)
        order = list(
            dict.fromkeys((space, *((service.namespace,) if service else ()), self._world.root))
        )
        if key.namespace not in order:
            looked = ", then ".join(order)
            return _Wrong(f"rules of {host} are looked up in {looked} only", "metadata.namespace")
        if not is_visible(export_list(spec.export_to, key.namespace), space):
            return _Wrong(f"it is not exported to namespace {space}", "spec.exportTo")
        selector = spec.workload_selector
        if selector is not None and not selector.match_labels.items() <= self._node.labels.items():
            return _Wrong(f"it does not select {self._node.name}", "spec.workloadSelector")
        taken = sorted(self._in_force)
        if taken:
            reason = f"{taken[0]} is nearer (looked up in {', then '.join(order)}) or more exact"
            return _Wrong(reason, "spec.host")
        return None


def _unbound(bound: set[str], own: set[str], *, is_gateway: bool) -> _Wrong:
    names_bound = _listed(sorted(bound))
    if not is_gateway:
        reason = f"it is bound to {names_bound} only: add mesh for requests from pods"
        return _Wrong(reason, "spec.gateways")
    here = _listed(sorted(own)) or "none"
    reason = f"it is bound to {names_bound}, and the Gateways of this proxy are: {here}"
    return _Wrong(reason, "spec.gateways")


def _passed(key: ObjectKey, reason: str, path: str) -> PassedOver:
    return PassedOver(str(key), reason, (Because(*key, path),))


def _listed(values: Iterator[str] | Sequence[str]) -> str:
    found = list(values)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def _reasons(value: object) -> Iterator[ObjectKey]:
    """Every object that a trace names as a reason."""
    if isinstance(value, dict):
        if {"kind", "namespace", "name", "path"} <= value.keys():
            yield ObjectKey(value["kind"], value["namespace"], value["name"])
        for item in value.values():
            yield from _reasons(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _reasons(item)
