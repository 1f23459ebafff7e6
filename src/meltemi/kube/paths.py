"""URLs of the Kubernetes API, from kinds, keys and selections."""

from collections.abc import Mapping
from urllib.parse import quote, urlencode

import msgspec

from meltemi.api.kinds import KINDS, Kind
from meltemi.api.meta import Json
from meltemi.base.keys import ObjectKey
from meltemi.kube.errors import KubeError


class UnknownKind(KubeError):
    """An object's kind is not in `api.kinds.KINDS`."""


class Selection(msgspec.Struct, frozen=True):
    """Which objects of a kind to list or watch. Empty selectors choose all of them."""

    kind: str
    namespace: str = ""
    labels: str = ""
    fields: str = ""

    def __str__(self) -> str:
        parts = (self.kind, self.namespace, self.labels, self.fields)
        return "/".join(part for part in parts if part)


def kind_named(name: str) -> Kind:
    kind = KINDS.get(name)
    if kind is None:
        raise UnknownKind(f"kind {name!r} is not known to Meltemi")
    return kind


def key_of(body: Mapping[str, Json], default_namespace: str = "") -> ObjectKey:
    """The key of an object as it would be sent; the name is empty with generateName.

    `default_namespace` is for namespaced objects that name none.
    """
    kind = kind_named(str(body.get("kind", "")))
    meta = body.get("metadata") or {}
    namespace = (meta.get("namespace") or default_namespace) if kind.namespaced else ""
    return ObjectKey(kind.name, namespace, str(meta.get("name", "")))


def collection_path(kind_name: str, namespace: str, api_version: str = "") -> str:
    """`/apis/apps/v1/namespaces/default/deployments`; without a namespace, across all of them.

    `api_version` chooses another served version than the storage one.
    """
    kind = kind_named(kind_name)
    version = api_version.rpartition("/")[2]
    if version not in kind.versions:
        version = kind.versions[0]
    root = f"/apis/{kind.group}/{version}" if kind.group else f"/api/{version}"
    place = f"/namespaces/{quote(namespace, safe='')}" if kind.namespaced and namespace else ""
    return f"{root}{place}/{kind.plural}"


def object_path(key: ObjectKey, subresource: str = "", api_version: str = "") -> str:
    if not key.name:
        raise ValueError(f"{key}: an object's path needs its name")
    collection = collection_path(key.kind, key.namespace, api_version)
    tail = f"/{subresource}" if subresource else ""
    return f"{collection}/{quote(key.name, safe='')}{tail}"


def list_path(selection: Selection, **query: str) -> str:
    """The URL that lists a selection; `query` adds watch, resourceVersion and the like."""
    if selection.labels:
        query["labelSelector"] = selection.labels
    if selection.fields:
        query["fieldSelector"] = selection.fields
    path = collection_path(selection.kind, selection.namespace)
    return f"{path}?{urlencode(query)}" if query else path
