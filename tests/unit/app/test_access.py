"""Who is sent Secrets: the proved identity decides, and the API server has the last word."""

import asyncio

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

    async def sleep(seconds: float) -> None:
        clock.seconds += seconds
        await asyncio.sleep(0)

    return ProxyAccess(
        api,  # type: ignore[arg-type]
        clock,
        identity_of=PEERS.get,
        workload=workload,
        sleep=sleep,
    )


def gateway(name: str = "front-1", namespace: str = "istio-system") -> NodeInfo:
    return node_from_id(f"router~10.0.0.1~{name}.{namespace}~x", {}, {})


async def test_a_gateway_whose_account_may_list_secrets_reads_them(
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


async def test_answers_are_remembered_for_their_identity_alone(
    access: ProxyAccess, api: Api, clock: Clock
) -> None:
    for _ in range(3):
        assert (await access.admit("unix-abstract:1", gateway())) is not None
    assert len(api.asked) == 1
    other = await access.admit("unix-abstract:2", gateway("other-1"))
    assert other is not None
    assert not other.reads_secrets
    api.allowed.clear()
    clock.seconds = 61.0
    again = await access.admit("unix-abstract:1", gateway())
    assert again is not None
    assert not again.reads_secrets


async def test_nobody_speaks_for_a_node_of_another_namespace(access: ProxyAccess) -> None:
    assert await access.admit("unix-abstract:3", gateway()) is None
    assert await access.admit("unix-abstract:9", gateway()) is None


async def test_the_machines_own_socket_proves_nothing(access: ProxyAccess, api: Api) -> None:
    node = await access.admit("unix:", gateway())
    assert node is not None
    assert not node.reads_secrets
    assert api.asked == []


async def test_a_gateway_comes_again_while_the_api_is_down(access: ProxyAccess, api: Api) -> None:
    api.is_down = True
    with pytest.raises(NotNow):
        await access.admit("unix-abstract:1", gateway())


async def test_a_right_that_is_taken_away_is_noticed_while_the_gateway_is_connected(
    access: ProxyAccess, api: Api
) -> None:
    node = await access.admit("unix-abstract:1", gateway())
    assert node is not None
    api.allowed.clear()
    heard: asyncio.Queue[NodeInfo] = asyncio.Queue()
    asking = asyncio.create_task(access.run({node.id: node}.get, heard.put_nowait))
    changed = await asyncio.wait_for(heard.get(), 10)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert changed.id == node.id
    assert not changed.reads_secrets
