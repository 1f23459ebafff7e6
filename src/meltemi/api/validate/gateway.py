"""What a Gateway may say (mesh-semantics 1.4)."""

from collections.abc import Iterator

from meltemi.api import networking as net
from meltemi.api.validate import words
from meltemi.api.validate.words import Finding

_SERVER_TLS = (
    "PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL",
)  # fmt: skip
_PROTOCOLS = ("HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS")


def gateway(spec: net.GatewaySpec) -> Iterator[Finding]:
    if not spec.servers:
        yield "spec.servers", "a gateway needs at least one server"
    for i, server in enumerate(spec.servers):
        path = f"spec.servers[{i}]"
        yield from words.port(server.port.number, f"{path}.port.number")
        if server.port.protocol.upper() not in _PROTOCOLS:
            yield f"{path}.port.protocol", f"must be one of {', '.join(_PROTOCOLS)}"
        if not server.port.name:
            yield f"{path}.port.name", "a port needs a name"
        if not server.hosts:
            yield f"{path}.hosts", 'at least one host is needed; "*" is all of them'
        for j, host in enumerate(server.hosts):
            yield from words.host(host.rpartition("/")[2], f"{path}.hosts[{j}]")
        yield from _server_tls(server, path)


def _server_tls(server: net.Server, path: str) -> Iterator[Finding]:
    protocol, tls = server.port.protocol.upper(), server.tls
    if protocol in ("HTTPS", "TLS") and tls is None:
        yield f"{path}.tls", f"protocol {protocol} needs tls settings"
    if tls is None:
        return
    if tls.mode not in _SERVER_TLS:
        yield f"{path}.tls.mode", f"must be one of {', '.join(_SERVER_TLS)}"
    if tls.mode in ("SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL") and protocol in ("HTTPS", "TLS"):
        own_files = tls.server_certificate and tls.private_key
        if not tls.credential_name and not own_files:
            yield (
                f"{path}.tls.credentialName",
                (f"mode {tls.mode} needs a certificate: name the Secret that holds it"),
            )
