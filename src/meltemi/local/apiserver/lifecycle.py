"""What happens by itself: namespaces end, orphans are collected, accounts appear."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from meltemi.api.kinds import KINDS
from meltemi.local.apiserver.accounts import ROOT_CONFIG_MAP
from meltemi.local.apiserver.errors import StatusError
from meltemi.local.apiserver.operations import Operations, User, Write
from meltemi.local.apiserver.registry import resource_of
from meltemi.local.apiserver.store import Change, Entry, Resource

log = logging.getLogger(__name__)
Json = dict[str, Any]

SYSTEM = Write(User("system:apiserver", groups=("system:masters",)))
_FURNITURE = (Resource("", "serviceaccounts"), Resource("", "configmaps"))
_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


class Lifecycle:
    """Watches everything that is stored; one loop, so that its writes never race each other."""

    def __init__(self, operations: Operations, root: str) -> None:
        """`root`: the API's own authority, PEM, as pods find it."""
        self._operations = operations
        self._root = root
        self._store = operations.store
        self._changes: asyncio.Queue[tuple[Resource, Change]] = asyncio.Queue()

    def note(self, resource: Resource, change: Change) -> None:
        """Take a committed change."""
        meta = change.entry.data["metadata"]
        leaving = change.deleted or "deletionTimestamp" in meta
        is_kept = change.entry.name in ("default", ROOT_CONFIG_MAP)
        if leaving or is_kept or resource.plural in ("namespaces", "customresourcedefinitions"):
            self._changes.put_nowait((resource, change))

    async def prepare(self) -> None:
        """Make what a new cluster has, and learn the definitions that are stored."""
        for name in _NAMESPACES:
            if self._store.get(Resource("", "namespaces"), "", name) is None:
                await self._create("Namespace", "", name)
        for entry in self._store.entries(Resource("", "namespaces")):
            await self._furnish(entry.name)
        for entry in self._store.entries(
            Resource("apiextensions.k8s.io", "customresourcedefinitions")
        ):
            self._operations.registry.define(entry.data)
        if self._store.get(Resource("", "services"), "default", "kubernetes") is None:
            port = {"name": "https", "port": 443, "targetPort": 6443, "protocol": "TCP"}
            await self._create(
                "Service",
                "default",
                "kubernetes",
                spec={"clusterIP": "10.43.0.1", "ports": [port]},
                labels={"component": "apiserver", "provider": "kubernetes"},
            )

    async def _create(
        self, kind: str, namespace: str, name: str, *, labels: Json | None = None, **more: Any
    ) -> None:
        meta: Json = {"name": name}
        if namespace:
            meta["namespace"] = namespace
        if labels:
            meta["labels"] = labels
        body = {"metadata": meta, **more}
        with contextlib.suppress(StatusError):
            await self._operations.create(KINDS[kind], namespace, body, SYSTEM)

    async def _furnish(self, namespace: str) -> None:
        """What every namespace has: the default account, and the API's root."""
        if self._store.get(Resource("", "serviceaccounts"), namespace, "default") is None:
            await self._create("ServiceAccount", namespace, "default")
        known = self._store.get(Resource("", "configmaps"), namespace, ROOT_CONFIG_MAP)
        data = {"ca.crt": self._root}
        if known is None:
            await self._create("ConfigMap", namespace, ROOT_CONFIG_MAP, data=data)
        elif known.data.get("data") != data:
            await self._operations.update(
                KINDS["ConfigMap"],
                namespace,
                ROOT_CONFIG_MAP,
                lambda found: {**found, "data": data},
                SYSTEM,
            )

    async def run(self) -> None:
        """Follow changes until cancelled."""
        while True:
            resource, change = await self._changes.get()
            try:
                await self._follow(resource, change)
            except StatusError as error:
                log.debug("lifecycle of %s: %s", change.entry.name, error)

    async def _follow(self, resource: Resource, change: Change) -> None:
        meta = change.entry.data["metadata"]
        if resource.plural == "customresourcedefinitions":
            await self._definition(change)
        if resource == Resource("", "namespaces"):
            await self._namespace(change)
        if resource in _FURNITURE and change.entry.namespace:
            await self._refurnish(change.entry.namespace)
        if change.deleted:
            await self._collect(meta["uid"])
            if change.entry.namespace:
                await self._maybe_end(change.entry.namespace)
            for owner in meta.get("ownerReferences") or ():
                await self._foreground(owner["uid"])
        elif "foregroundDeletion" in (meta.get("finalizers") or ()):
            await self._collect(meta["uid"])
            await self._foreground(meta["uid"])
        elif "orphan" in (meta.get("finalizers") or ()):
            await self._orphan(resource, change.entry)

    async def _definition(self, change: Change) -> None:
        registry = self._operations.registry
        if change.deleted:
            registry.forget(change.entry.name)
            return
        registry.define(change.entry.data)
        conditions = [
            {"type": kind, "status": "True", "reason": reason, "message": "",
             "lastTransitionTime": self._operations.now()}
            for kind, reason in (
                ("NamesAccepted", "NoConflicts"),
                ("Established", "InitialNamesAccepted"),
            )
        ]  # fmt: skip
        if (change.entry.data.get("status") or {}).get("conditions"):
            return
        spec = change.entry.data["spec"]
        status = {
            "conditions": conditions,
            "acceptedNames": spec["names"],
            "storedVersions": [v["name"] for v in spec["versions"] if v.get("storage")],
        }
        await self._operations.update(
            KINDS["CustomResourceDefinition"],
            "",
            change.entry.name,
            lambda data: {**data, "status": status},
            SYSTEM,
            subresource="status",
        )

    async def _refurnish(self, namespace: str) -> None:
        found = self._store.get(Resource("", "namespaces"), "", namespace)
        if found is not None and "deletionTimestamp" not in found.data["metadata"]:
            await self._furnish(namespace)

    async def _namespace(self, change: Change) -> None:
        if change.deleted:
            return
        if "deletionTimestamp" not in change.entry.data["metadata"]:
            await self._furnish(change.entry.name)
            return
        for kind, entry in self._content(change.entry.name):
            with contextlib.suppress(StatusError):
                await self._operations.delete(kind, entry.namespace, entry.name, {}, SYSTEM)
        await self._maybe_end(change.entry.name)

    def _content(self, namespace: str) -> Iterator[tuple[Any, Entry]]:
        for kind in list(self._operations.registry.kinds()):
            if kind.namespaced:
                for entry in list(self._store.entries(resource_of(kind), namespace)):
                    yield kind, entry

    async def _maybe_end(self, namespace: str) -> None:
        """Take an ending namespace out once it is empty."""
        found = self._store.get(Resource("", "namespaces"), "", namespace)
        if found is None or "deletionTimestamp" not in found.data["metadata"]:
            return
        if next(self._content(namespace), None) is None:
            await self._store.remove(Resource("", "namespaces"), "", namespace)

    def _children(self, uid: str) -> list[tuple[Resource, Entry]]:
        return [
            (resource, entry)
            for resource in self._store.resources()
            for entry in self._store.entries(resource)
            if any(o.get("uid") == uid for o in entry.data["metadata"].get("ownerReferences") or ())
        ]

    def _exists(self, uid: str) -> bool:
        return any(
            entry.data["metadata"]["uid"] == uid
            for resource in self._store.resources()
            for entry in self._store.entries(resource)
        )

    async def _collect(self, uid: str) -> None:
        """Delete what belonged to an owner that is gone, unless another owner still stands."""
        for resource, entry in self._children(uid):
            owners = entry.data["metadata"]["ownerReferences"]
            others = [o for o in owners if o["uid"] != uid and self._exists(o["uid"])]
            kind = self._kind_of(resource)
            if not others and kind is not None:
                with contextlib.suppress(StatusError):
                    await self._operations.delete(kind, entry.namespace, entry.name, {}, SYSTEM)

    async def _foreground(self, uid: str) -> None:
        """An owner deleted in the foreground ends when its children have."""
        for resource in self._store.resources():
            for entry in list(self._store.entries(resource)):
                meta = entry.data["metadata"]
                waits = "foregroundDeletion" in (meta.get("finalizers") or ())
                if meta["uid"] == uid and waits and not self._children(uid):
                    await self._drop_finalizer(resource, entry, "foregroundDeletion")

    async def _orphan(self, resource: Resource, entry: Entry) -> None:
        uid = entry.data["metadata"]["uid"]
        for child_resource, child in self._children(uid):
            kind = self._kind_of(child_resource)
            if kind is not None:
                await self._operations.update(
                    kind, child.namespace, child.name, lambda d: _without_owner(d, uid), SYSTEM
                )
        await self._drop_finalizer(resource, entry, "orphan")

    async def _drop_finalizer(self, resource: Resource, entry: Entry, name: str) -> None:
        kind = self._kind_of(resource)
        if kind is None:
            return

        def change(data: Json) -> Json:
            left = [f for f in data["metadata"].get("finalizers") or () if f != name]
            data["metadata"]["finalizers"] = left
            return data

        await self._operations.update(kind, entry.namespace, entry.name, change, SYSTEM)

    def _kind_of(self, resource: Resource) -> Any:
        for kind in self._operations.registry.kinds():
            if resource_of(kind) == resource:
                return kind
        return None


def _without_owner(data: Json, uid: str) -> Json:
    owners = data["metadata"].get("ownerReferences") or ()
    data["metadata"]["ownerReferences"] = [o for o in owners if o["uid"] != uid]
    return data
