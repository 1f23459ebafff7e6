"""`python -m meltemi.local.porter FD`: opens ports outside the namespaces that a mesh lives in.

Without root the node is in a network namespace of its own; what it publishes must listen outside.
The porter stays there, opens what it is asked for, and hands the socket over.
"""

import contextlib
import os
import socket
import sys

import msgspec

BACKLOG = 2048
_LARGEST = 512
_KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}


class Wanted(msgspec.Struct, frozen=True):
    """A socket to open."""

    protocol: str
    """TCP or UDP."""
    address: str
    port: int


def open_socket(wanted: Wanted) -> socket.socket:
    """Listen, or bind for datagrams. Raises OSError."""
    sock = socket.socket(socket.AF_INET, _KINDS[wanted.protocol] | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(wanted.protocol == "TCP"))
        sock.bind((wanted.address, wanted.port))
        if wanted.protocol == "TCP":
            sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


class Porter:
    """Opens sockets: by the porter at the other end of a socket, or itself without one."""

    def __init__(self, channel: socket.socket | None = None) -> None:
        self._channel = channel

    def open(self, wanted: Wanted) -> socket.socket:
        """Blocks for the porter's answer. Raises OSError."""
        if self._channel is None:
            return open_socket(wanted)
        self._channel.sendall(msgspec.json.encode(wanted))
        data, fds, _, _ = socket.recv_fds(self._channel, _LARGEST, 1)
        if not fds:
            number = int(data or b"5")
            raise OSError(number, os.strerror(number))
        return socket.socket(fileno=fds[0])


def serve(channel: socket.socket) -> None:
    """Answer until the other end is closed."""
    while data := channel.recv(_LARGEST):
        try:
            with open_socket(msgspec.json.decode(data, type=Wanted)) as sock:
                socket.send_fds(channel, [b"0"], [sock.fileno()])
        except OSError as error:
            channel.sendall(str(error.errno or 5).encode())


def main() -> None:
    with contextlib.suppress(KeyboardInterrupt, ConnectionError):
        serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
