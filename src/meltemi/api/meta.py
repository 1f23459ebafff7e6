"""Shapes that every object shares."""

import datetime
from collections.abc import Mapping
from typing import Any

import msgspec

from meltemi.base.keys import ObjectKey


class Duration(datetime.timedelta):
    """A duration written as Istio does: `10s`, `1.5h`, `100ms`, `1m30s`."""


class Api(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of every typed object and part: frozen, camelCase on the wire."""


class OwnerReference(Api, frozen=True):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class ObjectMeta(Api, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()
    generate_name: str = ""


class Object(Api, frozen=True):
    """Any object of the Kubernetes API."""

    kind: str = ""
    api_version: str = ""
    metadata: ObjectMeta = ObjectMeta()

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.kind, self.metadata.namespace, self.metadata.name)

    @property
    def age_order(self) -> tuple[str, str, str]:
        """Sorts oldest first, then by name and namespace: Istio's order of precedence."""
        return (self.metadata.creation_timestamp, self.metadata.name, self.metadata.namespace)


class LabelSelector(Api, frozen=True):
    match_labels: Mapping[str, str] = {}


IntOrString = int | str
Json = Any
