"""Endpoints of networks that a client does not reach stand behind their network's gateways."""

import math
from collections.abc import Iterable, Sequence

import msgspec

from meltemi.model.endpoint import Endpoint
from meltemi.model.networks import Networks, Way


def reached(
    endpoints: Iterable[Endpoint], own: str, networks: Networks, cluster: str, *, mutual: bool
) -> list[Endpoint]:
    """What a client of the network `own` connects to: endpoints of its own network and of those
    that no gateway leads to; for the others their gateways, with the weight of what is behind
    them. A gateway tells services apart by the SNI of mutual TLS: without it nothing is reached
    (`mutual`: the client would speak it)."""
    near: list[Endpoint] = []
    far: dict[tuple[str, str], list[Endpoint]] = {}
    for endpoint in endpoints:
        network = networks.of(endpoint.network, endpoint.address, cluster)
        if not own or not network or network == own or network not in networks.ways:
            near.append(endpoint)
        elif endpoint.mtls and mutual:
            far.setdefault((network, endpoint.locality), []).append(endpoint)
    near = [endpoint for endpoint in near if endpoint.address]
    if not far:
        return near
    scale = math.lcm(*(len(networks.ways[network]) for network, _ in far))
    found = [msgspec.structs.replace(e, weight=e.weight * scale) for e in near]
    for (network, locality), behind in far.items():
        ways = networks.ways[network]
        weight = sum(e.weight for e in behind) * scale // len(ways)
        found += [_gateway(way, network, locality, weight) for way in ways]
    return found


def direct(
    endpoints: Sequence[Endpoint], own: str, networks: Networks, cluster: str
) -> list[Endpoint]:
    """What a gateway between networks passes traffic to: its own network's endpoints, so that two
    gateways never send it to and fro."""
    return [
        e
        for e in endpoints
        if e.address and networks.of(e.network, e.address, cluster) in ("", own)
    ]


def _gateway(way: Way, network: str, locality: str, weight: int) -> Endpoint:
    return Endpoint(
        address=way.address,
        port=way.port,
        ready=True,
        mtls=True,
        locality=locality,
        weight=weight,
        network=network,
    )
