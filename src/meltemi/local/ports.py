"""Published ports: opened before anything else, and before entering any namespace."""

import errno
import socket

BACKLOG = 2048


class PortBusy(Exception):
    """A published port cannot be opened; the message says which, why, and what to do."""

    def __init__(self, port: int, purpose: str, option: str, *, forbidden: bool) -> None:
        reason = "needs more rights than this user has" if forbidden else "is already in use"
        super().__init__(
            f"port {port} on 127.0.0.1 ({purpose}) {reason}: free it, or choose another "
            f"with {option} PORT"
        )


def open_port(port: int, purpose: str, option: str) -> socket.socket:
    """Listen on 127.0.0.1; port 0 takes any free one. Raises PortBusy with the remedy."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError as error:
        sock.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            forbidden = error.errno == errno.EACCES
            raise PortBusy(port, purpose, option, forbidden=forbidden) from error
        raise
    sock.listen(BACKLOG)
    return sock


def port_of(sock: socket.socket) -> int:
    number: int = sock.getsockname()[1]
    return number
