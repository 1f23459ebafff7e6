"""Istio's own rules on one object: what it may say, whatever else the mesh holds.

A Problem of severity ERROR refuses the object; warnings let it pass. Rules: mesh-semantics 1.2
to 1.4 and 1.10.
"""

import datetime
import re
from collections.abc import Iterator

from meltemi.api import networking as net
from meltemi.api.meta import Object
from meltemi.api.security import PeerAuthentication
from meltemi.base.problems import Code, Problem, Severity

LONGEST_REGEX = 1024
_LABEL = r"[a-zA-Z0-9_](?:[-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?"
_HOST = re.compile(rf"(?:\*|(?:\*\.)?{_LABEL}(?:\.{_LABEL})*)\.?")
_REDIRECTS = (301, 302, 303, 307, 308)
_BALANCERS = (
    "UNSPECIFIED", "LEAST_CONN", "LEAST_REQUEST", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN",
)  # fmt: skip
_CLIENT_TLS = ("DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL")
_SERVER_TLS = (
    "PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL",
)  # fmt: skip
_PROTOCOLS = ("HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS")
_MTLS = ("UNSET", "DISABLE", "PERMISSIVE", "STRICT")

Finding = tuple[str, str]
"""(path, message)."""


def validate(obj: Object) -> tuple[Problem, ...]:
    """All that is wrong with one object; empty for kinds without rules."""
    match obj:
        case net.VirtualService():
            findings = _virtual_service(obj.spec)
        case net.DestinationRule():
            findings = _destination_rule(obj.spec)
        case net.Gateway():
            findings = _gateway(obj.spec)
        case PeerAuthentication():
            findings = _peer_authentication(obj)
        case _:
            return ()
    return tuple(
        Problem(Code.BAD_VALUE, Severity.ERROR, obj.key, path, message)
        for path, message in findings
    )


def _virtual_service(spec: net.VirtualServiceSpec) -> Iterator[Finding]:
    for i, host in enumerate(spec.hosts):
        yield from _host(host, f"spec.hosts[{i}]")
    if not (spec.http or spec.tcp or spec.tls):
        yield "spec", "it routes nothing: give it http, tls or tcp rules"
    for i, rule in enumerate(spec.http):
        yield from _http_rule(rule, f"spec.http[{i}]", delegated=not spec.hosts)
    for i, tls in enumerate(spec.tls):
        path = f"spec.tls[{i}]"
        if not tls.match:
            yield f"{path}.match", "a tls rule needs a match with sniHosts"
        for j, match in enumerate(tls.match):
            if not match.sni_hosts:
                yield f"{path}.match[{j}].sniHosts", "at least one SNI host is needed"
        yield from _destinations([(r.destination, r.weight) for r in tls.route], path)
    for i, tcp in enumerate(spec.tcp):
        path = f"spec.tcp[{i}]"
        yield from _destinations([(r.destination, r.weight) for r in tcp.route], path)


def _host(host: str, path: str) -> Iterator[Finding]:
    if not host:
        yield path, "a host must not be empty"
    elif len(host) > 253 or not _HOST.fullmatch(host):
        yield (
            path,
            (
                f"{host[:80]!r} is not a host name: use a DNS name, with a wildcard only as its "
                "whole first label"
            ),
        )


def _http_rule(rule: net.HTTPRoute, path: str, *, delegated: bool) -> Iterator[Finding]:
    for i, match in enumerate(rule.match):
        yield from _http_match(match, f"{path}.match[{i}]")
    actions = [
        name
        for name, given in (
            ("route", rule.route),
            ("redirect", rule.redirect),
            ("directResponse", rule.direct_response),
            ("delegate", rule.delegate),
        )
        if given
    ]
    if len(actions) > 1:
        yield path, f"{' and '.join(actions)} exclude each other: keep one of them"
    if not actions:
        yield path, "it does nothing: give it a route, redirect, directResponse or delegate"
    if rule.delegate is not None and delegated:
        yield f"{path}.delegate", "a delegate cannot delegate further"
    if rule.redirect is not None:
        yield from _redirect(rule, path)
    if rule.direct_response is not None and not 100 <= rule.direct_response.status <= 599:
        yield f"{path}.directResponse.status", "must be from 100 to 599"
    if rule.route:
        yield from _destinations([(r.destination, r.weight) for r in rule.route], path)
    if rule.timeout is not None and rule.timeout < datetime.timedelta():
        yield f"{path}.timeout", "must not be negative"
    if rule.retries is not None and rule.retries.attempts < 0:
        yield f"{path}.retries.attempts", "must not be negative"
    if rule.fault is not None:
        yield from _fault(rule.fault, f"{path}.fault")
    if rule.mirror is not None and rule.mirrors:
        yield f"{path}.mirrors", "mirror and mirrors exclude each other: keep one of them"
    if rule.mirror_percentage is not None:
        yield from _percent(rule.mirror_percentage.value, f"{path}.mirrorPercentage.value")
    for i, mirror in enumerate(rule.mirrors):
        if mirror.percentage is not None:
            yield from _percent(mirror.percentage.value, f"{path}.mirrors[{i}].percentage.value")


def _http_match(match: net.HTTPMatchRequest, path: str) -> Iterator[Finding]:
    single = (("uri", match.uri), ("scheme", match.scheme), ("method", match.method),
              ("authority", match.authority))  # fmt: skip
    maps = (("headers", match.headers), ("withoutHeaders", match.without_headers),
            ("queryParams", match.query_params))  # fmt: skip
    for name, value in single:
        if value is not None:
            yield from _string_match(value, f"{path}.{name}")
    for name, values in maps:
        for key, value in values.items():
            if not key:
                yield f"{path}.{name}", "a name must not be empty"
            yield from _string_match(value, f"{path}.{name}[{key}]")


def _string_match(match: net.StringMatch, path: str) -> Iterator[Finding]:
    given = [m for m in (match.exact, match.prefix, match.regex) if m is not None]
    if len(given) > 1:
        yield path, "exact, prefix and regex exclude each other: keep one of them"
    if match.regex is not None:
        yield from _regex(match.regex, f"{path}.regex")


def _regex(pattern: str, path: str) -> Iterator[Finding]:
    """Bounded in length, and of RE2's syntax as far as compiling tells; never run here."""
    if len(pattern) > LONGEST_REGEX:
        yield path, f"a regular expression may have {LONGEST_REGEX} characters at most"
        return
    if re.search(r"\\[1-9]|\(\?[=!<](?![A-Za-z])", pattern):
        yield path, "look-around and back-references do not exist in RE2, which Envoy uses"
        return
    try:
        re.compile(pattern.replace(r"\z", r"\Z").replace(r"\pL", "a").replace(r"\C", "."))
    except (re.error, RecursionError, OverflowError) as error:
        if pattern != "*":
            yield path, f"not a regular expression: {error}"


def _redirect(rule: net.HTTPRoute, path: str) -> Iterator[Finding]:
    redirect = rule.redirect
    if redirect is None:
        return
    if rule.rewrite is not None:
        yield f"{path}.rewrite", "a redirect cannot rewrite: put the new path into redirect.uri"
    if rule.fault is not None:
        yield f"{path}.fault", "a redirect has no upstream to inject faults into"
    if redirect.redirect_code and redirect.redirect_code not in _REDIRECTS:
        yield f"{path}.redirect.redirectCode", f"must be one of {', '.join(map(str, _REDIRECTS))}"


def _destinations(routes: list[tuple[net.Destination, int]], path: str) -> Iterator[Finding]:
    total = 0
    for i, (destination, weight) in enumerate(routes):
        where = f"{path}.route[{i}]"
        if not destination.host:
            yield f"{where}.destination.host", "a destination needs a host"
        else:
            yield from _host(destination.host, f"{where}.destination.host")
        if weight < 0:
            yield f"{where}.weight", "must not be negative"
        total += weight
    if not routes:
        yield f"{path}.route", "at least one destination is needed"
    elif len(routes) > 1 and total == 0:
        yield (
            f"{path}.route",
            ("the weights of several destinations must not all be zero: give each its share"),
        )


def _fault(fault: net.HTTPFaultInjection, path: str) -> Iterator[Finding]:
    if fault.delay is not None:
        delay = fault.delay
        if delay.exponential_delay is not None:
            yield f"{path}.delay.exponentialDelay", "not supported: use fixedDelay"
        elif delay.fixed_delay is None or delay.fixed_delay < datetime.timedelta(milliseconds=1):
            yield f"{path}.delay.fixedDelay", "must be at least 1ms"
        if delay.percentage is not None:
            yield from _percent(delay.percentage.value, f"{path}.delay.percentage.value")
        yield from _percent(delay.percent, f"{path}.delay.percent")
    if fault.abort is not None:
        abort = fault.abort
        if abort.http2_error is not None:
            yield f"{path}.abort.http2Error", "not supported: use httpStatus or grpcStatus"
        elif abort.grpc_status is None and not 200 <= (abort.http_status or 0) <= 599:
            yield f"{path}.abort.httpStatus", "must be from 200 to 599"
        if abort.percentage is not None:
            yield from _percent(abort.percentage.value, f"{path}.abort.percentage.value")


def _percent(value: float, path: str) -> Iterator[Finding]:
    if not 0 <= value <= 100:
        yield path, f"must be from 0 to 100, not {value:g}"


def _destination_rule(spec: net.DestinationRuleSpec) -> Iterator[Finding]:
    yield from _host(spec.host, "spec.host")
    if spec.traffic_policy is not None:
        yield from _policy(spec.traffic_policy, "spec.trafficPolicy")
    seen: set[str] = set()
    for i, subset in enumerate(spec.subsets):
        path = f"spec.subsets[{i}]"
        if not subset.name:
            yield f"{path}.name", "a subset needs a name"
        elif not re.fullmatch(_LABEL, subset.name):
            yield f"{path}.name", f"{subset.name[:80]!r} is not a name: use a DNS label"
        if subset.name in seen:
            yield f"{path}.name", f"subset {subset.name!r} is there twice: rename one of them"
        seen.add(subset.name)
        if subset.traffic_policy is not None:
            yield from _policy(subset.traffic_policy, f"{path}.trafficPolicy")


def _policy(policy: net.TrafficPolicy, path: str) -> Iterator[Finding]:
    yield from _blocks(policy, path)
    for i, port in enumerate(policy.port_level_settings):
        where = f"{path}.portLevelSettings[{i}]"
        yield from _port(port.port.number, f"{where}.port.number")
        yield from _blocks(port, where)


def _blocks(blocks: net.TrafficPolicyBlocks, path: str) -> Iterator[Finding]:
    balancer = blocks.load_balancer
    if balancer is not None:
        if balancer.simple is not None and balancer.simple not in _BALANCERS:
            yield f"{path}.loadBalancer.simple", f"must be one of {', '.join(_BALANCERS[1:])}"
        if balancer.simple is not None and balancer.consistent_hash is not None:
            yield f"{path}.loadBalancer", "simple and consistentHash exclude each other"
    if blocks.tls is not None and blocks.tls.mode not in _CLIENT_TLS:
        yield f"{path}.tls.mode", f"must be one of {', '.join(_CLIENT_TLS)}"
    pool = blocks.connection_pool
    if pool is not None:
        for name, part in (("tcp", pool.tcp), ("http", pool.http)):
            for field in part.__struct_fields__ if part is not None else ():
                value = getattr(part, field)
                if isinstance(value, int) and value < 0:
                    yield f"{path}.connectionPool.{name}.{field}", "must not be negative"
    outlier = blocks.outlier_detection
    if outlier is not None:
        yield from _percent(
            outlier.max_ejection_percent, f"{path}.outlierDetection.maxEjectionPercent"
        )
        yield from _percent(outlier.min_health_percent, f"{path}.outlierDetection.minHealthPercent")


def _port(number: int, path: str) -> Iterator[Finding]:
    if not 1 <= number <= 65535:
        yield path, f"must be a port, from 1 to 65535, not {number}"


def _gateway(spec: net.GatewaySpec) -> Iterator[Finding]:
    if not spec.servers:
        yield "spec.servers", "a gateway needs at least one server"
    for i, server in enumerate(spec.servers):
        path = f"spec.servers[{i}]"
        yield from _port(server.port.number, f"{path}.port.number")
        if server.port.protocol.upper() not in _PROTOCOLS:
            yield f"{path}.port.protocol", f"must be one of {', '.join(_PROTOCOLS)}"
        if not server.port.name:
            yield f"{path}.port.name", "a port needs a name"
        if not server.hosts:
            yield f"{path}.hosts", 'at least one host is needed; "*" is all of them'
        for j, host in enumerate(server.hosts):
            yield from _host(host.rpartition("/")[2], f"{path}.hosts[{j}]")
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


def _peer_authentication(obj: PeerAuthentication) -> Iterator[Finding]:
    spec = obj.spec
    if spec.mtls is not None and spec.mtls.mode not in _MTLS:
        yield "spec.mtls.mode", f"must be one of {', '.join(_MTLS)}"
    selective = spec.selector is not None and bool(spec.selector.match_labels)
    if spec.port_level_mtls and not selective:
        yield "spec.portLevelMtls", "port levels need a selector: add spec.selector.matchLabels"
    for port, mtls in spec.port_level_mtls.items():
        yield from _port(port, f"spec.portLevelMtls[{port}]")
        if mtls.mode not in _MTLS:
            yield f"spec.portLevelMtls[{port}].mode", f"must be one of {', '.join(_MTLS)}"
