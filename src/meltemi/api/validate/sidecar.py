"""What a Sidecar may say (mesh-semantics 1.6)."""

import ipaddress
from collections.abc import Iterator

from meltemi.api import sidecar as api
from meltemi.api.networking import ConnectionPool
from meltemi.api.validate import words
from meltemi.api.validate.gateway import certificates, parameters
from meltemi.api.validate.service_entry import PROTOCOLS
from meltemi.api.validate.words import Finding

_CAPTURES = ("DEFAULT", "IPTABLES", "NONE")
_POLICIES = ("REGISTRY_ONLY", "ALLOW_ANY")
_UNIX = "unix://"


def sidecar(spec: api.SidecarSpec) -> Iterator[Finding]:
    for i, ingress in enumerate(spec.ingress):
        yield from _ingress(ingress, f"spec.ingress[{i}]")
    for i, egress in enumerate(spec.egress):
        last = i == len(spec.egress) - 1
        yield from _egress(egress, f"spec.egress[{i}]", last=last)
    seen: set[tuple[str, int]] = set()
    for i, ingress in enumerate(spec.ingress):
        place = (ingress.bind, ingress.port.number)
        if place in seen:
            yield f"spec.ingress[{i}].port", f"port {ingress.port.number} is listed already"
        seen.add(place)
    policy = spec.outbound_traffic_policy
    if policy is not None and policy.mode is not None and policy.mode not in _POLICIES:
        reason = f"must be one of {', '.join(_POLICIES)}"
        if policy.mode == "ALLOW_ANY_DYNAMIC_DNS":
            reason = "only the mesh can say it: set outboundTrafficPolicy.mode in MeshConfig"
        yield "spec.outboundTrafficPolicy.mode", reason
    if policy is not None and policy.egress_proxy is not None:
        path = "spec.outboundTrafficPolicy.egressProxy"
        if policy.mode != "ALLOW_ANY":
            yield path, "an egress proxy needs mode ALLOW_ANY"
        if not policy.egress_proxy.port:
            yield f"{path}.port", "the proxy's port is needed"
        yield from words.host(policy.egress_proxy.host, f"{path}.host")


def sidecar_ignored(spec: api.SidecarSpec) -> Iterator[Finding]:
    """What is accepted, as Istio accepts it, and that nothing here follows."""
    for i, ingress in enumerate(spec.ingress):
        path = f"spec.ingress[{i}]"
        yield from _ignored_port(ingress.port, f"{path}.port")
        yield from _ignored_tls(ingress, f"{path}.tls")
        yield from _ignored_pool(ingress.connection_pool, f"{path}.connectionPool")
    for i, egress in enumerate(spec.egress):
        if egress.port is not None:
            yield from _ignored_port(egress.port, f"spec.egress[{i}].port")
    yield from _ignored_pool(spec.inbound_connection_pool, "spec.inboundConnectionPool")


def _ignored_port(port: api.SidecarPort, path: str) -> Iterator[Finding]:
    if port.target_port:
        yield f"{path}.targetPort", "it has no effect on a Sidecar: use defaultEndpoint"


def _ignored_tls(ingress: api.IngressListener, path: str) -> Iterator[Finding]:
    tls = ingress.tls
    if tls is None:
        return
    if tls.https_redirect:
        yield f"{path}.httpsRedirect", "only gateways redirect"


def _ignored_pool(pool: ConnectionPool | None, path: str) -> Iterator[Finding]:
    """An application is spoken to as its clients speak."""
    http = pool.http if pool is not None else None
    if http is None:
        return
    given = {
        "h2UpgradePolicy": http.h2_upgrade_policy not in ("", "DEFAULT"),
        "useClientProtocol": http.use_client_protocol,
        "maxConcurrentStreams": bool(http.max_concurrent_streams),
        "http2KeepAlive": http.http2_keep_alive is not None,
    }
    for name, is_given in given.items():
        if is_given:
            reason = "the application is spoken to as its clients speak: it has no effect here"
            yield f"{path}.http.{name}", reason


def _port(port: api.SidecarPort, path: str, *, unix: bool) -> Iterator[Finding]:
    if unix:
        if port.number:
            yield f"{path}.number", "a unix socket has no port number: use 0"
    else:
        yield from words.port(port.number, f"{path}.number")
    if port.protocol and port.protocol.upper() not in PROTOCOLS:
        yield f"{path}.protocol", f"must be one of {', '.join(PROTOCOLS)}"


def _bind(bind: str, mode: str, path: str, *, unix: bool) -> Iterator[Finding]:
    if mode not in _CAPTURES:
        yield f"{path}.captureMode", f"must be one of {', '.join(_CAPTURES)}"
    if bind.startswith(_UNIX):
        if not unix:
            yield f"{path}.bind", "a unix socket is only for egress listeners with a port"
        elif not bind.startswith(f"{_UNIX}/"):
            yield f"{path}.bind", "a unix socket needs an absolute path: unix:///path"
        if mode == "IPTABLES":
            yield f"{path}.captureMode", "a unix socket cannot be captured: use NONE or DEFAULT"
    elif bind:
        try:
            ipaddress.ip_address(bind)
        except ValueError:
            yield f"{path}.bind", f"{bind[:80]!r} is not an IP address"


def _ingress(ingress: api.IngressListener, path: str) -> Iterator[Finding]:
    yield from _port(ingress.port, f"{path}.port", unix=False)
    yield from _bind(ingress.bind, ingress.capture_mode, path, unix=False)
    yield from _endpoint(ingress.default_endpoint, f"{path}.defaultEndpoint")
    tls = ingress.tls
    if tls is None:
        return
    if tls.mode not in ("SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL"):
        yield f"{path}.tls.mode", "must be SIMPLE, MUTUAL or OPTIONAL_MUTUAL on a sidecar"
        return
    yield from certificates(tls, f"{path}.tls")
    yield from parameters(tls, f"{path}.tls")


def _endpoint(endpoint: str, path: str) -> Iterator[Finding]:
    if not endpoint or endpoint.startswith(f"{_UNIX}/"):
        return
    host, _, port = endpoint.rpartition(":")
    if host.strip("[]") not in ("127.0.0.1", "0.0.0.0", "::1", "::") or not port.isdecimal():
        yield path, "is 127.0.0.1:PORT, 0.0.0.0:PORT or unix:///path"
    else:
        yield from words.port(int(port), path)


def _egress(egress: api.EgressListener, path: str, *, last: bool) -> Iterator[Finding]:
    unix = egress.bind.startswith(_UNIX)
    if egress.port is not None:
        yield from _port(egress.port, f"{path}.port", unix=unix)
    elif not last:
        yield path, "the listener without a port takes all the others: it must be the last"
    elif unix:
        yield f"{path}.port", "a unix socket needs a port's protocol"
    yield from _bind(egress.bind, egress.capture_mode, path, unix=egress.port is not None)
    if not egress.hosts:
        yield f"{path}.hosts", "at least one host is needed, such as ./* or */*"
    for i, host in enumerate(egress.hosts):
        yield from _imported(host, f"{path}.hosts[{i}]")


def _imported(text: str, path: str) -> Iterator[Finding]:
    namespace, slash, host = text.partition("/")
    if not slash or not namespace or not host:
        yield path, f"{text[:80]!r} is not namespace/host: write ./*, */* or shop/reviews.shop.svc"
        return
    name = namespace if namespace in ("*", ".", "~") else namespace.removeprefix("~")
    if name not in ("*", ".", "~"):
        yield from words.host(name, path)
    yield from words.host(host, path)
