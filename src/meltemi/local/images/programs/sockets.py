"""Where the built-in programs listen: any address, of every family that there is."""

import contextlib
import socket

BACKLOG = 512
"""Connections that may wait to be accepted."""


def listening(port: int) -> list[socket.socket]:
    """Sockets for a port: of IPv4, and of IPv6 where the kernel has it. Raises OSError."""
    found = [socket.create_server(("0.0.0.0", port), backlog=BACKLOG)]
    # The port is ours already: what may be missing is the family.
    with contextlib.suppress(OSError):
        found.append(socket.create_server(("::", port), family=socket.AF_INET6, backlog=BACKLOG))
    return found
