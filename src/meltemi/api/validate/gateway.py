"""What a Gateway may say (mesh-semantics 1.4)."""

import ipaddress
import re
from collections.abc import Iterator, Sequence

from meltemi.api import networking as net
from meltemi.api.validate import words
from meltemi.api.validate.words import Finding

_TERMINATING = ("SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL")
_CHECKING = ("MUTUAL", "OPTIONAL_MUTUAL")
_MODES = ("PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL")
_PROTOCOLS = ("HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS")
_PLAIN_HTTP = ("HTTP", "HTTP2", "GRPC", "GRPC-WEB")
_VERSIONS = ("TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3")
_CIPHERS = frozenset(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA", "ECDHE-RSA-AES256-SHA",
        "AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "AES256-SHA", "DES-CBC3-SHA",
    )
)  # fmt: skip
_NAMESPACE = re.compile(rf"\*|\.|{words.LABEL}")
_SECRET = re.compile(
    r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?"
)
_SPKI = re.compile(r"[A-Za-z0-9+/]{43}=")
_HASH = re.compile(r"[A-Fa-f0-9]{64}|(?:[A-Fa-f0-9]{2}:){31}[A-Fa-f0-9]{2}")


def gateway(spec: net.GatewaySpec) -> Iterator[Finding]:
    if not spec.servers:
        yield "spec.servers", "a gateway needs at least one server"
    names: dict[str, int] = {}
    labels: dict[str, int] = {}
    for i, server in enumerate(spec.servers):
        path = f"spec.servers[{i}]"
        yield from _port(server, path)
        yield from _hosts(server.hosts, f"{path}.hosts")
        yield from _bind(server.bind, f"{path}.bind")
        yield from _server_tls(server, path)
        if server.name and labels.setdefault(server.name, i) != i:
            first = labels[server.name]
            yield f"{path}.name", f"{server.name!r} is already the name of spec.servers[{first}]"
        if _ends_https(server):
            first = names.setdefault(server.port.name, i)
            if first != i:
                yield (
                    f"{path}.port.name",
                    f"{server.port.name!r} is already the name of spec.servers[{first}].port: "
                    "the routes of an HTTPS server are named by it; choose another",
                )


def gateway_ignored(spec: net.GatewaySpec) -> Iterator[Finding]:
    """What is accepted, and has no effect."""
    for i, server in enumerate(spec.servers):
        path = f"spec.servers[{i}]"
        if server.default_endpoint:
            yield f"{path}.defaultEndpoint", "it has no effect: route with a VirtualService"
        if server.port.target_port:
            message = "it has no effect: the gateway's Service says which port of the pod is meant"
            yield f"{path}.port.targetPort", message


def _ends_https(server: net.Server) -> bool:
    tls = server.tls
    return server.port.protocol.upper() == "HTTPS" and tls is not None and not _passes(tls)


def _passes(tls: net.ServerTLSSettings) -> bool:
    return tls.mode in ("PASSTHROUGH", "AUTO_PASSTHROUGH")


def _port(server: net.Server, path: str) -> Iterator[Finding]:
    yield from words.port(server.port.number, f"{path}.port.number")
    if server.port.protocol.upper() not in _PROTOCOLS:
        yield (
            f"{path}.port.protocol",
            f"must be one of {', '.join(_PROTOCOLS)}; HTTP/3 (QUIC) is not supported",
        )
    if not server.port.name:
        yield f"{path}.port.name", "a port needs a name"


def _hosts(hosts: Sequence[str], path: str) -> Iterator[Finding]:
    if not hosts:
        yield path, 'at least one host is needed; "*" is all of them'
    for i, host in enumerate(hosts):
        where, slash, name = host.rpartition("/")
        if slash and not _NAMESPACE.fullmatch(where):
            yield f"{path}[{i}]", f"{where[:80]!r} is not a namespace, `.` or `*`"
        yield from words.host(name, f"{path}[{i}]")


def _bind(bind: str, path: str) -> Iterator[Finding]:
    if not bind:
        return
    try:
        ipaddress.ip_address(bind)
    except ValueError:
        yield path, f"{bind[:80]!r} is not an IP address of the gateway"


def _server_tls(server: net.Server, path: str) -> Iterator[Finding]:
    protocol, tls = server.port.protocol.upper(), server.tls
    if protocol in ("HTTPS", "TLS") and tls is None:
        yield f"{path}.tls", f"protocol {protocol} needs tls settings"
    if tls is None:
        return
    path = f"{path}.tls"
    if tls.https_redirect and protocol not in _PLAIN_HTTP:
        yield f"{path}.httpsRedirect", f"only a plaintext HTTP server can redirect, not {protocol}"
    if tls.mode not in _MODES:
        yield f"{path}.mode", f"must be one of {', '.join(_MODES)}"
        return
    if protocol not in ("HTTPS", "TLS"):
        if not tls.https_redirect:
            yield path, f"protocol {protocol} is plaintext: use HTTPS or TLS, or remove tls"
        return
    yield from certificates(tls, path)
    yield from parameters(tls, path)


def certificates(tls: net.ServerTLSSettings, path: str) -> Iterator[Finding]:
    single = bool(tls.server_certificate or tls.private_key)
    given = [
        name
        for name, value in (
            ("credentialName", tls.credential_name),
            ("credentialNames", tls.credential_names),
            ("serverCertificate", single),
            ("tlsCertificates", tls.tls_certificates),
        )
        if value
    ]
    if tls.mode not in _TERMINATING:
        own = "the mesh's own certificates" if tls.mode == "ISTIO_MUTUAL" else "no certificate"
        checks = (tls.ca_certificates, tls.ca_crl, tls.ca_cert_credential_name)
        if given or any(checks):
            yield path, f"mode {tls.mode} uses {own}: remove certificates and credential names"
        return
    if not given:
        yield (
            f"{path}.credentialName",
            f"mode {tls.mode} needs a certificate: name the Secret that holds it",
        )
    if len(given) > 1:
        yield path, f"{' and '.join(given)} exclude each other: keep one of them"
    if single and not (tls.server_certificate and tls.private_key):
        yield path, "serverCertificate and privateKey belong together: give both"
    yield from _lists(tls, path)
    has_authority = (
        tls.ca_certificates
        or tls.ca_cert_credential_name
        or any(c.ca_certificates for c in tls.tls_certificates)
        or tls.credential_name
        or tls.credential_names
    )
    if tls.mode in _CHECKING and not has_authority:
        yield f"{path}.caCertificates", f"mode {tls.mode} needs the authority of its clients"
    named = (tls.credential_name, *tls.credential_names, tls.ca_cert_credential_name)
    for name in named:
        if name and not _SECRET.fullmatch(name):
            yield path, f"{name[:80]!r} is not the name of a Secret"


def _lists(tls: net.ServerTLSSettings, path: str) -> Iterator[Finding]:
    """Envoy takes several certificates only when their keys are of different kinds."""
    for name, several in (
        ("credentialNames", tls.credential_names),
        ("tlsCertificates", tls.tls_certificates),
    ):
        if len(several) > 2:
            yield f"{path}.{name}", "two at most: one with an RSA key and one with an ECDSA key"
    for i, pair in enumerate(tls.tls_certificates):
        if not (pair.server_certificate and pair.private_key):
            yield f"{path}.tlsCertificates[{i}]", "serverCertificate and privateKey are needed"


def parameters(tls: net.ServerTLSSettings, path: str) -> Iterator[Finding]:
    for name, version in (
        ("minProtocolVersion", tls.min_protocol_version),
        ("maxProtocolVersion", tls.max_protocol_version),
    ):
        if version not in _VERSIONS:
            yield f"{path}.{name}", f"must be one of {', '.join(_VERSIONS)}"
    low = tls.min_protocol_version if tls.min_protocol_version != "TLS_AUTO" else "TLSV1_2"
    high = tls.max_protocol_version
    if high in _VERSIONS[1:] and low in _VERSIONS and high < low:
        yield f"{path}.maxProtocolVersion", f"{high} is below the minimum, {low}: raise it"
    for i, cipher in enumerate(tls.cipher_suites):
        if cipher not in _CIPHERS:
            yield f"{path}.cipherSuites[{i}]", f"{cipher[:80]!r} is not a cipher suite Envoy knows"
    for i, pin in enumerate(tls.verify_certificate_spki):
        if not _SPKI.fullmatch(pin):
            yield f"{path}.verifyCertificateSpki[{i}]", "must be a SHA-256 in base64"
    for i, pin in enumerate(tls.verify_certificate_hash):
        if not _HASH.fullmatch(pin):
            yield f"{path}.verifyCertificateHash[{i}]", "must be a SHA-256 in hexadecimal"
    pinned = (tls.subject_alt_names, tls.verify_certificate_spki, tls.verify_certificate_hash)
    if any(pinned) and tls.mode not in _CHECKING:
        yield (
            path,
            f"mode {tls.mode} asks clients for no certificate to check: use MUTUAL, or remove "
            "subjectAltNames and verifyCertificate...",
        )
