"""Server-side printing: the columns kubectl shows."""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from meltemi.api.kinds import Column, Kind
from meltemi.local.apiserver import jsonpath, printers
from meltemi.local.apiserver.ages import Row, age, joined

Json = dict[str, Any]
Now = datetime.datetime


def _status(data: Json) -> Json:
    return data.get("status") or {}


def _pod(data: Json, now: Now) -> Sequence[Any]:
    status, spec = _status(data), data.get("spec", {})
    containers = status.get("containerStatuses") or []
    ready = sum(1 for c in containers if c.get("ready"))
    restarts = sum(int(c.get("restartCount", 0)) for c in containers)
    total = len(spec.get("containers") or ())
    return [
        data["metadata"]["name"],
        f"{ready}/{total}",
        _pod_word(data, containers),
        str(restarts),
        age(data["metadata"].get("creationTimestamp"), now),
        status.get("podIP") or "<none>",
        spec.get("nodeName") or "<none>",
        "<none>",
        "<none>",
    ]


def _pod_word(data: Json, containers: list[Json]) -> str:
    status = _status(data)
    if "deletionTimestamp" in data["metadata"]:
        return "Terminating"
    inits = status.get("initContainerStatuses") or []
    for i, item in enumerate(inits):
        state = item.get("state") or {}
        native = item.get("started") and item.get("ready")
        if (state.get("terminated") or {}).get("exitCode") == 0 or native:
            continue
        reason = (state.get("waiting") or state.get("terminated") or {}).get("reason", "")
        if reason and reason != "PodInitializing":
            return f"Init:{reason}"
        return f"Init:{i}/{len(inits)}"
    for item in containers:
        state = item.get("state") or {}
        reason = (state.get("waiting") or state.get("terminated") or {}).get("reason")
        if reason:
            return str(reason)
    return str(status.get("reason") or status.get("phase") or "Pending")


def _ports(data: Json) -> str:
    ports = data["spec"].get("ports") or []
    words = [
        f"{p['port']}:{p['nodePort']}/{p.get('protocol', 'TCP')}"
        if p.get("nodePort")
        else f"{p['port']}/{p.get('protocol', 'TCP')}"
        for p in ports
    ]
    return ",".join(words) or "<none>"


def _selector(labels: Mapping[str, str] | None) -> str:
    return ",".join(f"{k}={v}" for k, v in sorted((labels or {}).items())) or "<none>"


def _external(data: Json) -> str:
    spec = data["spec"]
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", ""))
    ingress = (_status(data).get("loadBalancer") or {}).get("ingress") or []
    found = ",".join(i.get("ip") or i.get("hostname") or "" for i in ingress)
    return found or ("<pending>" if spec.get("type") == "LoadBalancer" else "<none>")


def _service(data: Json, now: Now) -> Sequence[Any]:
    spec = data["spec"]
    return [
        data["metadata"]["name"],
        spec.get("type", ""),
        spec.get("clusterIP") or "<none>",
        _external(data),
        _ports(data),
        age(data["metadata"].get("creationTimestamp"), now),
        _selector(spec.get("selector")),
    ]


def _template(data: Json) -> tuple[str, str]:
    containers = data["spec"].get("template", {}).get("spec", {}).get("containers") or []
    return ",".join(c["name"] for c in containers), ",".join(c.get("image", "") for c in containers)


def _match(data: Json) -> str:
    return _selector((data["spec"].get("selector") or {}).get("matchLabels"))


def _deployment(data: Json, now: Now) -> Sequence[Any]:
    status = _status(data)
    replicas = data["spec"].get("replicas", 1)
    return [
        data["metadata"]["name"],
        f"{status.get('readyReplicas', 0)}/{replicas}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        age(data["metadata"].get("creationTimestamp"), now),
        *_template(data),
        _match(data),
    ]


def _replica_set(data: Json, now: Now) -> Sequence[Any]:
    status = _status(data)
    return [
        data["metadata"]["name"],
        data["spec"].get("replicas", 1),
        status.get("replicas", 0),
        status.get("readyReplicas", 0),
        age(data["metadata"].get("creationTimestamp"), now),
        *_template(data),
        _match(data),
    ]


def _stateful_set(data: Json, now: Now) -> Sequence[Any]:
    status = _status(data)
    ready = f"{status.get('readyReplicas', 0)}/{data['spec'].get('replicas', 1)}"
    created = age(data["metadata"].get("creationTimestamp"), now)
    return [data["metadata"]["name"], ready, created, *_template(data)]


def _namespace(data: Json, now: Now) -> Sequence[Any]:
    phase = _status(data).get("phase", "Active")
    return [data["metadata"]["name"], phase, age(data["metadata"].get("creationTimestamp"), now)]


_ROLE = "node-role.kubernetes.io/"


def _node(data: Json, now: Now) -> Sequence[Any]:
    status = _status(data)
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    info = status.get("nodeInfo") or {}
    addresses = {a["type"]: a["address"] for a in status.get("addresses") or ()}
    ready = "Ready" if conditions.get("Ready") == "True" else "NotReady"
    labels = data["metadata"].get("labels") or {}
    roles = (word.removeprefix(_ROLE) for word in sorted(labels) if word.startswith(_ROLE))
    return [
        data["metadata"]["name"],
        ready + (",SchedulingDisabled" if (data.get("spec") or {}).get("unschedulable") else ""),
        joined(roles),
        age(data["metadata"].get("creationTimestamp"), now),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", "<none>"),
        "<none>",
        info.get("osImage", ""),
        info.get("kernelVersion", ""),
        info.get("containerRuntimeVersion", ""),
    ]


def _event(data: Json, now: Now) -> Sequence[Any]:
    involved = data.get("involvedObject") or {}
    last = data.get("lastTimestamp") or data["metadata"].get("creationTimestamp")
    return [
        age(last, now),
        data.get("type", ""),
        data.get("reason", ""),
        f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}",
        data.get("message", ""),
    ]


def _counted(field: str) -> Row:
    def row(data: Json, now: Now) -> Sequence[Any]:
        created = age(data["metadata"].get("creationTimestamp"), now)
        return [data["metadata"]["name"], len(data.get(field) or ()), created]

    return row


def _secret(data: Json, now: Now) -> Sequence[Any]:
    created = age(data["metadata"].get("creationTimestamp"), now)
    name = data["metadata"]["name"]
    return [name, data.get("type", ""), len(data.get("data") or ()), created]


def _endpoint_slice(data: Json, now: Now) -> Sequence[Any]:
    ports = ",".join(str(p.get("port")) for p in data.get("ports") or ()) or "<unset>"
    addresses = [a for e in data.get("endpoints") or () for a in e.get("addresses") or ()]
    created = age(data["metadata"].get("creationTimestamp"), now)
    listed = ",".join(addresses) or "<unset>"
    return [data["metadata"]["name"], data.get("addressType", ""), ports, listed, created]


def _definition(data: Json, _now: Now) -> Sequence[Any]:
    return [data["metadata"]["name"], data["metadata"].get("creationTimestamp", "")]


def _plain(data: Json, now: Now) -> Sequence[Any]:
    return [data["metadata"]["name"], age(data["metadata"].get("creationTimestamp"), now)]


_WIDE = "+"
"""Marks columns that only `-o wide` shows."""

_TABLES: Mapping[str, tuple[str, Row]] = {
    "Pod": (
        "Name Ready Status Restarts Age +IP +Node +Nominated_Node +Readiness_Gates",
        _pod,
    ),
    "Service": ("Name Type Cluster-IP External-IP Port(s) Age +Selector", _service),
    "Deployment": (
        "Name Ready Up-to-date Available Age +Containers +Images +Selector",
        _deployment,
    ),
    "ReplicaSet": ("Name Desired Current Ready Age +Containers +Images +Selector", _replica_set),
    "StatefulSet": ("Name Ready Age +Containers +Images", _stateful_set),
    "Namespace": ("Name Status Age", _namespace),
    "Node": (
        "Name Status Roles Age Version +Internal-IP +External-IP +OS-Image +Kernel-Version "
        "+Container-Runtime",
        _node,
    ),
    "Event": ("Last_Seen Type Reason Object Message", _event),
    "ConfigMap": ("Name Data Age", _counted("data")),
    "Secret": ("Name Type Data Age", _secret),
    "ServiceAccount": ("Name Secrets Age", _counted("secrets")),
    "EndpointSlice": ("Name AddressType Ports Endpoints Age", _endpoint_slice),
    "CustomResourceDefinition": ("Name Created_At", _definition),
    **printers.TABLES,
}


def table(
    kind: Kind,
    columns: Sequence[Column],
    items: Sequence[Json],
    version: str,
    now: Now,
    *,
    include: str,
) -> Json:
    """A meta.k8s.io Table. `include`: Metadata, Object or None, for each row's object."""
    definitions, row = _table_of(kind, columns)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": definitions,
        "rows": [
            {"cells": list(row(data, now)), "object": _object(data, include)} for data in items
        ],
    }


def _table_of(kind: Kind, columns: Sequence[Column]) -> tuple[list[Json], Row]:
    if kind.name in _TABLES and not kind.group.endswith(".istio.io"):
        names, row = _TABLES[kind.name]
        return [_column(name) for name in names.split()], row
    if not columns:
        return [_column("Name"), _column("Age")], _plain
    listed = [_column("Name")]
    for column in columns:
        listed.append(
            {"name": column.name, "type": column.type, "format": "",
             "description": column.description, "priority": column.priority}
        )  # fmt: skip
    return listed, _custom([(jsonpath.parse(c.json_path), c.type) for c in columns])


def _custom(columns: Sequence[tuple[jsonpath.Path, str]]) -> Row:
    def row(data: Json, now: Now) -> Sequence[Any]:
        cells: list[Any] = [data["metadata"]["name"]]
        for path, word in columns:
            found = jsonpath.find(path, data)
            cells.append(_cell(found, word, now))
        return cells

    return row


def _cell(found: Sequence[Any], word: str, now: Now) -> Any:
    if not found:
        return "" if word == "string" else None
    value = found[0]
    if word == "date":
        return age(value, now) if isinstance(value, str) else "<unknown>"
    if word == "string" and not isinstance(value, str):
        return json.dumps(value, separators=(",", ":"))
    return value


def _column(name: str) -> Json:
    wide = name.startswith(_WIDE)
    plain = name.lstrip(_WIDE).replace("_", " ")
    return {
        "name": plain,
        "type": "string",
        "format": "name" if plain == "Name" else "",
        "description": "",
        "priority": 1 if wide else 0,
    }


def _object(data: Json, include: str) -> Json | None:
    if include == "None":
        return None
    if include == "Object":
        return data
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": data["metadata"],
    }
