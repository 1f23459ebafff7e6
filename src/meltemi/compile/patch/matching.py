"""What a patch is about: by the names and ports of what was generated (mesh-semantics 1.9)."""

from typing import Any, NamedTuple

from meltemi.api.envoy_filter import (
    FilterChainMatch,
    ListenerMatch,
    RouteConfigurationMatch,
    VirtualHostMatch,
)
from meltemi.compile import names
from meltemi.compile.patch.select import Patch

SIDECAR_INBOUND, SIDECAR_OUTBOUND, GATEWAY = "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY"
_INBOUND = 1


def in_context(patch: Patch, context: str) -> bool:
    return patch.match.context in ("ANY", context)


def context_of_listener(listener: Any, *, gateway: bool) -> str:
    if gateway:
        return GATEWAY
    return SIDECAR_INBOUND if listener.traffic_direction == _INBOUND else SIDECAR_OUTBOUND


def context_of_cluster(name: str, *, gateway: bool) -> str:
    if gateway:
        return GATEWAY
    inbound = name.startswith("inbound|") or name == names.INBOUND_PASSTHROUGH
    return SIDECAR_INBOUND if inbound else SIDECAR_OUTBOUND


def listener(match: ListenerMatch | None, found: Any) -> bool:
    """The inbound listener's ports are those of its chains: they are compared there."""
    if match is None:
        return True
    if match.name and match.name != found.name:
        return False
    if not match.port_number or found.name == names.VIRTUAL_INBOUND:
        return True
    return bool(found.address.socket_address.port_value == match.port_number)


def chain(match: ListenerMatch | None, found: Any, listener_name: str) -> bool:
    if match is None:
        return True
    where = found.filter_chain_match
    port = where.destination_port.value
    if listener_name == names.VIRTUAL_INBOUND and match.port_number not in (0, port):
        return False
    wanted = match.filter_chain
    return wanted is None or _chain(wanted, found, where, port)


def _chain(wanted: FilterChainMatch, found: Any, where: Any, port: int) -> bool:
    protocols = [p.strip() for p in wanted.application_protocols.split(",") if p.strip()]
    return (
        (not wanted.name or wanted.name == found.name)
        and (not wanted.sni or wanted.sni in where.server_names)
        and (not wanted.transport_protocol or wanted.transport_protocol == where.transport_protocol)
        and all(p in where.application_protocols for p in protocols)
        and wanted.destination_port in (0, port)
    )


def filter_name(match: ListenerMatch | None) -> str:
    """The network filter a patch names; empty: none."""
    chain = match.filter_chain if match else None
    return chain.filter.name if chain and chain.filter else ""


def sub_filter_name(match: ListenerMatch | None) -> str:
    chain = match.filter_chain if match else None
    sub = chain.filter.sub_filter if chain and chain.filter else None
    return sub.name if sub else ""


class RouteName(NamedTuple):
    """What a route configuration's name tells."""

    port: int
    port_name: str
    gateway: str
    """`namespace/name`."""


def route_name(name: str) -> RouteName:
    """`9080`, `host:9080`, `http.80`, `https.443.https.gw.ns`, `inbound|9080||`."""
    parts = name.split(".")
    if parts[0] == "https" and len(parts) == 5 and parts[1].isdecimal():
        return RouteName(int(parts[1]), parts[2], f"{parts[4]}/{parts[3]}")
    if parts[0] == "http" and len(parts) >= 2 and parts[1].isdecimal():
        return RouteName(int(parts[1]), "", "")
    cluster = names.parse(name)
    text = str(cluster.port) if cluster else name.rpartition(":")[2]
    return RouteName(int(text) if text.isdecimal() else 0, "", "")


def route_configuration(match: RouteConfigurationMatch | None, name: str) -> bool:
    if match is None:
        return True
    told = route_name(name)
    return (
        match.name in ("", name)
        and match.port_number in (0, told.port)
        and match.port_name in ("", told.port_name)
        and match.gateway in ("", told.gateway)
    )


def virtual_host(match: RouteConfigurationMatch | None, found: Any) -> bool:
    wanted: VirtualHostMatch | None = match.vhost if match else None
    return wanted is None or (
        wanted.name in ("", found.name)
        and (not wanted.domain_name or wanted.domain_name in found.domains)
    )


_ACTIONS = {"ROUTE": "route", "REDIRECT": "redirect", "DIRECT_RESPONSE": "direct_response"}


def route(match: RouteConfigurationMatch | None, found: Any) -> bool:
    wanted = match.vhost.route if match and match.vhost else None
    if wanted is None:
        return True
    action = _ACTIONS.get(wanted.action)
    return wanted.name in ("", found.name) and (
        action is None or found.WhichOneof("action") == action
    )


def cluster(patch: Patch, name: str) -> bool:
    match = patch.match.cluster
    if match is None:
        return True
    if match.name:
        return match.name == name
    told = names.parse(name)
    if told is None:
        return not (match.port_number or match.service or match.subset)
    return (
        match.port_number in (0, told.port)
        and match.subset in ("", told.subset)
        and match.service in ("", told.host)
    )
