"""Istio's TCP echo server: `PORT,PORT PREFIX`; sends each line back, the prefix before it."""

import asyncio
import signal
import sys
from collections.abc import Mapping, Sequence

from meltemi.local.images.programs.sockets import listening

_LONGEST_LINE = 1 << 20


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    try:
        ports = [int(port) for port in (argv[0] if argv else "9000").split(",")]
    except ValueError:
        print(f"tcp-echo: {argv[0]}: ports are expected, such as 9000,9001", file=sys.stderr)
        return 2
    prefix = argv[1].encode() + b" " if len(argv) > 1 and argv[1] else b""
    asyncio.run(_serve(ports, prefix))
    return 0


async def _serve(ports: Sequence[int], prefix: bytes) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(prefix + line)
                await writer.drain()
        except (ConnectionError, ValueError):
            pass
        finally:
            writer.close()

    for port in ports:
        for sock in listening(port):
            await asyncio.start_server(connected, sock=sock, limit=_LONGEST_LINE)
        print(f"listening on {port}, prefix: {prefix.decode().strip()}", flush=True)
    await stopping.wait()
