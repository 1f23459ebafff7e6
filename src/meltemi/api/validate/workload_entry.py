"""What a WorkloadEntry or a WorkloadGroup may say (mesh-semantics 1.5)."""

import ipaddress
from collections.abc import Iterator

from meltemi.api import workload_entry as api
from meltemi.api.validate import words
from meltemi.api.validate.words import Finding

_UNIX = "unix://"


def is_address(text: str) -> bool:
    """An IP address or a unix socket's path."""
    if text.startswith(_UNIX):
        return True
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def workload_entry(
    spec: api.WorkloadEntrySpec, path: str, *, takes_names: bool = True, template: bool = False
) -> Iterator[Finding]:
    """`template`: of a group, whose members bring their addresses."""
    where = f"{path}.address"
    if template:
        if spec.address:
            yield where, "members of a group bring their own address: remove it"
    elif not spec.address and not spec.network:
        yield where, "an address is needed: an IP address, a DNS name or unix:///path"
    elif spec.address.startswith(_UNIX):
        if not spec.address.startswith(f"{_UNIX}/") or len(spec.address) > 107 + len(_UNIX):
            yield where, "a unix socket needs an absolute path of at most 107 characters"
        if spec.ports:
            yield f"{path}.ports", "a unix socket has no ports: remove them"
    elif spec.address and not is_address(spec.address):
        if not takes_names:
            yield where, f"{spec.address[:80]!r} is not an IP address: names need resolution DNS"
        else:
            yield from words.host(spec.address, where)
    for name, number in spec.ports.items():
        yield from words.port(number, f"{path}.ports[{name}]")
    if spec.weight < 0:
        yield f"{path}.weight", "must not be negative"
    if spec.locality.count("/") > 2:
        yield f"{path}.locality", "is region/zone/subzone"


def workload_group(spec: api.WorkloadGroupSpec) -> Iterator[Finding]:
    yield from workload_entry(spec.template, "spec.template", template=True)
    if spec.probe is not None:
        yield from _probe(spec.probe)


def _probe(probe: api.ReadinessProbe) -> Iterator[Finding]:
    path = "spec.probe"
    kinds = {
        "httpGet": probe.http_get,
        "tcpSocket": probe.tcp_socket,
        "exec": probe.exec,
        "grpc": probe.grpc,
    }
    given = [name for name, value in kinds.items() if value is not None]
    if len(given) != 1:
        yield path, f"needs exactly one of {', '.join(kinds)}"
    for name in ("httpGet", "tcpSocket", "grpc"):
        check = kinds[name]
        if check is not None:
            yield from words.port(getattr(check, "port", 0), f"{path}.{name}.port")
    if probe.exec is not None and not probe.exec.command:
        yield f"{path}.exec.command", "a command is needed"
    numbers = (
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    )
    for name, number in numbers:
        if number < 0:
            yield f"{path}.{name}", "must not be negative"


def group_ignored(spec: api.WorkloadGroupSpec) -> Iterator[Finding]:
    probe = spec.probe
    if probe is None:
        return
    if probe.grpc is not None:
        yield "spec.probe.grpc", "it is not asked: use httpGet, tcpSocket or exec"
    if probe.tcp_socket is not None and probe.tcp_socket.host:
        yield "spec.probe.tcpSocket.host", "the workload itself is asked, on its loopback"
    if probe.http_get is not None and probe.http_get.scheme.upper() == "HTTPS":
        yield "spec.probe.httpGet.scheme", "it is asked in plaintext: use HTTP, tcpSocket or exec"
