"""A pod as the node reads it: every field it acts on, by the Kubernetes API's names (v1)."""

from collections.abc import Mapping
from typing import Any

import msgspec


class _Part(msgspec.Struct, frozen=True, rename="camel"):
    """Base: unknown fields are of no concern to the node; absent ones have the API's default."""


class FieldRef(_Part, frozen=True):
    field_path: str


class ResourceRef(_Part, frozen=True):
    resource: str
    container_name: str = ""
    divisor: str | int = "1"


class KeyRef(_Part, frozen=True):
    key: str
    name: str = ""
    optional: bool = False


class EnvSource(_Part, frozen=True):
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceRef | None = None
    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None


class EnvVar(_Part, frozen=True):
    name: str
    value: str = ""
    value_from: EnvSource | None = None


class NameRef(_Part, frozen=True):
    name: str = ""
    optional: bool = False


class EnvFrom(_Part, frozen=True):
    prefix: str = ""
    config_map_ref: NameRef | None = None
    secret_ref: NameRef | None = None


class Header(_Part, frozen=True):
    name: str
    value: str


class HttpGet(_Part, frozen=True):
    port: int | str
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[Header, ...] = ()


class TcpSocket(_Part, frozen=True):
    port: int | str
    host: str = ""


class Exec(_Part, frozen=True):
    command: tuple[str, ...] = ()


class Grpc(_Part, frozen=True):
    port: int
    service: str | None = None


class Sleep(_Part, frozen=True):
    seconds: int = 0


class Handler(_Part, frozen=True):
    """What a lifecycle hook does; exactly one is set."""

    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    exec: Exec | None = None
    sleep: Sleep | None = None


class Probe(_Part, frozen=True):
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    exec: Exec | None = None
    grpc: Grpc | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class Lifecycle(_Part, frozen=True):
    post_start: Handler | None = None
    pre_stop: Handler | None = None


class VolumeMount(_Part, frozen=True):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""
    sub_path_expr: str = ""


class Capabilities(_Part, frozen=True):
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SecurityContext(_Part, frozen=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    supplemental_groups: tuple[int, ...] = ()
    fs_group: int | None = None
    privileged: bool = False
    read_only_root_filesystem: bool = False
    allow_privilege_escalation: bool | None = None
    capabilities: Capabilities = Capabilities()


class ContainerPort(_Part, frozen=True):
    container_port: int
    host_port: int = 0
    name: str = ""
    protocol: str = "TCP"


class Resources(_Part, frozen=True):
    limits: Mapping[str, str | int | float] = {}
    requests: Mapping[str, str | int | float] = {}


class Container(_Part, frozen=True):
    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFrom, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle = Lifecycle()
    resources: Resources = Resources()
    security_context: SecurityContext | None = None
    restart_policy: str = ""
    """Only of init containers: `Always` makes a sidecar of one."""
    image_pull_policy: str = "IfNotPresent"
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False

    @property
    def is_sidecar(self) -> bool:
        return self.restart_policy == "Always"

    def port_number(self, port: int | str) -> int | None:
        """The number of a port given by number or name."""
        if isinstance(port, int):
            return port
        named = next((p.container_port for p in self.ports if p.name == port), None)
        return named if named is not None else int(port) if port.isdecimal() else None


class Item(_Part, frozen=True):
    key: str
    path: str
    mode: int | None = None


class ConfigMapSource(_Part, frozen=True):
    name: str = ""
    items: tuple[Item, ...] = ()
    optional: bool = False
    default_mode: int = 0o644


class SecretSource(_Part, frozen=True):
    secret_name: str = ""
    name: str = ""
    """In a projected volume the field has this name."""
    items: tuple[Item, ...] = ()
    optional: bool = False
    default_mode: int = 0o644


class DownwardItem(_Part, frozen=True):
    path: str
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceRef | None = None
    mode: int | None = None


class DownwardSource(_Part, frozen=True):
    items: tuple[DownwardItem, ...] = ()
    default_mode: int = 0o644


class TokenSource(_Part, frozen=True):
    path: str
    audience: str = ""
    expiration_seconds: int = 3600


class Projection(_Part, frozen=True):
    config_map: ConfigMapSource | None = None
    secret: SecretSource | None = None
    service_account_token: TokenSource | None = None
    downward_api: DownwardSource | None = msgspec.field(default=None, name="downwardAPI")


class ProjectedSource(_Part, frozen=True):
    sources: tuple[Projection, ...] = ()
    default_mode: int = 0o644


class EmptyDir(_Part, frozen=True):
    medium: str = ""
    size_limit: str | int | None = None


class Claim(_Part, frozen=True):
    claim_name: str
    read_only: bool = False


class HostPath(_Part, frozen=True):
    path: str
    type: str = ""


class Volume(_Part, frozen=True):
    name: str
    empty_dir: EmptyDir | None = None
    config_map: ConfigMapSource | None = None
    secret: SecretSource | None = None
    projected: ProjectedSource | None = None
    downward_api: DownwardSource | None = msgspec.field(default=None, name="downwardAPI")
    host_path: HostPath | None = None
    persistent_volume_claim: Claim | None = None
    unserved: str = ""
    """The name of a source that the node does not know (see `decode`)."""


class HostAlias(_Part, frozen=True):
    ip: str
    hostnames: tuple[str, ...] = ()


class DnsOption(_Part, frozen=True):
    name: str
    value: str | None = None


class DnsConfig(_Part, frozen=True):
    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[DnsOption, ...] = ()


class Gate(_Part, frozen=True):
    condition_type: str


class PodSpec(_Part, frozen=True):
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] = ()
    ephemeral_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    service_account_name: str = "default"
    node_name: str = ""
    hostname: str = ""
    subdomain: str = ""
    host_network: bool = False
    host_aliases: tuple[HostAlias, ...] = ()
    dns_policy: str = "ClusterFirst"
    dns_config: DnsConfig = DnsConfig()
    restart_policy: str = "Always"
    termination_grace_period_seconds: int = 30
    active_deadline_seconds: int | None = None
    security_context: SecurityContext = SecurityContext()
    enable_service_links: bool = True
    readiness_gates: tuple[Gate, ...] = ()
    share_process_namespace: bool = False
    host_pid: bool = msgspec.field(default=False, name="hostPID")
    host_ipc: bool = msgspec.field(default=False, name="hostIPC")
    set_hostname_as_fqdn: bool = msgspec.field(default=False, name="setHostnameAsFQDN")

    @property
    def sidecars(self) -> tuple[Container, ...]:
        """Init containers that run beside the application until it has ended."""
        return tuple(c for c in self.init_containers if c.is_sidecar)


class OwnerRef(_Part, frozen=True):
    kind: str
    name: str
    uid: str = ""
    controller: bool = False


class Meta(_Part, frozen=True):
    name: str
    namespace: str
    uid: str
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    owner_references: tuple[OwnerRef, ...] = ()
    creation_timestamp: str = ""


class WasTerminated(_Part, frozen=True):
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    signal: int = 0
    started_at: str = ""
    finished_at: str = ""


class WasRunning(_Part, frozen=True):
    started_at: str = ""


class WasState(_Part, frozen=True):
    running: WasRunning | None = None
    terminated: WasTerminated | None = None


class WasContainer(_Part, frozen=True):
    """A container's status as an earlier node wrote it."""

    name: str
    restart_count: int = 0
    state: WasState = WasState()
    last_state: WasState = WasState()


class Status(_Part, frozen=True):
    """What a node that starts anew has to know of its pods."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    start_time: str = ""
    conditions: tuple[dict[str, Any], ...] = ()
    container_statuses: tuple[WasContainer, ...] = ()
    init_container_statuses: tuple[WasContainer, ...] = ()

    @property
    def is_over(self) -> bool:
        return self.phase in ("Succeeded", "Failed")


class Pod(_Part, frozen=True):
    """Decoded from the API's JSON; fields that are null there count as absent (see `decode`)."""

    metadata: Meta
    spec: PodSpec
    status: Status = Status()


_SOURCES = frozenset(Volume.__struct_encode_fields__)


def decode(raw: bytes) -> Pod:
    """Raises msgspec.ValidationError that names the field."""
    data = _without_nulls(msgspec.json.decode(raw))
    for volume in data["spec"].get("volumes") or ():
        volume["unserved"] = next((name for name in volume if name not in _SOURCES), "")
    return msgspec.convert(data, Pod)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
