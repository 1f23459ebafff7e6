"""The inbound side of one proxy: what it serves on which port, and in which security."""

from collections.abc import Iterable

from meltemi.compile import ir
from meltemi.model.service import Port, Protocol, Service
from meltemi.model.tls import InboundTls, Mode
from meltemi.model.workload import Workload

PROXY_PORTS = frozenset({15000, 15001, 15006, 15020, 15021, 15053, 15090})


def inbound(workload: Workload, services: Iterable[Service], tls: InboundTls) -> ir.Inbound:
    """Chains for every port that a service selecting the workload declares; the oldest service
    decides what a port speaks."""
    ports: dict[int, ir.InboundPort] = {}
    for service in sorted(services, key=lambda s: s.created):
        if not selects(service, workload):
            continue
        for port in service.ports:
            number = target_port(port, workload)
            if number and number not in ports and number not in PROXY_PORTS:
                mode = tls.for_port(number)
                ports[number] = ir.InboundPort(
                    port=number,
                    protocol=port.protocol,
                    mutual=mode is not Mode.DISABLE,
                    plain=mode is not Mode.STRICT,
                    host=service.host,
                    service=service.name,
                )
    for number, mode in tls.ports.items():
        if number not in ports and number not in PROXY_PORTS:
            ports[number] = ir.InboundPort(
                number, Protocol.TCP, mode is not Mode.DISABLE, mode is not Mode.STRICT, "", ""
            )
    return ir.Inbound(
        address=workload.address,
        ports=tuple(ports[number] for number in sorted(ports)),
        other_mutual=tls.mode is not Mode.DISABLE,
        other_plain=tls.mode is not Mode.STRICT,
        namespace=workload.key.namespace,
    )


def selects(service: Service, workload: Workload) -> bool:
    """Whether a service's selector chooses a workload of its namespace."""
    return (
        service.namespace == workload.key.namespace
        and bool(service.selector)
        and service.selector.items() <= workload.labels.items()
    )


def target_port(port: Port, workload: Workload) -> int:
    """The workload's port behind a service's port; 0 when it names none that exists."""
    if isinstance(port.target, int):
        return port.target
    return workload.container_ports.get(port.target, 0)
