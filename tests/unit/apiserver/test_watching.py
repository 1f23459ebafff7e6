"""Lists and watches: snapshots, versions, bookmarks, and that they always converge."""

import asyncio
import datetime
import json
from typing import Any

import aiohttp
import pytest

from meltemi.api.kinds import KINDS
from meltemi.local.apiserver import broadcast
from meltemi.local.apiserver import store as store_module
from meltemi.local.apiserver.broadcast import Broadcasts, Outlet, Selection
from meltemi.local.apiserver.forms import Form
from meltemi.local.apiserver.operations import User, Write
from meltemi.local.apiserver.registry import resource_of
from meltemi.local.apiserver.server import Running
from meltemi.local.apiserver.store import Entry

from .conftest import CONFIG_MAPS, PODS, Api, Json

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


async def make(api: Api, *names: str, **labels: str) -> list[Json]:
    return [
        await api.post(CONFIG_MAPS, {"metadata": {"name": name, "labels": labels}})
        for name in names
    ]


def names(listed: Json) -> list[str]:
    return [item["metadata"]["name"] for item in listed["items"]]


async def test_pages_come_from_one_moment(api: Api) -> None:
    await make(api, "a", "b", "c", "d", t="1")
    select = f"{CONFIG_MAPS}?labelSelector=t=1&limit=2"
    first = await api.get(select)
    assert first["metadata"]["remainingItemCount"] == 2
    await api.delete(f"{CONFIG_MAPS}/d")
    await make(api, "aa", t="1")
    more = first["metadata"]["continue"]
    second = await api.get(f"{select}&continue={more}")
    assert names(first) + names(second) == ["a", "b", "c", "d"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert await api.get(f"{select}&continue={more}") == second, "a retry sees the same page"
    assert (await api.call("GET", f"{select}&continue=nonsense")).status == 400


async def test_versions_of_lists(api: Api) -> None:
    [made] = await make(api, "a")
    version = int(made["metadata"]["resourceVersion"])
    for query, code in (
        ("resourceVersion=0", 200),
        (f"resourceVersion={version}&resourceVersionMatch=NotOlderThan", 200),
        (f"resourceVersion={version}&resourceVersionMatch=Exact", 200),
        (f"resourceVersion={version - 1}&resourceVersionMatch=Exact", 410),
        (f"resourceVersion={version + 1000}", 504),
        ("resourceVersionMatch=Exact", 400),
        ("resourceVersion=x", 400),
        ("limit=x", 400),
        ("labelSelector=!!", 400),
    ):
        assert (await api.call("GET", f"{CONFIG_MAPS}?{query}")).status == code, query


async def test_a_watch_goes_on_from_a_list(api: Api) -> None:
    listed = await api.get(CONFIG_MAPS)
    since = listed["metadata"]["resourceVersion"]
    await make(api, "a")
    async with api.watch(CONFIG_MAPS, f"resourceVersion={since}") as events:
        await api.patch(f"{CONFIG_MAPS}/a", {"data": {"x": "1"}})
        await api.delete(f"{CONFIG_MAPS}/a")
        seen = [await anext(events) for _ in range(3)]
    assert [e["type"] for e in seen] == ["ADDED", "MODIFIED", "DELETED"]
    assert seen[2]["object"]["data"] == {"x": "1"}
    versions = [int(e["object"]["metadata"]["resourceVersion"]) for e in seen]
    assert versions == sorted(set(versions))


async def test_leaving_a_selection_is_a_deletion(api: Api) -> None:
    await make(api, "a", t="1")
    async with api.watch(CONFIG_MAPS, "labelSelector=t=1") as events:
        assert (await anext(events))["type"] == "ADDED"
        await api.patch(f"{CONFIG_MAPS}/a", {"metadata": {"labels": {"t": "2"}}})
        assert (await anext(events))["type"] == "DELETED"
        await api.patch(f"{CONFIG_MAPS}/a", {"metadata": {"labels": {"t": "1"}}})
        assert (await anext(events))["type"] == "ADDED"


async def test_initial_events_end_with_a_bookmark(api: Api) -> None:
    await make(api, "a", "b")
    query = "sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    async with api.watch(CONFIG_MAPS, f"{query}&labelSelector=!x") as events:
        seen = [await anext(events) for _ in range(4)]
    assert [e["type"] for e in seen] == ["ADDED"] * 3 + ["BOOKMARK"]
    meta = seen[-1]["object"]["metadata"]
    assert meta["annotations"] == {"k8s.io/initial-events-end": "true"}
    answer = await api.call("GET", f"{CONFIG_MAPS}?watch=true&sendInitialEvents=true")
    assert b"allowWatchBookmarks" in answer.raw


async def test_the_time_of_a_watch_ends_with_a_bookmark(api: Api) -> None:
    async with api.watch(CONFIG_MAPS, "timeoutSeconds=1&allowWatchBookmarks=true") as events:
        seen = [event async for event in events]
    assert seen[-1]["type"] == "BOOKMARK"


async def test_a_version_that_is_too_old_is_gone(
    monkeypatch: pytest.MonkeyPatch, api: Api, server: Running
) -> None:
    monkeypatch.setattr(store_module, "HISTORY", 3)
    since = (await make(api, "a"))[0]["metadata"]["resourceVersion"]
    await api.post("/api/v1/namespaces/default/secrets", {"metadata": {"name": "s"}})
    store = server.operations.store
    store.forget_history()
    await make(api, "b", "c", "d", "e", "f")
    async with api.watch(CONFIG_MAPS, f"resourceVersion={since}") as events:
        event = await anext(events)
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    newest = server.operations.store.version
    async with api.watch(CONFIG_MAPS, f"resourceVersion={newest + 1000}") as events:
        assert (await anext(events))["object"]["code"] == 504


async def test_tables_and_metadata_are_listed_and_watched(api: Api, pod: Json) -> None:
    await api.post(PODS, pod)
    shown = await api.call("GET", PODS, accept=TABLE)
    columns = [c["name"] for c in shown.body["columnDefinitions"]]
    assert columns[:5] == ["Name", "Ready", "Status", "Restarts", "Age"]
    [row] = shown.body["rows"]
    assert row["cells"][:4] == ["web", "0/1", "Pending", "0"]
    assert row["object"]["kind"] == "PartialObjectMetadata"
    partial = await api.call(
        "GET", PODS, accept="application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    )
    assert partial.body["kind"] == "PartialObjectMetadataList"
    assert "spec" not in partial.body["items"][0]


async def test_a_watcher_that_does_not_read_is_cut_off(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "MOST_BEHIND", 1 << 20)
    big = {"metadata": {"name": "big"}, "data": {"x": "y" * 200_000}}
    await api.post(CONFIG_MAPS, big)
    query = "fieldSelector=metadata.name=big"
    async with (
        api.session.get(f"{api.url}{CONFIG_MAPS}?watch=true&{query}") as slow,
        api.watch(CONFIG_MAPS, query) as quick,
    ):
        async with asyncio.timeout(20):
            await anext(quick)
            for number in range(120):
                await api.patch(f"{CONFIG_MAPS}/big", {"data": {"n": str(number)}})
                assert (await anext(quick))["object"]["data"]["n"] == str(number)
        with pytest.raises(aiohttp.ClientError):
            await slow.read()


class Wire(asyncio.Transport):
    """A connection whose peer reads nothing, or everything."""

    def __init__(self, *, unread: int = 0) -> None:
        self.sent: list[bytes] = []
        self.unread = unread
        self.aborted = False

    def write(self, data: Any) -> None:
        self.sent.append(data)

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


async def test_an_event_is_encoded_once_for_all_who_watch_alike(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations, kind = server.operations, KINDS["ConfigMap"]
    broadcasts = Broadcasts(operations.store, operations.clock.now)
    encoded: list[str] = []
    raw = Form.raw

    def counted(form: Form, entry: Entry, now: datetime.datetime) -> bytes:
        encoded.append(entry.name)
        return raw(form, entry, now)

    monkeypatch.setattr(Form, "raw", counted)
    wires = [Wire() for _ in range(20)]
    stuck = Wire(unread=broadcast.MOST_BEHIND + 1)
    for wire in [*wires, stuck]:
        form = Form(operations.registry, kind, "v1")
        chosen = Selection(resource_of(kind), form, namespace="default", labels="", fields="")
        outlet = Outlet(wire)
        broadcasts.join(chosen, outlet)
        outlet.open()
    write = Write(User("me"))
    await operations.create(kind, "default", {"metadata": {"name": "one"}}, write)
    await operations.create(kind, "default", {"metadata": {"name": "two"}}, write)
    assert encoded == ["one", "two"]
    [first, second] = wires[0].sent
    assert all(wire.sent[0] is first and wire.sent[1] is second for wire in wires)
    assert (stuck.aborted, len(stuck.sent)) == (True, 1)
    assert not any(wire.aborted for wire in wires)


async def test_a_watch_over_http_1_0_is_refused(api: Api) -> None:
    async with aiohttp.ClientSession(
        connector=api.session.connector, connector_owner=False, version=aiohttp.HttpVersion10
    ) as old, old.get(f"{api.url}{CONFIG_MAPS}?watch=true") as reply:  # fmt: skip
        assert (reply.status, "HTTP/1.1" in (await reply.json())["message"]) == (400, True)


async def test_what_happens_while_the_first_events_are_sent_comes_after_them(api: Api) -> None:
    text = "y" * 500_000
    for number in range(10):
        await api.post(CONFIG_MAPS, {"metadata": {"name": f"n{number}"}, "data": {"x": text}})
    query = "fieldSelector=metadata.name!=kube-root-ca.crt"
    async with api.session.get(f"{api.url}{CONFIG_MAPS}?watch=true&{query}") as unread:
        await make(api, "late")
        seen = [json.loads(await unread.content.readuntil()) for _ in range(11)]
    assert [e["object"]["metadata"]["name"] for e in seen] == [
        *(f"n{number}" for number in range(10)),
        "late",
    ]
