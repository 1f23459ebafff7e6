"""Gateway definitions from Istio's Gateway objects."""

from meltemi.api import networking
from meltemi.base.keys import ObjectKey
from meltemi.model.gateway import GatewayDef, Server, ServerHost


def gateway_from_object(obj: networking.Gateway) -> GatewayDef:
    """One Gateway with its hosts' namespaces resolved."""
    namespace = obj.metadata.namespace
    return GatewayDef(
        source=ObjectKey("Gateway", namespace, obj.metadata.name),
        selector=obj.spec.selector,
        servers=tuple(
            _server(server, namespace, f"spec.servers[{i}]")
            for i, server in enumerate(obj.spec.servers)
        ),
        created=obj.age_order,
    )


def _server(server: networking.Server, namespace: str, path: str) -> Server:
    return Server(
        port=server.port.number,
        port_name=server.port.name,
        protocol=server.port.protocol.upper(),
        hosts=tuple(_host(host, namespace) for host in server.hosts),
        bind=server.bind,
        tls=server.tls,
        path=path,
    )


def _host(declared: str, namespace: str) -> ServerHost:
    where, slash, host = declared.rpartition("/")
    if not slash:
        where = "*"
    return ServerHost(namespace if where == "." else where, host.lower())
