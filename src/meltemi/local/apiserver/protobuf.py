"""Bodies in Kubernetes' protobuf form, which kubectl sends for its typed commands.

The envelope is `k8s\\0` and a runtime.Unknown. Field numbers are those of the generated.proto
files of k8s.io/api; only the messages that kubectl's create and review commands send are listed.
"""

import base64
from collections.abc import Iterator
from typing import Any

from meltemi.local.apiserver.errors import StatusError, bad_request

Json = dict[str, Any]
_DEPTH = 32

_META = {
    1: ("name", "string"), 2: ("generateName", "string"), 3: ("namespace", "string"),
    5: ("uid", "string"), 6: ("resourceVersion", "string"),
    11: ("labels", "map"), 12: ("annotations", "map"), 14: ("finalizers", "string*"),
}  # fmt: skip
_SELECTOR = {1: ("matchLabels", "map")}
_ENV = {1: ("name", "string"), 2: ("value", "string")}
_CONTAINER = {
    1: ("name", "string"), 2: ("image", "string"), 3: ("command", "string*"),
    4: ("args", "string*"), 5: ("workingDir", "string"), 6: ("ports", "ContainerPort*"),
    7: ("env", "Env*"), 14: ("imagePullPolicy", "string"),
}  # fmt: skip
_MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "Meta": _META,
    "Namespace": {1: ("metadata", "Meta")},
    "ConfigMap": {1: ("metadata", "Meta"), 2: ("data", "map"), 3: ("binaryData", "bytesmap")},
    "Secret": {
        1: ("metadata", "Meta"), 2: ("data", "bytesmap"), 3: ("type", "string"),
        4: ("stringData", "map"),
    },
    "ServiceAccount": {1: ("metadata", "Meta")},
    "Deployment": {1: ("metadata", "Meta"), 2: ("spec", "DeploymentSpec")},
    "DeploymentSpec": {
        1: ("replicas", "int"), 2: ("selector", "Selector"), 3: ("template", "Template"),
    },
    "Selector": _SELECTOR,
    "Template": {1: ("metadata", "Meta"), 2: ("spec", "PodSpec")},
    "PodSpec": {
        2: ("containers", "Container*"), 3: ("restartPolicy", "string"),
        8: ("serviceAccountName", "string"),
    },
    "Container": _CONTAINER,
    "ContainerPort": {
        1: ("name", "string"), 3: ("containerPort", "int"), 4: ("protocol", "string"),
    },
    "Env": _ENV,
    "Pod": {1: ("metadata", "Meta"), 2: ("spec", "PodSpec")},
    "Job": {1: ("metadata", "Meta"), 2: ("spec", "JobSpec")},
    "JobSpec": {1: ("parallelism", "int"), 2: ("completions", "int"), 6: ("template", "Template")},
    "Service": {1: ("metadata", "Meta"), 2: ("spec", "ServiceSpec")},
    "ServiceSpec": {
        1: ("ports", "ServicePort*"), 2: ("selector", "map"), 3: ("clusterIP", "string"),
        4: ("type", "string"), 10: ("externalName", "string"),
    },
    "ServicePort": {
        1: ("name", "string"), 2: ("protocol", "string"), 3: ("port", "int"),
        4: ("targetPort", "IntOrString"), 5: ("nodePort", "int"),
    },
    "TokenRequest": {1: ("metadata", "Meta"), 2: ("spec", "TokenRequestSpec")},
    "TokenRequestSpec": {
        1: ("audiences", "string*"),
        4: ("expirationSeconds", "int"),
        3: ("boundObjectRef", "Bound"),
    },
    "Bound": {
        1: ("kind", "string"), 2: ("apiVersion", "string"), 3: ("name", "string"),
        4: ("uid", "string"),
    },
    "SelfSubjectReview": {1: ("metadata", "Meta")},
    "SelfSubjectAccessReview": {1: ("metadata", "Meta"), 2: ("spec", "AccessSpec")},
    "AccessSpec": {1: ("resourceAttributes", "Attributes")},
    "Attributes": {
        1: ("namespace", "string"), 2: ("verb", "string"), 3: ("group", "string"),
        4: ("version", "string"), 5: ("resource", "string"), 6: ("subresource", "string"),
        7: ("name", "string"),
    },
    "DeleteOptions": {
        1: ("gracePeriodSeconds", "int"),
        4: ("propagationPolicy", "string"),
        5: ("dryRun", "string*"),
    },
}  # fmt: skip


def decode(body: bytes) -> Json:
    """The object in a protobuf body; a kind that is not listed is refused by name."""
    if body[:4] != b"k8s\0":
        raise bad_request("the body is not in Kubernetes' protobuf form")
    try:
        outer = dict((n, v) for n, v in _fields(body[4:]))
        types = dict((n, v) for n, v in _fields(_octets(outer[1])))
        api_version = _octets(types[1]).decode()
        kind = _octets(types[2]).decode()
        if kind not in _MESSAGES:
            raise StatusError(
                415, "UnsupportedMediaType", f"{kind} is not understood in protobuf; send JSON"
            )
        data = _message(kind, _octets(outer.get(2, b"")), 0)
    except (KeyError, IndexError, ValueError, UnicodeDecodeError) as error:
        raise bad_request(f"the protobuf body cannot be decoded: {error}") from error
    return {"apiVersion": api_version, "kind": kind, **data}


def _octets(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes belong")
    return value


def _fields(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(body):
        tag, position = _varint(body, position)
        wire = tag & 7
        if wire == 0:
            value, position = _varint(body, position)
            yield tag >> 3, value
            continue
        if wire == 2:
            length, position = _varint(body, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position + length > len(body):
            raise ValueError("it is cut short")
        yield tag >> 3, body[position : position + length]
        position += length


def _varint(body: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _message(name: str, body: bytes, depth: int) -> Json:
    if depth > _DEPTH:
        raise ValueError("it is nested too deeply")
    known = _MESSAGES[name]
    data: Json = {}
    for number, value in _fields(body):
        if number not in known:
            continue
        field, kind = known[number]
        if kind.endswith("*"):
            data.setdefault(field, []).append(_value(kind[:-1], value, depth))
        elif kind in ("map", "bytesmap"):
            key, item = _entry(_octets(value), text=kind == "map")
            data.setdefault(field, {})[key] = item
        else:
            found = _value(kind, value, depth)
            if found not in ("", None):
                data[field] = found
    return data


def _entry(body: bytes, *, text: bool) -> tuple[str, str]:
    pair = {n: _octets(v) for n, v in _fields(body)}
    item = pair.get(2, b"")
    return pair.get(1, b"").decode(), item.decode() if text else base64.b64encode(item).decode()


def _value(kind: str, value: int | bytes, depth: int) -> Any:
    if kind == "string":
        return _octets(value).decode()
    if kind == "int":
        if not isinstance(value, int):
            raise ValueError("bytes where a number belongs")
        return value - (1 << 64) if value >> 63 else value
    if kind == "IntOrString":
        parts = dict(_fields(_octets(value)))
        return _octets(parts.get(3, b"")).decode() if parts.get(1) else parts.get(2, 0)
    return _message(kind, _octets(value), depth + 1)
