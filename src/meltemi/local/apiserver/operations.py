"""The verbs of the API, free of HTTP: objects in, objects out, failures as StatusError.

A write that awaits (a webhook, a commit) compares what it read before with what stands after, so
that no update is ever lost.
"""

import secrets
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import orjson

from meltemi.api.kinds import Kind
from meltemi.base.clock import Clock
from meltemi.local.apiserver import certificates, deletion, ownership
from meltemi.local.apiserver.accounts import mount_account
from meltemi.local.apiserver.addresses import Addresses
from meltemi.local.apiserver.convert import stored
from meltemi.local.apiserver.defaults import apply_defaults
from meltemi.local.apiserver.errors import (
    already_exists,
    bad_request,
    conflict,
    forbidden,
    invalid,
    not_found,
)
from meltemi.local.apiserver.ownership import Held, Owner
from meltemi.local.apiserver.registry import Registry, is_mesh, resource_of
from meltemi.local.apiserver.selectors import object_test
from meltemi.local.apiserver.shape import fill_defaults, shape
from meltemi.local.apiserver.store import Entry, Resource, Store
from meltemi.local.apiserver.validation import check

Json = dict[str, Any]
_ATTEMPTS = 8
_NAMESPACES = Resource("", "namespaces")
_SERVICES = Resource("", "services")
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_LONGEST_GENERATED = 63 - 5
_WITHOUT_GENERATION = frozenset(("", "rbac.authorization.k8s.io", "coordination.k8s.io"))
_BORN_WITH_STATUS = frozenset(("Node", "Namespace", "Pod", "PersistentVolume"))


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
    annotate: Callable[[str, str], None] = lambda *_: None
    """Notes something in the audit log."""
    manager: str = ""
    """Who owns the fields that are written; nobody is recorded when it is empty."""
    validation: str = "Ignore"
    """What becomes of unknown and repeated fields: Strict, Warn or Ignore."""
    version: str = ""
    """The version the object is written in; empty for the one that is stored."""
    is_patch: bool = False
    repeated: tuple[str, ...] = ()
    """Fields that the body has twice."""
    options: Json = {}


Admit = Callable[[Kind, str, Json | None, Json | None, Write, str], Awaitable[Json | None]]
"""(kind, operation, new object, old object, write, subresource) to the object to store."""
Change = Callable[[Json], Json]
Owners = Callable[[Json, Json], list[Held] | None]
"""(what stood, what is wanted) to the owners of the object's fields, if they change."""


class Operations:
    """Verbs over one store."""

    def __init__(
        self, store: Store, registry: Registry, clock: Clock, addresses: Addresses | None = None
    ) -> None:
        self.store = store
        self.registry = registry
        self.clock = clock
        self._addresses = addresses or Addresses()
        self.admit: Admit | None = None
        """Admission webhooks, when there are any to ask."""
        self.guard: Callable[[Kind, Json, Json | None, Write], None] = lambda *_: None
        """Refuses what the writer may not grant. Raises a 403."""

    def now(self) -> str:
        return self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def entry(self, kind: Kind, namespace: str, name: str) -> Entry:
        """An object as writers have to take it. Raises a 404."""
        found = self.store.get(resource_of(kind), namespace, name)
        if found is None:
            raise not_found(kind.plural, kind.group, name)
        return found

    def shown(self, kind: Kind, namespace: str, name: str) -> Entry:
        """An object as readers see it. Raises a 404."""
        found = self.store.durable(resource_of(kind), namespace, name)
        if found is None:
            raise not_found(kind.plural, kind.group, name)
        return found

    def select(self, kind: Kind, namespace: str, labels: str, fields: str) -> list[Entry]:
        """Objects of a kind that both selectors choose, as readers see them."""
        entries = self.store.durable_entries(resource_of(kind), namespace)
        if not labels and not fields:
            return list(entries)
        test = object_test(labels, fields)
        return [e for e in entries if test(e.data)]

    async def create(
        self, kind: Kind, namespace: str, body: Any, write: Write, owners: Owners | None = None
    ) -> Json:
        """Store a new object; raises 409 when the name is taken."""
        for attempt in range(_ATTEMPTS):
            data = self._new(kind, namespace, body, write)
            is_generated = not (body.get("metadata") or {}).get("name")
            held = owners({}, data) if owners else self._updated(kind, {}, data, write, "")
            if held:
                data["metadata"]["managedFields"] = ownership.write(held)
            if kind.name == "Pod":
                mount_account(self.store, data)
            elif kind.group == certificates.GROUP:
                data.setdefault("spec", {}).update(_asker(write.user))
            data = await self._admitted(kind, "CREATE", data, None, write)
            self._finish(kind, data, None, write)
            meta = data["metadata"]
            self._check_namespace(kind, meta)
            place = (meta.get("namespace", ""), meta["name"])
            if self.store.get(resource_of(kind), *place) is None:
                if write.dry_run:
                    return data
                return (await self.store.put(resource_of(kind), *place, data)).data
            if not is_generated or attempt == _ATTEMPTS - 1:
                break
        raise already_exists(kind.plural, kind.group, place[1])

    def _new(self, kind: Kind, namespace: str, body: Any, write: Write) -> Json:
        """What a client sent, as a new object, with what the API itself fills in."""
        data = self._received(kind, body, write)
        meta = self._placed(kind, namespace, data)
        if not meta.get("name") and meta.get("generateName"):
            letters = "".join(secrets.choice(_LETTERS) for _ in range(5))
            meta["name"] = meta["generateName"][:_LONGEST_GENERATED] + letters
        if not meta.get("name"):
            why = "Required value: name or generateName is required"
            raise invalid(kind.name, kind.group, "", [("metadata.name", why)])
        self._check_namespace(kind, meta)
        for field in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds",
                      "selfLink", "managedFields"):  # fmt: skip
            meta.pop(field, None)
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = self.now()
        if kind.group not in _WITHOUT_GENERATION:
            meta["generation"] = 1
        if "status" in kind.subresources and kind.name not in _BORN_WITH_STATUS:
            data.pop("status", None)
        self._fill(kind, data)
        return data

    def _received(self, kind: Kind, body: Any, write: Write) -> Json:
        """A clean copy of a body, in the stored version; says what is wrong with it."""
        if not isinstance(body, dict):
            raise bad_request("the body must be an object")
        if body.get("kind") and body["kind"] != kind.name:
            raise bad_request(
                f"the object provided is a {body['kind']}, but this path is for {kind.name}"
            )
        version = write.version or kind.versions[0]
        written = f"{kind.group}/{version}" if kind.group else version
        if body.get("apiVersion") and body["apiVersion"] not in (written, kind.api_version):
            raise bad_request(
                f"the API version in the data ({body['apiVersion']}) does not match the expected "
                f"API version ({written})"
            )
        if not isinstance(body.get("metadata", {}), dict | None):
            raise bad_request("metadata: expected an object")
        node = self.registry.node(kind, version)
        shaped = shape(node, body, keeps_unknown=is_mesh(kind))
        if shaped.wrong:
            self._check_types(kind, body, shaped.wrong, write)
        self.report_unknown(shaped.unknown, write)
        data = stored(kind, version, shaped.value)
        data["apiVersion"], data["kind"] = kind.api_version, kind.name
        data.setdefault("metadata", {})
        return data

    def _check_types(
        self, kind: Kind, body: Json, wrong: list[tuple[str, str]], write: Write
    ) -> None:
        """Refuse values of the wrong type, as Kubernetes does: it cannot read a built-in object
        that has one (400, but 422 when a patch made it so), nor any object's metadata; a custom
        object breaks its schema (422). The mesh's kinds are checked by their own rules, later.
        """
        version = write.version or kind.versions[0]
        metadata = [(path, why) for path, why in wrong if path.partition(".")[0] == "metadata"]
        is_custom = self.registry.is_custom(kind)
        listed = "; ".join(
            f"{path}: {why}" if path else why for path, why in (metadata if is_custom else wrong)
        )
        name = str((body.get("metadata") or {}).get("name", ""))
        if listed and write.is_patch:
            raise invalid(kind.name, kind.group, name, [("patch", f"Invalid value: {listed}")])
        if listed:
            raise bad_request(
                f'{kind.name} in version "{version}" cannot be handled as a {kind.name}: {listed}'
            )
        if not is_mesh(kind):
            causes = [(path, f"Invalid value: {why}") for path, why in wrong]
            raise invalid(kind.name, kind.group, name, causes)

    def report_unknown(self, unknown: list[str], write: Write) -> None:
        """Refuse, warn of or ignore fields that nobody knows, as the client asked."""
        named = [f'unknown field "{path}"' for path in unknown]
        named += [f'duplicate field "{path}"' for path in write.repeated]
        if named and write.validation == "Strict":
            raise bad_request(f"strict decoding error: {', '.join(named)}")
        if write.validation == "Warn":
            for text in named:
                write.warn(text)

    def _placed(self, kind: Kind, namespace: str, data: Json) -> Json:
        meta: Json = data["metadata"]
        if not kind.namespaced:
            meta.pop("namespace", None)
            return meta
        if meta.get("namespace") and namespace and meta["namespace"] != namespace:
            raise bad_request(
                "the namespace of the provided object does not match the namespace sent on "
                "the request"
            )
        meta["namespace"] = namespace or meta.get("namespace") or "default"
        return meta

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

    def _fill(self, kind: Kind, data: Json) -> None:
        """Defaults: those of the kind itself, or of its definition's schema."""
        custom = self.registry.custom(kind, kind.versions[0])
        if custom is not None:
            fill_defaults(custom.node, data)
        else:
            apply_defaults(kind.name, data)

    def _updated(
        self, kind: Kind, before: Json, after: Json, write: Write, subresource: str
    ) -> list[Held] | None:
        if not write.manager:
            return None
        version = write.version or kind.versions[0]
        written = f"{kind.group}/{version}" if kind.group else version
        owner = Owner(write.manager, "Update", written, subresource)
        node = self.registry.node(kind, kind.versions[0])
        return ownership.updated(node, before, after, owner, self.now())

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

    def _finish(
        self, kind: Kind, data: Json, before: Json | None, write: Write, subresource: str = ""
    ) -> None:
        """Default again what admission added, give out addresses, validate."""
        self._fill(kind, data)
        if kind.name == "Service":
            self._give_addresses(data, before)
        if kind.name == "Pod" and before is None:
            mount_account(self.store, data)
        version = kind.versions[0]
        node, custom = self.registry.node(kind, version), self.registry.custom(kind, version)
        check(kind, data, before, node, custom)
        if not subresource:
            self.guard(kind, data, before, write)

    def _give_addresses(self, data: Json, before: Json | None) -> None:
        """Raises a 422."""
        others = (e.data["spec"] for e in self.store.entries(_SERVICES))
        old = before["spec"] if before is not None else None
        causes = self._addresses.settle(data["spec"], old, others)
        if causes:
            raise invalid("Service", "", str(data["metadata"].get("name", "")), causes)

    async def update(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        change: Change,
        write: Write,
        *,
        subresource: str = "",
        owners: Owners | None = None,
    ) -> Json:
        """Change an object; tries again when another write came first.

        `change` gets a copy of what stands. When it sets another resourceVersion, only that
        version is changed: anything else is a 409.
        """
        for _ in range(_ATTEMPTS):
            entry = self.entry(kind, namespace, name)
            wanted = change(orjson.loads(entry.raw))
            if wanted is None:
                await self.store.settled(resource_of(kind), namespace, name)
                return entry.data
            data = self._replaced(kind, entry, wanted, write, subresource)
            held = self._owners(kind, entry.data, wanted, data, write, subresource, owners)
            is_same = _same(data, entry.data)
            if held is not None:
                data["metadata"]["managedFields"] = ownership.write(held)
            data = await self._admitted(kind, "UPDATE", data, entry.data, write, subresource)
            self._finish(kind, data, entry.data, write, subresource)
            current = self.store.get(resource_of(kind), namespace, name)
            if current is None or current.version != entry.version:
                continue
            if is_same and _same(data, entry.data) and _same_owners(data, entry.data):
                await self.store.settled(resource_of(kind), namespace, name)
                return entry.data
            if write.dry_run:
                return data
            if deletion.is_finished(data):
                gone = await self.store.remove(resource_of(kind), namespace, name)
                return gone.data if gone else data
            return (await self.store.put(resource_of(kind), namespace, name, data)).data
        raise conflict(kind.plural, kind.group, name, "too many writers at once; try again")

    def _owners(
        self,
        kind: Kind,
        before: Json,
        wanted: Json,
        data: Json,
        write: Write,
        subresource: str,
        owners: Owners | None,
    ) -> list[Held] | None:
        if owners is not None:
            return owners(before, data)
        old = before["metadata"].get("managedFields")
        sent = (wanted.get("metadata") or {}).get("managedFields", old)
        if sent != old:
            given = {"metadata": {"managedFields": sent or []}}
            before = {**before, "metadata": {**before["metadata"], **given["metadata"]}}
            return self._updated(kind, before, data, write, subresource) or ownership.read(given)
        return self._updated(kind, before, data, write, subresource)

    def _replaced(
        self, kind: Kind, entry: Entry, wanted: Any, write: Write, subresource: str
    ) -> Json:
        """What an update may change: the status or everything else, never identity."""
        data = self._received(kind, wanted, write)
        before, new = entry.data, data["metadata"]
        old = before["metadata"]
        version = new.get("resourceVersion")
        if version and str(version) != str(entry.version):
            raise conflict(kind.plural, kind.group, entry.name)
        if new.get("uid") and new["uid"] != old["uid"]:
            raise conflict(
                kind.plural, kind.group, entry.name,
                f"Precondition failed: UID in precondition: {new['uid']}, UID in object meta: "
                f"{old['uid']}",
            )  # fmt: skip
        for field in ("name", "namespace"):
            if new.get(field) and field in old and new[field] != old[field]:
                raise bad_request(
                    f"the {field} of the object ({new[field]}) does not match the {field} on the "
                    f"URL ({old[field]})"
                )
        if kind.group == certificates.GROUP and subresource in ("status", "approval"):
            status = certificates.decided(before, data, subresource, self.now())
            return {**before, "metadata": {**old}, "status": status}
        if subresource == "status":
            return {**before, "metadata": {**old}, "status": data.get("status", {})}
        fixed = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp",
                 "deletionGracePeriodSeconds", "generation", "resourceVersion",
                 "managedFields", "generateName")  # fmt: skip
        meta = {k: v for k, v in new.items() if k not in fixed}
        meta |= {field: old[field] for field in fixed if field in old}
        data["metadata"] = meta
        deletion.check_finalizers(kind, old, meta)
        if "status" in kind.subresources:
            data.pop("status", None)
            if "status" in before:
                data["status"] = before["status"]
        if kind.group == certificates.GROUP:
            data["spec"] = before["spec"]
        if kind.name == "Namespace" and subresource != "finalize":
            data["spec"] = before.get("spec", {})
        self._fill(kind, data)
        if "generation" in old and _desired(data) != _desired(before):
            meta["generation"] = int(old["generation"]) + 1
        return data

    async def delete(
        self, kind: Kind, namespace: str, name: str, options: Json, write: Write
    ) -> Json:
        """Delete, or mark for deletion what must end in order: pods, namespaces, finalizers."""
        resource = resource_of(kind)
        for _ in range(_ATTEMPTS):
            entry = self.entry(kind, namespace, name)
            deletion.check_preconditions(kind, entry, options)
            if self.admit is not None:
                await self.admit(kind, "DELETE", None, entry.data, write, "")
            if self.store.get(resource, namespace, name) is not entry:
                continue
            marked = deletion.marked(kind, entry, options, self.clock.now())
            if write.dry_run:
                return marked or entry.data
            if marked is None:
                gone = await self.store.remove(resource, namespace, name)
                return gone.data if gone else entry.data
            if marked is entry.data:
                await self.store.settled(resource, namespace, name)
                return marked
            return (await self.store.put(resource, namespace, name, marked)).data
        raise conflict(kind.plural, kind.group, name, "too many writers at once; try again")


def _asker(user: User) -> Json:
    """Who asks for a certificate, as the request records it."""
    asker: Json = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        asker["uid"] = user.uid
    return asker


def _desired(data: Json) -> Json:
    """What of an object its generation counts."""
    return {k: v for k, v in data.items() if k not in ("metadata", "status")}


def _same(one: Json, other: Json) -> bool:
    """Whether two states differ in nothing but their version and who owns what."""
    skip = ("resourceVersion", "generation", "managedFields")

    def rest(data: Json) -> Json:
        return {**data, "metadata": {k: v for k, v in data["metadata"].items() if k not in skip}}

    return rest(one) == rest(other)


def _same_owners(one: Json, other: Json) -> bool:
    def entries(data: Json) -> list[Json]:
        managed = data["metadata"].get("managedFields") or ()
        return [{k: v for k, v in entry.items() if k != "time"} for entry in managed]

    return entries(one) == entries(other)
