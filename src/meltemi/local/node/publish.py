"""Ports that `meltemi up` has opened before anything else: where the ingress gateway listens."""

import socket

import msgspec

from meltemi.local.node.forward import Route, serve_tcp
from meltemi.local.node.services import ServiceTable


class Published(msgspec.Struct, frozen=True):
    """`--publish PORT=FD:NAMESPACE/SERVICE:SERVICEPORT`."""

    port: int
    fd: int
    namespace: str
    service: str
    service_port: int

    @classmethod
    def parse(cls, text: str) -> "Published":
        """Raises ValueError with the form that is expected."""
        try:
            left, _, place = text.partition("=")
            fd, _, target = place.partition(":")
            service, _, port = target.rpartition(":")
            namespace, _, name = service.partition("/")
            return cls(int(left), int(fd), namespace, name, int(port))
        except ValueError as error:
            raise ValueError(f"{text}: expected PORT=FD:NAMESPACE/SERVICE:PORT") from error


async def serve(published: Published, table: ServiceTable) -> None:
    """Accept until cancelled."""
    route = Route(table, published.namespace, published.service, published.service_port)
    await serve_tcp(socket.socket(fileno=published.fd), route)
