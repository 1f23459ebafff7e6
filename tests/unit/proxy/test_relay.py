"""A gateway's way to the control plane shows the workload's certificate, and follows renewals."""

import asyncio
import datetime
import socket
import ssl
from pathlib import Path

from meltemi.base.identity import Identity
from meltemi.base.redacted import Redacted
from meltemi.ca.edge import Edge
from meltemi.ca.server_identity import ServerIdentity
from meltemi.proxy.keys import new_key_pair
from meltemi.proxy.relay import Relay

from .conftest import Authority, SleepingClock

WHO = Identity("cluster.local", "default", "reviews")


async def test_the_control_plane_sees_the_workloads_identity(
    authority: Authority, clock: SleepingClock, tmp_path: Path
) -> None:
    """Bytes go through both ways; a connection that came before the certificate waits for it."""
    server = ServerIdentity(lambda: authority.root, clock)
    context = server.context(verify_clients=True, alpn=("h2",))
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    seen: list[Identity | None] = []

    async def target(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        name = peer.decode() if isinstance(peer, bytes) else peer
        seen.append(edge.identity_of(f"unix-abstract:{name.lstrip(chr(0))}"))
        writer.write((await reader.readexactly(4)).upper())
        await writer.drain()
        writer.close()

    inner = await asyncio.start_unix_server(target, tmp_path / "xds")
    relay = Relay(str(tmp_path / "relay"), ("127.0.0.1", port), name="front")
    async with Edge(listening, context, tmp_path / "xds") as edge, relay:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "relay"))
        writer.write(b"ping")
        pair = new_key_pair(WHO)
        relay.renew(await authority.sign(pair, Redacted(b""), datetime.timedelta(hours=1)), pair)
        assert await asyncio.wait_for(reader.read(), 10) == b"PING"
        writer.close()
    assert seen == [WHO]
    inner.close()
    assert isinstance(context, ssl.SSLContext)
