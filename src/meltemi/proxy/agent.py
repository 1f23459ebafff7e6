"""The agent of a node: the duties beside Envoy for all pods of the node, in one event loop.

On Kubernetes each pod has a process for this; here a pod costs one Envoy and nothing else.
Everything leads over unix sockets in the pod's directory, so network namespaces do not matter.
"""

import asyncio
import datetime
import hashlib
import logging
import random as random_module
import re
from contextlib import AsyncExitStack
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from meltemi.base.clock import Clock
from meltemi.base.keys import WorkloadKey
from meltemi.base.redacted import Redacted
from meltemi.proxy.app import app_from_spec
from meltemi.proxy.bootstrap import bootstrap, identity_of
from meltemi.proxy.ca_client import CaClient, Certificate
from meltemi.proxy.envoy import envoy_argv, envoy_path
from meltemi.proxy.errors import BadSpec
from meltemi.proxy.identity import Signer, Sleep, WorkloadIdentity
from meltemi.proxy.keys import KeyPair
from meltemi.proxy.local_http import LocalHttp
from meltemi.proxy.messages import Codec
from meltemi.proxy.sds import SdsServer
from meltemi.proxy.spec import CERTIFICATE, ROOTS, Launch, ProxySpec, Target
from meltemi.proxy.upstream import Upstream

log = logging.getLogger(__name__)

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


class _Pod:
    """What the agent holds for one pod."""

    def __init__(self, sds: SdsServer, identity: WorkloadIdentity, http: LocalHttp) -> None:
        self.sds = sds
        self.identity = identity
        self.http = http
        self.task: asyncio.Task[None] | None = None
        self.stack = AsyncExitStack()


class Agent:
    """Serves many pods. Use as an async context manager."""

    def __init__(
        self,
        *,
        ca_target: str,
        clock: Clock,
        random: random_module.Random | None = None,
        envoy: Path | None = None,
        ca_roots: bytes | None = None,
        ca_server_name: str = "",
        signer: Signer | None = None,
        sleep: Sleep = asyncio.sleep,
        secrets_target: Target | None = None,
    ) -> None:
        """`ca_target`: `unix:PATH`, or `host:port` whose certificate `ca_roots` (PEM) prove.

        `signer` replaces the gRPC client; `envoy` the installed binary. `secrets_target`: where
        the control plane hands out Secrets by mutual TLS; None: proxies get none.
        """
        self._secrets_target = secrets_target
        self._clock = clock
        self._random = random or random_module.Random()
        self._sleep = sleep
        self._envoy = envoy
        self._codec = Codec()
        self._ca = CaClient(ca_target, self._codec, roots=ca_roots, server_name=ca_server_name)
        self._signer: Signer = signer or self._ca
        self._version = metadata.version("meltemi")
        self._pods: dict[WorkloadKey, _Pod] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._ca)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for key in list(self._pods):
            await self.remove(key.namespace, key.name)
        await self._stack.aclose()

    async def add(self, spec: ProxySpec) -> Launch:
        """Serve a pod and write its bootstrap; returns how to start its Envoy.

        It does not wait for the certificate: Envoy starts meanwhile and gets it as soon as it
        is signed. A pod that is there already is replaced. Raises BadSpec.
        """
        key = WorkloadKey(spec.namespace, spec.name)
        await self.remove(*key)
        launch = self._prepare(spec)
        target = self._secrets_target
        upstream = Upstream(target) if target is not None else None
        pod = self._new_pod(spec, upstream)
        async with AsyncExitStack() as stack:
            if upstream is not None:
                await stack.enter_async_context(upstream)
            await stack.enter_async_context(pod.sds)
            await stack.enter_async_context(pod.http)
            pod.stack = stack.pop_all()
        pod.task = asyncio.create_task(pod.identity.run(), name=f"certificate of {key}")
        self._pods[key] = pod
        return launch

    async def remove(self, namespace: str, name: str) -> None:
        """Stop serving a pod; nothing happens when it isn't served."""
        pod = self._pods.pop(WorkloadKey(namespace, name), None)
        if pod is None:
            return
        if pod.task is not None:
            pod.task.cancel()
            await asyncio.gather(pod.task, return_exceptions=True)
        await pod.stack.aclose()

    def update_token(self, namespace: str, name: str, token: Redacted) -> None:
        """The projected token was renewed; the next request to the authority carries it."""
        pod = self._pods.get(WorkloadKey(namespace, name))
        if pod is not None:
            pod.identity.token = token

    async def not_ready_because(self, namespace: str, name: str) -> str:
        """Empty when the pod's proxy is ready, as 15021/healthz/ready would say."""
        return await self._pods[WorkloadKey(namespace, name)].http.not_ready_because()

    async def drain(self, namespace: str, name: str) -> None:
        """Before a pod's end: take no new inbound connections. Raises EnvoyUnreachable."""
        await self._pods[WorkloadKey(namespace, name)].http.admin.drain()

    async def metrics(self, namespace: str, name: str) -> bytes:
        """The merged page of 15020/stats/prometheus. Raises EnvoyUnreachable."""
        return await self._pods[WorkloadKey(namespace, name)].http.merged_metrics()

    def _prepare(self, spec: ProxySpec) -> Launch:
        binary = self._envoy or envoy_path()
        argv = tuple(envoy_argv(binary, spec))
        config = msgspec.json.encode(bootstrap(spec), order="sorted")
        path = Path(spec.bootstrap_path)
        try:
            path.write_bytes(config)
            # Names and labels only; Envoy may run as another user.
            path.chmod(0o644)
            leftovers = (spec.sds_path, spec.agent_path, spec.admin_path)
            for leftover in (*map(Path, leftovers), *path.parent.glob("app-*.sock")):
                leftover.unlink(missing_ok=True)
        except OSError as e:
            raise BadSpec(f"directory {spec.directory}: {e.strerror}") from e
        return Launch(argv, {**spec.env, **_own_identity(spec)})

    def _new_pod(self, spec: ProxySpec, upstream: Upstream | None) -> _Pod:
        name = f"{spec.name}.{spec.namespace}"
        carry = upstream.carry if upstream is not None else None
        sds = SdsServer(spec.sds_path, self._codec, name=name, carry=carry)

        def publish(certificate: Certificate, pair: KeyPair) -> None:
            chain, roots, codec = certificate.chain, certificate.roots, self._codec
            trusted = hashlib.blake2b(roots, digest_size=8).hexdigest()
            leaf = codec.certificate_secret(CERTIFICATE, certificate.serial, chain, pair.private)
            sds.publish((leaf, codec.roots_secret(ROOTS, trusted, roots)))
            if upstream is not None:
                upstream.renew(certificate, pair)

        identity = WorkloadIdentity(
            identity_of(spec),
            spec.token,
            self._signer,
            publish,
            clock=self._clock,
            random=self._random,
            sleep=self._sleep,
            lifetime=_lifetime(spec),
        )
        http = LocalHttp(
            spec,
            app_from_spec(spec),
            version=self._version,
            seconds_left=lambda: identity.seconds_left,
            failure=lambda: identity.failure,
        )
        return _Pod(sds, identity, http)


def _own_identity(spec: ProxySpec) -> dict[str, str]:
    """Who the proxy is, for the labels of its metrics, which are the same in every bootstrap."""
    labels = spec.labels
    app = labels.get("app", "")
    return {
        "MELTEMI_WORKLOAD": spec.workload,
        "MELTEMI_NAMESPACE": spec.namespace,
        "MELTEMI_PRINCIPAL": identity_of(spec).uri,
        "MELTEMI_APP": app or "unknown",
        "MELTEMI_VERSION": labels.get("version", "unknown"),
        "MELTEMI_SERVICE": labels.get("service.istio.io/canonical-name", app or spec.workload),
        "MELTEMI_REVISION": labels.get("service.istio.io/canonical-revision", "latest"),
    }


def _lifetime(spec: ProxySpec) -> datetime.timedelta | None:
    """SECRET_TTL (`24h0m0s`) of the environment; None leaves it to the authority."""
    text = spec.env.get("SECRET_TTL", "")
    found = _DURATION.fullmatch(text)
    if not text:
        return None
    if found is None:
        raise BadSpec(f"env SECRET_TTL: {text!r} is not a duration such as 24h0m0s")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return datetime.timedelta(hours=hours, minutes=minutes, seconds=seconds)
