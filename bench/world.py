"""A generated mesh: so many services, each with two pods, in ten namespaces."""

import json
from collections.abc import Iterator
from typing import Any

from meltemi.base.keys import ObjectKey
from meltemi.base.resource import NodeInfo, node_from_id

NAMESPACES = 10
PODS = 2
Object = dict[str, Any]


class Event:
    """What an informer delivers."""

    __slots__ = ("key", "raw")

    def __init__(self, body: Object, *, gone: bool = False) -> None:
        meta = body["metadata"]
        self.key = ObjectKey(body["kind"], meta.get("namespace", ""), meta["name"])
        self.raw = None if gone else json.dumps(body).encode()


def namespace_of(number: int) -> str:
    return f"team-{number % NAMESPACES}"


def host_of(number: int) -> str:
    return f"svc-{number}.{namespace_of(number)}.svc.cluster.local"


def world(services: int, rules: int = 0) -> Iterator[Event]:
    """Every object of the mesh; the first `rules` services have a route and a policy."""
    for number in range(NAMESPACES):
        name = f"team-{number}"
        yield Event({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}})
    for number in range(services):
        yield Event(_service(number))
        yield from (Event(_pod(number, replica)) for replica in range(PODS))
        yield Event(endpoint_slice(number, PODS))
    for number in range(rules):
        yield Event(destination_rule(number))
        yield Event(virtual_service(number, 90))


def _meta(number: int, name: str, **more: Any) -> Object:
    space = namespace_of(number)
    return {
        "namespace": space,
        "name": name,
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **more,
    }


def _service(number: int) -> Object:
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": _meta(number, f"svc-{number}", labels={"app": f"svc-{number}"}),
        "spec": {
            "clusterIP": f"10.43.{number // 250}.{number % 250 + 1}",
            "selector": {"app": f"svc-{number}"},
            "ports": [{"name": "http", "port": 8080, "targetPort": 8080, "protocol": "TCP"}],
        },
    }


def address_of(number: int, replica: int) -> str:
    place = number * PODS + replica
    return f"10.{44 + place // 62500}.{place // 250 % 250}.{place % 250 + 1}"


def pod_name(number: int, replica: int) -> str:
    return f"svc-{number}-v{replica + 1}-abcde"


def _pod(number: int, replica: int) -> Object:
    labels = {
        "app": f"svc-{number}",
        "version": f"v{replica + 1}",
        "security.istio.io/tlsMode": "istio",
    }
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": _meta(number, pod_name(number, replica), labels=labels),
        "spec": {"serviceAccountName": f"svc-{number}", "containers": [{"name": "app"}]},
        "status": {
            "phase": "Running",
            "podIP": address_of(number, replica),
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def endpoint_slice(number: int, ready: int) -> Object:
    """A service's endpoints, the first `ready` of them ready."""
    name = f"svc-{number}"
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": _meta(number, f"{name}-1", labels={"kubernetes.io/service-name": name}),
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [address_of(number, replica)],
                "conditions": {"ready": replica < ready},
                "targetRef": {
                    "kind": "Pod",
                    "name": pod_name(number, replica),
                    "namespace": namespace_of(number),
                },
            }
            for replica in range(PODS)
        ],
    }


def destination_rule(number: int) -> Object:
    subsets = [{"name": f"v{n}", "labels": {"version": f"v{n}"}} for n in (1, 2)]
    return {
        "kind": "DestinationRule",
        "apiVersion": "networking.istio.io/v1",
        "metadata": _meta(number, f"svc-{number}"),
        "spec": {
            "host": f"svc-{number}",
            "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 100}}},
            "subsets": subsets,
        },
    }


def virtual_service(number: int, weight: int) -> Object:
    """A header match, and two subsets with `weight` and the rest."""

    def to(subset: str, share: int) -> Object:
        return {"destination": {"host": f"svc-{number}", "subset": subset}, "weight": share}

    special = {
        "match": [{"headers": {"end-user": {"exact": "jason"}}}],
        "route": [to("v2", 100)],
        "timeout": "2s",
    }
    return {
        "kind": "VirtualService",
        "apiVersion": "networking.istio.io/v1",
        "metadata": _meta(number, f"svc-{number}"),
        "spec": {
            "hosts": [f"svc-{number}"],
            "http": [special, {"route": [to("v1", weight), to("v2", 100 - weight)]}],
        },
    }


def proxy(number: int) -> NodeInfo:
    """The sidecar of a pod: clients fill the services' first pods, then the second ones."""
    service, replica = number // PODS, number % PODS
    space = namespace_of(service)
    name = pod_name(service, replica)
    node = f"sidecar~{address_of(service, replica)}~{name}.{space}~{space}.svc.cluster.local"
    labels = {"app": f"svc-{service}", "version": f"v{replica + 1}"}
    return node_from_id(node, labels, {})
