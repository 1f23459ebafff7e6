"""Networks: who is reached directly, and the gateways to those who are not (mesh-semantics 1.19).

Where no gateway leads into a network, its addresses count as reachable, as in Istio.
"""

import ipaddress
from collections.abc import Iterator, Mapping

import msgspec

from meltemi.api.core import ConfigMap, Namespace, Service
from meltemi.api.mesh_config import CONFIG_MAP
from meltemi.api.mesh_networks import DATA_KEY, GATEWAY_PORT, MeshNetworks, mesh_networks
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity
from meltemi.flow import Fetch, Graph, View
from meltemi.model.locality import NETWORK
from meltemi.model.mesh import MESH

GATEWAY_PORT_LABEL = "networking.istio.io/gatewayPort"


class Way(msgspec.Struct, frozen=True, order=True):
    """A gateway into a network, which passes mutual TLS on by its SNI."""

    address: str
    port: int


class Networks(msgspec.Struct, frozen=True):
    default: str = ""
    """The network of what nothing else is known of; empty: no network's."""
    ways: Mapping[str, tuple[Way, ...]] = {}
    """The gateways by network; never without any."""
    ranges: tuple[tuple[str, str], ...] = ()
    """(CIDR, network)."""
    registries: tuple[tuple[str, str], ...] = ()
    """(cluster, network): of all that a cluster knows."""

    def of(self, named: str, address: str, cluster: str) -> str:
        """The network of an address: named by its workload, or else by the mesh."""
        if named:
            return named
        for cidr, network in self.ranges:
            if _within(address, cidr):
                return network
        return self.default or dict(self.registries).get(cluster, "")


class _Labelled(msgspec.Struct, frozen=True):
    """What a Service with the label of a network says."""

    network: str
    ways: tuple[Way, ...]


def networks(
    graph: Graph,
    config_maps: View[ObjectKey, ConfigMap],
    namespaces: View[ObjectKey, Namespace],
    services: View[ObjectKey, Service],
    root: str,
) -> View[str, Networks]:
    """Add the view of the mesh's networks; it is empty where there are no gateways between any."""
    config = graph.derive(
        "mesh networks", config_maps, lambda _f, key, found: _config(key, found, root)
    )
    labelled = graph.derive("network gateways", services, _labelled)
    own = graph.derive("network of the mesh", namespaces, lambda _f, key, n: _own(key, n, root))

    def joined(fetch: Fetch, key: str, _value: object) -> Mapping[str, Outcome[Networks]]:
        said = fetch.get(config, MESH) or MeshNetworks()
        problems: list[Problem] = []
        ways: dict[str, set[Way]] = {}
        for found in fetch.all(labelled):
            ways.setdefault(found.network, set()).update(found.ways)
        about = ObjectKey("ConfigMap", root, CONFIG_MAP)
        for name in said.networks:
            declared = list(_declared(fetch, said, name, services, about, problems))
            ways.setdefault(name, set()).update(declared)
        sorted_ways = {name: tuple(sorted(found)) for name, found in ways.items() if found}
        if not sorted_ways and not problems:
            return {}
        parts = [(n, e) for n, network in said.networks.items() for e in network.endpoints]
        value = Networks(
            default=fetch.get(own, MESH) or "",
            ways=sorted_ways,
            ranges=tuple((e.from_cidr, n) for n, e in parts if e.from_cidr),
            registries=tuple((e.from_registry, n) for n, e in parts if e.from_registry),
        )
        return {MESH: Outcome(value, tuple(problems))}

    return graph.derive(
        "networks", graph.constant(), joined, reads=(config, labelled, own, services)
    )


def _config(key: ObjectKey, found: ConfigMap, root: str) -> Mapping[str, Outcome[MeshNetworks]]:
    text = found.data.get(DATA_KEY, "")
    if (key.namespace, key.name) != (root, CONFIG_MAP) or not text:
        return {}
    return {MESH: mesh_networks(text, key)}


def _labelled(_f: Fetch, key: ObjectKey, obj: Service) -> Mapping[ObjectKey, Outcome[_Labelled]]:
    labels = obj.metadata.labels
    network = labels.get(NETWORK, "")
    if not network:
        return {}
    text = labels.get(GATEWAY_PORT_LABEL, str(GATEWAY_PORT))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        problem = Problem(
            Code.BAD_VALUE,
            Severity.ERROR,
            key,
            f"metadata.labels[{GATEWAY_PORT_LABEL}]",
            f"{text[:80]!r} is not a port",
        )
        return {key: Outcome(None, (problem,))}
    ways = tuple(Way(address, int(text)) for address in _addresses(obj))
    return {key: Outcome(_Labelled(network, ways))}


def _addresses(obj: Service) -> Iterator[str]:
    """Where a Service is reached from other networks."""
    for ingress in obj.status.load_balancer.ingress:
        if ingress.ip:
            yield ingress.ip
    yield from obj.spec.external_ips


def _own(key: ObjectKey, namespace: Namespace, root: str) -> Mapping[str, Outcome[str]]:
    """The network of a cluster stands on its root namespace."""
    network = namespace.metadata.labels.get(NETWORK, "")
    return {MESH: Outcome(network)} if key.name == root and network else {}


def _declared(
    fetch: Fetch,
    said: MeshNetworks,
    name: str,
    services: View[ObjectKey, Service],
    about: ObjectKey,
    problems: list[Problem],
) -> Iterator[Way]:
    """The gateways that the ConfigMap names, directly or by their Service."""
    for i, gateway in enumerate(said.networks[name].gateways):
        if gateway.address:
            yield Way(gateway.address, gateway.port)
            continue
        service, _, rest = gateway.registry_service_name.partition(".")
        found = fetch.get(services, ObjectKey("Service", rest.partition(".")[0], service))
        addresses = list(_addresses(found)) if found is not None else []
        for address in addresses:
            yield Way(address, gateway.port)
        if not addresses:
            what = "has no external address yet" if found is not None else "does not exist"
            problems.append(
                Problem(
                    Code.UNKNOWN_HOST,
                    Severity.WARNING,
                    about,
                    f"data.{DATA_KEY}.networks.{name}.gateways[{i}].registryServiceName",
                    f"the Service {gateway.registry_service_name[:80]} {what}: without a gateway "
                    f"the network {name} counts as reachable",
                )
            )


def _within(address: str, cidr: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        return False
