"""Gateway definitions from Istio's Gateway objects (mesh-semantics 1.4)."""

from collections.abc import Mapping

from meltemi.api import networking as api
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity
from meltemi.flow import Fetch, View
from meltemi.model.gateway import (
    AutoPassthrough,
    ClientCheck,
    GatewayDef,
    Passthrough,
    Server,
    ServerHost,
    Terminate,
    Tls,
)
from meltemi.model.route import MESH, HttpMatch, HttpRule, L4Match, L4Rule, RouteTable
from meltemi.model.service import Protocol

_PROTOCOLS = {
    "HTTP": Protocol.HTTP,
    "HTTPS": Protocol.HTTP,
    "HTTP2": Protocol.HTTP2,
    "GRPC": Protocol.GRPC,
    "GRPC-WEB": Protocol.GRPC_WEB,
    "TCP": Protocol.TCP,
    "TLS": Protocol.TCP,
    "MONGO": Protocol.MONGO,
}


def gateway_from_object(obj: api.Gateway) -> GatewayDef:
    """One Gateway with its hosts' namespaces resolved."""
    namespace = obj.metadata.namespace
    return GatewayDef(
        name=f"{namespace}/{obj.metadata.name}",
        source=ObjectKey("Gateway", namespace, obj.metadata.name),
        selector=obj.spec.selector,
        servers=tuple(
            _server(server, namespace, f"spec.servers[{i}]")
            for i, server in enumerate(obj.spec.servers)
        ),
        created=obj.age_order,
    )


def unknown_gateways(
    fetch: Fetch, key: ObjectKey, table: RouteTable, gateways: View[ObjectKey, GatewayDef]
) -> Mapping[ObjectKey, Outcome[bool]]:
    """Whether a table names only gateways that exist; a problem for each that does not."""
    problems = []
    for name in sorted(table.named_gateways - {MESH}):
        namespace, _, bare = name.partition("/")
        if fetch.get(gateways, ObjectKey("Gateway", namespace, bare)) is None:
            message = f"there is no Gateway {bare!r} in namespace {namespace}: create it, or "
            message += "correct the name (NAMESPACE/NAME, or a NAME in the object's own namespace)"
            where = _named_at(table, name)
            problems.append(
                Problem(Code.UNKNOWN_GATEWAY, Severity.ERROR, table.source, where, message)
            )
    return {key: Outcome(not problems, tuple(problems))}


def _named_at(table: RouteTable, gateway: str) -> str:
    if gateway in table.gateways:
        return f"spec.gateways[{table.gateways.index(gateway)}]"
    rules: tuple[HttpRule | L4Rule, ...] = (*table.http, *table.tls, *table.tcp)
    for rule in rules:
        matches: tuple[HttpMatch | L4Match, ...] = rule.matches
        for i, match in enumerate(matches):
            if gateway in match.gateways:
                return f"{rule.path}.match[{i}].gateways"
    return "spec.gateways"


def _server(server: api.Server, namespace: str, path: str) -> Server:
    protocol = server.port.protocol.upper()
    encrypted = protocol in ("HTTPS", "TLS")
    return Server(
        port=server.port.number,
        port_name=server.port.name,
        protocol=_PROTOCOLS[protocol],
        hosts=tuple(_host(host, namespace) for host in server.hosts),
        bind=server.bind,
        tls=_tls(server.tls) if encrypted and server.tls is not None else None,
        https_redirect=server.tls is not None and server.tls.https_redirect,
        path=path,
    )


def _host(declared: str, namespace: str) -> ServerHost:
    where, slash, host = declared.rpartition("/")
    if not slash:
        where = "*"
    return ServerHost(namespace if where == "." else where, host.lower())


def _tls(tls: api.ServerTLSSettings) -> Tls:
    match tls.mode:
        case "PASSTHROUGH":
            return Passthrough()
        case "AUTO_PASSTHROUGH":
            return AutoPassthrough()
    return terminate(tls)


def terminate(tls: api.ServerTLSSettings) -> Terminate:
    """TLS that the proxy itself ends."""
    files = [(pair.server_certificate, pair.private_key) for pair in tls.tls_certificates]
    if tls.server_certificate:
        files = [(tls.server_certificate, tls.private_key)]
    authorities = [pair.ca_certificates for pair in tls.tls_certificates if pair.ca_certificates]
    return Terminate(
        check=ClientCheck(tls.mode),
        credentials=tls.credential_names or ((tls.credential_name,) if tls.credential_name else ()),
        authority=tls.ca_cert_credential_name,
        files=tuple(files),
        authority_file=tls.ca_certificates or (authorities[0] if authorities else ""),
        revoked_file=tls.ca_crl,
        subject_alt_names=tls.subject_alt_names,
        spki=tls.verify_certificate_spki,
        hashes=tls.verify_certificate_hash,
        min_version=_version(tls.min_protocol_version),
        max_version=_version(tls.max_protocol_version),
        ciphers=tls.cipher_suites,
    )


def _version(declared: str) -> str:
    return "" if declared == "TLS_AUTO" else declared
