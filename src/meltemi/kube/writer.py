"""Polite writes: retry what another writer overtook, write nothing that would change nothing."""

import copy
from collections.abc import Callable

import msgspec

from meltemi.api.meta import Json
from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client, JsonObject, Patch
from meltemi.kube.errors import AlreadyExists, Conflict, NotFound

_ATTEMPTS = 8


async def modify(
    client: Client, key: ObjectKey, change: Callable[[JsonObject], JsonObject | None]
) -> JsonObject:
    """Read, change, write back; again when another write came first.

    `change` gets its own copy and returns the new object, or None to leave it alone. Raises
    Conflict when others keep winning.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return await _modify_once(client, key, change)
        except Conflict:
            continue
    return await _modify_once(client, key, change)


async def _modify_once(
    client: Client, key: ObjectKey, change: Callable[[JsonObject], JsonObject | None]
) -> JsonObject:
    current = await client.get(key)
    wanted = change(copy.deepcopy(current))
    return current if wanted is None or wanted == current else await client.update(wanted)


async def ensure(client: Client, body: JsonObject) -> JsonObject:
    """Create the object, or make the fields of `body` so in the one that is there.

    Works on any server by merge patch, with no field managers involved; lists are replaced.
    """
    key = ObjectKey(body["kind"], body["metadata"].get("namespace", ""), body["metadata"]["name"])
    try:
        current = await client.get(key)
    except NotFound:
        try:
            return await client.create(body)
        except AlreadyExists:
            current = await client.get(key)
    if _covers(current, body):
        return current
    return await client.patch(key, body, Patch.MERGE)


async def patch_status(client: Client, key: ObjectKey, status: JsonObject) -> None:
    """Merge `status` into an object's status; an object that is gone by now is no failure."""
    body = msgspec.json.encode({"status": status})
    try:
        await client.patch(key, body, Patch.MERGE, subresource="status")
    except NotFound:
        return


def _covers(current: Json, wanted: Json) -> bool:
    """Whether `current` already says everything `wanted` says."""
    if isinstance(wanted, dict):
        return isinstance(current, dict) and all(
            _covers(current.get(name), value) for name, value in wanted.items()
        )
    return bool(current == wanted)
