"""What a VirtualService may say (mesh-semantics 1.2)."""

import datetime
from collections.abc import Iterator

from meltemi.api import networking as net
from meltemi.api.validate import words
from meltemi.api.validate.words import Finding

_REDIRECTS = (301, 302, 303, 307, 308)


def virtual_service(spec: net.VirtualServiceSpec) -> Iterator[Finding]:
    for i, host in enumerate(spec.hosts):
        yield from words.host(host, f"spec.hosts[{i}]")
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
        yield from words.percent(rule.mirror_percentage.value, f"{path}.mirrorPercentage.value")
    for i, mirror in enumerate(rule.mirrors):
        if mirror.percentage is not None:
            yield from words.percent(
                mirror.percentage.value, f"{path}.mirrors[{i}].percentage.value"
            )


def _http_match(match: net.HTTPMatchRequest, path: str) -> Iterator[Finding]:
    single = (("uri", match.uri), ("scheme", match.scheme), ("method", match.method),
              ("authority", match.authority))  # fmt: skip
    maps = (("headers", match.headers), ("withoutHeaders", match.without_headers),
            ("queryParams", match.query_params))  # fmt: skip
    for name, value in single:
        if value is not None:
            yield from words.string_match(value, f"{path}.{name}")
    for name, values in maps:
        for key, value in values.items():
            if not key:
                yield f"{path}.{name}", "a name must not be empty"
            yield from words.string_match(value, f"{path}.{name}[{key}]")


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
            yield from words.host(destination.host, f"{where}.destination.host")
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
            yield from words.percent(delay.percentage.value, f"{path}.delay.percentage.value")
        yield from words.percent(delay.percent, f"{path}.delay.percent")
    if fault.abort is not None:
        abort = fault.abort
        if abort.http2_error is not None:
            yield f"{path}.abort.http2Error", "not supported: use httpStatus or grpcStatus"
        elif abort.grpc_status is None and not 200 <= (abort.http_status or 0) <= 599:
            yield f"{path}.abort.httpStatus", "must be from 200 to 599"
        if abort.percentage is not None:
            yield from words.percent(abort.percentage.value, f"{path}.abort.percentage.value")
