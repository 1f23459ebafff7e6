"""Route tables from VirtualServices (mesh-semantics 1.2)."""

import base64
from collections.abc import Sequence

from meltemi.api import networking as api
from meltemi.base.keys import ObjectKey
from meltemi.model.hosts import export_list, full_gateway, full_host
from meltemi.model.route import (
    DEFAULT_RETRY,
    MESH,
    Abort,
    Action,
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
    RouteTable,
    Target,
    Weighted,
)


def table_from_virtual_service(obj: api.VirtualService, domain: str) -> RouteTable:
    """The routes a VirtualService declares, with every name resolved."""
    return _Reader(obj, domain).table()


class _Reader:
    """Knows whose names are being resolved."""

    def __init__(self, obj: api.VirtualService, domain: str) -> None:
        self._obj = obj
        self._namespace = obj.metadata.namespace
        self._domain = domain

    def table(self) -> RouteTable:
        spec = self._obj.spec
        return RouteTable(
            source=ObjectKey("VirtualService", self._namespace, self._obj.metadata.name),
            hosts=tuple(full_host(h, self._namespace, self._domain) for h in spec.hosts),
            gateways=self._gateways(spec.gateways) or (MESH,),
            export_to=export_list(spec.export_to, self._namespace),
            created=self._obj.age_order,
            http=tuple(
                self._http_rule(rule, f"spec.http[{i}]") for i, rule in enumerate(spec.http)
            ),
            tls=tuple(self._tls_rule(rule, f"spec.tls[{i}]") for i, rule in enumerate(spec.tls)),
            tcp=tuple(self._tcp_rule(rule, f"spec.tcp[{i}]") for i, rule in enumerate(spec.tcp)),
        )

    def _gateways(self, declared: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(full_gateway(g, self._namespace) for g in declared)

    def _http_rule(self, rule: api.HTTPRoute, path: str) -> HttpRule:
        return HttpRule(
            name=rule.name,
            path=path,
            matches=tuple(self._match(m) for m in rule.match),
            action=self._action(rule, path),
            rewrite=_rewrite(rule.rewrite),
            timeout=rule.timeout or None,
            retry=_retry(rule.retries),
            fault=_fault(rule.fault),
            mirrors=self._mirrors(rule, path),
            cors=_cors(rule.cors_policy),
            headers=_edits(rule.headers),
        )

    def _match(self, match: api.HTTPMatchRequest) -> HttpMatch:
        names = [NamedMatch(n.lower(), _value(m)) for n, m in match.headers.items()]
        absent = [NamedMatch(n.lower(), _value(m), True) for n, m in match.without_headers.items()]
        return HttpMatch(
            name=match.name,
            path=_optional(match.uri),
            ignore_case=match.ignore_uri_case,
            scheme=_optional(match.scheme),
            method=_optional(match.method),
            authority=_optional(match.authority),
            headers=tuple(sorted((*names, *absent), key=lambda h: (h.name, h.absent))),
            query=tuple(NamedMatch(n, _value(m)) for n, m in sorted(match.query_params.items())),
            stat_prefix=match.stat_prefix,
            port=match.port or None,
            source_labels=match.source_labels,
            source_namespace=match.source_namespace,
            gateways=self._gateways(match.gateways),
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
            host=full_host(destination.host, self._namespace, self._domain),
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
        return L4Match(
            sni_hosts=match.sni_hosts if isinstance(match, api.TLSMatchAttributes) else (),
            destination_subnets=match.destination_subnets,
            port=match.port or None,
            source_labels=match.source_labels,
            source_namespace=match.source_namespace,
            gateways=self._gateways(match.gateways),
        )

    def _tls_rule(self, rule: api.TLSRoute, path: str) -> L4Rule:
        matches = tuple(self._l4_match(m) for m in rule.match)
        return L4Rule(path, matches, self._weighted(rule.route, path))

    def _tcp_rule(self, rule: api.TCPRoute, path: str) -> L4Rule:
        matches = tuple(self._l4_match(m) for m in rule.match)
        return L4Rule(path, matches, self._weighted(rule.route, path))


def _value(match: api.StringMatch) -> Matcher:
    if match.exact is not None:
        return Exact(match.exact)
    if match.prefix is not None:
        return Prefix(match.prefix)
    if match.regex is not None:
        return Present() if match.regex == "*" else Regex(match.regex)
    return Present()


def _optional(match: api.StringMatch | None) -> Matcher | None:
    return None if match is None else _value(match)


def _redirect(redirect: api.HTTPRedirect) -> Redirect:
    return Redirect(
        path=redirect.uri,
        authority=redirect.authority,
        port=redirect.port,
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


def _retry(retries: api.HTTPRetry | None) -> Retry:
    if retries is None:
        return DEFAULT_RETRY
    words = [word.strip() for word in retries.retry_on.split(",") if word.strip()]
    statuses = tuple(int(word) for word in words if word.isdigit())
    on = [word for word in words if not word.isdigit()]
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
        request_set=tuple(sorted(request.set.items())),
        request_add=tuple(sorted(request.add.items())),
        request_remove=request.remove,
        response_set=tuple(sorted(response.set.items())),
        response_add=tuple(sorted(response.add.items())),
        response_remove=response.remove,
    )
