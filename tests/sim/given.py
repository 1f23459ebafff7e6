"""From a case's short `given` to the objects of a mesh: see README.md for the format."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.certificates import Authority, Signed, tls_secret

HERE = Path(__file__).parent
Json = dict[str, Any]


class Given:
    """Pods, services and objects, gathered from includes, a file and a case."""

    def __init__(self) -> None:
        self._pods: dict[tuple[str, str], Json] = {}
        self._services: dict[tuple[str, str], Json] = {}
        self._objects: list[Json] = []
        self._count = 0

    def add(self, given: Mapping[str, Any]) -> None:
        """Take one `given` block; what it names again replaces what stood before."""
        known = {"include", "pods", "services", "secrets", "objects", "mesh"}
        if given.keys() - known:
            raise ValueError(f"given: {sorted(given.keys() - known)} are not among {sorted(known)}")
        for name in given.get("include", ()):
            self.add(yaml.safe_load((HERE / "given" / f"{name}.yaml").read_text()))
        for name, pod in (given.get("pods") or {}).items():
            self._pods[_place(name)] = pod or {}
        for name, service in (given.get("services") or {}).items():
            self._services[_place(name)] = service or {}
        for name, hosts in (given.get("secrets") or {}).items():
            secret, namespace = _place(name)
            text = tls_secret(secret, _signed(tuple(hosts)), namespace=namespace)
            self._objects.append(yaml.safe_load(text))
        if "mesh" in given:
            self._objects.append(_mesh_config(given["mesh"]))
        objects = given.get("objects") or ()
        if isinstance(objects, str):
            objects = [found for found in yaml.safe_load_all(objects) if found]
        self._objects += [dict(found) for found in objects]

    def documents(self) -> list[Json]:
        """All objects, the older first: the order of writing is the order of age."""
        pods = [self._pod(place, pod, i) for i, (place, pod) in enumerate(self._pods.items())]
        found = list(pods)
        for i, (place, service) in enumerate(self._services.items()):
            found += self._service(place, service, i, pods)
        found += self._objects
        return [_dated(document, i) for i, document in enumerate(found)]

    def _pod(self, place: tuple[str, str], pod: Json, position: int) -> Json:
        name, namespace = place
        labels = {"app": pod.get("app", name)} | pod.get("labels", {})
        if "version" in pod:
            labels["version"] = str(pod["version"])
        annotations = {}
        if pod.get("gateway"):
            annotations["inject.istio.io/templates"] = "gateway"
        elif pod.get("sidecar", True):
            labels["security.istio.io/tlsMode"] = "istio"
        ports = [{"name": n, "containerPort": p} for n, p in pod.get("ports", {}).items()]
        ready = {"type": "Ready", "status": "True" if pod.get("ready", True) else "False"}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": labels,
                "annotations": annotations,
            },
            "spec": {
                "serviceAccountName": pod.get("account", labels["app"]),
                "containers": [{"name": "app", "ports": ports}],
            },
            "status": {
                "phase": "Running",
                "podIP": pod.get("ip", f"10.44.{position // 250}.{position % 250 + 1}"),
                "conditions": [ready],
            },
        }

    def _service(
        self, place: tuple[str, str], service: Json, position: int, pods: Iterable[Json]
    ) -> list[Json]:
        """A Service, and the EndpointSlice that a cluster would make for it."""
        name, namespace = place
        selector = service.get("selector", {"app": name})
        ports = [_port(label, port) for label, port in service["ports"].items()]
        spec: Json = {"ports": ports, "selector": selector}
        meta: Json = {"name": name, "namespace": namespace}
        if "exportTo" in service:
            meta["annotations"] = {"networking.istio.io/exportTo": service["exportTo"]}
        if "external" in service:
            spec |= {"type": "ExternalName", "externalName": service["external"]}
            spec.pop("selector")
            return [{"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}]
        address = service.get("ip", f"10.43.{position // 250}.{position % 250 + 1}")
        spec["clusterIP"] = "None" if service.get("headless") else address
        body = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}
        chosen = [
            pod
            for pod in pods
            if pod["metadata"]["namespace"] == namespace
            and selector.items() <= pod["metadata"]["labels"].items()
        ]
        return [body, *_slices(name, namespace, ports, chosen)]


def _mesh_config(settings: Json) -> Json:
    """The ConfigMap that holds MeshConfig."""
    meta = {"name": "istio", "namespace": "istio-system"}
    data = {"mesh": yaml.safe_dump(settings)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


@cache
def _signed(hosts: tuple[str, ...]) -> Signed:
    return Authority().sign(*hosts)


def _place(name: str) -> tuple[str, str]:
    head, _, namespace = name.partition(".")
    return head, namespace or "default"


def _port(label: str, port: int | str | Json) -> Json:
    """`http: 9080`, `http: 80 > 8080`, or a whole ServicePort."""
    if isinstance(port, dict):
        return {"name": label, "targetPort": port["port"], **port}
    number, _, target = str(port).partition(">")
    wanted = target.strip() or number.strip()
    return {
        "name": label,
        "port": int(number),
        "targetPort": int(wanted) if wanted.isdecimal() else wanted,
    }


def _slices(name: str, namespace: str, ports: list[Json], pods: list[Json]) -> list[Json]:
    """One slice for each pod: named target ports may differ from pod to pod."""
    found = []
    for i, pod in enumerate(pods):
        named = {p["name"]: p["containerPort"] for p in pod["spec"]["containers"][0]["ports"]}
        listed = [
            {"name": p["name"], "port": number, "protocol": p.get("protocol", "TCP")}
            for p in ports
            if (number := named.get(p["targetPort"], p["targetPort"])) and isinstance(number, int)
        ]
        ready = pod["status"]["conditions"][0]["status"] == "True"
        endpoint = {
            "addresses": [pod["status"]["podIP"]],
            "conditions": {"ready": ready},
            "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "namespace": namespace},
        }
        zone = pod["metadata"]["labels"].get("topology.kubernetes.io/zone")
        if zone:
            endpoint["zone"] = zone
        found.append(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{name}-{i}",
                    "namespace": namespace,
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "ports": listed,
                "endpoints": [endpoint],
            }
        )
    return found


def _dated(document: Json, position: int) -> Json:
    meta = {"namespace": "default", **document["metadata"]}
    minutes, seconds = divmod(position, 60)
    meta.setdefault("creationTimestamp", f"2026-01-01T00:{minutes:02d}:{seconds:02d}Z")
    return {**document, "metadata": meta}
