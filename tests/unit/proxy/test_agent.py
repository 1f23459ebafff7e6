"""The agent with a real Envoy, a real CA service, and a control plane that says next to nothing."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from meltemi.base.clock import SystemClock
from meltemi.base.redacted import Redacted
from meltemi.ca.authenticate import Authenticator
from meltemi.ca.edge import Edge
from meltemi.ca.server_identity import ServerIdentity
from meltemi.ca.service import CertificateService, add_ca
from meltemi.kube.client import Review
from meltemi.kube.errors import NotFound
from meltemi.proxy.agent import Agent
from meltemi.proxy.envoy_admin import UnixHttp
from meltemi.proxy.errors import BadSpec
from meltemi.proxy.spec import CERTIFICATE, Launch, ProxySpec

CDS = b"type.googleapis.com/envoy.config.cluster.v3.Cluster"
LDS = b"type.googleapis.com/envoy.config.listener.v3.Listener"
POD = {
    "metadata": {
        "name": "reviews-v1-abc",
        "namespace": "default",
        "uid": "u1",
        "labels": {"app": "reviews", "version": "v1"},
    },
    "spec": {"serviceAccountName": "reviews"},
}


class FakeKube:
    """Knows one token and one pod."""

    async def review_token(self, token: Redacted, audiences: tuple[str, ...]) -> Review:
        if token != Redacted(b"e30.e30.c2ln"):
            return Review(authenticated=False, error="unknown")
        prefix = "authentication.kubernetes.io/pod-"
        extra = {f"{prefix}name": ("reviews-v1-abc",), f"{prefix}uid": ("u1",)}
        user = "system:serviceaccount:default:reviews"
        return Review(True, user, audiences=audiences, extra=extra)

    async def get_raw(self, key: Any) -> bytes:
        if key.name != "reviews-v1-abc":
            raise NotFound(404, "NotFound", str(key))
        return json.dumps(POD).encode()


class ControlPlane:
    """CA and an ADS that knows no resources, behind the TLS edge."""

    def __init__(self, path: Path, port: int, edge: Edge) -> None:
        self.path = path
        self.port = port
        self.edge = edge
        self.peers: asyncio.Queue[str] = asyncio.Queue()

    async def ads(self, requests: AsyncIterator[bytes], context: Any) -> None:
        identity = self.edge.identity_of(context.peer())
        self.peers.put_nowait(identity.uri if identity is not None else "")
        answered: set[bytes] = set()
        async for body in requests:
            for kind in (CDS, LDS):
                if kind in body and kind not in answered:
                    answered.add(kind)
                    await context.write(b"\x22" + bytes([len(kind)]) + kind + b"\x2a\x011")


@pytest.fixture
async def control_plane(tmp_path: Path, authority) -> AsyncIterator[ControlPlane]:
    clock = SystemClock()
    listener = socket.create_server(("127.0.0.1", 0))
    path = tmp_path / "cp.sock"
    serving = ServerIdentity(lambda: authority.root, clock)
    edge = Edge(listener, serving.context(verify_clients=True, alpn=("h2",)), path)
    plane = ControlPlane(path, listener.getsockname()[1], edge)
    kube: Any = FakeKube()
    authenticator = Authenticator(kube, clock, trust_domain="cluster.local")
    server = grpc.aio.server()
    add_ca(server, CertificateService(lambda: authority.root, authenticator, kube, clock))
    handler = grpc.stream_stream_rpc_method_handler(plane.ads)
    service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
    methods = {"DeltaAggregatedResources": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    async with edge:
        yield plane
    await server.stop(None)


@asynccontextmanager
async def envoy(launch: Launch, spec: ProxySpec) -> AsyncIterator[asyncio.subprocess.Process]:
    """Envoy on ports of its own choice, so that tests can run side by side."""
    _free_ports(spec)
    process = await asyncio.create_subprocess_exec(*launch.argv, env=dict(launch.env))
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _free_ports(spec: ProxySpec) -> None:
    file = Path(spec.bootstrap_path)
    config = json.loads(file.read_bytes())
    for listener in config["static_resources"]["listeners"]:
        if "socket_address" in listener["address"]:
            listener["address"]["socket_address"] |= {"port_value": 0, "address": "127.0.0.1"}
    file.write_text(json.dumps(config))


async def until(holds: Callable[[str], bool], agent: Agent, spec: ProxySpec) -> None:
    """Poll the reason for not being ready: it is another process whose state we wait for."""
    async with asyncio.timeout(20):
        while not holds(await agent.not_ready_because(*_key(spec))):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def ready(agent: Agent, spec: ProxySpec) -> None:
    await until(lambda reason: not reason, agent, spec)


async def port_of(spec: ProxySpec, name: str) -> int:
    page = json.loads(await admin(spec, "/listeners?format=json"))
    by_name = {x["name"]: x["local_address"] for x in page["listener_statuses"]}
    port: int = by_name[f"meltemi-{name}"]["socket_address"]["port_value"]
    return port


async def admin(spec: ProxySpec, path: str) -> bytes:
    async with UnixHttp(spec.admin_path) as http:
        return (await http.call("GET", path, seconds=5))[1]


async def serials(spec: ProxySpec) -> set[str]:
    certs = json.loads(await admin(spec, "/certs"))["certificates"]
    return {c["serial_number"] for cert in certs for c in cert.get("cert_chain", [])}


async def test_a_real_envoy_gets_its_certificate_and_renewals(
    control_plane, authority, make_spec, tmp_path
) -> None:
    spec = make_spec(xds_target=f"127.0.0.1:{control_plane.port}")
    agent = Agent(
        ca_target=spec.xds_target,
        clock=SystemClock(),
        random=random.Random(1),
        ca_roots=authority.root.roots,
        ca_server_name="istiod.istio-system.svc",
    )
    async with agent:
        async with envoy(await agent.add(spec), spec):
            peer = await asyncio.wait_for(control_plane.peers.get(), 20)
            assert peer == "spiffe://cluster.local/ns/default/sa/reviews"
            await ready(agent, spec)
            before = await serials(spec)
            page = await agent.metrics("default", "reviews-v1-abc")
            assert b"istio_agent_cert_expiry_seconds" in page
            assert b"envoy_server_live" in page

            identity = agent._pods[("default", "reviews-v1-abc")].identity  # type: ignore[index]
            await identity.renew()
            async with asyncio.timeout(10):
                while await serials(spec) == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        assert "does not answer" in await agent.not_ready_because("default", "reviews-v1-abc")


async def test_ports_probes_metrics_and_quit_through_a_real_envoy(
    control_plane, authority, make_spec
) -> None:
    seen: list[str] = []

    async def app(request: web.Request) -> web.Response:
        seen.append(f"{request.path} {request.headers.get('x-probe')} {request.remote}")
        return web.Response(text="app_metric 1\n", status=200 if request.path != "/bad" else 500)

    application = web.Application()
    application.router.add_get("/{path:.*}", app)
    async with TestServer(application) as server:
        headers = [{"name": "x-probe", "value": "yes"}]
        get = {"port": server.port, "httpHeaders": headers}
        probers = {
            "/app-health/c/readyz": {"httpGet": get | {"path": "/good"}},
            "/app-health/c/livez": {"httpGet": get | {"path": "/bad"}},
            "/app-health/c/startupz": {"tcpSocket": {"port": server.port}},
            "/app-health/d/startupz": {"tcpSocket": {"port": 1}},
        }
        scrape = {"scrape": "true", "port": str(server.port), "path": "/m"}
        env = {
            "ISTIO_KUBE_APP_PROBERS": json.dumps(probers),
            "ISTIO_PROMETHEUS_ANNOTATIONS": json.dumps(scrape),
        }
        spec = make_spec(env=env, xds_target=f"unix:{control_plane.path}")
        agent = Agent(ca_target=spec.xds_target, clock=SystemClock())
        async with agent, envoy(await agent.add(spec), spec) as process:
            await ready(agent, spec)
            status = f"http://127.0.0.1:{await port_of(spec, 'status')}"
            health = f"http://127.0.0.1:{await port_of(spec, 'health')}"
            stats = f"http://127.0.0.1:{await port_of(spec, 'prometheus')}"
            async with aiohttp.ClientSession() as session:

                async def get_status(url: str) -> int:
                    async with session.get(url) as reply:
                        return reply.status

                assert await get_status(f"{health}/healthz/ready") == 200
                assert await get_status(f"{health}/quitquitquit") == 404
                assert await get_status(f"{stats}/stats/prometheus") == 200
                assert await get_status(f"{stats}/config_dump") == 404
                assert await get_status(f"{status}/app-health/c/readyz") == 200
                assert await get_status(f"{status}/app-health/c/livez") == 500
                assert await get_status(f"{status}/app-health/c/startupz") == 200
                assert await get_status(f"{status}/app-health/d/startupz") == 500
                assert await get_status(f"{status}/app-health/none") == 404
                async with session.get(f"{status}/stats/prometheus") as reply:
                    assert b"\napp_metric 1\n" in await reply.read()
                async with session.post(f"{status}/quitquitquit") as reply:
                    assert reply.status == 200
            assert await asyncio.wait_for(process.wait(), 10) == 0
        assert "/good yes 127.0.0.6" in seen


async def test_a_pod_whose_authority_refuses_is_not_ready_and_says_why(
    control_plane, make_spec
) -> None:
    spec = make_spec(token=Redacted(b"e30.e30.AAAA"))
    async with Agent(ca_target=f"unix:{control_plane.path}", clock=SystemClock()) as agent:
        await agent.add(spec)
        await until(lambda reason: "unauthenticated" in reason, agent, spec)
        agent.update_token(*_key(spec), Redacted(b"e30.e30.c2ln"))
        await until(lambda reason: "no certificate" not in reason, agent, spec)
        await agent.remove(*_key(spec))
        await agent.remove(*_key(spec))


async def test_nothing_secret_is_written_down(authority, make_spec, clock, tmp_path) -> None:
    spec = make_spec()
    agent = Agent(ca_target="unix:/none", clock=clock, signer=authority, sleep=clock.sleep)
    clock.until = clock.now()
    async with agent:
        await agent.add(spec)
        await asyncio.wait_for(clock.finished.wait(), 5)
        assert agent._pods[_key(spec)].sds._secrets[CERTIFICATE].body.reveal()  # type: ignore[index]
        files = [p for p in tmp_path.rglob("*") if p.is_file()]
        assert [p.name for p in files] == ["bootstrap.json"]
        assert b"PRIVATE" not in files[0].read_bytes()


async def test_a_missing_directory_and_a_bad_lifetime_are_named(
    authority, make_spec, clock
) -> None:
    async with Agent(ca_target="unix:/none", clock=clock, signer=authority) as agent:
        with pytest.raises(BadSpec, match="/nowhere: No such file"):
            await agent.add(make_spec(directory="/nowhere"))
        with pytest.raises(BadSpec, match="SECRET_TTL"):
            await agent.add(make_spec(env={"SECRET_TTL": "soon"}))


def _key(spec: ProxySpec) -> tuple[str, str]:
    return (spec.namespace, spec.name)
