"""What one HTTP rule of a VirtualService may say (mesh-semantics 1.2)."""

import base64
import re
from collections.abc import Iterator

import re2

from meltemi.api import networking as net
from meltemi.api.validate import headers, words
from meltemi.api.validate.words import Advice, Finding
from meltemi.base.problems import Code

_REDIRECTS = (301, 302, 303, 307, 308)
_LARGEST_BODY = 1 << 20
_LARGE_BODY = 100 * 1024
_METHODS = (
    "*", "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
)  # fmt: skip
RETRY_ON = frozenset((
    "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure",
    "envoy-ratelimited", "retriable-4xx", "refused-stream", "retriable-status-codes",
    "retriable-headers", "http3-post-connect-failure", "cancelled", "deadline-exceeded",
    "internal", "resource-exhausted", "unavailable",
))  # fmt: skip
_CLAIM = re.compile(r"@request\.auth\.claims(?:(?:\.[^.\[\]]+)+|(?:\[[^\[\]]+\])+)")


def http_rule(rule: net.HTTPRoute, path: str, *, delegated: bool) -> Iterator[Finding]:
    """Everything but the shares of its destinations."""
    for i, match in enumerate(rule.match):
        yield from _match(match, f"{path}.match[{i}]")
    yield from _action(rule, path, delegated=delegated)
    if rule.redirect is not None:
        yield from _redirect(rule.redirect, rule, path)
    if rule.direct_response is not None:
        yield from _direct(rule.direct_response, f"{path}.directResponse")
    if rule.rewrite is not None:
        yield from _rewrite(rule.rewrite, f"{path}.rewrite")
    yield from words.duration(rule.timeout, f"{path}.timeout", zero=True)
    if rule.retries is not None:
        yield from retries(rule.retries, f"{path}.retries")
    if rule.fault is not None:
        yield from _fault(rule.fault, f"{path}.fault")
    yield from _mirrors(rule, path)
    if rule.cors_policy is not None:
        yield from _cors(rule.cors_policy, f"{path}.corsPolicy")
    yield from headers.edits(rule.headers, f"{path}.headers")


def _action(rule: net.HTTPRoute, path: str, *, delegated: bool) -> Iterator[Finding]:
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
    if rule.delegate is not None:
        if delegated:
            yield f"{path}.delegate", "a delegate cannot delegate further"
        if not rule.delegate.name:
            yield f"{path}.delegate.name", "name the VirtualService to delegate to"


def _match(match: net.HTTPMatchRequest, path: str) -> Iterator[Finding]:
    single = (("uri", match.uri), ("scheme", match.scheme), ("method", match.method),
              ("authority", match.authority))  # fmt: skip
    for name, value in single:
        if value is not None:
            yield from words.string_match(value, f"{path}.{name}")
    for name, conditions in (
        ("headers", match.headers),
        ("withoutHeaders", match.without_headers),
    ):
        for key, value in conditions.items():
            yield from _header_name(key, f"{path}.{name}")
            yield from words.string_match(value, f"{path}.{name}[{key}]", may_be_present=True)
    for key, value in match.query_params.items():
        where = f"{path}.queryParams[{key}]"
        if not key or len(key) > 1024:
            yield f"{path}.queryParams", "a parameter's name has 1 to 1024 characters"
        yield from words.string_match(value, where, may_be_present=True)
    if match.port:
        yield from words.port(match.port, f"{path}.port")
    yield from words.labels(match.source_labels, f"{path}.sourceLabels")
    for i, gateway in enumerate(match.gateways):
        yield from words.gateway(gateway, f"{path}.gateways[{i}]")
    if match.gateways and (match.source_labels or match.source_namespace):
        yield Advice(
            f"{path}.gateways",
            "with gateways in a match, its sourceLabels and sourceNamespace are not tested: "
            "put them into a match of their own",
        )


def _header_name(key: str, path: str) -> Iterator[Finding]:
    if key.startswith("@"):
        if not _CLAIM.fullmatch(key):
            yield path, f"{key[:80]!r} is no claim: write @request.auth.claims.name or [name]"
    elif not key:
        yield path, "a header's name must not be empty"
    else:
        yield from headers.name(key, path)


def _redirect(redirect: net.HTTPRedirect, rule: net.HTTPRoute, path: str) -> Iterator[Finding]:
    if rule.rewrite is not None:
        yield f"{path}.rewrite", "a redirect cannot rewrite: put the new path into redirect.uri"
    if rule.fault is not None:
        yield f"{path}.fault", "a redirect has no upstream to inject faults into"
    where = f"{path}.redirect"
    if redirect.redirect_code and redirect.redirect_code not in _REDIRECTS:
        yield f"{where}.redirectCode", f"must be one of {', '.join(map(str, _REDIRECTS))}"
    for name, value in (("uri", redirect.uri), ("authority", redirect.authority)):
        yield from words.text(value, f"{where}.{name}")
    if redirect.scheme:
        yield from words.choice(redirect.scheme, f"{where}.scheme", ("http", "https"))
    if redirect.port is not None and redirect.derive_port is not None:
        yield f"{where}.derivePort", "port and derivePort exclude each other: keep one of them"
    if redirect.port is not None:
        yield from words.port(redirect.port, f"{where}.port")
    ways = ("FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT")
    yield from words.choice(redirect.derive_port, f"{where}.derivePort", ways)


def _direct(response: net.HTTPDirectResponse, path: str) -> Iterator[Finding]:
    if not 200 <= response.status <= 599:
        yield f"{path}.status", f"must be from 200 to 599, not {response.status}"
    if response.body is None:
        return
    string, encoded = response.body.string, response.body.bytes
    if string is not None and encoded is not None:
        yield f"{path}.body", "string and bytes exclude each other: keep one of them"
    size = len((string or "").encode())
    if encoded is not None:
        try:
            size = len(base64.b64decode(encoded, validate=True))
        except ValueError:
            yield f"{path}.body.bytes", "bytes are written in base64"
    if size > _LARGEST_BODY:
        yield f"{path}.body", f"a body may have {_LARGEST_BODY} bytes at most, not {size}"
    elif size > _LARGE_BODY:
        yield Advice(
            f"{path}.body",
            f"{size} bytes are sent to every proxy: serve large answers from a service",
            Code.BAD_VALUE,
        )


def _rewrite(rewrite: net.HTTPRewrite, path: str) -> Iterator[Finding]:
    regex = rewrite.uri_regex_rewrite
    if rewrite.uri and regex is not None:
        yield path, "uri and uriRegexRewrite exclude each other: keep one of them"
    if not (rewrite.uri or rewrite.authority or regex):
        yield path, "it rewrites nothing: give it uri, uriRegexRewrite or authority"
    for name, value in (("uri", rewrite.uri), ("authority", rewrite.authority)):
        yield from words.text(value, f"{path}.{name}")
    if regex is None:
        return
    where = f"{path}.uriRegexRewrite"
    found = list(words.regex(regex.match, f"{where}.match"))
    yield from found or _substitution(regex, f"{where}.rewrite")


def _substitution(regex: net.RegexRewrite, path: str) -> Iterator[Finding]:
    """`\\1` is the first group; a backslash that stands for itself is doubled."""
    yield from words.text(regex.rewrite, path)
    try:
        groups = words.compiled(regex.match).groups
    except re2.error:
        return
    for escaped in re.findall(r"\\(.?)", regex.rewrite, re.DOTALL):
        if escaped.isdecimal() and escaped.isascii():
            if int(escaped) > groups:
                yield path, f"\\{escaped} names a group that the match does not have"
        elif escaped != "\\":
            yield path, r"a backslash is followed by the number of a group, or another backslash"


def retries(policy: net.HTTPRetry, path: str) -> Iterator[Finding]:
    """Retries of a rule, or of the mesh."""
    yield from words.count(policy.attempts, f"{path}.attempts")
    yield from words.duration(policy.per_try_timeout, f"{path}.perTryTimeout", zero=True)
    yield from words.duration(policy.backoff, f"{path}.backoff", zero=True)
    more = policy.per_try_timeout or policy.retry_on or policy.retry_remote_localities
    if not policy.attempts and more:
        yield f"{path}.attempts", "0 turns retries off, and the rest of retries says how: keep one"
    for word in policy.retry_on.split(","):
        name = word.strip()
        if name.isdecimal() and name.isascii():
            if not 100 <= int(name) <= 599:
                yield f"{path}.retryOn", f"{name} is not a response code"
        elif name and name not in RETRY_ON:
            yield f"{path}.retryOn", f"{name[:80]!r} is unknown: use {', '.join(sorted(RETRY_ON))}"


def _fault(fault: net.HTTPFaultInjection, path: str) -> Iterator[Finding]:
    delay, abort = fault.delay, fault.abort
    if delay is None and abort is None:
        yield path, "it does nothing: give it a delay or an abort"
    if delay is not None:
        where = f"{path}.delay"
        if delay.exponential_delay is not None:
            yield f"{where}.exponentialDelay", "not supported: use fixedDelay"
        elif delay.fixed_delay is None:
            yield f"{where}.fixedDelay", "how long? give it a duration of at least 1ms"
        yield from words.duration(delay.fixed_delay, f"{where}.fixedDelay")
        if delay.percentage is not None:
            yield from words.percent(delay.percentage.value, f"{where}.percentage.value")
        yield from words.percent(delay.percent, f"{where}.percent")
    if abort is not None:
        yield from _abort(abort, f"{path}.abort")


def _abort(abort: net.Abort, path: str) -> Iterator[Finding]:
    if abort.http2_error is not None:
        yield f"{path}.http2Error", "not supported: use httpStatus or grpcStatus"
    elif (abort.http_status is None) == (abort.grpc_status is None):
        yield path, "give it one of httpStatus and grpcStatus"
    if abort.http_status is not None and not 200 <= abort.http_status <= 599:
        yield f"{path}.httpStatus", "must be from 200 to 599"
    if abort.grpc_status is not None:
        yield from words.choice(abort.grpc_status.upper(), f"{path}.grpcStatus", net.GRPC_STATUSES)
    if abort.percentage is not None:
        yield from words.percent(abort.percentage.value, f"{path}.percentage.value")


def _mirrors(rule: net.HTTPRoute, path: str) -> Iterator[Finding]:
    if rule.mirror is not None:
        if rule.mirrors:
            yield f"{path}.mirrors", "mirror and mirrors exclude each other: keep one of them"
        yield from destination(rule.mirror, f"{path}.mirror")
    if rule.mirror_percentage is not None:
        yield from words.percent(rule.mirror_percentage.value, f"{path}.mirrorPercentage.value")
    if rule.mirror_percent is not None:
        yield from words.percent(rule.mirror_percent, f"{path}.mirrorPercent")
    for i, mirror in enumerate(rule.mirrors):
        where = f"{path}.mirrors[{i}]"
        yield from destination(mirror.destination, f"{where}.destination")
        if mirror.percentage is not None:
            yield from words.percent(mirror.percentage.value, f"{where}.percentage.value")


def _cors(policy: net.CorsPolicy, path: str) -> Iterator[Finding]:
    for i, origin in enumerate(policy.allow_origins):
        where = f"{path}.allowOrigins[{i}]"
        if not (origin.exact or origin.prefix or origin.regex):
            yield where, 'an origin must not be empty: exact "*" is any'
        yield from words.string_match(origin, where)
    for i, text in enumerate(policy.allow_origin):
        yield from words.text(text, f"{path}.allowOrigin[{i}]")
        if not text:
            yield f"{path}.allowOrigin[{i}]", 'an origin must not be empty: "*" is any'
    for i, method in enumerate(policy.allow_methods):
        yield from words.choice(method, f"{path}.allowMethods[{i}]", _METHODS)
    yield from headers.names(policy.allow_headers, f"{path}.allowHeaders")
    yield from headers.names(policy.expose_headers, f"{path}.exposeHeaders")
    yield from words.duration(policy.max_age, f"{path}.maxAge", zero=True)
    if policy.max_age is not None and policy.max_age.microseconds:
        yield f"{path}.maxAge", "must be whole seconds: browsers know no smaller unit"
    ways = ("", "UNSPECIFIED", "FORWARD", "IGNORE")
    yield from words.choice(policy.unmatched_preflights, f"{path}.unmatchedPreflights", ways)


def destination(target: net.Destination, path: str) -> Iterator[Finding]:
    """Where requests or connections go."""
    if not target.host:
        yield f"{path}.host", "a destination needs a host"
    elif target.host == "*":
        yield f"{path}.host", '"*" is not a destination: name a service'
    else:
        yield from words.host(target.host, f"{path}.host")
    if target.subset and not re.fullmatch(words.LABEL, target.subset):
        yield f"{path}.subset", f"{target.subset[:80]!r} is not a name: use a DNS label"
    if target.port is not None:
        yield from words.port(target.port.number, f"{path}.port.number")
