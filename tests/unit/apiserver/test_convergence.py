"""List and watch converge to the same state, however often and wherever they break."""

import asyncio
import contextlib
import json
import random

import aiohttp
import pytest

from meltemi.local.apiserver.server import Running

from .conftest import CONFIG_MAPS, Api, Json

STEPS = 150
NAMES = [f"n{number}" for number in range(12)]
COLOURS = ("red", "blue")
SELECTIONS = (
    "",
    "labelSelector=colour=red",
    "labelSelector=colour!=red",
    "fieldSelector=metadata.name=n3",
)


class Mirror:
    """What one client believes, from its lists and watches alone.

    `lists`: it begins with a list; else with a watch that sends what there is.
    """

    def __init__(self, api: Api, chance: random.Random, selection: str, *, lists: bool) -> None:
        self.api = api
        self.chance = chance
        self.selection = selection
        self.lists = lists
        self.state: dict[str, str] = {}
        self.version = 0
        self.breaks = 0

    async def follow(self, last: "asyncio.Future[int]") -> None:
        """Until the last write has been seen, or everything after it."""
        while not last.done() or self.version < last.result():
            if not self.version or self.chance.random() < 0.05:
                await self.start_over()
            await self.watch()

    async def start_over(self) -> None:
        self.state, self.version = {}, 0
        if self.lists:
            listed = await self.api.get(f"{CONFIG_MAPS}?{self.selection}")
            self.state = {i["metadata"]["name"]: shown(i) for i in listed["items"]}
            self.version = int(listed["metadata"]["resourceVersion"])

    async def watch(self) -> None:
        """Follow until the connection breaks, after so many bytes, or its second is over."""
        query = f"watch=true&allowWatchBookmarks=true&timeoutSeconds=1&{self.selection}"
        query += f"&resourceVersion={self.version}" if self.version else "&sendInitialEvents=true"
        left, rest = self.chance.choice((1, 300, 700, 5000, 100_000)), b""
        async with self.api.session.get(f"{self.api.url}{CONFIG_MAPS}?{query}") as reply:
            with contextlib.suppress(aiohttp.ClientError):
                async for chunk in reply.content.iter_any():
                    *lines, rest = (rest + chunk[:left]).split(b"\n")
                    for line in lines:
                        self.take(json.loads(line))
                    left -= len(chunk)
                    if left <= 0:
                        break
            reply.close()
        self.breaks += 1
        if not self.version:
            self.state = {}

    def take(self, event: Json) -> None:
        if event["type"] == "ERROR":
            assert event["object"]["code"] == 410
            self.version = 0
            return
        found, meta = event["object"], event["object"]["metadata"]
        version = int(meta["resourceVersion"])
        if event["type"] == "DELETED":
            del self.state[meta["name"]]
        elif event["type"] != "BOOKMARK":
            assert (meta["name"] in self.state) == (event["type"] == "MODIFIED")
            self.state[meta["name"]] = shown(found)
        if self.version:
            assert version > self.version or event["type"] == "BOOKMARK", "versions only grow"
        if self.version or event["type"] == "BOOKMARK":
            self.version = version


def shown(found: Json) -> str:
    return json.dumps([found.get("data"), found["metadata"].get("labels")])


async def write(api: Api, server: Running, chance: random.Random) -> None:
    for step in range(STEPS):
        name = chance.choice(NAMES)
        path = f"{CONFIG_MAPS}/{name}"
        if chance.random() < 0.3:
            await api.call("DELETE", path)
        else:
            meta = {"name": name, "labels": {"colour": chance.choice(COLOURS)}}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}
            await api.apply(path, {**body, "data": {"step": str(step)}}, force=True)
        if chance.random() < 0.03:
            server.operations.store.forget_history()


@pytest.mark.parametrize("seed", range(3))
async def test_every_client_comes_to_know_what_there_is(
    api: Api, server: Running, seed: int
) -> None:
    chance = random.Random(seed)
    mirrors = [
        Mirror(api, random.Random(f"{seed} {selection} {lists}"), selection, lists=lists)
        for selection in SELECTIONS
        for lists in (True, False)
    ]
    last = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for mirror in mirrors:
            group.create_task(mirror.follow(last))
        await write(api, server, chance)
        last.set_result(server.operations.store.committed)
    for mirror in mirrors:
        listed = await api.get(f"{CONFIG_MAPS}?{mirror.selection}")
        assert mirror.state == {i["metadata"]["name"]: shown(i) for i in listed["items"]}
    assert sum(mirror.breaks for mirror in mirrors) > len(mirrors) * 3
