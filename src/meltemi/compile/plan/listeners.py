"""The outbound listeners of sidecars (mesh-semantics 1.9).

Services claim listeners: HTTP services share one for each port, others stand at their own
addresses. What claims of one listener become is decided here, oldest claim first.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from meltemi.base.keys import HostKey, ObjectKey
from meltemi.base.problems import Code, Problem, Severity
from meltemi.compile import ir, names
from meltemi.compile.plan.outside import Outside
from meltemi.compile.scope import ScopeKey
from meltemi.compile.settings import MeshSettings
from meltemi.compile.visibility import Way
from meltemi.model.service import Protocol

ANY_ADDRESS = "0.0.0.0"
ANY_IPV6 = "::"
RAW_HTTP = ir.ChainMatch(transport=ir.Transport.RAW, protocols=ir.SNIFFED_HTTP)


class Slot(NamedTuple):
    """Where a listener of one scope stands."""

    scope: ScopeKey
    bind: str
    """An IP address, or `unix:///path` with port 0."""
    port: int

    @property
    def name(self) -> str:
        return names.address_listener(self.bind, self.port) if self.port else self.bind


class Claim(msgspec.Struct, frozen=True):
    """One port of one service that wants to be reached through a listener."""

    slot: Slot
    through: Way
    """Which way out leads there."""
    port: int
    """The service's."""
    protocol: Protocol
    source: ObjectKey
    created: tuple[str, str, str]
    ranges: tuple[str, ...] = ()
    """CIDRs that mean this service; empty: the listener's address does."""
    dynamic: bool = False
    """The name in the traffic itself is resolved (DYNAMIC_DNS)."""
    opens: bool = False
    """Nobody captures the traffic: the application connects to the listener itself."""

    @property
    def host(self) -> HostKey:
        return self.through.pair.host

    @property
    def may_speak_http(self) -> bool:
        return self.protocol.is_http or self.protocol is Protocol.AUTO

    @property
    def routes(self) -> str:
        """The route configuration of what is HTTP: a sniffed port at an address has its own."""
        if self.protocol is Protocol.AUTO and self.slot.bind != ANY_ADDRESS and not self.opens:
            return names.virtual_host(self.host.host, self.port)
        return str(self.slot.port) if self.slot.port else self.slot.bind


class Claimed(NamedTuple):
    """A claim with what it wants done: chains for its bytes; HTTP has one chain in common."""

    claim: Claim
    chains: tuple[ir.FilterChain, ...]


class PlannedListener(NamedTuple):
    listener: ir.Listener
    problems: tuple[Problem, ...]


def virtual_outbound(outside: Outside, *, ipv6: bool) -> ir.Listener:
    """Takes all captured connections and hands each to the listener of its destination."""
    loop = ir.ChainMatch(port=names.OUTBOUND_PORT)
    return ir.Listener(
        name=names.VIRTUAL_OUTBOUND,
        side=ir.Side.CLIENT,
        address=ANY_ADDRESS,
        port=names.OUTBOUND_PORT,
        also=any_of(ipv6=ipv6),
        chains=(ir.FilterChain("virtualOutbound-blackhole", loop, ir.REFUSE),),
        default=ir.FilterChain("virtualOutbound-catchall-tcp", ir.ChainMatch(), outside.tcp),
        hands_over=True,
    )


def any_of(*, ipv6: bool) -> tuple[str, ...]:
    """What stands beside ANY_ADDRESS."""
    return (ANY_IPV6,) if ipv6 else ()


def outbound_listener(
    slot: Slot, claimed: Sequence[Claimed], outside: Outside, also: tuple[str, ...] = ()
) -> PlannedListener:
    """Merge the claims of a listener. Chains that would take the same connections conflict: the
    oldest claim keeps them, the younger ones are reported. `also`: the listener's further
    addresses."""
    ordered = sorted(claimed, key=lambda c: c.claim.created)
    owners: dict[ir.ChainMatch, Claim] = {}
    chains: dict[ir.ChainMatch, ir.FilterChain] = {}
    problems: list[Problem] = []
    for claim, wanted in ordered:
        for chain in (*_http(claim, slot), *wanted):
            owner = owners.setdefault(chain.match, claim)
            if owner is claim:
                chains.setdefault(chain.match, chain)
            elif chains[chain.match].network != chain.network:
                problems.append(_conflict(slot, claim, owner))
    everything = chains.pop(ir.ChainMatch(), None)
    opens = any(claim.opens for claim, _ in ordered)
    listener = ir.Listener(
        name=names.opened_listener(slot.bind, slot.port) if opens and slot.port else slot.name,
        side=ir.Side.CLIENT,
        address=slot.bind,
        port=slot.port,
        also=also,
        chains=tuple(chains.values()),
        default=everything or _fallthrough(outside),
        bind=opens,
        inspects_tls=any(m.sni or m.transport is not ir.Transport.ANY for m in chains),
        inspects_http=any(m.protocols for m in chains),
        sources=_sources(chains.values(), everything),
    )
    return PlannedListener(listener, tuple(dict.fromkeys(problems)))


def asking_listener(port: int, settings: MeshSettings, *, ipv6: bool) -> ir.Listener:
    """The shared HTTP listener of a port, where no service the proxy knows claims it yet: what
    it will learn may be a host that Envoy resolves."""
    name = names.address_listener(ANY_ADDRESS, port)
    through = Outside(names.PASSTHROUGH if settings.allow_any else "")
    http = ir.Http(f"outbound_{name}", str(port), dynamic_hosts=True)
    return ir.Listener(
        name=name,
        side=ir.Side.CLIENT,
        address=ANY_ADDRESS,
        port=port,
        also=any_of(ipv6=ipv6),
        chains=(ir.FilterChain(name, RAW_HTTP, http),),
        default=_fallthrough(through),
        bind=False,
        inspects_tls=True,
        inspects_http=True,
    )


def _http(claim: Claim, slot: Slot) -> tuple[ir.FilterChain, ...]:
    """The chain of all that speaks HTTP here: it is the same for every service but a sniffed
    one at its own address."""
    if not claim.may_speak_http:
        return ()
    http = ir.Http(f"outbound_{slot.name}", claim.routes)
    match = ir.ChainMatch() if claim.opens and claim.protocol.is_http else RAW_HTTP
    return (ir.FilterChain(slot.name, match, http),)


def _fallthrough(outside: Outside) -> ir.FilterChain:
    return ir.FilterChain("PassthroughFilterChain", ir.ChainMatch(), outside.tcp)


def _sources(
    chains: Iterable[ir.FilterChain], everything: ir.FilterChain | None
) -> tuple[ObjectKey, ...]:
    found = (*chains, everything) if everything is not None else chains
    return tuple(dict.fromkeys(c.source for c in found if c.source is not None))


def _conflict(slot: Slot, claim: Claim, owner: Claim) -> Problem:
    where = f"port {slot.port}" if slot.bind == ANY_ADDRESS else f"{slot.bind}:{slot.port}"
    return Problem(
        Code.PORT_CONFLICT,
        Severity.WARNING,
        claim.source,
        "spec.ports",
        f"clients cannot tell {claim.host.host} from {owner.host.host} on {where}: {owner.source} "
        "is older and takes the connections; give the service an address of its own, or another "
        "port",
    )


def claim_chains(
    claim: Claim, routes: Sequence[ir.L4Route], default: ir.L4Forward, *, marks: bool
) -> tuple[ir.FilterChain, ...]:
    """The chains of a claim's bytes: what TLS or TCP routes say, in order, then the service.

    A service of opaque TLS that shares its address is told by its own name as SNI; with routes
    by SNI, other names are not its business.
    """
    if claim.protocol.is_http:
        return ()
    opaque = claim.protocol is Protocol.TLS
    found = [_routed(claim, route, marks=marks) for route in routes]
    if not (opaque and routes) and not any(_takes_all(route) for route in routes):
        shared = claim.slot.bind == ANY_ADDRESS
        sni = (claim.host.host,) if opaque and shared and claim.host.host != "*" else ()
        match = _match(claim.ranges, sni)
        found.append(_chain(claim, match, default, claim.source, "", marks=marks))
    return tuple(found)


def _takes_all(route: ir.L4Route) -> bool:
    return not route.sni_hosts and not route.subnets


def _routed(claim: Claim, route: ir.L4Route, *, marks: bool) -> ir.FilterChain:
    sni = () if "*" in route.sni_hosts else route.sni_hosts
    match = _match(route.subnets or claim.ranges, sni)
    source = route.source or claim.source
    return _chain(claim, match, route.forward, source, route.path, marks=marks)


def _match(ranges: tuple[str, ...], sni: tuple[str, ...]) -> ir.ChainMatch:
    transport = ir.Transport.TLS if sni else ir.Transport.ANY
    return ir.ChainMatch(addresses=ranges, sni=sni, transport=transport)


def _chain(
    claim: Claim,
    match: ir.ChainMatch,
    forward: ir.L4Forward,
    source: ObjectKey,
    path: str,
    *,
    marks: bool,
) -> ir.FilterChain:
    first = forward.clusters[0].cluster
    prefix = first if len(forward.clusters) == 1 else f"{claim.host.host}:{claim.port}"
    tcp = ir.Tcp(
        prefix,
        forward,
        mongo=claim.protocol is Protocol.MONGO,
        marks=marks,
    )
    return ir.FilterChain(claim.slot.name, match, tcp, source=source, path=path)
