"""Who a proxy is, and whether it may be sent the Secrets of its namespace.

A proxy that comes over TLS is who its certificate says. A gateway is sent Secrets when the API
server says that its service account may list them (SubjectAccessReview); answers are remembered
for a minute, by identity, and asked again while the proxy is connected.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from meltemi.base.clock import Clock
from meltemi.base.identity import Identity
from meltemi.base.keys import WorkloadKey
from meltemi.base.resource import NodeInfo
from meltemi.kube.client import AccessQuestion, Client
from meltemi.kube.errors import KubeError
from meltemi.model.workload import Workload
from meltemi.xds.server import NotNow

log = logging.getLogger(__name__)

_EDGE_PEER = "unix-abstract:"
_REMEMBERED = 60.0
"""Seconds."""
_ACCOUNTS = "system:serviceaccounts"


class ProxyAccess:
    """Admits proxies; keeps what they may read true while they are connected."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        *,
        identity_of: Callable[[str], Identity | None],
        workload: Callable[[WorkloadKey], Workload | None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`identity_of`: whose verified certificate stands behind a gRPC peer."""
        self._client = client
        self._clock = clock
        self._sleep = sleep
        self._identity_of = identity_of
        self._workload = workload
        self._answers: dict[Identity, tuple[float, bool]] = {}
        self._connected: dict[str, Identity] = {}

    async def admit(self, peer: str, node: NodeInfo) -> NodeInfo | None:
        """The node with what it may read; None: the peer may not speak for it.

        Peers of the machine's own socket are believed, and get no Secrets: they prove nothing.
        Raises NotNow while the API server cannot be asked.
        """
        if not peer.startswith(_EDGE_PEER):
            return node
        identity = self._identity_of(peer)
        if identity is None or identity.namespace != node.namespace:
            return None
        workload = self._workload(WorkloadKey(node.namespace, node.name))
        if workload is not None and workload.identity != identity:
            return None
        if node.kind != "router":
            return node
        try:
            allowed = await self._may_read(identity)
        except KubeError as error:
            raise NotNow(f"cannot ask what {identity.principal} may read") from error
        self._connected[node.id] = identity
        return msgspec.structs.replace(node, reads_secrets=allowed)

    def forget(self, node_id: str) -> None:
        self._connected.pop(node_id, None)

    async def run(
        self, known: Callable[[str], NodeInfo | None], changed: Callable[[NodeInfo], None]
    ) -> None:
        """Ask again about connected gateways, until cancelled; `changed` hears of differences."""
        while True:
            await self._sleep(_REMEMBERED)
            for node_id, identity in list(self._connected.items()):
                try:
                    allowed = await self._may_read(identity)
                except KubeError as error:
                    log.warning("cannot ask what %s may read: %s", identity.principal, error)
                    continue
                node = known(node_id)
                if node is not None and node.reads_secrets is not allowed:
                    log.info("%s may %sread Secrets", node_id, "" if allowed else "no longer ")
                    changed(msgspec.structs.replace(node, reads_secrets=allowed))

    async def _may_read(self, identity: Identity) -> bool:
        now = self._clock.monotonic()
        remembered = self._answers.get(identity)
        if remembered is not None and now < remembered[0]:
            return remembered[1]
        account = f"{identity.namespace}:{identity.service_account}"
        question = AccessQuestion(
            user=f"system:serviceaccount:{account}",
            groups=(_ACCOUNTS, f"{_ACCOUNTS}:{identity.namespace}", "system:authenticated"),
            namespace=identity.namespace,
            verb="list",
            resource="secrets",
        )
        allowed = await self._client.review_access(question)
        if not allowed:
            log.warning("%s may not list secrets: its gateways open no TLS", identity.principal)
        self._answers = {i: a for i, a in self._answers.items() if now < a[0]}
        self._answers[identity] = (now + _REMEMBERED, allowed)
        return allowed
