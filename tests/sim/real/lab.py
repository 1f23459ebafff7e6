"""Real Envoys that take any mesh's configuration, one after the other, and are asked questions."""

import asyncio
import datetime
import json
import os
import random
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import unquote

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meltemi.base.identity import Identity, identity_from_uri
from meltemi.base.redacted import Redacted
from meltemi.base.resource import NodeInfo
from meltemi.ca import sign
from meltemi.protos import Protos
from meltemi.proxy.bootstrap import bootstrap
from meltemi.proxy.envoy import envoy_argv, envoy_path
from meltemi.proxy.messages import Codec
from meltemi.proxy.sds import SdsServer
from meltemi.proxy.spec import CERTIFICATE, ROOTS, ProxySpec
from meltemi.proxy.upstream import SERVICE
from meltemi.simulate.request import Request, Speaks
from meltemi.simulate.trace import Trace
from meltemi.simulate.world import Raw
from tests.certificates import Signed

from . import client, echo, names, networks
from .client import Answer
from .plane import CANARY_PORT, Plane

_AT_ONCE = 16
_LIMIT = 20.0


class Seen(NamedTuple):
    """What a real mesh made of one question."""

    answer: Answer
    log: dict[str, Any]
    """The client proxy's access log of it; empty: it has none."""
    app: dict[str, Any]
    """What the application says it got; empty: it was not reached."""
    mirrored: tuple[str, ...]
    """Addresses that got a copy."""


class Lab:
    """Use as an async context manager, as root."""

    def __init__(
        self,
        directory: Path,
        protos: Protos,
        identities: Iterable[Identity],
        *,
        hosts: Sequence[str] = (),
        place: str = "",
    ) -> None:
        """`hosts`: names that the echo server's certificate has beside the identities. `place`:
        the Envoys' locality; they then know their peers."""
        self._place = place
        self._directory = directory
        self.roots = directory / "roots.crt"
        """Who signed that certificate."""
        self._identities = list(identities)
        self._hosts = hosts
        self._plane = Plane(protos, str(directory / "access.log"))
        self._stack = AsyncExitStack()
        self._log = _Tail(directory / "access.log")
        self._echo_log = _Tail(directory / "echo.log")
        self._random = random.Random(0)
        self._processes: dict[str, int] = {}
        self._served: list[str] = []
        self._kind = ""

    async def __aenter__(self) -> Self:
        self._here, self._there = networks.joined()
        self._stack.callback(self._here.close)
        self._stack.callback(self._there.close)
        authority = self._authority = self._new_authority()
        server = await self._plane.serve(str(self._directory / "ads.sock"))
        self._stack.push_async_callback(server.stop, None)
        for how in ("plain", "tls", "mutual"):
            path = str(self._directory / f"bytes-{how}.sock")
            listening = await asyncio.start_unix_server(_bytes_server(how), path)
            self._stack.callback(listening.close)
        await self._stack.enter_async_context(names.serving(self._here.datagrams(names.PORT)))
        self._start_echo()
        mine = [Identity("cluster.local", "default", "client")]
        self._client = await self._start_envoy("client", self._here, authority, mine)
        self._server = await self._start_envoy("server", self._there, authority, self._identities)
        await self._plane.connected(2)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def configure(self, raw: Raw, proxy: NodeInfo | None, server: NodeInfo | None) -> None:
        """Give the Envoys the configuration of a client's proxy and of a server's."""
        roles = {}
        if proxy is not None:
            roles[self._client] = proxy
        if server is not None:
            roles[self._server] = server
        served = [server.ip] if server is not None else []
        kind = proxy.kind if proxy is not None else self._kind
        if served != self._served or kind != self._kind:
            # Connections kept open would still lead to who had a sidecar before, and no listener
            # of a sidecar may become one of a gateway: Envoy crashes when it is given a socket.
            await self._plane.configure({}, {})
            self._kind = kind
            networks.serve(self._there, served)
            self._served = served
        names = [n for n, node in (("client", proxy), ("server", server)) if node is not None]
        await self._plane.configure(raw, roles, lambda: self._warm(names))
        networks_in_use = [
            network
            for network, node in ((self._here, proxy), (self._there, server))
            if node is not None
        ]
        for network in networks_in_use:
            await self._workers_have_it(network)

    async def _warm(self, roles: Sequence[str]) -> None:
        """A listener that was acknowledged opens once its secrets are there, too."""
        async with asyncio.timeout(_LIMIT):
            for role in roles:
                while not is_warm(await self.admin("/stats?filter=_warming", role=role)):
                    pass

    async def _workers_have_it(self, network: networks.Network) -> None:
        """Ask the canary until it tells the newest revision."""
        async with asyncio.timeout(_LIMIT):
            while await self._canary(network) != self._plane.canary:  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    async def opened(self, ports: Iterable[int]) -> None:
        """Wait until a gateway takes connections: a port with certificates opens when they are
        there, which is later than the canary."""
        async with asyncio.timeout(_LIMIT):
            for port in ports:
                while not await self._opens(port):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)

    async def _opens(self, port: int) -> bool:
        sock = self._here.socket(marked=True)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except OSError:
            return False
        finally:
            sock.close()
        return True

    async def _canary(self, network: networks.Network) -> str:
        sock = network.socket(marked=True)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", CANARY_PORT))
            return (await asyncio.get_running_loop().sock_recv(sock, 100)).decode()
        except OSError:
            return ""
        finally:
            sock.close()

    async def ask(self, trace: Trace, count: int = 1) -> list[Seen]:
        """Send a trace's request for real, so many times; what became of each."""
        return await self.ask_all([trace] * count)

    async def ask_all(self, traces: Sequence[Trace]) -> list[Seen]:
        """Send the requests of many traces, some at once; what became of each."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(trace: Trace) -> Answer:
            async with gate:
                return await self._one(trace)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(trace), name="question") for trace in traces]
        answers = [task.result() for task in tasks]
        asked = list(zip(traces, answers, strict=True))
        # A client without a proxy has no log: an entry of its port is the server's.
        proxied = {a.port for t, a in asked if t.listener is not None}
        logs = {p: e for p, e in (await self._log.entries(proxied)).items() if p in proxied}
        copied = [logs.get(a.port, {}) for t, a in asked if any(m.share >= 1 for m in t.mirrors)]
        copies = await self._echo_log.copies({log["id"] for log in copied if log.get("id")})
        return [_seen(answer, logs.get(answer.port, {}), copies) for answer in answers]

    async def connect(self, address: str, port: int, *, captured: bool = True) -> socket.socket:
        """A connection from the client's pod; uncaptured ones reach what its Envoy opens itself."""
        sock = self._here.socket(marked=not captured)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def send(
        self, address: str, port: int, request: Request, *, captured: bool = True
    ) -> Answer:
        """One HTTP request from the client's pod to an address of the mesh."""
        sock = await self.connect(address, port, captured=captured)
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            return await client.http(reader, writer, request, sock.getsockname()[1])
        finally:
            writer.close()

    def serving(self, port: int) -> socket.socket:
        """Takes connections to a port of `networks.OWN_PORTS` of any server's address."""
        return self._there.listener(port)

    def pid(self, role: str = "client") -> int:
        """The process of an Envoy: `client` or `server`."""
        return self._processes[role]

    async def admin(self, path: str, *, role: str = "client", method: str = "GET") -> str:
        """What an Envoy's admin interface answers."""
        reader, writer = await asyncio.open_unix_connection(self._directory / role / "admin.sock")
        try:
            request = Request("admin", path=path, method=method)
            return (await client.http(reader, writer, request, 0)).body.decode()
        finally:
            writer.close()

    async def arrivals(self, least: int = 0) -> list[dict[str, Any]]:
        """What reached applications since the last time, once so many requests are there."""
        found = self._echo_log.read()
        for _ in range(200):
            await asyncio.sleep(0.03)
            more = self._echo_log.read()
            found += more
            if not more and len(found) >= least:
                break
        return found

    async def _one(self, trace: Trace) -> Answer:
        """A stranger meets a gateway at its own port; a client without a proxy is not captured."""
        connection, request = trace.connection, trace.request
        at_gateway = bool(trace.proxy) and not connection.source
        target = ("127.0.0.1" if at_gateway else connection.address, connection.port)
        if not trace.proxy:
            place = self._random.choice(trace.branches[0].places)
            target = (place.address, place.port)
        sock = self._here.socket(marked=at_gateway or not trace.proxy)
        try:
            await asyncio.get_running_loop().sock_connect(sock, target)
        except OSError:
            sock.close()
            return Answer(0, (), b"", 0)
        port = sock.getsockname()[1]
        encrypted = connection.speaks is Speaks.TLS
        try:
            reader, writer = await asyncio.open_connection(
                sock=sock,
                ssl=client.tls(connection.sni, connection.alpn) if encrypted else None,
                server_hostname=(connection.sni or "") if encrypted else None,
            )
        except (OSError, EOFError):
            sock.close()
            return Answer(0, (), b"", port)
        try:
            if request is None and connection.alpn:
                request = Request(connection.sni)
            if request is None:
                return await client.exchange(reader, writer, port)
            return await client.http(reader, writer, request, port)
        finally:
            writer.close()

    def certificate(self, *names: str) -> Signed:
        """A certificate that the echo server believes, for DNS names and SPIFFE URIs."""
        uris = [identity_from_uri(name) for name in names if "://" in name]
        hosts = [name for name in names if "://" not in name]
        return Signed(*_pair(self._authority, uris, hosts))

    async def secure(
        self, address: str, port: int, request: Request, context: ssl.SSLContext
    ) -> tuple[Answer, str]:
        """One request in TLS of its own to a pod, from a client without a proxy, with the DNS
        names that the server showed. Raises ssl.SSLError, ConnectionError."""
        sock = self._here.socket(marked=True)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=context, server_hostname=request.authority
        )
        try:
            shown = writer.get_extra_info("peercert") or {}
            names = ",".join(name for _, name in shown.get("subjectAltName", ()))
            return await client.http(reader, writer, request, sock.getsockname()[1]), names
        finally:
            writer.close()

    def _new_authority(self) -> sign.Authority:
        """A root, and the echo server's certificate for every identity there is."""
        key = ec.generate_private_key(ec.SECP256R1())
        authority = sign.self_signed(key, "cluster.local", now=_now(), serial=1)
        chain, echo_key = _pair(authority, self._identities, self._hosts)
        (self._directory / "echo.crt").write_bytes(chain)
        (self._directory / "echo.key").write_bytes(echo_key)
        self.roots.write_bytes(authority.roots)
        return authority

    def _start_echo(self) -> None:
        path = self._directory / "echo.json"
        path.write_text(json.dumps(echo.bootstrap(self._directory)))
        argv = [
            *(str(envoy_path()), "--config-path", str(path), "--concurrency", "1"),
            *("--disable-hot-restart", "--log-level", "error"),
            *("--file-flush-interval-msec", "20"),
        ]
        self._run("echo", self._there, argv)

    async def _start_envoy(
        self,
        role: str,
        network: networks.Network,
        authority: sign.Authority,
        identities: Sequence[Identity],
    ) -> str:
        """An Envoy with a pod's own bootstrap; it waits for a role. Answers its node id."""
        directory = self._directory / role
        directory.mkdir()
        spec = ProxySpec(
            kind="sidecar",
            namespace="default",
            name=role,
            uid=role,
            ip="10.44.255.1",
            node_name="",
            service_account=role,
            labels={"istio-locality": self._place},
            annotations={
                "sidecar.istio.io/logLevel": "error",
                "sidecar.istio.io/statsInclusionPrefixes": "cluster,vhost,http,tcp,mongo,listener",
            },
            workload=role,
            env={"ISTIO_META_ENABLE_SELF_DISCOVERY": "true"} if self._place else {},
            directory=str(directory),
            xds_target=f"unix:{self._directory / 'ads.sock'}",
            token=Redacted(b""),
            socket_mark=networks.MARK,
        )
        config = bootstrap(spec)
        config["static_resources"]["listeners"] = []
        config["typed_dns_resolver_config"] = names.RESOLVER
        Path(spec.bootstrap_path).write_text(json.dumps(config))
        codec = Codec()
        sds = await self._stack.enter_async_context(
            SdsServer(spec.sds_path, codec, name=role, carry=self._carry)
        )
        chain, key = _pair(authority, identities)
        sds.publish(
            [
                codec.certificate_secret(CERTIFICATE, "1", chain, Redacted(key)),
                codec.roots_secret(ROOTS, "1", authority.roots),
            ]
        )
        argv = [*envoy_argv(envoy_path(), spec), "--file-flush-interval-msec", "20"]
        argv[argv.index("--drain-time-s") + 1] = "1"
        self._processes[role] = self._run(role, network, argv)
        return str(config["node"]["id"])

    async def _carry(self, method: str, requests: Any, context: Any) -> None:
        """As the agent does, but to a control plane that believes whoever asks."""
        async with grpc.aio.insecure_channel(f"unix:{self._directory / 'ads.sock'}") as channel:
            call = channel.stream_stream(f"/{SERVICE}/{method}")(requests)
            async for body in call:
                await context.write(body)

    def _run(self, name: str, network: networks.Network, argv: Sequence[str]) -> int:
        log = os.open(self._directory / f"{name}.out", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        process = network.start(argv, log)
        os.close(log)
        self._stack.callback(_end, process)
        return process.pid


def is_warm(stats: str) -> bool:
    return all(line.endswith(": 0") for line in stats.splitlines() if "warming" in line)


class _Tail:
    """A log that Envoy writes, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def read(self) -> list[dict[str, Any]]:
        """What was written since the last time."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                body = file.read()
        except FileNotFoundError:
            return []
        whole = body[: body.rfind(b"\n") + 1]
        self._at += len(whole)
        found = [json.loads(line) for line in whole.splitlines()]
        return found

    async def entries(self, ports: set[int]) -> dict[int, dict[str, Any]]:
        """The entries of connections from these ports, once they are all there."""
        found: dict[int, dict[str, Any]] = {}
        for _ in range(50):
            for entry in self.read():
                client_address = entry.get("client") or ""
                port = int(client_address.rpartition(":")[2] or 0)
                if entry.get("status") or entry.get("flags") or port not in found:
                    found[port] = entry
            if ports - {0} <= found.keys():
                break
            await asyncio.sleep(0.01)
        return found

    async def copies(self, expected: set[str]) -> dict[str, list[str]]:
        """Addresses by request id; waits for a second one where a copy is expected."""
        found: dict[str, list[str]] = {}
        for _ in range(50):
            for entry in self.read():
                found.setdefault(entry.get("id") or "", []).append(entry["address"])
            if all(len(found.get(one, ())) > 1 for one in expected):
                break
            await asyncio.sleep(0.01)
        return found


def _seen(answer: Answer, log: dict[str, Any], copies: dict[str, list[str]]) -> Seen:
    app: dict[str, Any] = {}
    if (answer.header("content-type") or "").startswith("application/grpc"):
        # Envoy tells gRPC clients what a filter answers in a header.
        said = unquote(answer.header("grpc-message") or "")
        app = json.loads(said) if said.startswith("{") else {}
    elif answer.header("x-from-app") or (answer.status == 0 and answer.body.startswith(b"{")):
        app = json.loads(answer.body)
    addresses = list(copies.get(log["id"], ())) if log.get("id") else []
    if app.get("address") in addresses:
        addresses.remove(app["address"])
    return Seen(answer, log, app, tuple(addresses))


def _pair(
    authority: sign.Authority, identities: Sequence[Identity], hosts: Sequence[str] = ()
) -> tuple[bytes, bytes]:
    """A certificate for several identities at once, and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives: list[x509.GeneralName] = [
        *(x509.UniformResourceIdentifier(one.uri) for one in identities),
        *(x509.DNSName(host) for host in hosts),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - datetime.timedelta(hours=1))
        .not_valid_after(_now() + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=True)
        .sign(authority.key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), sign.key_pem(key)


def _bytes_server(how: str) -> Any:
    """Answers any bytes with where they went, as the PROXY header before them says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        header = (await reader.readline()).decode().split()
        await reader.read(1)
        told = {
            "address": f"{header[3]}:{header[5]}",
            "tls": how != "plain",
            "peer": "mutual" if how == "mutual" else "",
            "sni": None,
            "headers": [],
        }
        writer.write(json.dumps(told).encode())
        writer.close()

    return serve


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)
