"""One rule of a VirtualService, read: names resolved, defaults and old fields understood.

Whose names are being resolved matters: a delegate's rules speak from the delegate's namespace.
"""

import base64
from collections.abc import Mapping, Sequence

from meltemi.api import networking as api
from meltemi.base.keys import ObjectKey
from meltemi.model.hosts import full_gateway, full_host
from meltemi.model.route import (
    DEFAULT_RETRY,
    Abort,
    Action,
    ClaimMatch,
    Cors,
    Delay,
    DirectResponse,
    Exact,
    Fault,
    Forward,
    HeaderEdits,
    HttpMatch,
    HttpRule,
    L4Match,
    L4Rule,
    Matcher,
    Mirror,
    NamedMatch,
    Prefix,
    Present,
    Redirect,
    Regex,
    Retry,
    Rewrite,
    Target,
    Weighted,
)

_CLAIMS = "@request.auth.claims"
_KEEP_REST = "%PREFIX()%"
_L4 = api.TLSRoute | api.TCPRoute


class Reader:
    """Reads the rules of one object."""

    def __init__(self, obj: api.VirtualService, domain: str) -> None:
        self._source = ObjectKey("VirtualService", obj.metadata.namespace, obj.metadata.name)
        self._namespace = obj.metadata.namespace
        self._domain = domain

    def host(self, host: str) -> str:
        return full_host(host, self._namespace, self._domain)

    def gateways(self, declared: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(full_gateway(g, self._namespace) for g in declared)

    def http(self, rule: api.HTTPRoute, path: str) -> HttpRule:
        return HttpRule(
            name=rule.name,
            source=self._source,
            path=path,
            matches=tuple(self._match(m) for m in rule.match),
            action=self._action(rule, path),
            rewrite=_rewrite(rule.rewrite),
            timeout=rule.timeout or None,
            retry=None if rule.retries is None else retry_from_api(rule.retries),
            fault=_fault(rule.fault),
            mirrors=self._mirrors(rule, path),
            cors=_cors(rule.cors_policy),
            headers=_edits(rule.headers),
        )

    def l4(self, rule: _L4, path: str) -> L4Rule:
        matches = tuple(self._l4_match(m) for m in rule.match)
        return L4Rule(path, matches, self._weighted(rule.route, path))

    def _match(self, match: api.HTTPMatchRequest) -> HttpMatch:
        headers: list[NamedMatch] = []
        claims: list[ClaimMatch] = []
        for conditions, absent in ((match.headers, False), (match.without_headers, True)):
            for name, wanted in conditions.items():
                claim = claim_path(name)
                if claim is None:
                    headers.append(NamedMatch(name.lower(), _value(wanted), absent))
                else:
                    claims.append(ClaimMatch(claim, _value(wanted), absent))
        return HttpMatch(
            name=match.name,
            path=_path(match.uri),
            ignore_case=match.ignore_uri_case,
            scheme=_condition(match.scheme),
            method=_condition(match.method),
            authority=_condition(match.authority),
            headers=tuple(sorted(headers, key=lambda h: (h.name, h.absent))),
            claims=tuple(sorted(claims, key=lambda c: (c.path, c.absent))),
            query=tuple(NamedMatch(n, _value(m)) for n, m in sorted(match.query_params.items())),
            stat_prefix=match.stat_prefix,
            port=match.port or None,
            source_labels=match.source_labels,
            source_namespace=match.source_namespace,
            gateways=self.gateways(match.gateways),
        )

    def _action(self, rule: api.HTTPRoute, path: str) -> Action:
        if rule.redirect is not None:
            return _redirect(rule.redirect)
        if rule.direct_response is not None:
            return _direct(rule.direct_response)
        return Forward(self._weighted(rule.route, path))

    def _weighted(
        self, routes: Sequence[api.HTTPRouteDestination | api.RouteDestination], path: str
    ) -> tuple[Weighted, ...]:
        weighted = tuple(
            Weighted(
                target=self._target(r.destination, f"{path}.route[{i}].destination"),
                weight=r.weight,
                headers=_edits(r.headers if isinstance(r, api.HTTPRouteDestination) else None),
            )
            for i, r in enumerate(routes)
        )
        if len(weighted) == 1:
            only = weighted[0]
            return (Weighted(only.target, 100, only.headers),)
        return tuple(w for w in weighted if w.weight > 0)

    def _target(self, destination: api.Destination, path: str) -> Target:
        return Target(
            host=self.host(destination.host),
            subset=destination.subset,
            port=destination.port.number or None if destination.port else None,
            path=path,
        )

    def _mirrors(self, rule: api.HTTPRoute, path: str) -> tuple[Mirror, ...]:
        if rule.mirrors:
            found = [
                Mirror(
                    self._target(m.destination, f"{path}.mirrors[{i}].destination"),
                    100.0 if m.percentage is None else m.percentage.value,
                )
                for i, m in enumerate(rule.mirrors)
            ]
        elif rule.mirror is not None:
            percent = 100.0 if rule.mirror_percent is None else float(rule.mirror_percent)
            if rule.mirror_percentage is not None:
                percent = rule.mirror_percentage.value
            found = [Mirror(self._target(rule.mirror, f"{path}.mirror"), percent)]
        else:
            found = []
        return tuple(m for m in found if m.percent > 0)

    def _l4_match(self, match: api.L4MatchAttributes) -> L4Match:
        sni = match.sni_hosts if isinstance(match, api.TLSMatchAttributes) else ()
        return L4Match(
            sni_hosts=tuple(name.lower() for name in sni),
            destination_subnets=match.destination_subnets,
            port=match.port or None,
            source_labels=match.source_labels,
            source_namespace=match.source_namespace,
            gateways=self.gateways(match.gateways),
        )


def claim_path(name: str) -> tuple[str, ...] | None:
    """The claim a header's name stands for, `@request.auth.claims.a.b` or `[a][b]`; None: it is
    an ordinary header. An empty path: the name is no claim either."""
    if not name.startswith("@"):
        return None
    rest = name.removeprefix(_CLAIMS)
    if rest.startswith("[") and rest.endswith("]"):
        parts = tuple(rest[1:-1].split("]["))
    elif rest.startswith(".") and name.startswith(_CLAIMS):
        parts = tuple(rest[1:].split("."))
    else:
        return ()
    return parts if all(parts) else ()


def _value(match: api.StringMatch) -> Matcher:
    """Nothing said, an empty text and the regex `*` ask for presence alone."""
    if match.exact:
        return Exact(match.exact)
    if match.prefix:
        return Prefix(match.prefix)
    if match.regex and match.regex != "*":
        return Regex(match.regex)
    return Present()


def _condition(match: api.StringMatch | None) -> Matcher | None:
    """A match of what every request has: presence is no condition."""
    value = None if match is None else _value(match)
    return None if isinstance(value, Present) else value


def _path(match: api.StringMatch | None) -> Matcher | None:
    if match is not None and match.exact is not None:
        return Exact(match.exact)
    return _condition(match)


def _redirect(redirect: api.HTTPRedirect) -> Redirect:
    return Redirect(
        path=redirect.uri.removeprefix(_KEEP_REST),
        prefix=redirect.uri.startswith(_KEEP_REST),
        authority=redirect.authority,
        port=redirect.port or None,
        port_from_request=redirect.derive_port == "FROM_REQUEST_PORT",
        scheme=redirect.scheme,
        code=redirect.redirect_code or 301,
    )


def _direct(response: api.HTTPDirectResponse) -> DirectResponse:
    body = b""
    if response.body is not None:
        if response.body.bytes is not None:
            body = base64.b64decode(response.body.bytes)
        elif response.body.string is not None:
            body = response.body.string.encode()
    return DirectResponse(response.status, body)


def _rewrite(rewrite: api.HTTPRewrite | None) -> Rewrite | None:
    if rewrite is None:
        return None
    regex = rewrite.uri_regex_rewrite
    return Rewrite(rewrite.uri, rewrite.authority, (regex.match, regex.rewrite) if regex else None)


def retry_from_api(retries: api.HTTPRetry) -> Retry:
    """Numbers within `retryOn` are response codes to try again on."""
    words = [word.strip() for word in retries.retry_on.split(",") if word.strip()]
    statuses = tuple(int(word) for word in words if word.isdecimal())
    on = [word for word in words if not word.isdecimal()]
    if statuses and "retriable-status-codes" not in on:
        on.append("retriable-status-codes")
    return Retry(
        attempts=max(retries.attempts, 0),
        per_try=retries.per_try_timeout or None,
        on=tuple(on) if words else DEFAULT_RETRY.on,
        statuses=statuses,
        remote_localities=bool(retries.retry_remote_localities),
        ignore_previous_hosts=retries.retry_ignore_previous_hosts is not False,
        backoff=retries.backoff or None,
    )


def _fault(fault: api.HTTPFaultInjection | None) -> Fault | None:
    """Without a percentage nothing is disturbed; a delay falls back to the old `percent`."""
    if fault is None:
        return None
    delay = abort = None
    if fault.delay is not None and fault.delay.fixed_delay is not None:
        share = fault.delay.percentage
        percent = float(fault.delay.percent) if share is None else share.value
        delay = Delay(fault.delay.fixed_delay, percent) if percent > 0 else None
    if fault.abort is not None and fault.abort.percentage is not None:
        share = fault.abort.percentage
        if share.value > 0:
            abort = Abort(fault.abort.http_status, fault.abort.grpc_status, share.value)
    return Fault(delay, abort) if delay or abort else None


def _cors(policy: api.CorsPolicy | None) -> Cors | None:
    if policy is None:
        return None
    return Cors(
        origins=tuple(_value(o) for o in policy.allow_origins)
        or tuple(Exact(o) for o in policy.allow_origin),
        methods=policy.allow_methods,
        allow_headers=policy.allow_headers,
        expose_headers=policy.expose_headers,
        max_age=policy.max_age,
        credentials=policy.allow_credentials,
        forward_unmatched=policy.unmatched_preflights != "IGNORE",
    )


def _edits(headers: api.Headers | None) -> HeaderEdits:
    if headers is None:
        return HeaderEdits()
    request = headers.request or api.HeaderOperations()
    response = headers.response or api.HeaderOperations()
    return HeaderEdits(
        request_set=_pairs(request.set),
        request_add=_pairs(request.add),
        request_remove=request.remove,
        response_set=_pairs(response.set),
        response_add=_pairs(response.add),
        response_remove=response.remove,
    )


def _pairs(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))
