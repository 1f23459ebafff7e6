"""Names, labels and annotations: what they may look like.

https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
"""

import re
from collections.abc import Iterator
from typing import Any

from meltemi.api.kinds import Kind

Json = dict[str, Any]
Cause = tuple[str, str]

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_OLD_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_KEY_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_MOST_ANNOTATION_BYTES = 256 * 1024
_RBAC = frozenset({"ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding"})


def metadata_causes(kind: Kind, meta: Json) -> Iterator[Cause]:
    """What is wrong with an object's metadata."""
    name = str(meta.get("name", ""))
    why = name_problem(kind.name, name)
    if why:
        yield "metadata.name", why
    for key, value in (meta.get("labels") or {}).items():
        yield from _key("metadata.labels", key)
        if not isinstance(value, str) or len(value) > 63 or not _VALUE.fullmatch(value):
            yield (
                "metadata.labels",
                f'Invalid value: "{value}": a valid label must be an empty string or consist of '
                "alphanumeric characters, '-', '_' or '.', and must start and end with an "
                "alphanumeric character",
            )
    annotations = meta.get("annotations") or {}
    for key in annotations:
        yield from _key("metadata.annotations", key)
    if sum(len(k) + len(str(v)) for k, v in annotations.items()) > _MOST_ANNOTATION_BYTES:
        yield (
            "metadata.annotations",
            f"Too long: may not be more than {_MOST_ANNOTATION_BYTES} bytes",
        )
    for i, finalizer in enumerate(meta.get("finalizers") or ()):
        yield from _key(f"metadata.finalizers[{i}]", finalizer)
    for i, owner in enumerate(meta.get("ownerReferences") or ()):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                yield f"metadata.ownerReferences[{i}].{field}", "Required value: must not be empty"


def name_problem(kind: str, name: str) -> str:
    """Why a name cannot be one of a kind; empty when it can."""
    if not name:
        return "Required value: name or generateName is required"
    if kind in _RBAC:
        if name in (".", "..") or "/" in name or "%" in name:
            return f"Invalid value: \"{name}\": may not be '.' or '..' or contain '/' or '%'"
        return ""
    if kind == "Service" and (len(name) > 63 or not _OLD_LABEL.fullmatch(name)):
        return (
            f'Invalid value: "{name}": a DNS-1035 label must consist of lower case alphanumeric '
            "characters or '-', start with an alphabetic character, and end with an alphanumeric "
            "character"
        )
    if kind == "Namespace" and (len(name) > 63 or not _LABEL.fullmatch(name)):
        return (
            f'Invalid value: "{name}": a lowercase RFC 1123 label must consist of lower case '
            "alphanumeric characters or '-', and must start and end with an alphanumeric character"
        )
    if kind == "CronJob" and len(name) > 52:
        return f'Invalid value: "{name}": must be no more than 52 characters'
    if len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        return (
            f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case '
            "alphanumeric characters, '-' or '.', and must start and end with an alphanumeric "
            "character"
        )
    return ""


def _key(field: str, key: Any) -> Iterator[Cause]:
    text = str(key)
    prefix, slash, name = text.rpartition("/")
    good = len(name) <= 63 and _KEY_NAME.fullmatch(name) is not None
    if slash:
        good = good and len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix.lower()) is not None
    if not isinstance(key, str) or not good:
        yield (
            field,
            f"Invalid value: \"{text}\": name part must consist of alphanumeric characters, '-', "
            "'_' or '.', and must start and end with an alphanumeric character",
        )
