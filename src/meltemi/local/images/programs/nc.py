"""nc: connects or listens, by TCP or UDP: `nc -z HOST PORT`, `nc -lp PORT`, `nc HOST PORT`."""

import argparse
import os
import selectors
import socket
import sys
from collections.abc import Mapping, Sequence


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(prog="nc", add_help=False)
    parser.add_argument("places", nargs="*")
    for flag in ("-l", "-u", "-z", "-v", "-n", "-k", "-N"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-p", type=int, default=0)
    parser.add_argument("-w", type=float, default=None)
    options, _ = parser.parse_known_args(_split(argv))
    try:
        with _open(options) as sock:
            if not options.z:
                _copy(sock, options.w)
        return 0
    except (OSError, ValueError, IndexError) as error:
        print(f"nc: {' '.join(options.places)}: {error}", file=sys.stderr)
        return 1


def _split(argv: Sequence[str]) -> Sequence[str]:
    """-lkp becomes -l -k -p."""
    found: list[str] = []
    for word in argv:
        is_group = word.startswith("-") and word[1:].isalpha() and len(word) > 2
        found += [f"-{letter}" for letter in word[1:]] if is_group else [word]
    return found


def _open(options: argparse.Namespace) -> socket.socket:
    """Raises OSError, ValueError, IndexError."""
    kind = socket.SOCK_DGRAM if options.u else socket.SOCK_STREAM
    if options.l:
        sock = socket.socket(socket.AF_INET, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", options.p or int(options.places[-1])))
        if options.u:
            _, peer = sock.recvfrom(1, socket.MSG_PEEK)
            sock.connect(peer)
            return sock
        sock.listen(1)
        with sock:
            return sock.accept()[0]
    host, port = options.places[0], int(options.places[1])
    if options.u:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=kind)[0]
        sock = socket.socket(family, kind)
        sock.connect(address)
    else:
        sock = socket.create_connection((host, port), timeout=options.w)
    sock.settimeout(None)
    if options.v or (options.z and not options.u):
        print(f"{host} ({sock.getpeername()[0]}:{port}) open", file=sys.stderr)
    return sock


def _copy(sock: socket.socket, patience: float | None) -> None:
    """Input to the socket, the socket to output, until the far side ends or is silent too long."""
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            ready = selector.select(patience)
            if not ready:
                return
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if key.fd == 0 and data:
                    sock.sendall(data)
                elif key.fd == 0:
                    selector.unregister(0)
                    if sock.type is socket.SOCK_STREAM:
                        sock.shutdown(socket.SHUT_WR)
                elif data:
                    sys.stdout.buffer.write(data)
                    sys.stdout.flush()
                else:
                    return
