"""Who is sent Secrets: the proved identity decides, and the API server has the last word."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from meltemi.app.access import ProxyAccess
from meltemi.base.clock import SystemClock
from meltemi.base.identity import Identity
from meltemi.base.keys import WorkloadKey
from meltemi.base.resource import NodeInfo, node_from_id
from meltemi.kube.client import AccessQuestion
from meltemi.kube.errors import KubeError
from meltemi.model.workload import Workload
from meltemi.xds.server import NotNow

FRONT = Identity("cluster.local", "istio-system", "front")
OTHER = Identity("cluster.local", "istio-system", "other")
FOREIGN = Identity("cluster.local", "shop", "front")
PEERS = {"unix-abstract:1": FRONT, "unix-abstract:2": OTHER, "unix-abstract:3": FOREIGN}


class Clock(SystemClock):
    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


class Api:
    """Answers reviews; who may is a set of users."""

    def __init__(self) -> None:
        self.allowed = {"system:serviceaccount:istio-system:front"}
        self.asked: list[AccessQuestion] = []
        self.is_down = False

    async def review_access(self, question: AccessQuestion) -> bool:
        if self.is_down:
            raise KubeError("down")
        self.asked.append(question)
        return question.user in self.allowed


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(api: Api, clock: Clock) -> ProxyAccess:
    def workload(_key: WorkloadKey) -> Workload | None:
        return None

    return ProxyAccess(
        api,  # type: ignore[arg-type]
        clock,
        identity_of=PEERS.get,
        workload=workload,
    )


def gateway(name: str = "front-1", account: str = "front") -> NodeInfo:
    node_id = f"router~10.0.0.1~{name}.istio-system~x"
    return node_from_id(node_id, {}, {"SERVICE_ACCOUNT": account})


def sidecar(account: str = "front") -> NodeInfo:
    node_id = "sidecar~10.0.0.2~web.istio-system~x"
    return node_from_id(node_id, {}, {"SERVICE_ACCOUNT": account})


async def test_a_gateway_whose_account_may_list_secrets_is_planned_with_them(
    access: ProxyAccess, api: Api
) -> None:
    node = await access.admit("unix-abstract:1", gateway())
    assert node is not None
    assert node.reads_secrets
    (question,) = api.asked
    assert (question.namespace, question.verb, question.resource) == (
        "istio-system",
        "list",
        "secrets",
    )


async def test_a_proxy_is_sent_secrets_only_if_its_account_may_list_them(
    access: ProxyAccess,
) -> None:
    for node in (gateway(), sidecar()):
        assert await access.admit_secrets("unix-abstract:1", node) is node
        assert await access.admit_secrets("unix-abstract:2", node) is None


async def test_answers_are_remembered_for_their_account_alone(
    access: ProxyAccess, api: Api, clock: Clock
) -> None:
    for _ in range(3):
        assert await access.admit_secrets("unix-abstract:1", gateway()) is not None
    assert len(api.asked) == 1
    assert await access.admit_secrets("unix-abstract:2", gateway("other-1")) is None
    api.allowed.clear()
    clock.seconds = 61.0
    assert await access.admit_secrets("unix-abstract:1", gateway()) is None


async def test_nobody_speaks_for_a_node_of_another_namespace(access: ProxyAccess) -> None:
    for peer in ("unix-abstract:3", "unix-abstract:9"):
        assert await access.admit(peer, gateway()) is None
        assert await access.admit_secrets(peer, gateway()) is None


async def test_the_machines_own_socket_proves_nothing(access: ProxyAccess) -> None:
    """What a proxy says of its account decides what it is planned, and nothing that it is sent."""
    assert await access.admit("unix:", gateway()) is not None
    assert await access.admit_secrets("unix:", gateway()) is None


async def test_a_gateway_comes_again_while_the_api_is_down(access: ProxyAccess, api: Api) -> None:
    api.is_down = True
    for admit in (access.admit, access.admit_secrets):
        with pytest.raises(NotNow):
            await admit("unix-abstract:1", gateway())


class Watched:
    """The loop that asks again, step by step."""

    def __init__(self, access: ProxyAccess, clock: Clock, node: NodeInfo) -> None:
        self.access = access
        self.clock = clock
        self.node = node
        self.needy: set[str] = set()
        self.passes: asyncio.Queue[float] = asyncio.Queue()
        self.done = asyncio.Event()

    def changed(self, node: NodeInfo) -> None:
        self.node = node

    async def wait(self, _after: int, _seconds: float) -> int:
        self.done.set()
        self.clock.seconds += await self.passes.get()
        return 0

    async def step(self, seconds: float = 0.0) -> None:
        self.done.clear()
        self.passes.put_nowait(seconds)
        await asyncio.wait_for(self.done.wait(), 10)

    async def run(self) -> None:
        await self.access.run({self.node.id: self.node}.get, self.changed, self.known, self.wait)

    def known(self) -> set[str]:
        return self.needy


@asynccontextmanager
async def watched(access: ProxyAccess, clock: Clock, node: NodeInfo) -> AsyncIterator[Watched]:
    found = Watched(access, clock, node)
    task = asyncio.create_task(found.run(), name="access")
    await asyncio.wait_for(found.done.wait(), 10)
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_right_that_is_taken_away_is_noticed_while_the_gateway_is_connected(
    access: ProxyAccess, api: Api, clock: Clock
) -> None:
    node = await access.admit("unix-abstract:1", gateway())
    assert node is not None
    async with watched(access, clock, node) as loop:
        api.allowed.clear()
        await loop.step(1.0)
        assert loop.node.reads_secrets
        await loop.step(60.0)
        assert not loop.node.reads_secrets


async def test_a_sidecar_is_asked_about_as_soon_as_it_needs_secrets(
    access: ProxyAccess, api: Api, clock: Clock
) -> None:
    node = await access.admit("unix:", sidecar())
    assert node is not None
    async with watched(access, clock, node) as loop:
        await loop.step(61.0)
        assert api.asked == []
        loop.needy.add(node.id)
        await loop.step()
        assert loop.node.reads_secrets
        again = await access.admit("unix:", sidecar())
        assert again is not None
        assert again.reads_secrets
