"""What the API refuses, with the field named."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jsonschema_rs
import orjson

from meltemi.api.decode import decode
from meltemi.api.kinds import Kind
from meltemi.api.validate import validate
from meltemi.base.problems import Severity
from meltemi.local.apiserver.errors import StatusError, invalid

Json = dict[str, Any]
Cause = tuple[str, str]

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
)
_FREE_NAMES = frozenset({"ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding"})


def check(kind: Kind, data: Json, before: Json | None, schema: Json | None) -> None:
    """Raise a 422 that lists everything wrong with an object."""
    name = str(data["metadata"].get("name", ""))
    causes = [*_metadata(kind, data["metadata"])]
    rules = _RULES.get(kind.name)
    if rules is not None:
        causes += rules(data, before)
    if kind.group.endswith(".istio.io") and kind.struct is not None:
        causes += _mesh(kind, data)
    if schema is not None:
        causes += _schema(schema, data)
    if causes:
        raise _error(kind, name, causes)


def _error(kind: Kind, name: str, causes: list[Cause]) -> StatusError:
    return invalid(kind.name, kind.group, name, causes)


def _metadata(kind: Kind, meta: Json) -> Iterator[Cause]:
    name = meta.get("name", "")
    if not name:
        yield "metadata.name", "Required value: name or generateName is required"
    elif kind.name not in _FREE_NAMES and (len(name) > 253 or not _NAME.fullmatch(name)):
        yield (
            "metadata.name",
            f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case '
            "alphanumeric characters, '-' or '.', and must start and end with an alphanumeric "
            "character",
        )
    for key, value in (meta.get("labels") or {}).items():
        if not isinstance(value, str) or len(value) > 63 or not _LABEL_VALUE.fullmatch(value):
            yield "metadata.labels", f"Invalid value: {value!r}: not a valid label value"
        if not _LABEL_KEY.fullmatch(key):
            yield "metadata.labels", f"Invalid value: {key!r}: not a valid label key"


def _mesh(kind: Kind, data: Json) -> Iterator[Cause]:
    """The mesh's own rules, the same that the control plane applies."""
    outcome = decode(kind.name, orjson.dumps(data))
    problems = outcome.problems
    if outcome.value is not None:
        problems = (*problems, *validate(outcome.value))
    for problem in problems:
        if problem.severity is Severity.ERROR:
            yield problem.path, problem.message


def _schema(schema: Json, data: Json) -> Iterator[Cause]:
    body = {k: v for k, v in data.items() if k not in ("metadata", "apiVersion", "kind")}
    try:
        validator = jsonschema_rs.validator_for(_plain(schema))
    except ValueError:
        return
    for error in validator.iter_errors(body):
        path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.instance_path)
        yield path.lstrip("."), f"Invalid value: {error.message}"


def _plain(schema: Any) -> Any:
    """A structural schema as JSON Schema: Kubernetes' own keywords are taken out."""
    if isinstance(schema, list):
        return [_plain(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {k: _plain(v) for k, v in schema.items() if not k.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        plain.pop("type", None)
        plain["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if plain.pop("nullable", False) and isinstance(plain.get("type"), str):
        plain["type"] = [plain["type"], "null"]
    return plain


def _selected(data: Json, before: Json | None) -> Iterator[Cause]:
    spec = data["spec"]
    selector = (spec.get("selector") or {}).get("matchLabels") or {}
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    if not spec.get("selector"):
        yield "spec.selector", "Required value"
    elif not selector.items() <= labels.items():
        yield (
            "spec.template.metadata.labels",
            f"Invalid value: {labels}: `selector` does not match template `labels`",
        )
    if before is not None and before["spec"].get("selector") != spec.get("selector"):
        yield "spec.selector", "Invalid value: field is immutable"
    yield from _containers(spec["template"].get("spec") or {}, "spec.template.spec")


def _pod(data: Json, before: Json | None) -> Iterator[Cause]:
    if before is None:
        yield from _containers(data["spec"], "spec")


def _containers(spec: Json, path: str) -> Iterator[Cause]:
    if not spec.get("containers"):
        yield f"{path}.containers", "Required value"
    seen: set[str] = set()
    for field in ("initContainers", "containers"):
        for i, container in enumerate(spec.get(field) or ()):
            where = f"{path}.{field}[{i}]"
            name = container.get("name")
            if not name:
                yield f"{where}.name", "Required value"
            elif name in seen:
                yield f"{where}.name", f'Duplicate value: "{name}"'
            seen.add(name)
            if not container.get("image"):
                yield f"{where}.image", "Required value"


def _service(data: Json, before: Json | None) -> Iterator[Cause]:
    spec = data["spec"]
    ports = spec.get("ports") or []
    if not ports and spec.get("type") != "ExternalName" and spec.get("clusterIP") != "None":
        yield "spec.ports", "Required value"
    names: set[str] = set()
    for i, port in enumerate(ports):
        number = port.get("port")
        if not isinstance(number, int) or not 1 <= number <= 65535:
            yield f"spec.ports[{i}].port", f"Invalid value: {number}: must be from 1 to 65535"
        name = port.get("name", "")
        if len(ports) > 1 and not name:
            yield f"spec.ports[{i}].name", "Required value"
        if name and name in names:
            yield f"spec.ports[{i}].name", f'Duplicate value: "{name}"'
        names.add(name)
    old = (before or {}).get("spec", {}).get("clusterIP")
    if old and spec.get("clusterIP") != old and spec.get("type") != "ExternalName":
        yield "spec.clusterIP", f'Invalid value: "{spec.get("clusterIP")}": field is immutable'


def _config_map(data: Json, _before: Json | None) -> Iterator[Cause]:
    for key, value in (data.get("data") or {}).items():
        if not isinstance(value, str):
            yield f"data[{key}]", f"Invalid value: {value!r}: must be a string"


_RULES: Mapping[str, Callable[[Json, Json | None], Iterator[Cause]]] = {
    "Deployment": _selected,
    "ReplicaSet": _selected,
    "StatefulSet": _selected,
    "DaemonSet": _selected,
    "Pod": _pod,
    "Service": _service,
    "ConfigMap": _config_map,
}
