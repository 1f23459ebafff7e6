"""Which listener and filter chain take a connection: Envoy's order of precedence.

Each criterion keeps only the most specific chains, with no way back: a chain that names the port
excludes chains without one, even if it fails at the next criterion.
"""

import ipaddress
from collections.abc import Callable, Iterable, Sequence

from meltemi.compile import ir
from meltemi.simulate.request import Connection, Speaks
from meltemi.simulate.trace import Because, Choice, PassedOver

Chains = Sequence[ir.FilterChain]


def captured(listeners: Sequence[ir.Listener], connection: Connection) -> ir.Listener | None:
    """The listener a captured connection ends at: `virtualOutbound` hands it to the listener of
    the original destination, by address first, then for any address."""
    entry = next((one for one in listeners if one.hands_over), None)
    others = [one for one in listeners if one is not entry and one.port == connection.port]
    return _nearest(others, connection) or entry


def listening(listeners: Sequence[ir.Listener], connection: Connection) -> ir.Listener | None:
    """The listener whose own socket takes a connection."""
    bound = [one for one in listeners if one.bind and one.port == connection.port]
    return _nearest(bound, connection)


def _nearest(listeners: Sequence[ir.Listener], connection: Connection) -> ir.Listener | None:
    """The listener of exactly an address, else the one of any address of its family."""
    for address in (connection.address, "::" if ":" in connection.address else "0.0.0.0"):
        for listener in listeners:
            if address in (listener.address, *listener.also):
                return listener
    return None


def chain_of(listener: ir.Listener, connection: Connection) -> ir.FilterChain | None:
    """The filter chain of a listener that takes a connection; None: it is closed."""
    seen = inspected(listener, connection)
    chains: Chains = listener.chains
    for criterion in _CRITERIA:
        chains = criterion(chains, seen)
        if not chains:
            return listener.default
    return chains[0]


def inspected(listener: ir.Listener, connection: Connection) -> Connection:
    """A connection as the listener's inspectors report it."""
    speaks, sni, alpn = connection.speaks, "", connection.alpn
    port = connection.port
    if speaks is Speaks.TLS:
        if listener.inspects_tls and port not in listener.quiet_tls:
            sni = connection.sni.lower()
        else:
            speaks, alpn = Speaks.OTHER, ()
    elif not listener.inspects_http or port in listener.quiet_http:
        speaks, alpn = Speaks.OTHER, ()
    elif speaks is not Speaks.OTHER:
        alpn = (speaks.value,)
    return Connection(connection.address, port, speaks, sni, alpn, connection.source)


def _by_port(chains: Chains, seen: Connection) -> Chains:
    return _most_specific(chains, lambda c: c.match.port, (seen.port, 0))


def _by_address(chains: Chains, seen: Connection) -> Chains:
    """The longest prefix that holds the address."""
    address = ipaddress.ip_address(seen.address)
    best: dict[int, list[ir.FilterChain]] = {}
    for chain in chains:
        for cidr in chain.match.addresses or ("",):
            length = -1
            if cidr:
                network = ipaddress.ip_network(cidr, strict=False)
                if network.version != address.version or address not in network:
                    continue
                length = network.prefixlen
            best.setdefault(length, []).append(chain)
    return best[max(best)] if best else ()


def _by_sni(chains: Chains, seen: Connection) -> Chains:
    """The exact name, then ever shorter suffixes, then chains that name none."""
    wanted = [seen.sni] if seen.sni else []
    rest = seen.sni
    while "." in rest:
        rest = rest.partition(".")[2]
        wanted.append(f"*.{rest}")
    for name in wanted:
        found = [c for c in chains if name in c.match.sni]
        if found:
            return found
    return [c for c in chains if not c.match.sni]


def _by_transport(chains: Chains, seen: Connection) -> Chains:
    known = ir.Transport.TLS if seen.speaks is Speaks.TLS else ir.Transport.RAW
    return _most_specific(chains, lambda c: c.match.transport, (known, ir.Transport.ANY))


def _by_protocol(chains: Chains, seen: Connection) -> Chains:
    for protocol in seen.alpn:
        found = [c for c in chains if protocol in c.match.protocols]
        if found:
            return found
    return [c for c in chains if not c.match.protocols]


_CRITERIA = (_by_port, _by_address, _by_sni, _by_transport, _by_protocol)


def _most_specific(
    chains: Chains, of: Callable[[ir.FilterChain], object], wanted: Iterable[object]
) -> Chains:
    for value in wanted:
        found = [c for c in chains if of(c) == value]
        if found:
            return found
    return ()


def listener_choice(listener: ir.Listener, connection: Connection) -> Choice:
    """The listener, and why it is this one."""
    where = f"{connection.address}:{connection.port}"
    if listener.hands_over:
        reason = f"no listener is for {where}"
    elif listener.address == connection.address:
        reason = f"listens for exactly {where}"
    else:
        reason = f"listens for port {connection.port} of any address"
    return Choice(listener.name, reason, tuple(Because(*s) for s in listener.sources))


def chain_choice(listener: ir.Listener, chain: ir.FilterChain, connection: Connection) -> Choice:
    """The filter chain, and what it asks of a connection."""
    seen = inspected(listener, connection)
    is_default = chain is listener.default
    others = [c for c in listener.chains if c is not chain]
    passed = tuple(
        PassedOver(_named(c), f"takes {conditions(c.match)}", _because(c))
        for c in others
        if is_default or c.match.port in (0, seen.port)
    )
    reason = "no other chain matches" if is_default else f"takes {conditions(chain.match)}"
    return Choice(_named(chain), reason, _because(chain), passed)


def conditions(match: ir.ChainMatch) -> str:
    """What a chain asks of a connection, in words."""
    words = []
    if match.port:
        words.append(f"port {match.port}")
    if match.addresses:
        words.append(f"destination {', '.join(match.addresses)}")
    if match.sni:
        words.append(f"SNI {', '.join(match.sni)}")
    if match.transport is not ir.Transport.ANY:
        words.append("TLS" if match.transport is ir.Transport.TLS else "plaintext")
    if match.protocols:
        is_http = match.protocols == ir.SNIFFED_HTTP
        words.append("HTTP" if is_http else f"ALPN {', '.join(match.protocols)}")
    return ", ".join(words) or "everything"


def _named(chain: ir.FilterChain) -> str:
    return chain.name or "(unnamed)"


def _because(chain: ir.FilterChain) -> tuple[Because, ...]:
    return (Because(*chain.source, chain.path),) if chain.source is not None else ()
