"""What the API refuses, with the field named."""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from meltemi.api.decode import decode
from meltemi.api.kinds import Kind
from meltemi.api.validate import validate
from meltemi.base.problems import Severity
from meltemi.local.apiserver.cel.expressions import CelError, Expression
from meltemi.local.apiserver.cel.functions import AUTHORIZER
from meltemi.local.apiserver.cel.rules import Rules
from meltemi.local.apiserver.certificates import request_causes
from meltemi.local.apiserver.errors import invalid
from meltemi.local.apiserver.immutable import update_causes
from meltemi.local.apiserver.job_rules import job_causes
from meltemi.local.apiserver.names import metadata_causes
from meltemi.local.apiserver.ownership import item_step
from meltemi.local.apiserver.policy_checks import binding_causes, policy_causes
from meltemi.local.apiserver.registry import Custom, compiled, is_mesh
from meltemi.local.apiserver.schema.node import Node
from meltemi.local.families import IPV4, IPV6, family_of

Json = dict[str, Any]
Cause = tuple[str, str]

_SPECLESS = frozenset({"status", "metadata"})
_MAY_BE_EMPTY = frozenset({"value", "seconds", "podSelector", "fieldPath", "resource"})
"""Required fields in which an empty value has a meaning."""


def check(
    kind: Kind, data: Json, before: Json | None, node: Node | None, custom: Custom | None
) -> None:
    """Raise a 422 that lists everything wrong with an object."""
    causes = [*metadata_causes(kind, data["metadata"])]
    if custom is not None:
        causes += _custom(custom, data, before)
    elif is_mesh(kind):
        if kind.struct is not None:
            causes += _mesh(kind, data)
    elif node is not None:
        causes += _words(node, data)
    rules = _RULES.get(kind.name)
    if rules is not None and not causes:
        causes += rules(data, before)
    if before is not None and not causes:
        causes += update_causes(kind.name, before, data)
    if causes:
        name = str(data["metadata"].get("name", ""))
        raise invalid(kind.name, kind.group, name, causes)


def _words(node: Node, data: Json) -> Iterator[Cause]:
    """Required fields and fields that take one of a few words, wherever users write."""
    for name, value in data.items():
        field = node.fields.get(name)
        if field is not None and name not in _SPECLESS:
            yield from _word(field, value, name)


def _word(node: Node, value: Any, path: str) -> Iterator[Cause]:
    if node.word == "string":
        if node.enum and value and value not in node.enum:
            listed = ", ".join(f'"{word}"' for word in node.enum)
            yield path, f'Unsupported value: "{value}": supported values: {listed}'
    elif node.word == "object" and isinstance(value, dict):
        for name, field in node.fields.items():
            below = f"{path}.{name}"
            found = value.get(name)
            counts = field.is_required and field.word in ("string", "int", "intorstring")
            if counts and found in (None, "", 0) and name not in _MAY_BE_EMPTY:
                yield below, "Required value"
            if found is not None:
                yield from _word(field, found, below)
    elif node.item is not None and node.item.word in ("object", "string"):
        if isinstance(value, list):
            for i, item in enumerate(value):
                yield from _word(node.item, item, f"{path}[{i}]")
            yield from _repeated(node, value, path)
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from _word(node.item, item, f"{path}[{key}]")


def _repeated(node: Node, items: list[Any], path: str) -> Iterator[Cause]:
    if node.list_type == "atomic":
        return
    seen = set()
    for i, item in enumerate(items):
        step = item_step(node, item)
        if step in seen and node.merge_key != "":
            key = item.get(node.keys[0]) if node.keys and isinstance(item, dict) else item
            where = f".{node.keys[0]}" if len(node.keys) == 1 else ""
            yield f"{path}[{i}]{where}", f'Duplicate value: "{key}"'
        seen.add(step)


def _custom(custom: Custom, data: Json, before: Json | None) -> Iterator[Cause]:
    """A custom object's schema, then its rules."""
    body = {k: v for k, v in data.items() if k not in ("metadata", "apiVersion", "kind")}
    found = [(_path(error.instance_path), error.message)
             for error in custom.validator.iter_errors(body)]  # fmt: skip
    for path, message in found:
        yield path, f"Invalid value: {message}"
    yield from _repeats(custom.node, body, "")
    if not found:
        old = None if before is None else {k: v for k, v in before.items() if k != "metadata"}
        whole = {**body, "metadata": data["metadata"], "kind": data["kind"]}
        for path, message in custom.rules.failures(whole, old):
            yield path or "<root>", f"Invalid value: {message}"


def _repeats(node: Node, value: Any, path: str) -> Iterator[Cause]:
    if isinstance(value, dict):
        for name, inner in value.items():
            child = node.child(name)
            if child is not None:
                yield from _repeats(child, inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list) and node.item is not None:
        yield from _repeated(node, value, path)
        for i, inner in enumerate(value):
            yield from _repeats(node.item, inner, f"{path}[{i}]")


def _path(steps: Sequence[str | int]) -> str:
    return "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps).lstrip(".")


def _mesh(kind: Kind, data: Json) -> Iterator[Cause]:
    """The mesh's own rules, the same that the control plane applies."""
    outcome = decode(kind.name, orjson.dumps(data))
    problems = outcome.problems
    if outcome.value is not None:
        problems = (*problems, *validate(outcome.value))
    for problem in problems:
        if problem.severity is Severity.ERROR:
            yield problem.path, problem.message


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
    claims = [
        str((t.get("metadata") or {}).get("name")) for t in spec.get("volumeClaimTemplates") or ()
    ]
    yield from _containers(spec["template"].get("spec") or {}, "spec.template.spec", claims)


def _pod(data: Json, before: Json | None) -> Iterator[Cause]:
    if before is None:
        yield from _containers(data["spec"], "spec")


def _containers(spec: Json, path: str, claims: Iterable[str] = ()) -> Iterator[Cause]:
    """`claims`: volumes that a StatefulSet's templates add."""
    if not spec.get("containers"):
        yield f"{path}.containers", "Required value"
    seen: set[str] = set()
    volumes = {*claims, *(v.get("name") for v in spec.get("volumes") or ())}
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
            for j, mount in enumerate(container.get("volumeMounts") or ()):
                if mount.get("name") not in volumes:
                    yield f"{where}.volumeMounts[{j}].name", f'Not found: "{mount.get("name")}"'


def _job(data: Json, _before: Json | None) -> Iterator[Cause]:
    yield from job_causes(data["spec"], "spec")


def _cron_job(data: Json, _before: Json | None) -> Iterator[Cause]:
    template = data["spec"].get("jobTemplate") or {}
    yield from job_causes(template.get("spec") or {}, "spec.jobTemplate.spec")


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


def _endpoint_slice(data: Json, _before: Json | None) -> Iterator[Cause]:
    """What stands in a slice becomes rules of the kernel."""
    kind = data.get("addressType")
    for i, endpoint in enumerate(data.get("endpoints") or ()):
        for j, address in enumerate(endpoint.get("addresses") or ()):
            if kind in (IPV4, IPV6) and family_of(address) != kind:
                where = f"endpoints[{i}].addresses[{j}]"
                yield where, f'Invalid value: "{address[:80]}": not an address of {kind}'


def _endpoints(data: Json, _before: Json | None) -> Iterator[Cause]:
    for i, subset in enumerate(data.get("subsets") or ()):
        for field in ("addresses", "notReadyAddresses"):
            for j, address in enumerate(subset.get(field) or ()):
                ip = str(address.get("ip"))
                if not family_of(ip):
                    where = f"subsets[{i}].{field}[{j}].ip"
                    yield where, f'Invalid value: "{ip[:80]}": not an IP address'


def _secret(data: Json, _before: Json | None) -> Iterator[Cause]:
    for key, value in (data.get("data") or {}).items():
        try:
            base64.b64decode(value, validate=True)
        except (ValueError, TypeError):
            yield f"data[{key}]", "Invalid value: not base64; write plain text into stringData"


def _definition(data: Json, _before: Json | None) -> Iterator[Cause]:
    """A definition has to be served as it says: no conversion, and rules that compile."""
    spec = data["spec"]
    names, versions = spec.get("names") or {}, spec.get("versions") or []
    if data["metadata"]["name"] != f"{names.get('plural')}.{spec.get('group')}":
        yield "metadata.name", 'Invalid value: must be spec.names.plural+"."+spec.group'
    if sum(1 for v in versions if v.get("storage")) != 1:
        yield (
            "spec.versions",
            "Invalid value: must have exactly one version marked as storage version",
        )
    if (spec.get("conversion") or {}).get("strategy", "None") != "None":
        yield (
            "spec.conversion.strategy",
            'Unsupported value: "Webhook": only None is served, nothing is converted',
        )
    for i, version in enumerate(versions):
        where = f"spec.versions[{i}].schema.openAPIV3Schema"
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        if not isinstance(schema, dict):
            yield where, "Required value: schemas are required"
            continue
        if schema.get("type") != "object":
            yield f"{where}.type", "Invalid value: must be object at the root"
            continue
        for path, why in Rules(schema).problems():
            yield f"{where}.{path}", f"Invalid value: {why}"
        try:
            compiled(schema)
        except (ValueError, TypeError) as error:
            yield where, f"Invalid value: {error}"


def _binding(data: Json, _before: Json | None) -> Iterator[Cause]:
    reference = data.get("roleRef") or {}
    allowed = ("Role", "ClusterRole") if data["kind"] == "RoleBinding" else ("ClusterRole",)
    if reference.get("kind") not in allowed:
        listed = ", ".join(f'"{word}"' for word in allowed)
        yield (
            "roleRef.kind",
            f'Unsupported value: "{reference.get("kind", "")}": supported values: {listed}',
        )


_CONDITION = ("object", "oldObject", "request", "authorizer")


def _webhooks(data: Json, _before: Json | None) -> Iterator[Cause]:
    for i, hook in enumerate(data.get("webhooks") or ()):
        where = f"webhooks[{i}]"
        config = hook.get("clientConfig") or {}
        if bool(config.get("url")) == bool(config.get("service")):
            yield (
                f"{where}.clientConfig",
                "Required value: exactly one of url or service is required",
            )
        if hook.get("sideEffects") not in ("None", "NoneOnDryRun"):
            yield (
                f"{where}.sideEffects",
                f'Unsupported value: "{hook.get("sideEffects", "")}": supported values: "None", '
                '"NoneOnDryRun"',
            )
        if not 1 <= int(hook.get("timeoutSeconds") or 10) <= 30:
            yield f"{where}.timeoutSeconds", "Invalid value: must be between 1 and 30 seconds"
        for j, condition in enumerate(hook.get("matchConditions") or ()):
            try:
                Expression(str(condition.get("expression", "")), _CONDITION, AUTHORIZER)
            except CelError as error:
                yield (
                    f"{where}.matchConditions[{j}].expression",
                    f"Invalid value: compilation failed: {error}",
                )


_RULES: Mapping[str, Callable[[Json, Json | None], Iterator[Cause]]] = {
    "Deployment": _selected,
    "ReplicaSet": _selected,
    "StatefulSet": _selected,
    "DaemonSet": _selected,
    "Pod": _pod,
    "Job": _job,
    "CronJob": _cron_job,
    "Service": _service,
    "EndpointSlice": _endpoint_slice,
    "Endpoints": _endpoints,
    "Secret": _secret,
    "CustomResourceDefinition": _definition,
    "RoleBinding": _binding,
    "ClusterRoleBinding": _binding,
    "MutatingWebhookConfiguration": _webhooks,
    "ValidatingWebhookConfiguration": _webhooks,
    "ValidatingAdmissionPolicy": policy_causes,
    "CertificateSigningRequest": request_causes,
    "ValidatingAdmissionPolicyBinding": binding_causes,
}
