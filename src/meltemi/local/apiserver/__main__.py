"""`python -m meltemi.local.apiserver --data DIR --fd N [--fd M] | --port P [--ipv6]`."""

import argparse
import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from meltemi.local.apiserver.server import BACKLOG, running


def _sockets(fds: Sequence[int], port: int | None) -> list[socket.socket]:
    if port is None:
        return [socket.socket(fileno=fd) for fd in fds]
    sock = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    return [sock]


async def _run(data: Path, sockets: list[socket.socket], *, has_ipv6: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # The collector would go through all objects again and again while they are read, and after.
    gc.disable()
    async with running(data, sockets, has_ipv6=has_ipv6) as server:
        gc.freeze()
        gc.enable()
        gc.set_threshold(20_000, 20, 50)
        print(f"ready: {server.port}", flush=True)
        await stop.wait()


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="meltemi-apiserver")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fd", type=int, action="append", default=[])
    parser.add_argument("--port", type=int)
    parser.add_argument("--ipv6", action="store_true", help="Services may have IPv6 addresses.")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    sockets = _sockets(options.fd, options.port)
    asyncio.run(_run(options.data, sockets, has_ipv6=options.ipv6))


if __name__ == "__main__":
    main()
