"""The proxy's containers: capture rules for istio-init, Envoy and the agent for istio-proxy."""

import asyncio
import contextlib
import logging
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from meltemi.base.redacted import Redacted
from meltemi.inject.rules import DNS_PORT, BadRules, capture_rules
from meltemi.local.node.errors import BadPod
from meltemi.local.node.launch import Place, proxy_start
from meltemi.local.node.machine import PROXY_USER, Machine
from meltemi.local.node.network import NAMESPACES, bound_in, nft
from meltemi.local.node.podspec import Container, Pod, TokenSource
from meltemi.local.node.process import Start
from meltemi.local.node.tokens import Tokens
from meltemi.local.node.volumes import Volumes
from meltemi.proxy.envoy import seconds, settings_of
from meltemi.proxy.errors import BadSpec, ProxyError
from meltemi.proxy.spec import ProxySpec

log = logging.getLogger(__name__)

_RULES = "istio-iptables"
_TOKEN = TokenSource("istio-token", audience="istio-ca", expiration_seconds=43200)


class Sidecar:
    """What a pod's proxy needs of the node, from its first start to the pod's end."""

    def __init__(
        self, machine: Machine, pod: Pod, place: Place, tokens: Tokens, volumes: Volumes
    ) -> None:
        self._volumes = volumes
        self._machine = machine
        self._pod = pod
        self._place = place
        self._tokens = tokens
        self._directory = machine.home.proxies / pod.metadata.uid.replace("-", "")[:12]
        self._is_served = False
        self._drain = 0.0
        """Seconds it goes on serving after it was told to end."""
        self._names: asyncio.Task[None] | None = None

    async def start(self, container: Container, env: Mapping[str, str]) -> Start:
        """The process of a container whose image is the proxy's. Raises BadPod, NetworkFailed."""
        args = (*container.command, *container.args)
        if args[:1] == (_RULES,):
            return await self._capture(args[1:], env)
        if args[:1] == ("proxy",) and args[1:2] in (("sidecar",), ("router",)):
            return await self._proxy(container, args[1], env)
        raise BadPod(
            f"container {container.name}: args {' '.join(args[:2]) or '(none)'}: the proxy image "
            f"runs `proxy sidecar`, `proxy router` or `{_RULES}`"
        )

    async def _capture(self, args: tuple[str, ...], env: Mapping[str, str]) -> Start:
        """Apply the rules in the pod's namespace; what is left to start is nothing."""
        try:
            script = capture_rules(args, proxy_mark=self._machine.proxy_mark)
        except BadRules as error:
            raise BadPod(f"istio-init: {error}") from error
        await nft(script, namespace=self._place.link.namespace)
        return Start(id=0, argv=("/bin/true",), env=env)

    async def _proxy(self, container: Container, kind: str, env: Mapping[str, str]) -> Start:
        meta = self._pod.metadata
        token = await self._tokens.get(_TOKEN)
        await asyncio.to_thread(self._make_directory)
        spec = ProxySpec(
            kind=kind,
            namespace=meta.namespace,
            name=meta.name,
            uid=meta.uid,
            ip=self._place.link.ip,
            also=self._place.link.ips[1:],
            node_name=self._machine.node_name,
            service_account=self._pod.spec.service_account_name,
            labels=meta.labels,
            annotations=meta.annotations,
            workload=env.get("ISTIO_META_WORKLOAD_NAME", meta.name),
            env=env,
            directory=str(self._directory),
            xds_target=f"unix:{self._machine.home.xds_socket}",
            token=token,
            socket_mark=self._machine.proxy_mark,
        )
        try:
            wanted = settings_of(spec).termination_drain_duration
            self._drain = seconds(wanted, "terminationDrainDuration")
            launch = await self._machine.agent.add(spec)
        except BadSpec as error:
            raise BadPod(str(error)) from error
        self._is_served = True
        if env.get("ISTIO_META_DNS_CAPTURE", "").lower() == "true":
            await self._serve_names()
        return proxy_start(
            self._machine,
            self._pod,
            container,
            launch,
            directory=self._directory,
            place=self._place,
            volumes=self._volumes,
        )

    async def _serve_names(self) -> None:
        """Answer the questions that the capture rules lead to the pod's own port 15053."""
        if self._names is not None:
            return
        path = str(NAMESPACES / self._place.link.namespace)
        sockets: list[socket.socket] = []
        try:
            for ip in self._place.link.ips:
                loopback = "::1" if ":" in ip else "127.0.0.1"
                sockets += await asyncio.to_thread(bound_in, path, loopback, DNS_PORT)
        except OSError as error:
            for sock in sockets:
                sock.close()
            raise BadPod(f"port {DNS_PORT} of the pod: {error.strerror}") from error
        server = self._machine.names.of_namespace(self._pod.metadata.namespace)
        self._names = asyncio.create_task(
            server.serve_on(*sockets), name=f"names of {self._pod.metadata.name}"
        )

    def _make_directory(self) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        if self._machine.is_root:
            os.chown(self._directory, PROXY_USER, PROXY_USER)

    async def renew(self, tokens: Tokens) -> None:
        """Hand the agent the present token. Raises KubeError."""
        if self._is_served:
            token: Redacted = await tokens.get(_TOKEN)
            meta = self._pod.metadata
            self._machine.agent.update_token(meta.namespace, meta.name, token)

    async def drain(self, *, is_alone: bool, limit: float) -> None:
        """Take no new connections; a gateway, alone in its pod, goes on serving for a while."""
        if not self._is_served:
            return
        meta = self._pod.metadata
        with contextlib.suppress(ProxyError, KeyError):
            await self._machine.agent.drain(meta.namespace, meta.name)
            if is_alone:
                await asyncio.sleep(min(self._drain, limit / 2))

    async def remove(self) -> None:
        """Stop serving the proxy and remove its files."""
        if self._names is not None:
            self._names.cancel()
            await asyncio.gather(self._names, return_exceptions=True)
        if self._is_served:
            await self._machine.agent.remove(self._pod.metadata.namespace, self._pod.metadata.name)
        await asyncio.to_thread(_remove, self._directory)


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
