"""What a DestinationRule may say (mesh-semantics 1.3)."""

import re
from collections.abc import Iterator

from meltemi.api import networking as net
from meltemi.api.validate import words
from meltemi.api.validate.load_balancer import load_balancer
from meltemi.api.validate.words import LABEL, Advice, Finding
from meltemi.base.problems import Code, Severity

_CLIENT_TLS = ("DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL")
_MOST_REQUESTS = 1 << 29


def destination_rule(spec: net.DestinationRuleSpec) -> Iterator[Finding]:
    yield from words.host(spec.host, "spec.host")
    yield from words.namespaces(spec.export_to, "spec.exportTo")
    if spec.workload_selector is not None:
        where = "spec.workloadSelector.matchLabels"
        yield from words.labels(spec.workload_selector.match_labels, where)
    if spec.traffic_policy is not None:
        yield from traffic_policy(spec.traffic_policy, "spec.trafficPolicy")
    if spec.workload_selector is None:
        yield from _gateways_only(spec)
    seen: set[str] = set()
    for i, subset in enumerate(spec.subsets):
        path = f"spec.subsets[{i}]"
        if not subset.name:
            yield f"{path}.name", "a subset needs a name"
        elif not re.fullmatch(LABEL, subset.name):
            yield f"{path}.name", f"{subset.name[:80]!r} is not a name: use a DNS label"
        if subset.name in seen:
            yield f"{path}.name", f"subset {subset.name!r} is there twice: rename one of them"
        seen.add(subset.name)
        yield from words.labels(subset.labels, f"{path}.labels")
        if subset.traffic_policy is not None:
            yield from traffic_policy(subset.traffic_policy, f"{path}.trafficPolicy")


def _gateways_only(spec: net.DestinationRuleSpec) -> Iterator[Finding]:
    policies = [("spec.trafficPolicy", spec.traffic_policy)]
    policies += [
        (f"spec.subsets[{i}].trafficPolicy", s.traffic_policy) for i, s in enumerate(spec.subsets)
    ]
    for path, policy in policies:
        if policy is None:
            continue
        levels = [(path, policy.tls)]
        levels += [
            (f"{path}.portLevelSettings[{i}]", p.tls)
            for i, p in enumerate(policy.port_level_settings)
        ]
        for where, tls in levels:
            if tls is not None and tls.credential_name:
                yield Advice(
                    f"{where}.tls.credentialName",
                    "only gateways use it: a sidecar needs a rule with workloadSelector, and "
                    "sends plaintext here",
                    severity=Severity.INFO,
                )


def traffic_policy(policy: net.TrafficPolicy, path: str) -> Iterator[Finding]:
    """A rule's, a subset's, or the mesh's."""
    if policy == net.TrafficPolicy():
        yield path, "it says nothing: give it at least one setting, or remove it"
    yield from _blocks(policy, path)
    ports: set[int] = set()
    for i, entry in enumerate(policy.port_level_settings):
        where = f"{path}.portLevelSettings[{i}]"
        number = entry.port.number
        yield from words.port(number, f"{where}.port.number")
        if number in ports:
            yield f"{where}.port.number", f"port {number} is there twice: merge the two"
        ports.add(number)
        yield from _blocks(entry, where)
    if policy.tunnel is not None:
        yield from _tunnel(policy.tunnel, f"{path}.tunnel")
    if policy.proxy_protocol is not None:
        version = policy.proxy_protocol.version
        yield from words.choice(version, f"{path}.proxyProtocol.version", ("V1", "V2"))
    if policy.retry_budget is not None:
        yield from _retry_budget(policy.retry_budget, f"{path}.retryBudget")


def _blocks(blocks: net.TrafficPolicyBlocks, path: str) -> Iterator[Finding]:
    if blocks.load_balancer is not None:
        yield from load_balancer(blocks.load_balancer, f"{path}.loadBalancer")
    if blocks.tls is not None:
        yield from client_tls(blocks.tls, f"{path}.tls")
    if blocks.connection_pool is not None:
        yield from _pool(blocks.connection_pool, f"{path}.connectionPool")
    if blocks.outlier_detection is not None:
        yield from _outlier(blocks.outlier_detection, f"{path}.outlierDetection")


def _tunnel(tunnel: net.Tunnel, path: str) -> Iterator[Finding]:
    yield from words.choice(tunnel.protocol, f"{path}.protocol", ("", "CONNECT", "POST"))
    yield from words.host(tunnel.target_host, f"{path}.targetHost")
    if "*" in tunnel.target_host:
        yield f"{path}.targetHost", "a wildcard is no place to tunnel to"
    yield from words.port(tunnel.target_port, f"{path}.targetPort")


def _retry_budget(budget: net.RetryBudget, path: str) -> Iterator[Finding]:
    if budget.percent is not None:
        yield from words.percent(budget.percent.value, f"{path}.percent.value")
    yield from words.count(budget.min_retry_concurrency, f"{path}.minRetryConcurrency")
    yield from words.duration(budget.budget_interval, f"{path}.budgetInterval", zero=True)


def _pool(pool: net.ConnectionPool, path: str) -> Iterator[Finding]:
    if pool.tcp is None and pool.http is None:
        yield path, "it says nothing: give it tcp or http, or remove it"
    if pool.tcp is not None:
        yield from _tcp(pool.tcp, f"{path}.tcp")
    if pool.http is not None:
        yield from _http(pool.http, f"{path}.http")


def _tcp(tcp: net.TCPSettings, path: str) -> Iterator[Finding]:
    yield from words.count(tcp.max_connections, f"{path}.maxConnections")
    yield from words.duration(tcp.connect_timeout, f"{path}.connectTimeout")
    yield from words.duration(tcp.max_connection_duration, f"{path}.maxConnectionDuration")
    yield from words.duration(tcp.idle_timeout, f"{path}.idleTimeout", zero=True)
    keepalive = tcp.tcp_keepalive
    if keepalive is None:
        return
    where = f"{path}.tcpKeepalive"
    yield from words.count(keepalive.probes, f"{where}.probes")
    for name, span in (("time", keepalive.time), ("interval", keepalive.interval)):
        yield from words.duration(span, f"{where}.{name}", zero=True)
        if span and span.total_seconds() < 1:
            yield f"{where}.{name}", "must be at least 1s: the system counts whole seconds"


def _http(http: net.HTTPSettings, path: str) -> Iterator[Finding]:
    for name, value in (
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ):
        yield from words.count(value, f"{path}.{name}")
    if http.max_requests_per_connection > _MOST_REQUESTS:
        yield f"{path}.maxRequestsPerConnection", f"must be {_MOST_REQUESTS} at most"
    yield from words.duration(http.idle_timeout, f"{path}.idleTimeout", zero=True)
    ways = ("", "DEFAULT", "DO_NOT_UPGRADE", "UPGRADE")
    yield from words.choice(http.h2_upgrade_policy, f"{path}.h2UpgradePolicy", ways)
    if http.use_client_protocol and http.h2_upgrade_policy == "UPGRADE":
        yield (
            f"{path}.useClientProtocol",
            "the client's protocol cannot be kept and upgraded at once: keep one of the two",
        )
    keepalive = http.http2_keep_alive
    if keepalive is not None:
        for name, span in (("interval", keepalive.interval), ("timeout", keepalive.timeout)):
            yield from words.duration(span, f"{path}.http2KeepAlive.{name}")


def _outlier(outlier: net.OutlierDetection, path: str) -> Iterator[Finding]:
    yield from words.percent(outlier.max_ejection_percent, f"{path}.maxEjectionPercent")
    yield from words.percent(outlier.min_health_percent, f"{path}.minHealthPercent")
    for name, value in (
        ("consecutiveErrors", outlier.consecutive_errors),
        ("consecutiveLocalOriginFailures", outlier.consecutive_local_origin_failures),
        ("consecutiveGatewayErrors", outlier.consecutive_gateway_errors),
        ("consecutive5xxErrors", outlier.consecutive_5xx_errors),
    ):
        yield from words.count(value, f"{path}.{name}")
    yield from words.duration(outlier.interval, f"{path}.interval")
    yield from words.duration(outlier.base_ejection_time, f"{path}.baseEjectionTime")
    for i, code in enumerate(outlier.outlier_detection_http_error_codes):
        if not 100 <= code <= 599:
            where = f"{path}.outlierDetectionHttpErrorCodes[{i}]"
            yield where, f"{code} is not a response code: use 100 to 599"
    if outlier.consecutive_local_origin_failures and not outlier.split_external_local_origin_errors:
        yield Advice(
            f"{path}.consecutiveLocalOriginFailures",
            "it takes effect only with splitExternalLocalOriginErrors: true",
            Code.BAD_VALUE,
        )


def client_tls(tls: net.ClientTLSSettings, path: str) -> Iterator[Finding]:
    yield from words.choice(tls.mode, f"{path}.mode", _CLIENT_TLS)
    files = {
        "clientCertificate": tls.client_certificate,
        "privateKey": tls.private_key,
        "caCertificates": tls.ca_certificates,
        "caCrl": tls.ca_crl,
    }
    given = [name for name, value in files.items() if value]
    if tls.mode == "ISTIO_MUTUAL" and (given or tls.credential_name):
        where = f"{path}.{given[0] if given else 'credentialName'}"
        yield where, "mode ISTIO_MUTUAL uses the mesh's own certificates: remove it"
    elif tls.credential_name and given:
        yield f"{path}.{given[0]}", "credentialName and files exclude each other: keep one way"
    if tls.mode == "MUTUAL" and not tls.credential_name:
        for name in ("clientCertificate", "privateKey"):
            if not files[name]:
                yield f"{path}.{name}", "mode MUTUAL needs it, or a credentialName"
    if tls.mode == "SIMPLE" and (tls.client_certificate or tls.private_key):
        name = "clientCertificate" if tls.client_certificate else "privateKey"
        yield f"{path}.{name}", "mode SIMPLE shows no certificate: use MUTUAL, or remove it"
    for name, value in files.items():
        yield from words.text(value, f"{path}.{name}")
        if "~" in value:
            yield f"{path}.{name}", 'a path must not have a "~" in it'
    if tls.ca_crl and not tls.ca_certificates:
        yield f"{path}.caCrl", "a list of revoked certificates needs caCertificates"
    yield from words.text(tls.sni, f"{path}.sni")
    if len(tls.sni) > 255:
        yield f"{path}.sni", "a server name has 255 characters at most"
    for i, name in enumerate(tls.subject_alt_names):
        yield from words.text(name, f"{path}.subjectAltNames[{i}]")
        if not name:
            yield f"{path}.subjectAltNames[{i}]", "a name must not be empty"
