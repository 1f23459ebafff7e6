"""networking.istio.io: VirtualService, DestinationRule, Gateway (v1, v1beta1 and v1alpha3 alike).

Every field of the API is here; what each one means is in docs/fields and in the compiler.
"""

from collections.abc import Mapping

import msgspec

from meltemi.api.meta import Api, Duration, LabelSelector, Object

GRPC_STATUSES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
    "UNAUTHENTICATED",
)  # fmt: skip
"""gRPC's status codes by their names; the position is the number."""


class StringMatch(Api, frozen=True):
    """At most one is set; none set means the value must be present."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None


class PortSelector(Api, frozen=True):
    number: int = 0


class Destination(Api, frozen=True):
    host: str = ""
    subset: str = ""
    port: PortSelector | None = None


class HeaderOperations(Api, frozen=True):
    set: Mapping[str, str] = {}
    add: Mapping[str, str] = {}
    remove: tuple[str, ...] = ()


class Headers(Api, frozen=True):
    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


class HTTPMatchRequest(Api, frozen=True):
    name: str = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: Mapping[str, StringMatch] = {}
    without_headers: Mapping[str, StringMatch] = {}
    query_params: Mapping[str, StringMatch] = {}
    ignore_uri_case: bool = False
    port: int = 0
    source_labels: Mapping[str, str] = {}
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()
    stat_prefix: str = ""


class HTTPRouteDestination(Api, frozen=True):
    destination: Destination = Destination()
    weight: int = 0
    headers: Headers | None = None


class HTTPRedirect(Api, frozen=True):
    """`uri` is a whole path; `%PREFIX()%` at its head keeps what follows the matched prefix."""

    uri: str = ""
    authority: str = ""
    port: int | None = None
    derive_port: str | None = None
    scheme: str = ""
    redirect_code: int = 301


class HTTPBody(Api, frozen=True):
    string: str | None = None
    bytes: str | None = None


class HTTPDirectResponse(Api, frozen=True):
    status: int = 0
    body: HTTPBody | None = None


class Delegate(Api, frozen=True):
    name: str = ""
    namespace: str = ""


class RegexRewrite(Api, frozen=True):
    match: str = ""
    rewrite: str = ""


class HTTPRewrite(Api, frozen=True):
    uri: str = ""
    authority: str = ""
    uri_regex_rewrite: RegexRewrite | None = None


class HTTPRetry(Api, frozen=True):
    attempts: int = 0
    per_try_timeout: Duration | None = None
    retry_on: str = ""
    retry_remote_localities: bool | None = None
    retry_ignore_previous_hosts: bool | None = None
    backoff: Duration | None = None


class Percent(Api, frozen=True):
    value: float = 0.0


class Delay(Api, frozen=True):
    fixed_delay: Duration | None = None
    percentage: Percent | None = None
    percent: int = 0
    exponential_delay: Duration | None = None


class Abort(Api, frozen=True):
    http_status: int | None = None
    grpc_status: str | None = None
    http2_error: str | None = None
    percentage: Percent | None = None


class HTTPFaultInjection(Api, frozen=True):
    delay: Delay | None = None
    abort: Abort | None = None


class HTTPMirrorPolicy(Api, frozen=True):
    destination: Destination = Destination()
    percentage: Percent | None = None


class CorsPolicy(Api, frozen=True):
    allow_origins: tuple[StringMatch, ...] = ()
    allow_origin: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Duration | None = None
    allow_credentials: bool | None = None
    unmatched_preflights: str = ""


class HTTPRoute(Api, frozen=True):
    name: str = ""
    match: tuple[HTTPMatchRequest, ...] = ()
    route: tuple[HTTPRouteDestination, ...] = ()
    redirect: HTTPRedirect | None = None
    direct_response: HTTPDirectResponse | None = None
    delegate: Delegate | None = None
    rewrite: HTTPRewrite | None = None
    timeout: Duration | None = None
    retries: HTTPRetry | None = None
    fault: HTTPFaultInjection | None = None
    mirror: Destination | None = None
    mirrors: tuple[HTTPMirrorPolicy, ...] = ()
    mirror_percent: int | None = None
    mirror_percentage: Percent | None = None
    cors_policy: CorsPolicy | None = None
    headers: Headers | None = None


class L4MatchAttributes(Api, frozen=True):
    destination_subnets: tuple[str, ...] = ()
    source_subnet: str = ""
    port: int = 0
    source_labels: Mapping[str, str] = {}
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()


class TLSMatchAttributes(L4MatchAttributes, frozen=True):
    sni_hosts: tuple[str, ...] = ()


class RouteDestination(Api, frozen=True):
    destination: Destination = Destination()
    weight: int = 0


class TLSRoute(Api, frozen=True):
    match: tuple[TLSMatchAttributes, ...] = ()
    route: tuple[RouteDestination, ...] = ()


class TCPRoute(Api, frozen=True):
    match: tuple[L4MatchAttributes, ...] = ()
    route: tuple[RouteDestination, ...] = ()


class VirtualServiceSpec(Api, frozen=True):
    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    http: tuple[HTTPRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()
    export_to: tuple[str, ...] = ()


class VirtualService(Object, frozen=True):
    spec: VirtualServiceSpec = VirtualServiceSpec()


class CookieAttribute(Api, frozen=True):
    name: str = ""
    value: str = ""


class HTTPCookie(Api, frozen=True):
    name: str = ""
    path: str = ""
    ttl: Duration | None = None
    attributes: tuple[CookieAttribute, ...] = ()


class RingHash(Api, frozen=True):
    minimum_ring_size: int = 1024


class Maglev(Api, frozen=True):
    table_size: int = 0


class ConsistentHash(Api, frozen=True):
    http_header_name: str | None = None
    http_cookie: HTTPCookie | None = None
    use_source_ip: bool | None = None
    http_query_parameter_name: str | None = None
    ring_hash: RingHash | None = None
    maglev: Maglev | None = None
    minimum_ring_size: int = 0


class LocalityDistribute(Api, frozen=True):
    from_: str = msgspec.field(default="", name="from")
    to: Mapping[str, int] = {}


class LocalityFailover(Api, frozen=True):
    from_: str = msgspec.field(default="", name="from")
    to: str = ""


class LocalityLoadBalancer(Api, frozen=True):
    distribute: tuple[LocalityDistribute, ...] = ()
    failover: tuple[LocalityFailover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    enabled: bool | None = None


class Warmup(Api, frozen=True):
    duration: Duration | None = None
    minimum_percent: float | None = None
    aggression: float | None = None


class ZoneAwareLoadBalancer(Api, frozen=True):
    enabled: bool | None = None
    failover: tuple[LocalityFailover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    min_cluster_size: int = 0
    """0: Envoy's default, 6."""


class LoadBalancer(Api, frozen=True):
    simple: str | None = None
    consistent_hash: ConsistentHash | None = None
    locality_lb_setting: LocalityLoadBalancer | None = None
    zone_aware_lb_setting: ZoneAwareLoadBalancer | None = None
    warmup_duration_secs: Duration | None = None
    warmup: Warmup | None = None


class TcpKeepalive(Api, frozen=True):
    probes: int = 0
    time: Duration | None = None
    interval: Duration | None = None


class TCPSettings(Api, frozen=True):
    max_connections: int = 0
    connect_timeout: Duration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    max_connection_duration: Duration | None = None
    idle_timeout: Duration | None = None


class Http2KeepAlive(Api, frozen=True):
    interval: Duration | None = None
    timeout: Duration | None = None


class HTTPSettings(Api, frozen=True):
    http1_max_pending_requests: int = 0
    http2_max_requests: int = 0
    max_requests_per_connection: int = 0
    max_retries: int = 0
    idle_timeout: Duration | None = None
    h2_upgrade_policy: str = ""
    use_client_protocol: bool = False
    max_concurrent_streams: int = 0
    http2_keep_alive: Http2KeepAlive | None = None


class ConnectionPool(Api, frozen=True):
    tcp: TCPSettings | None = None
    http: HTTPSettings | None = None


class OutlierDetection(Api, frozen=True):
    consecutive_errors: int = 0
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: int | None = None
    consecutive_gateway_errors: int | None = None
    consecutive_5xx_errors: int | None = msgspec.field(default=None, name="consecutive5xxErrors")
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    max_ejection_percent: int = 0
    min_health_percent: int = 0
    outlier_detection_http_error_codes: tuple[int, ...] = ()
    """What counts as an error beside 5xx."""


class ClientTLSSettings(Api, frozen=True):
    mode: str = "DISABLE"
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    sni: str = ""
    insecure_skip_verify: bool | None = None
    ca_crl: str = ""


class Tunnel(Api, frozen=True):
    protocol: str = ""
    target_host: str = ""
    target_port: int = 0


class ProxyProtocol(Api, frozen=True):
    version: str = "V1"


class RetryBudget(Api, frozen=True):
    """At most `percent` of the active requests, and `minRetryConcurrency` always, may be
    retries."""

    percent: Percent | None = None
    min_retry_concurrency: int = 0
    budget_interval: Duration | None = None


class TrafficPolicyBlocks(Api, frozen=True):
    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None


class PortTrafficPolicy(TrafficPolicyBlocks, frozen=True):
    port: PortSelector = PortSelector()


class TrafficPolicy(TrafficPolicyBlocks, frozen=True):
    port_level_settings: tuple[PortTrafficPolicy, ...] = ()
    tunnel: Tunnel | None = None
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None


class Subset(Api, frozen=True):
    name: str = ""
    labels: Mapping[str, str] = {}
    traffic_policy: TrafficPolicy | None = None


class DestinationRuleSpec(Api, frozen=True):
    host: str = ""
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()
    workload_selector: LabelSelector | None = None


class DestinationRule(Object, frozen=True):
    spec: DestinationRuleSpec = DestinationRuleSpec()


class GatewayPort(Api, frozen=True):
    number: int = 0
    protocol: str = ""
    name: str = ""
    target_port: int = 0


class TLSCertificate(Api, frozen=True):
    """A certificate as files in the gateway's own file system."""

    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""


class ServerTLSSettings(Api, frozen=True):
    https_redirect: bool = False
    mode: str = "PASSTHROUGH"
    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    tls_certificates: tuple[TLSCertificate, ...] = ()
    credential_name: str = ""
    credential_names: tuple[str, ...] = ()
    ca_cert_credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    verify_certificate_spki: tuple[str, ...] = ()
    verify_certificate_hash: tuple[str, ...] = ()
    min_protocol_version: str = "TLS_AUTO"
    max_protocol_version: str = "TLS_AUTO"
    cipher_suites: tuple[str, ...] = ()


class Server(Api, frozen=True):
    port: GatewayPort = GatewayPort()
    bind: str = ""
    hosts: tuple[str, ...] = ()
    tls: ServerTLSSettings | None = None
    default_endpoint: str = ""
    name: str = ""


class GatewaySpec(Api, frozen=True):
    servers: tuple[Server, ...] = ()
    selector: Mapping[str, str] = {}


class Gateway(Object, frozen=True):
    spec: GatewaySpec = GatewaySpec()
