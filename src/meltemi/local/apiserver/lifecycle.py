"""What happens by itself: namespaces end, orphans are collected, accounts appear."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from meltemi.api.kinds import KINDS
from meltemi.local.apiserver import certificates, roles
from meltemi.local.apiserver.accounts import ROOT_CONFIG_MAP
from meltemi.local.apiserver.authn import Pki
from meltemi.local.apiserver.definitions import CLEANUP, definition_status
from meltemi.local.apiserver.errors import StatusError
from meltemi.local.apiserver.operations import Operations, User, Write
from meltemi.local.apiserver.owned import Owned
from meltemi.local.apiserver.policies import POLICIES
from meltemi.local.apiserver.policy_types import policy_status
from meltemi.local.apiserver.rbac import aggregated_rules
from meltemi.local.apiserver.registry import resource_of
from meltemi.local.apiserver.store import Change, Entry, Resource

log = logging.getLogger(__name__)
Json = dict[str, Any]

SYSTEM = Write(User("system:apiserver", groups=("system:masters",)))
_CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "clusterroles")
_REQUESTS = Resource(certificates.GROUP, "certificatesigningrequests")
_FOLLOWED = (
    Resource("", "namespaces"),
    Resource("apiextensions.k8s.io", "customresourcedefinitions"),
    _CLUSTER_ROLES,
    POLICIES,
    _REQUESTS,
)
_FURNITURE = (Resource("", "serviceaccounts"), Resource("", "configmaps"))
_GATHERINGS = 8
_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


class Lifecycle:
    """Watches everything that is stored; one loop, so that its writes never race each other."""

    def __init__(self, operations: Operations, pki: Pki) -> None:
        self._operations = operations
        self._pki = pki
        self._root = pki.ca_file.read_text()
        self._store = operations.store
        self._changes: asyncio.Queue[tuple[Resource, Change]] = asyncio.Queue()
        self._owned = Owned(self._store)

    def note(self, resource: Resource, change: Change) -> None:
        """Take a committed change."""
        self._owned.note(resource, change)
        meta = change.entry.data["metadata"]
        leaving = change.deleted or "deletionTimestamp" in meta
        is_kept = change.entry.name in ("default", ROOT_CONFIG_MAP) and resource in _FURNITURE
        if leaving or is_kept or resource in _FOLLOWED:
            self._changes.put_nowait((resource, change))

    async def prepare(self) -> None:
        """Make what a new cluster has, and learn the definitions that are stored."""
        for resource in self._store.resources():
            for entry in self._store.entries(resource):
                self._owned.learn(resource, entry)
        for entry in self._store.entries(
            Resource("apiextensions.k8s.io", "customresourcedefinitions")
        ):
            self._operations.registry.define(entry.data)
        for name in _NAMESPACES:
            if self._store.get(Resource("", "namespaces"), "", name) is None:
                await self._create("Namespace", "", name)
        async with asyncio.TaskGroup() as group:
            for body in roles.cluster_roles():
                group.create_task(self._ensure("ClusterRole", body), name="default role")
            for body in roles.cluster_role_bindings():
                group.create_task(self._ensure("ClusterRoleBinding", body), name="default binding")
            for entry in self._store.entries(Resource("", "namespaces")):
                group.create_task(self._furnish(entry.name), name=f"furnish {entry.name}")
        await self._aggregate()
        if self._store.get(Resource("", "services"), "default", "kubernetes") is None:
            port = {"name": "https", "port": 443, "targetPort": 6443, "protocol": "TCP"}
            await self._create(
                "Service",
                "default",
                "kubernetes",
                spec={"clusterIP": "10.43.0.1", "ports": [port]},
                labels={"component": "apiserver", "provider": "kubernetes"},
            )

    async def _ensure(self, kind: str, body: Json) -> None:
        """Make a default object; what somebody changed stays as it is."""
        if self._store.get(resource_of(KINDS[kind]), "", body["metadata"]["name"]) is None:
            with contextlib.suppress(StatusError):
                await self._operations.create(KINDS[kind], "", body, SYSTEM)

    async def _aggregate(self) -> None:
        """Gather the rules of ClusterRoles that aggregate; until nothing changes, as roles
        gather from roles that gather."""
        for _ in range(_GATHERINGS):
            every = [e.data for e in self._store.entries(_CLUSTER_ROLES)]
            stale = [
                (role, rules)
                for role in every
                if (rules := aggregated_rules(role, every)) is not None
                and rules != (role.get("rules") or [])
            ]
            if not stale:
                return
            for role, rules in stale:
                with contextlib.suppress(StatusError):
                    await self._operations.update(
                        KINDS["ClusterRole"],
                        "",
                        role["metadata"]["name"],
                        lambda data, rules=rules: {**data, "rules": rules},  # type: ignore[misc]
                        SYSTEM,
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
        if resource == POLICIES and not change.deleted:
            await self._policy(change.entry)
        if resource == _REQUESTS and not change.deleted:
            await self._sign(change.entry)
        if resource == Resource("", "namespaces"):
            await self._namespace(change)
        if resource in _FURNITURE and change.entry.namespace:
            await self._refurnish(change.entry.namespace)
        if resource == _CLUSTER_ROLES:
            await self._aggregate()
        if change.deleted:
            if "orphan" not in (meta.get("finalizers") or ()):
                await self._collect(meta["uid"])
            await self._object_of_definition_gone(resource)
            if change.entry.namespace:
                await self._maybe_end(change.entry.namespace)
            for owner in meta.get("ownerReferences") or ():
                await self._foreground(owner["uid"])
        elif "foregroundDeletion" in (meta.get("finalizers") or ()):
            await self._collect(meta["uid"], "Foreground")
            await self._foreground(meta["uid"])
        elif "orphan" in (meta.get("finalizers") or ()):
            await self._orphan(resource, change.entry)

    async def _definition(self, change: Change) -> None:
        registry, name = self._operations.registry, change.entry.name
        if change.deleted:
            registry.forget(name)
            return
        registry.define(change.entry.data)
        meta = change.entry.data["metadata"]
        if "deletionTimestamp" in meta:
            await self._undefine(change.entry.data)
            return
        wanted = definition_status(change.entry.data, self._operations.now())
        await self._report("CustomResourceDefinition", name, wanted)

    async def _policy(self, entry: Entry) -> None:
        wanted = policy_status(entry.data, self._operations.registry)
        await self._report("ValidatingAdmissionPolicy", entry.name, wanted)

    async def _sign(self, entry: Entry) -> None:
        """Make the certificate of a request that has been approved, if it is for our signer."""
        spec = entry.data["spec"]
        if spec["signerName"] != certificates.SIGNER or not certificates.is_approved(entry.data):
            return
        why = certificates.refusal(spec)
        if why:
            status = certificates.failed(entry.data, why, self._operations.now())
        else:
            request = certificates.parsed(spec)
            signed = self._pki.sign(request, certificates.lifetime(spec))
            status = certificates.with_certificate(entry.data, signed)
        await self._report("CertificateSigningRequest", entry.name, status)

    async def _report(self, kind: str, name: str, status: Json | None) -> None:
        """Write a status; None leaves it as it is."""
        if status is not None:
            await self._operations.update(
                KINDS[kind],
                "",
                name,
                lambda data: {**data, "status": status},
                SYSTEM,
                subresource="status",
            )

    async def _undefine(self, definition: Json) -> None:
        """Delete all objects of a kind before its definition goes."""
        spec, name = definition["spec"], definition["metadata"]["name"]
        resource = Resource(spec["group"], spec["names"]["plural"])
        kind = self._operations.registry.of(resource)
        for entry in list(self._store.entries(resource)):
            if kind is not None:
                with contextlib.suppress(StatusError):
                    await self._operations.delete(kind, entry.namespace, entry.name, {}, SYSTEM)
        if next(self._store.entries(resource), None) is not None:
            return
        found = self._store.get(resource_of(KINDS["CustomResourceDefinition"]), "", name)
        if found is not None:
            await self._drop_finalizer(
                resource_of(KINDS["CustomResourceDefinition"]), found, CLEANUP
            )

    async def _object_of_definition_gone(self, resource: Resource) -> None:
        """The last object of a kind whose definition is going has gone."""
        name = f"{resource.plural}.{resource.group}"
        found = self._store.get(resource_of(KINDS["CustomResourceDefinition"]), "", name)
        if found is not None and "deletionTimestamp" in found.data["metadata"]:
            await self._undefine(found.data)

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
        finalizers = (found.data.get("spec") or {}).get("finalizers") or []
        if "kubernetes" not in finalizers or next(self._content(namespace), None) is not None:
            return

        def change(data: Json) -> Json:
            data["spec"]["finalizers"] = [f for f in finalizers if f != "kubernetes"]
            return data

        await self._operations.update(
            KINDS["Namespace"], "", namespace, change, SYSTEM, subresource="finalize"
        )

    async def _collect(self, uid: str, policy: str = "") -> None:
        """Delete what belonged to an owner that is gone, unless another owner still stands."""
        options = {"propagationPolicy": policy} if policy else {}
        for resource, entry in self._owned.dependents(uid):
            owners = entry.data["metadata"]["ownerReferences"]
            others = [o for o in owners if o["uid"] != uid and self._owned.exists(o["uid"])]
            kind = self._operations.registry.of(resource)
            if not others and kind is not None:
                with contextlib.suppress(StatusError):
                    await self._operations.delete(
                        kind, entry.namespace, entry.name, options, SYSTEM
                    )

    async def _foreground(self, uid: str) -> None:
        """An owner deleted in the foreground ends when the children that block it have."""
        owner = self._owned.find(uid)
        if owner is None:
            return
        resource, entry = owner
        waits = "foregroundDeletion" in (entry.data["metadata"].get("finalizers") or ())
        blocking = [
            child
            for _, child in self._owned.dependents(uid)
            if any(
                o["uid"] == uid and o.get("blockOwnerDeletion")
                for o in child.data["metadata"]["ownerReferences"]
            )
        ]
        if waits and not blocking:
            await self._drop_finalizer(resource, entry, "foregroundDeletion")

    async def _orphan(self, resource: Resource, entry: Entry) -> None:
        uid = entry.data["metadata"]["uid"]
        for child_resource, child in self._owned.dependents(uid):
            kind = self._operations.registry.of(child_resource)
            if kind is not None:
                with contextlib.suppress(StatusError):
                    await self._operations.update(
                        kind, child.namespace, child.name, lambda d: _without_owner(d, uid), SYSTEM
                    )
        await self._drop_finalizer(resource, entry, "orphan")

    async def _drop_finalizer(self, resource: Resource, entry: Entry, name: str) -> None:
        kind = self._operations.registry.of(resource)
        if kind is None:
            return

        def change(data: Json) -> Json:
            left = [f for f in data["metadata"].get("finalizers") or () if f != name]
            data["metadata"]["finalizers"] = left
            return data

        with contextlib.suppress(StatusError):
            await self._operations.update(kind, entry.namespace, entry.name, change, SYSTEM)


def _without_owner(data: Json, uid: str) -> Json:
    owners = data["metadata"].get("ownerReferences") or ()
    data["metadata"]["ownerReferences"] = [o for o in owners if o["uid"] != uid]
    return data
