"""Members of a WorkloadGroup: their entries, and their health."""

import asyncio
from typing import Any

import msgspec
import pytest

from meltemi.api.decode import decode
from meltemi.api.workload_entry import (
    Exec,
    HttpGet,
    HttpHeader,
    ReadinessProbe,
    TcpSocket,
    WorkloadGroup,
)
from meltemi.base.clock import SystemClock
from meltemi.base.keys import ObjectKey
from meltemi.local.node.errors import NetworkFailed
from meltemi.local.workload import network
from meltemi.local.workload.entry import entry_of_group
from meltemi.local.workload.health import Health
from meltemi.local.workload.network import Place, free_place

GROUP = {
    "kind": "WorkloadGroup",
    "metadata": {"name": "vm", "namespace": "shop", "uid": "u"},
    "spec": {
        "metadata": {"labels": {"app": "db"}, "annotations": {"team": "a"}},
        "template": {
            "ports": {"tcp": 5432},
            "labels": {"version": "v2"},
            "locality": "eu/a",
            "weight": 3,
            "serviceAccount": "db",
            "network": "far",
        },
        "probe": {"tcpSocket": {"port": 5432}},
    },
}


def group() -> WorkloadGroup:
    found = decode("WorkloadGroup", msgspec.json.encode(GROUP)).value
    assert isinstance(found, WorkloadGroup)
    return found


def test_a_member_is_what_its_group_says() -> None:
    made = entry_of_group(group(), "10.46.0.2", ports={"more": 1})
    meta = made["metadata"]
    assert meta["name"] == "vm-10-46-0-2"
    assert meta["annotations"] == {
        "team": "a",
        "istio.io/autoRegistrationGroup": "vm",
        "istio.io/workloadController": "meltemi",
        "proxy.istio.io/health-checks-enabled": "true",
    }
    assert meta["ownerReferences"][0]["name"] == "vm"
    assert made["spec"] == {
        "network": "far",
        "address": "10.46.0.2",
        "labels": {
            "app": "db",
            "version": "v2",
            "service.istio.io/canonical-name": "db",
            "security.istio.io/tlsMode": "istio",
        },
        "serviceAccount": "db",
        "ports": {"tcp": 5432, "more": 1},
        "locality": "eu/a",
        "weight": 3,
    }


def test_without_a_proxy_a_member_is_plain_and_its_health_its_own() -> None:
    made = entry_of_group(group(), "192.168.1.7", name="old", has_proxy=False)
    assert made["metadata"]["name"] == "old"
    assert made["spec"]["labels"]["security.istio.io/tlsMode"] == "disabled"
    assert "proxy.istio.io/health-checks-enabled" not in made["metadata"]["annotations"]


def test_places_are_taken_in_turn() -> None:
    assert free_place(["lo", "mvm1"]) == Place(2)
    assert (Place(2).gateway, Place(2).address) == ("10.46.0.9", "10.46.0.10")


def test_without_root_the_reason_is_said(monkeypatch: Any) -> None:
    monkeypatch.setattr(network.os, "geteuid", lambda: 1000)
    with pytest.raises(NetworkFailed, match="needs root"):
        network.check_machine()


class Api:
    """Takes status patches; `told` has what they say."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.changed = asyncio.Event()

    async def patch(self, _key: ObjectKey, body: Any, *_args: Any, **_more: Any) -> Any:
        data = msgspec.json.decode(body) if isinstance(body, bytes) else body
        self.told.append(data["status"]["conditions"][0]["status"])
        self.changed.set()
        return data


async def first_answer(probe: ReadinessProbe) -> str:
    api = Api()
    key = ObjectKey("WorkloadEntry", "shop", "vm")
    health = Health(api, SystemClock(), key, probe, "")  # type: ignore[arg-type]
    task = asyncio.create_task(health.run())
    try:
        async with asyncio.timeout(10):
            await api.changed.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return api.told[0]


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    asked = await reader.readuntil(b"\r\n\r\n")
    good = asked.startswith(b"GET /ok ") and b"x-key: yes" in asked and b"Host: me" in asked
    writer.write(b"HTTP/1.0 200 OK\r\n\r\n" if good else b"HTTP/1.0 500 No\r\n\r\n")
    writer.close()


async def test_probes_ask_by_http_connection_and_command() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    headers = (HttpHeader(name="x-key", value="yes"),)
    async with server:
        good = HttpGet(path="/ok", port=port, host="me", http_headers=headers)
        bad = HttpGet(path="/bad", port=port)
        assert await first_answer(ReadinessProbe(http_get=good)) == "True"
        assert await first_answer(ReadinessProbe(http_get=bad)) == "False"
        assert await first_answer(ReadinessProbe(tcp_socket=TcpSocket(port=port))) == "True"
    assert await first_answer(ReadinessProbe(tcp_socket=TcpSocket(port=port))) == "False"
    assert await first_answer(ReadinessProbe(exec=Exec(command=("true",)))) == "True"
    assert await first_answer(ReadinessProbe(exec=Exec(command=("false",)))) == "False"


async def test_probes_follow_their_thresholds() -> None:
    """Two good answers make it healthy again, three bad ones unhealthy; slow ones are bad."""
    answers = [True, False, False, False, True, True]
    api = Api()
    waits: list[float] = []
    probe = ReadinessProbe(
        tcp_socket=TcpSocket(port=1),
        initial_delay_seconds=7,
        period_seconds=5,
        timeout_seconds=2,
        success_threshold=2,
        failure_threshold=3,
    )
    key = ObjectKey("WorkloadEntry", "shop", "vm")
    told_after: list[int] = []

    async def check() -> bool:
        told_after.append(len(api.told))
        if not answers:
            raise asyncio.CancelledError
        return answers.pop(0)

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    health = Health(api, SystemClock(), key, probe, "", sleep=sleep)  # type: ignore[arg-type]
    health.check = check  # type: ignore[method-assign]
    await asyncio.gather(asyncio.create_task(health.run()), return_exceptions=True)
    assert waits[:2] == [7, 5]
    assert api.told == ["True", "False", "True"]
    assert told_after == [0, 1, 1, 1, 2, 2, 3]
