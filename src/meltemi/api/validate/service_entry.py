"""What a ServiceEntry may say (mesh-semantics 1.5)."""

import ipaddress
from collections.abc import Iterator

from meltemi.api import service_entry as api
from meltemi.api.validate import words
from meltemi.api.validate.words import Finding
from meltemi.api.validate.workload_entry import is_address, workload_entry

PROTOCOLS = (
    "HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB", "TCP", "TLS", "MONGO", "MYSQL", "REDIS", "UDP",
)  # fmt: skip
_RESOLUTIONS = ("NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS")
_LOCATIONS = ("MESH_EXTERNAL", "MESH_INTERNAL")
_BY_NAME = ("DNS", "DNS_ROUND_ROBIN")


def service_entry(spec: api.ServiceEntrySpec) -> Iterator[Finding]:
    if not spec.hosts:
        yield "spec.hosts", "at least one host is needed"
    for i, host in enumerate(spec.hosts):
        if host == "*":
            yield f"spec.hosts[{i}]", "* would take every host: name them, or use *.example.com"
        else:
            yield from words.host(host, f"spec.hosts[{i}]")
    if spec.resolution not in _RESOLUTIONS:
        yield "spec.resolution", f"must be one of {', '.join(_RESOLUTIONS)}"
    if spec.location not in _LOCATIONS:
        yield "spec.location", f"must be one of {', '.join(_LOCATIONS)}"
    yield from _addresses(spec)
    yield from _ports(spec)
    yield from _endpoints(spec)
    yield from _hosts_of_resolution(spec)


def _addresses(spec: api.ServiceEntrySpec) -> Iterator[Finding]:
    for i, address in enumerate(spec.addresses):
        path = f"spec.addresses[{i}]"
        try:
            network = ipaddress.ip_network(address, strict=False)
        except ValueError:
            yield path, f"{address[:80]!r} is neither an IP address nor a CIDR"
            continue
        ranged = "/" in address and network.num_addresses > 1
        if ranged and spec.resolution not in ("NONE", "STATIC"):
            yield (
                path,
                f"a CIDR needs resolution NONE or STATIC, not {spec.resolution}: list addresses",
            )


def _ports(spec: api.ServiceEntrySpec) -> Iterator[Finding]:
    if not spec.ports:
        yield "spec.ports", "at least one port is needed"
    names: set[str] = set()
    numbers: set[int] = set()
    for i, port in enumerate(spec.ports):
        path = f"spec.ports[{i}]"
        yield from words.port(port.number, f"{path}.number")
        if port.target_port:
            yield from words.port(port.target_port, f"{path}.targetPort")
            if spec.resolution == "NONE":
                yield f"{path}.targetPort", "resolution NONE keeps the port the client chose"
        if port.protocol and port.protocol.upper() not in PROTOCOLS:
            yield f"{path}.protocol", f"must be one of {', '.join(PROTOCOLS)}"
        if not port.name:
            yield f"{path}.name", "a port needs a name"
        if port.name in names:
            yield f"{path}.name", f"{port.name!r} names another port already"
        if port.number in numbers:
            yield f"{path}.number", f"{port.number} is listed already"
        names.add(port.name)
        numbers.add(port.number)


def _endpoints(spec: api.ServiceEntrySpec) -> Iterator[Finding]:
    if spec.endpoints and spec.workload_selector is not None:
        yield "spec.workloadSelector", "endpoints and workloadSelector exclude each other: keep one"
    if spec.workload_selector is not None and not spec.workload_selector.labels:
        yield "spec.workloadSelector.labels", "an empty selector selects nothing: name labels"
    if spec.endpoints and spec.resolution in ("NONE", "DYNAMIC_DNS"):
        yield "spec.endpoints", f"resolution {spec.resolution} has no endpoints: remove them"
    if spec.resolution == "DNS_ROUND_ROBIN" and len(spec.endpoints) > 1:
        yield "spec.endpoints", "DNS_ROUND_ROBIN resolves one name: give one endpoint, or use DNS"
    declared = {port.name for port in spec.ports}
    for i, endpoint in enumerate(spec.endpoints):
        path = f"spec.endpoints[{i}]"
        yield from workload_entry(endpoint, path, takes_names=spec.resolution in _BY_NAME)
        if spec.resolution == "STATIC" and endpoint.address and not is_address(endpoint.address):
            yield f"{path}.address", "resolution STATIC needs an IP address or unix:///path"
        for name in endpoint.ports:
            if name not in declared:
                yield f"{path}.ports", f"{name!r} is not a port of this ServiceEntry"


def _hosts_of_resolution(spec: api.ServiceEntrySpec) -> Iterator[Finding]:
    for i, host in enumerate(spec.hosts):
        path = f"spec.hosts[{i}]"
        wild = host.startswith("*")
        if spec.resolution in _BY_NAME and not spec.endpoints and wild:
            reason = "a wildcard cannot be resolved: name endpoints, or use DYNAMIC_DNS or NONE"
            yield path, reason
        if spec.resolution == "DYNAMIC_DNS" and not wild:
            yield path, "DYNAMIC_DNS is for wildcard hosts: use DNS for a single name"
    if spec.resolution == "DYNAMIC_DNS":
        if spec.location != "MESH_EXTERNAL":
            yield "spec.location", "DYNAMIC_DNS needs MESH_EXTERNAL"
        for i, port in enumerate(spec.ports):
            if port.protocol.upper() not in ("HTTP", "HTTP2", "GRPC", "HTTPS", "TLS"):
                reason = "DYNAMIC_DNS needs a name in the traffic itself: use HTTP, HTTPS or TLS"
                yield f"spec.ports[{i}].protocol", reason


def service_entry_ignored(spec: api.ServiceEntrySpec) -> Iterator[Finding]:
    """What is accepted, as Istio accepts it, and that nothing here follows."""
    for i, port in enumerate(spec.ports):
        if port.protocol.upper() == "UDP":
            yield f"spec.ports[{i}].protocol", "UDP is not captured: the port is left out"
