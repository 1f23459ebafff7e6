"""What is asked: a connection, and the request on it."""

import enum

import msgspec

Pairs = tuple[tuple[str, str], ...]


class Speaks(enum.Enum):
    """What a connection carries, as far as a proxy that cannot look into TLS can see."""

    HTTP1 = "http/1.1"
    HTTP2 = "h2c"
    TLS = "tls"
    OTHER = "tcp"
    """Bytes that are neither."""


class Request(msgspec.Struct, frozen=True):
    """One HTTP request, as a client writes it."""

    authority: str
    path: str = "/"
    """With its query."""
    method: str = "GET"
    headers: Pairs = ()
    """Names in lower case; a name may repeat."""
    scheme: str = "http"

    def header(self, name: str) -> str | None:
        """All values of a header, joined; None: it is absent."""
        values = self.values(name)
        return ",".join(values) if values else None

    def values(self, name: str) -> tuple[str, ...]:
        """The values of a header or pseudo-header, in order."""
        pseudo = {
            ":authority": self.authority,
            "host": self.authority,
            ":path": self.path,
            ":method": self.method,
            ":scheme": self.scheme,
        }
        if name in pseudo:
            return (pseudo[name],)
        return tuple(value for key, value in self.headers if key == name)


class Connection(msgspec.Struct, frozen=True):
    """A TCP connection, with what inspectors can learn of it."""

    address: str
    """Where the client meant to go."""
    port: int
    speaks: Speaks = Speaks.HTTP1
    sni: str = ""
    alpn: tuple[str, ...] = ()
    source: str = ""
