"""The whole way of a Secret: from the control plane's port 15012, under the workload's certificate,
through the agent to Envoy; and no other way."""

import asyncio
import datetime
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meltemi.app.access import ProxyAccess
from meltemi.base.clock import SystemClock
from meltemi.base.identity import Identity
from meltemi.base.resource import CLUSTER, SECRET, Change, ProxyView, SetKey, seal
from meltemi.ca import sign
from meltemi.ca.edge import Edge
from meltemi.ca.server_identity import ServerIdentity
from meltemi.kube.client import AccessQuestion
from meltemi.protos.small import message_classes
from meltemi.proxy.ca_client import certificate_from_chain
from meltemi.proxy.keys import new_key_pair
from meltemi.proxy.messages import Codec
from meltemi.proxy.sds import SdsServer
from meltemi.proxy.spec import Target
from meltemi.proxy.upstream import SERVICE, Upstream
from meltemi.xds.cache import Cache
from meltemi.xds.server import Discovery
from meltemi.xds.status import Status

NODE = "sidecar~10.44.0.7~reviews.default~default.svc.cluster.local"
REVIEWS = Identity("cluster.local", "default", "reviews")
RATINGS = Identity("cluster.local", "default", "ratings")
ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
KEY = b"the very private key"


class Api:
    """Lets the account `reviews` list secrets, and nobody else."""

    async def review_access(self, question: AccessQuestion) -> bool:
        return question.user == "system:serviceaccount:default:reviews"


MESSAGES = message_classes(
    "asked",
    {
        "Node": {"id": (1, "string")},
        "Request": {
            "node": (2, "Node"),
            "resource_names": (3, "string*"),
            "type_url": (4, "string"),
        },
    },
)


def question(type_url: str, *names: str) -> bytes:
    """The first request of a stream."""
    message = MESSAGES["Request"](resource_names=names, type_url=type_url)
    message.node.id = NODE  # type: ignore[attr-defined]
    body: bytes = message.SerializeToString()
    return body


class Way:
    """A control plane with one Secret, its TLS port, and an agent's socket."""

    def __init__(self, directory: Path) -> None:
        self.xds = f"unix:{directory / 'xds.sock'}"
        self.sds = f"unix:{directory / 'sds.sock'}"
        key = ec.generate_private_key(ec.SECP256R1())
        self._root = sign.self_signed(key, "cluster.local", now=SystemClock().now(), serial=1)
        self._directory = directory
        self.upstream: Upstream

    def prove(self, who: Identity) -> None:
        """The agent holds a certificate of this identity from now on."""
        pair = new_key_pair(who)
        leaf = sign.leaf(
            self._root,
            sign.public_key_from_csr(pair.csr),
            sign.Names(identity=who),
            sign.Subject("", "", "", ""),
            lifetime=datetime.timedelta(hours=1),
            now=SystemClock().now(),
            serial=x509.random_serial_number(),
        )
        pem = leaf.public_bytes(serialization.Encoding.PEM)
        self.upstream.renew(certificate_from_chain([pem, self._root.roots], pair), pair)

    async def open(self, stack: AsyncExitStack) -> None:
        cache = Cache()
        secrets, clusters = SetKey(SECRET, "secrets/default"), SetKey(CLUSTER, "scope")
        sealed = {
            secrets: {"kubernetes://web": seal(SECRET, "kubernetes://web", KEY)},
            clusters: {"a": seal(CLUSTER, "a", b"")},
        }
        cache.apply(Change(1, sealed, {NODE: ProxyView(NODE, (secrets, clusters))}))
        identity = ServerIdentity(lambda: self._root, SystemClock())
        context = identity.context(verify_clients=True, alpn=("h2",))
        listening = socket.create_server(("127.0.0.1", 0))
        target = Target("127.0.0.1", listening.getsockname()[1])
        edge = await stack.enter_async_context(
            Edge(listening, context, self._directory / "xds.sock")
        )
        server = grpc.aio.server()
        access = ProxyAccess(
            Api(),  # type: ignore[arg-type]
            SystemClock(),
            identity_of=edge.identity_of,
            workload=lambda _key: None,
        )
        discovery = Discovery(
            cache,
            Status(cache),
            on_connect=lambda _node: None,
            on_disconnect=lambda _node: None,
            admit=access.admit,
            admit_secrets=access.admit_secrets,
        )
        discovery.ready.set()
        discovery.add_to(server)
        server.add_insecure_port(self.xds)
        await server.start()
        stack.push_async_callback(server.stop, None)
        self.upstream = await stack.enter_async_context(Upstream(target))
        sds = SdsServer(
            str(self._directory / "sds.sock"), Codec(), name="a", carry=self.upstream.carry
        )
        await stack.enter_async_context(sds)


@pytest.fixture
async def way(tmp_path: Path) -> AsyncIterator[Way]:
    made = Way(tmp_path)
    async with AsyncExitStack() as stack:
        await made.open(stack)
        yield made


@asynccontextmanager
async def asked(where: str, method: str, *requests: bytes) -> AsyncIterator[grpc.aio.Call]:
    async with grpc.aio.insecure_channel(where) as channel:
        stream = channel.stream_stream(method)()
        for request in requests:
            await stream.write(request)
        yield stream
        stream.cancel()


async def answer(stream: grpc.aio.Call) -> bytes:
    body: bytes = await asyncio.wait_for(stream.read(), 10)
    return body


async def refusal(stream: grpc.aio.Call) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer(stream)
    code: grpc.StatusCode = caught.value.code()
    return code


WEB = question(SECRET, "kubernetes://web")
STREAM = f"/{SERVICE}/StreamSecrets"


async def test_a_secret_comes_to_the_account_that_proves_itself(way: Way) -> None:
    """A stream that comes before the certificate waits for it; one that is open when the
    certificate is renewed ends, and the next is opened under the new one."""
    async with asked(way.sds, STREAM, WEB) as stream:
        way.prove(REVIEWS)
        assert KEY in await answer(stream)
        way.prove(REVIEWS)
        assert await refusal(stream) is not grpc.StatusCode.OK
    async with asked(way.sds, STREAM, WEB) as stream:
        assert KEY in await answer(stream)


async def test_an_account_that_may_not_list_secrets_gets_none(way: Way) -> None:
    way.prove(RATINGS)
    async with asked(way.sds, STREAM, WEB) as stream:
        assert await refusal(stream) is grpc.StatusCode.PERMISSION_DENIED


async def test_the_machines_own_socket_hands_out_no_secret(way: Way) -> None:
    async with asked(way.xds, STREAM, WEB) as stream:
        assert await refusal(stream) is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("first", [(WEB,), ()], ids=["secrets first", "clusters first"])
async def test_no_secret_travels_with_configuration(way: Way, first: tuple[bytes, ...]) -> None:
    """Only clusters are answered, whatever else is asked on the stream."""
    async with asked(way.xds, ADS, *first, question(CLUSTER), WEB, question(CLUSTER)) as stream:
        reply = await answer(stream)
        assert CLUSTER.encode() in reply
        assert KEY not in reply
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.read(), 0.3)
