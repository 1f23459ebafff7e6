"""Protocol selection: appProtocol, then the port's name, then well-known numbers (1.8)."""

from meltemi.model.service import Protocol

_BY_NAME = {protocol.value: protocol for protocol in Protocol if protocol is not Protocol.AUTO} | {
    "https": Protocol.TLS
}
_BY_APP_PROTOCOL = {
    "kubernetes.io/h2c": Protocol.HTTP2,
    "kubernetes.io/ws": Protocol.HTTP,
    "kubernetes.io/wss": Protocol.TLS,
}
SERVER_FIRST_PORTS = frozenset({25, 53, 3306, 27017})
"""Ports whose servers speak first: sniffing them would wait for ever."""


def protocol_of(number: int, name: str, app_protocol: str | None, transport: str) -> Protocol:
    """What a Service port speaks."""
    if transport == "UDP":
        return Protocol.UDP
    if app_protocol:
        declared = app_protocol.lower()
        known = _BY_APP_PROTOCOL.get(declared) or _declared(declared)
        if known is not None:
            return known
    by_name = _declared(name.lower())
    if by_name is not None:
        return by_name
    return Protocol.TCP if number in SERVER_FIRST_PORTS else Protocol.AUTO


def _declared(name: str) -> Protocol | None:
    if name == "grpc-web" or name.startswith("grpc-web-"):
        return Protocol.GRPC_WEB
    return _BY_NAME.get(name.partition("-")[0])
