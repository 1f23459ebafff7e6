"""The verbs of the API, free of HTTP: objects in, objects out, failures as StatusError.

A write that awaits (a webhook, a commit) compares what it read before with what stands after, so
that no update is ever lost.
"""

import copy
import datetime
import secrets
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from meltemi.api.kinds import Kind
from meltemi.base.clock import Clock
from meltemi.local.apiserver.accounts import mount_account
from meltemi.local.apiserver.defaults import Addresses, apply_defaults
from meltemi.local.apiserver.errors import (
    StatusError,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    not_found,
)
from meltemi.local.apiserver.patch import merge_patch
from meltemi.local.apiserver.registry import Registry, resource_of
from meltemi.local.apiserver.selectors import object_test
from meltemi.local.apiserver.store import Entry, Resource, Store
from meltemi.local.apiserver.validation import check

Json = dict[str, Any]
_ATTEMPTS = 8
_NAMESPACES = Resource("", "namespaces")
_SERVICES = Resource("", "services")


class User(msgspec.Struct, frozen=True):
    """Who asks."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, list[str]] = {}


class Write(msgspec.Struct, frozen=True):
    """What comes with a write besides the object."""

    user: User
    dry_run: bool = False
    warn: Callable[[str], None] = lambda _: None


Admit = Callable[[Kind, str, Json | None, Json | None, Write, str], Awaitable[Json | None]]
"""(kind, operation, new object, old object, write, subresource) to the object to store."""
Change = Callable[[Json], Json]


class Operations:
    """Verbs over one store."""

    def __init__(self, store: Store, registry: Registry, clock: Clock) -> None:
        self.store = store
        self.registry = registry
        self._clock = clock
        self._addresses = Addresses()
        self.admit: Admit | None = None
        """Admission webhooks, when there are any to ask."""

    def now(self) -> str:
        return self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def entry(self, kind: Kind, namespace: str, name: str) -> Entry:
        found = self.store.get(resource_of(kind), namespace, name)
        if found is None:
            raise not_found(kind.plural, kind.group, name)
        return found

    def select(self, kind: Kind, namespace: str, labels: str, fields: str) -> list[Entry]:
        """Objects of a kind that both selectors choose."""
        test = object_test(labels, fields)
        return [e for e in self.store.entries(resource_of(kind), namespace) if test(e.data)]

    async def create(self, kind: Kind, namespace: str, body: Json, write: Write) -> Json:
        """Store a new object; raises 409 when the name is taken."""
        data = self._normal(kind, namespace, body)
        meta = data["metadata"]
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + secrets.token_hex(3)[:5]
        self._check_namespace(kind, meta)
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = self.now()
        for field in ("resourceVersion", "deletionTimestamp", "selfLink", "managedFields"):
            meta.pop(field, None)
        meta["generation"] = 1
        apply_defaults(kind.name, data)
        if kind.name == "Pod":
            mount_account(self.store, data)
        data = await self._admitted(kind, "CREATE", data, None, write)
        self._finish(kind, data, None)
        resource, place = resource_of(kind), (meta.get("namespace", ""), data["metadata"]["name"])
        if self.store.get(resource, *place) is not None:
            raise already_exists(kind.plural, kind.group, place[1])
        if write.dry_run:
            return data
        return (await self.store.put(resource, *place, data)).data

    def _normal(self, kind: Kind, namespace: str, body: Json) -> Json:
        if not isinstance(body, dict):
            raise bad_request("the body must be an object")
        data = copy.deepcopy(body)
        if data.get("kind") and data["kind"] != kind.name:
            raise bad_request(
                f"the object provided is a {data['kind']}, but this path is for {kind.name}"
            )
        data["apiVersion"], data["kind"] = kind.api_version, kind.name
        meta = data.get("metadata")
        if meta is None:
            meta = data["metadata"] = {}
        if not isinstance(meta, dict):
            raise bad_request("metadata must be an object")
        if kind.namespaced:
            if meta.get("namespace") and namespace and meta["namespace"] != namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on "
                    "the request"
                )
            meta["namespace"] = namespace or meta.get("namespace") or "default"
        else:
            meta.pop("namespace", None)
        return data

    def _check_namespace(self, kind: Kind, meta: Json) -> None:
        if not kind.namespaced:
            return
        name = meta["namespace"]
        found = self.store.get(_NAMESPACES, "", name)
        if found is None:
            raise not_found("namespaces", "", name)
        if found.data["metadata"].get("deletionTimestamp"):
            raise forbidden(
                f'{kind.plural} "{meta.get("name", "")}" is forbidden: unable to create new '
                f"content in namespace {name} because it is being terminated"
            )

    async def _admitted(
        self,
        kind: Kind,
        operation: str,
        data: Json,
        before: Json | None,
        write: Write,
        subresource: str = "",
    ) -> Json:
        if self.admit is None:
            return data
        admitted = await self.admit(kind, operation, data, before, write, subresource)
        return admitted if admitted is not None else data

    def _finish(self, kind: Kind, data: Json, before: Json | None) -> None:
        """Default again what admission added, give out addresses, validate."""
        apply_defaults(kind.name, data)
        if kind.name == "Service":
            others = [e.data for e in self.store.entries(_SERVICES)]
            if before is not None and "clusterIP" not in data["spec"]:
                data["spec"]["clusterIP"] = before["spec"].get("clusterIP", "")
            self._addresses.assign(data["spec"], others)
        if kind.name == "Pod" and before is None:
            mount_account(self.store, data)
        schema = self.registry.schema(kind, kind.versions[0])
        check(kind, data, before, schema)

    async def update(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        change: Change,
        write: Write,
        *,
        subresource: str = "",
        keep_managers: bool = False,
    ) -> Json:
        """Change an object; tries again when another write came first.

        `change` gets a copy of what stands. When it sets a resourceVersion, only that version is
        changed: anything else is a 409.
        """
        for _ in range(_ATTEMPTS):
            entry = self.entry(kind, namespace, name)
            wanted = change(copy.deepcopy(entry.data))
            version = wanted["metadata"].get("resourceVersion")
            if version and str(version) != str(entry.version):
                raise conflict(kind.plural, kind.group, name)
            data = self._merged(kind, entry.data, wanted, subresource)
            managers = (wanted if keep_managers else entry.data)["metadata"].get("managedFields")
            if managers:
                data["metadata"]["managedFields"] = managers
            if data is not entry.data:
                data = await self._admitted(kind, "UPDATE", data, entry.data, write, subresource)
                self._finish(kind, data, entry.data)
            current = self.store.get(resource_of(kind), namespace, name)
            if current is None or current.version != entry.version:
                continue
            if write.dry_run or _same(data, entry.data):
                return data
            if _is_finished(data):
                gone = await self.store.remove(resource_of(kind), namespace, name)
                return gone.data if gone else data
            return (await self.store.put(resource_of(kind), namespace, name, data)).data
        raise conflict(kind.plural, kind.group, name, "too many writers at once; try again")

    def _merged(self, kind: Kind, before: Json, wanted: Json, subresource: str) -> Json:
        """What an update may change: the status or everything else, never identity."""
        old, new = before["metadata"], wanted.get("metadata") or {}
        if new.get("uid") and new["uid"] != old["uid"]:
            raise conflict(kind.plural, kind.group, old["name"], "the UID does not match")
        if new.get("name", old["name"]) != old["name"]:
            raise bad_request("the name of the object does not match the name on the URL")
        if subresource == "status":
            return {**before, "metadata": {**old}, "status": wanted.get("status", {})}
        fixed = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp",
                 "deletionGracePeriodSeconds", "generation", "resourceVersion")  # fmt: skip
        meta = {**new, **{f: old[f] for f in fixed if f in old}}
        for field in fixed:
            if field not in old:
                meta.pop(field, None)
        meta.pop("managedFields", None)
        data = {**wanted, "apiVersion": kind.api_version, "kind": kind.name, "metadata": meta}
        if "status" in kind.subresources:
            data.pop("status", None)
            if "status" in before:
                data["status"] = before["status"]
        apply_defaults(kind.name, data)
        if data.get("spec") != before.get("spec"):
            meta["generation"] = int(old.get("generation", 1)) + 1
        return data

    async def record_owner(
        self, kind: Kind, namespace: str, name: str, manager: str, fields: Json, write: Write
    ) -> Json:
        """Note that a manager applied these fields of an object it has just created."""

        def change(data: Json) -> Json:
            entry = {
                "manager": manager,
                "operation": "Apply",
                "apiVersion": data["apiVersion"],
                "fieldsType": "FieldsV1",
                "fieldsV1": fields,
            }
            data["metadata"]["managedFields"] = [entry]
            data["metadata"].pop("resourceVersion", None)
            return data

        return await self.update(kind, namespace, name, change, write, keep_managers=True)

    async def delete(
        self, kind: Kind, namespace: str, name: str, options: Json, write: Write
    ) -> Json:
        """Delete, or mark for deletion what must end in order: pods, namespaces, finalizers."""
        entry = self.entry(kind, namespace, name)
        self._check_preconditions(kind, entry, options)
        await self._admitted_delete(kind, entry.data, write)
        if write.dry_run:
            return entry.data
        grace = _grace(kind, entry.data, options)
        policy = options.get("propagationPolicy") or "Background"
        finalizers = list(entry.data["metadata"].get("finalizers") or [])
        extra = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(policy)
        if extra and extra not in finalizers:
            finalizers.append(extra)
        waits = bool(finalizers) or grace > 0 or kind.name == "Namespace"
        if not waits:
            gone = await self.store.remove(resource_of(kind), namespace, name)
            return gone.data if gone else entry.data
        meta = {**entry.data["metadata"]}
        shorter = grace < int(meta.get("deletionGracePeriodSeconds", grace + 1))
        if "deletionTimestamp" in meta and not shorter and finalizers == meta.get("finalizers", []):
            return entry.data
        ends = self._clock.now() + datetime.timedelta(seconds=grace)
        meta["deletionTimestamp"] = ends.strftime("%Y-%m-%dT%H:%M:%SZ")
        meta["deletionGracePeriodSeconds"] = grace
        if finalizers:
            meta["finalizers"] = finalizers
        data = {**entry.data, "metadata": meta}
        if kind.name == "Namespace":
            data["status"] = {**(data.get("status") or {}), "phase": "Terminating"}
        return (await self.store.put(resource_of(kind), namespace, name, data)).data

    def _check_preconditions(self, kind: Kind, entry: Entry, options: Json) -> None:
        wanted = options.get("preconditions") or {}
        if wanted.get("uid") and wanted["uid"] != entry.data["metadata"]["uid"]:
            raise conflict(kind.plural, kind.group, entry.name, "the UID does not match")
        version = wanted.get("resourceVersion")
        if version and str(version) != str(entry.version):
            raise conflict(kind.plural, kind.group, entry.name)
        if kind.name == "Namespace" and entry.name in ("default", "kube-system", "kube-public"):
            raise forbidden(f'namespaces "{entry.name}" is forbidden: it may not be deleted')

    async def _admitted_delete(self, kind: Kind, data: Json, write: Write) -> None:
        if self.admit is not None:
            await self.admit(kind, "DELETE", None, data, write, "")

    def scale(self, kind: Kind, data: Json) -> Json:
        """The Scale of a workload."""
        meta, spec, status = data["metadata"], data.get("spec", {}), data.get("status", {})
        labels = (spec.get("selector") or {}).get("matchLabels") or {}
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {
                k: meta[k]
                for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
                if k in meta
            },
            "spec": {"replicas": spec.get("replicas", 1)},
            "status": {
                "replicas": status.get("replicas", 0),
                "selector": ",".join(f"{k}={v}" for k, v in sorted(labels.items())),
            },
        }

    def rescale(self, data: Json, patch: Json) -> Json:
        """Apply a Scale, or a patch of one, to a workload."""
        replicas = merge_patch({"spec": {}}, patch).get("spec", {}).get("replicas")
        if not isinstance(replicas, int) or replicas < 0:
            raise StatusError(422, "Invalid", "spec.replicas: must be a number from 0 on")
        data["spec"]["replicas"] = replicas
        return data


def _grace(kind: Kind, data: Json, options: Json) -> int:
    """Seconds a pod may take to end; nothing else is given time, nor a pod nobody runs."""
    if kind.name != "Pod":
        return 0
    asked = options.get("gracePeriodSeconds")
    if not data["spec"].get("nodeName") or data.get("status", {}).get("phase") in (
        "Succeeded",
        "Failed",
    ):
        return 0
    default = int(data["spec"].get("terminationGracePeriodSeconds", 30))
    return default if asked is None else max(int(asked), 0)


def _same(one: Json, other: Json) -> bool:
    """Whether two states differ in nothing but their version and generation."""
    if one is other:
        return True

    def rest(data: Json) -> Json:
        skip = ("resourceVersion", "generation")
        return {**data, "metadata": {k: v for k, v in data["metadata"].items() if k not in skip}}

    return rest(one) == rest(other)


def _is_finished(data: Json) -> bool:
    """Whether what was marked for deletion has nothing left to wait for."""
    meta = data["metadata"]
    waits = meta.get("finalizers") or int(meta.get("deletionGracePeriodSeconds") or 0) > 0
    return "deletionTimestamp" in meta and not waits and data["kind"] != "Namespace"
