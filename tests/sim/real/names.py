"""A name server that knows every name: the address is the one that the simulator expects."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from dnslib import QTYPE, RR, A, DNSRecord

from meltemi.simulate.resolving import address_of

PORT = 15353
FLEETING = ".fleeting.example"
"""Names under it are to be asked for again at once."""
RESOLVER: dict[str, Any] = {
    "name": "envoy.network.dns_resolver.cares",
    "typed_config": {
        "@type": "type.googleapis.com/"
        "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
        "resolvers": [{"socket_address": {"address": "127.0.0.1", "port_value": PORT}}],
        "use_resolvers_as_fallback": False,
    },
}
"""What an Envoy's bootstrap says to ask it."""


@asynccontextmanager
async def serving(sock: socket.socket) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(_Names, sock=sock)
    try:
        yield
    finally:
        transport.close()


class _Names(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        question = DNSRecord.parse(data)
        answer = question.reply()
        if QTYPE[question.q.qtype] == "A":
            name = str(question.q.qname).rstrip(".").lower()
            lasts = 0 if name.endswith(FLEETING) else 5
            answer.add_answer(RR(question.q.qname, ttl=lasts, rdata=A(address_of(name))))
        self._transport.sendto(answer.pack(), addr)
