"""How controllers write: the cache learns each answer at once."""

import msgspec

from meltemi.base.clock import Clock
from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.errors import ApiError, Conflict, NotFound
from meltemi.kube.paths import object_path
from meltemi.local.controllers.cache import Cache, is_leaving
from meltemi.local.controllers.events import Events
from meltemi.local.controllers.queue import each

_BURST = 50
"""Objects made or deleted at once for one key; the rest follows in the next run."""


class Writes:
    """The client, the cache and the clock, as one controller uses them."""

    def __init__(
        self, component: str, client: Client, cache: Cache, clock: Clock, events: Events
    ) -> None:
        """`component` is the source of its events."""
        self._component = component
        self._client = client
        self.cache = cache
        self.clock = clock
        self._events = events

    def now(self) -> str:
        return f"{self.clock.now():%Y-%m-%dT%H:%M:%SZ}"

    def tell(
        self, about: JsonObject, reason: str, message: str, *, is_warning: bool = False
    ) -> None:
        self._events.tell(about, reason, message, component=self._component, is_warning=is_warning)

    async def get(self, key: ObjectKey) -> JsonObject:
        """The object as the API has it now."""
        found = await self._client.get(key)
        self.cache.observe(found)
        return found

    async def create(self, body: JsonObject) -> JsonObject:
        made = await self._client.create(body)
        self.cache.observe(made)
        return made

    async def update(self, body: JsonObject) -> JsonObject:
        """Replace this very version, or Conflict."""
        made = await self._client.update(body)
        self.cache.observe(made)
        return made

    async def patch(self, found: JsonObject, change: JsonObject) -> JsonObject:
        """Merge a change into this incarnation of the object (or Conflict)."""
        meta = {**(change.get("metadata") or {}), "uid": found["metadata"]["uid"]}
        made = await self._client.patch(key_of(found), {**change, "metadata": meta})
        self.cache.observe(made)
        return made

    async def status(self, found: JsonObject, status: JsonObject) -> None:
        """Merge into the status if that changes anything; an object that is gone has none."""
        before = found.get("status") or {}
        if all(before.get(name, type(value)()) == value for name, value in status.items()):
            return
        try:
            made = await self._client.patch(key_of(found), {"status": status}, subresource="status")
        except NotFound:
            return
        self.cache.observe(made)

    async def delete(self, found: JsonObject) -> None:
        """Delete this incarnation; nothing happens when it is gone or leaving already."""
        if is_leaving(found):
            return
        key, uid = key_of(found), found["metadata"]["uid"]
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        try:
            raw = await self._client.request("DELETE", object_path(key), options)
        except (NotFound, Conflict):
            return
        answer = msgspec.json.decode(raw)
        if answer.get("kind") == key.kind and is_leaving(answer):
            self.cache.observe(answer)
        else:
            self.cache.leaving(key, uid, now=self.now())

    async def create_pods(self, owner: JsonObject, pods: list[JsonObject]) -> None:
        """Make pods of an owner at once; each success and failure is told as its event."""

        async def one(body: JsonObject) -> None:
            try:
                pod = await self.create(body)
            except ApiError as error:
                if not isinstance(error, Conflict):
                    self.tell(owner, "FailedCreate", f"Error creating: {error}", is_warning=True)
                raise
            self.tell(owner, "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}")

        await each("create pod", [one(pod) for pod in pods[:_BURST]])

    async def delete_pods(self, owner: JsonObject, pods: list[JsonObject]) -> None:
        async def one(pod: JsonObject) -> None:
            await self.delete(pod)
            self.tell(owner, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")

        await each("delete pod", [one(pod) for pod in pods[:_BURST] if not is_leaving(pod)])


def key_of(data: JsonObject) -> ObjectKey:
    meta = data["metadata"]
    return ObjectKey(data["kind"], meta.get("namespace", ""), meta["name"])
