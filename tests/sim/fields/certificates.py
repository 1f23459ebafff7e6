"""Certificates as files, and Python's end of TLS."""

import ssl
import warnings
from pathlib import Path

from tests.certificates import Authority, Signed


class Files:
    """An authority and what it signs, as files that an Envoy can read."""

    def __init__(self, directory: Path, name: str = "ours") -> None:
        self.authority = Authority(name)
        self.directory = directory
        self._name = name
        self.ca = self.write("ca.pem", self.authority.pem)

    def write(self, name: str, body: bytes) -> str:
        path = self.directory / f"{self._name}-{name}"
        path.write_bytes(body)
        return str(path)

    def pair(self, name: str, *names: str) -> tuple[str, str]:
        """A certificate for names, and its key."""
        return self.written(name, self.authority.sign(*names))

    def written(self, name: str, signed: Signed) -> tuple[str, str]:
        certificate = self.write(f"{name}.crt", signed.certificate)
        return certificate, self.write(f"{name}.key", signed.key)

    def server(self, pair: tuple[str, str], *, asks: bool = False) -> ssl.SSLContext:
        """A server's end; `asks`: clients need a certificate of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context


def client(
    *,
    pair: tuple[str, str] | None = None,
    least: ssl.TLSVersion | None = None,
    most: ssl.TLSVersion | None = None,
    ciphers: str = "",
    alpn: tuple[str, ...] = (),
) -> ssl.SSLContext:
    """A client's end that trusts anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if pair is not None:
        context.load_cert_chain(*pair)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Old versions are what is tested.
        if least is not None:
            context.minimum_version = least
        if most is not None:
            context.maximum_version = most
    if ciphers:
        context.set_ciphers(ciphers)
    if alpn:
        context.set_alpn_protocols(alpn)
    return context
