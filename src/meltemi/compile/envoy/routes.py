"""Virtual hosts and route configurations."""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

from meltemi.api.networking import GRPC_STATUSES
from meltemi.compile import ir
from meltemi.compile.envoy.kit import Kit, set_duration, set_fraction, set_matcher
from meltemi.model.route import (
    ClaimMatch,
    Cors,
    DirectResponse,
    Exact,
    Fault,
    HeaderEdits,
    NamedMatch,
    Prefix,
    Present,
    Redirect,
    Regex,
    Retry,
)

_FAULT = "envoy.filters.http.fault"
_CORS = "envoy.filters.http.cors"
_DYNAMIC = "envoy.filters.http.dynamic_forward_proxy"
_JWT = "envoy.filters.http.jwt_authn"
_PAYLOAD = "payload"
_OVERWRITE = 2
_CODES = {301: 0, 302: 1, 303: 2, 307: 3, 308: 4}
_PREVIOUS_HOSTS = "envoy.retry_host_predicates.previous_hosts"
_PREVIOUS_PRIORITIES = "envoy.retry_priorities.previous_priorities"


def virtual_host(kit: Kit, plan: ir.VirtualHost) -> Any:
    message = kit.new("envoy.config.route.v3.VirtualHost", name=plan.name)
    message.domains.extend(plan.domains)
    message.include_request_attempt_count = True
    message.require_tls = 2 if plan.https_only else 0
    for route in plan.routes:
        _route(kit, message.routes.add(), route)
    return message


def configuration(kit: Kit, name: str, hosts: Iterable[bytes], *, validate: bool = False) -> bytes:
    """A route configuration's deterministic bytes, joined from sealed virtual hosts.

    Protobuf lets a message be written in pieces: each piece holds one more element.
    """
    head = kit.new("envoy.config.route.v3.RouteConfiguration", name=name)
    head.validate_clusters.value = validate
    head.ignore_port_in_host_matching = True
    head.max_direct_response_body_size_bytes.value = 1 << 20
    return b"".join((head.SerializeToString(deterministic=True), *hosts))


def inline_configuration(kit: Kit, plan: ir.RouteConfiguration) -> Any:
    """A route configuration inside a listener."""
    message = kit.new("envoy.config.route.v3.RouteConfiguration", name=plan.name)
    message.validate_clusters.value = False
    for host in plan.hosts:
        message.virtual_hosts.add().CopyFrom(virtual_host(kit, host))
        message.virtual_hosts[-1].include_request_attempt_count = False
    return message


def element(kit: Kit, host: Any) -> bytes:
    """A virtual host as one piece of a route configuration."""
    piece = kit.new("envoy.config.route.v3.RouteConfiguration")
    piece.virtual_hosts.add().CopyFrom(host)
    body: bytes = piece.SerializeToString(deterministic=True)
    return body


def renamed(kit: Kit, piece: bytes, domains: Sequence[str]) -> bytes:
    """The virtual host of a piece under other domains; nothing is left of one without any."""
    message = kit.new("envoy.config.route.v3.RouteConfiguration")
    message.ParseFromString(piece)
    if not domains:
        return b""
    del message.virtual_hosts[0].domains[:]
    message.virtual_hosts[0].domains.extend(domains)
    body: bytes = message.SerializeToString(deterministic=True)
    return body


def _route(kit: Kit, target: Any, route: ir.Route) -> None:
    target.name = route.name
    target.stat_prefix = route.stat_prefix
    _match(target.match, route.match)
    match route.action:
        case ir.Forward():
            _forward(kit, target.route, route.action)
        case Redirect():
            _redirect(target.redirect, route.action)
        case DirectResponse(status, body):
            target.direct_response.status = status
            if body:
                target.direct_response.body.inline_bytes = body
    if route.operation:
        target.decorator.operation = route.operation
    _edits(target, route.headers)
    action = route.action
    if isinstance(action, ir.Forward) and action.resolves and action.rewrite is not None:
        _resolves(kit, target, action.rewrite.authority)
    if route.fault is not None:
        kit.pack(target.typed_per_filter_config[_FAULT], _fault(kit, route.fault))
    if route.cors is not None:
        kit.pack(target.typed_per_filter_config[_CORS], _cors(kit, route.cors))


def _match(target: Any, match: ir.Match) -> None:
    match match.path:
        case Exact(value):
            target.path = value
        case Prefix(value):
            target.prefix = value
        case Regex(value):
            target.safe_regex.regex = value
        case Present():
            target.prefix = "/"
    if match.ignore_case and not isinstance(match.path, Regex):
        target.case_sensitive.value = False
    for header in match.headers:
        _header(target.headers.add(), header)
    for parameter in match.query:
        item = target.query_parameters.add(name=parameter.name)
        if isinstance(parameter.matcher, Present):
            item.present_match = True
        else:
            set_matcher(item.string_match, parameter.matcher)
    for claim in match.claims:
        _claim(target.dynamic_metadata.add(), claim)


def _header(target: Any, header: NamedMatch) -> None:
    """An absent header satisfies an inverted match (mesh-semantics, withoutHeaders)."""
    target.name = header.name
    target.invert_match = header.absent
    if isinstance(header.matcher, Present):
        target.present_match = True
        return
    set_matcher(target.string_match, header.matcher)
    target.treat_missing_header_as_empty = header.absent


def _claim(target: Any, claim: ClaimMatch) -> None:
    """A claim is where the JWT filter leaves a verified token's content."""
    target.filter = _JWT
    for part in (_PAYLOAD, *claim.path):
        target.path.add(key=part)
    target.invert = claim.absent
    if isinstance(claim.matcher, Present):
        target.value.present_match = True
        return
    alone, listed = (target.value.or_match.value_matchers.add() for _ in range(2))
    set_matcher(alone.string_match, claim.matcher)
    set_matcher(listed.list_match.one_of.string_match, claim.matcher)


def _forward(kit: Kit, target: Any, action: ir.Forward) -> None:
    if len(action.clusters) == 1 and action.clusters[0].headers == HeaderEdits():
        target.cluster = action.clusters[0].cluster
    else:
        for weighted in action.clusters:
            item = target.weighted_clusters.clusters.add(name=weighted.cluster)
            item.weight.value = weighted.weight
            item.host_rewrite_literal = weighted.authority
            if action.resolves:
                _resolves(kit, item, weighted.authority)
            _edits(item, weighted.headers)
    _timeout(target, action.timeout)
    _rewrite(target, action)
    _retry(kit, target, action.retry, hashed=bool(action.hashes))
    for cluster, percent in action.mirrors:
        mirror = target.request_mirror_policies.add(cluster=cluster)
        set_fraction(mirror.runtime_fraction.default_value, percent)
        mirror.trace_sampled.value = False
        mirror.disable_shadow_host_suffix_append = True
    for policy in action.hashes:
        _hash(target.hash_policy.add(), policy)


def _timeout(target: Any, limit: datetime.timedelta | None) -> None:
    """No limit unless one is given, but a gRPC client's own deadline always holds.

    Envoy ignores `timeout` as soon as `max_stream_duration` is there; so beside a limit the
    deadline needs the older field.
    """
    if limit is None:
        target.timeout.SetInParent()
        target.max_stream_duration.max_stream_duration.SetInParent()
        target.max_stream_duration.grpc_timeout_header_max.SetInParent()
        return
    set_duration(target.timeout, limit)
    set_duration(target.max_grpc_timeout, limit)


def _rewrite(target: Any, action: ir.Forward) -> None:
    rewrite = action.rewrite
    if rewrite is None:
        return
    if rewrite.regex is not None:
        target.regex_rewrite.pattern.regex, target.regex_rewrite.substitution = rewrite.regex
    elif rewrite.path and rewrite.whole:
        target.regex_rewrite.pattern.regex = r"^/[^?]*"
        target.regex_rewrite.substitution = rewrite.path.replace("\\", r"\\")
    elif rewrite.path:
        target.prefix_rewrite = rewrite.path
    if rewrite.authority:
        target.host_rewrite_literal = rewrite.authority


def _retry(kit: Kit, target: Any, retry: Retry, *, hashed: bool) -> None:
    if retry.attempts <= 0:
        return
    policy = target.retry_policy
    policy.retry_on = ",".join(retry.on)
    policy.num_retries.value = retry.attempts
    policy.retriable_status_codes.extend(retry.statuses)
    policy.host_selection_retry_max_attempts = 5
    if retry.per_try is not None:
        set_duration(policy.per_try_timeout, retry.per_try)
    if retry.backoff is not None:
        set_duration(policy.retry_back_off.base_interval, retry.backoff)
    if retry.ignore_previous_hosts and not hashed:
        name = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
        kit.named(policy.retry_host_predicate.add(), _PREVIOUS_HOSTS, kit.new(name))
    if retry.remote_localities:
        name = "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
        kit.named(policy.retry_priority, _PREVIOUS_PRIORITIES, kit.new(name, update_frequency=2))


def _hash(target: Any, policy: ir.HashPolicy) -> None:
    if policy.header:
        target.header.header_name = policy.header
    elif policy.query:
        target.query_parameter.name = policy.query
    elif policy.cookie:
        target.cookie.name = policy.cookie
        target.cookie.path = policy.cookie_path
        if policy.cookie_ttl is not None:
            set_duration(target.cookie.ttl, policy.cookie_ttl)
        for name, value in policy.cookie_attributes:
            target.cookie.attributes.add(name=name, value=value)
    else:
        target.connection_properties.source_ip = True


def _redirect(target: Any, action: Redirect) -> None:
    if action.prefix:
        target.prefix_rewrite = action.path
    elif action.path:
        target.path_redirect = action.path
    target.host_redirect = action.authority
    target.scheme_redirect = action.scheme
    if action.port is not None:
        target.port_redirect = action.port
    target.response_code = _CODES[action.code]


def _edits(target: Any, edits: HeaderEdits) -> None:
    """`set` overwrites, `add` appends."""
    for pairs, append in ((edits.request_set, False), (edits.request_add, True)):
        for name, value in pairs:
            _option(target.request_headers_to_add.add(), name, value, append=append)
    for pairs, append in ((edits.response_set, False), (edits.response_add, True)):
        for name, value in pairs:
            _option(target.response_headers_to_add.add(), name, value, append=append)
    target.request_headers_to_remove.extend(edits.request_remove)
    target.response_headers_to_remove.extend(edits.response_remove)


def _option(target: Any, name: str, value: str, *, append: bool) -> None:
    target.header.key = name
    target.header.value = value
    target.append_action = 0 if append else _OVERWRITE


def _resolves(kit: Kit, target: Any, authority: str) -> None:
    """The filter that resolves hosts stands before the router, which rewrites them: it is told."""
    if authority:
        config = kit.new("envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig")
        config.host_rewrite_literal = authority
        kit.pack(target.typed_per_filter_config[_DYNAMIC], config)


def _fault(kit: Kit, fault: Fault) -> Any:
    message = kit.new("envoy.extensions.filters.http.fault.v3.HTTPFault")
    if fault.delay is not None:
        set_duration(message.delay.fixed_delay, fault.delay.duration)
        set_fraction(message.delay.percentage, fault.delay.percent)
    if fault.abort is not None:
        if fault.abort.grpc_status is not None:
            message.abort.grpc_status = GRPC_STATUSES.index(fault.abort.grpc_status.upper())
        else:
            message.abort.http_status = fault.abort.status or 500
        set_fraction(message.abort.percentage, fault.abort.percent)
    return message


def _cors(kit: Kit, cors: Cors) -> Any:
    message = kit.new("envoy.extensions.filters.http.cors.v3.CorsPolicy")
    for origin in cors.origins:
        anyone = origin if not isinstance(origin, Present) else Exact("*")
        set_matcher(message.allow_origin_string_match.add(), anyone)
    message.allow_methods = ",".join(cors.methods)
    message.allow_headers = ",".join(cors.allow_headers)
    message.expose_headers = ",".join(cors.expose_headers)
    if cors.max_age is not None:
        message.max_age = str(int(cors.max_age.total_seconds()))
    if cors.credentials is not None:
        message.allow_credentials.value = cors.credentials
    message.forward_not_matching_preflights.value = cors.forward_unmatched
    message.filter_enabled.default_value.numerator = 100
    return message
