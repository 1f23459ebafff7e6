"""Who a proxy is, and whether it may be sent the Secrets of its namespace.

Secrets go only to a peer that came over TLS with the certificate of the proxy's own account, when
the API server says that the account may list them (SubjectAccessReview). Answers are remembered
for a minute, and asked again while the proxy is connected. Planning asks the same of the account
of each gateway, and of each sidecar whose configuration names Secrets, so that nothing waits for
what will not come.
"""

import logging
from collections.abc import Awaitable, Callable, Collection

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

Account = tuple[str, str]
"""Namespace and name of a service account."""


class ProxyAccess:
    """Admits proxies; keeps what they may read true while they are connected."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        *,
        identity_of: Callable[[str], Identity | None],
        workload: Callable[[WorkloadKey], Workload | None],
    ) -> None:
        """`identity_of`: whose verified certificate stands behind a gRPC peer."""
        self._client = client
        self._clock = clock
        self._identity_of = identity_of
        self._workload = workload
        self._answers: dict[Account, tuple[float, bool]] = {}
        self._gateways: set[str] = set()
        self._sidecars: set[str] = set()
        """Those in need that were asked about."""

    async def admit(self, peer: str, node: NodeInfo) -> NodeInfo | None:
        """The node with what its account may read; None: the peer may not speak for it.

        Peers of the machine's own socket are believed: nothing secret is sent there. Raises NotNow
        while the API server cannot be asked.
        """
        if peer.startswith(_EDGE_PEER) and self._proved(peer, node) is None:
            return None
        if node.kind == "router":
            self._gateways.add(node.id)
        elif node.id not in self._sidecars:
            return node
        return msgspec.structs.replace(node, reads_secrets=await self._asked(self._account(node)))

    async def admit_secrets(self, peer: str, node: NodeInfo) -> NodeInfo | None:
        """The node, if the peer has proved to be its account, and that may read Secrets; None
        otherwise. Raises NotNow while the API server cannot be asked."""
        identity = self._proved(peer, node)
        if identity is None:
            return None
        account = (identity.namespace, identity.service_account)
        return node if await self._asked(account) else None

    def _proved(self, peer: str, node: NodeInfo) -> Identity | None:
        """Whose certificate a peer has shown, if it may speak for a node."""
        identity = self._identity_of(peer) if peer.startswith(_EDGE_PEER) else None
        if identity is None or identity.namespace != node.namespace:
            return None
        workload = self._workload(WorkloadKey(node.namespace, node.name))
        return None if workload is not None and workload.identity != identity else identity

    def _account(self, node: NodeInfo) -> Account:
        """The account of a node's pod; what has no pod says it itself, which proves nothing."""
        workload = self._workload(WorkloadKey(node.namespace, node.name))
        if workload is not None:
            return workload.identity.namespace, workload.identity.service_account
        return node.namespace, str(node.metadata.get("SERVICE_ACCOUNT") or "default")

    def forget(self, node_id: str) -> None:
        self._gateways.discard(node_id)
        self._sidecars.discard(node_id)

    async def run(
        self,
        known: Callable[[str], NodeInfo | None],
        changed: Callable[[NodeInfo], None],
        in_need: Callable[[], Collection[str]],
        propagated: Callable[[int, float], Awaitable[int]],
    ) -> None:
        """Ask about sidecars that come to need Secrets, and again about all who do, until
        cancelled; `changed` hears of differences. `propagated(revision, seconds)` waits so long at
        most for needs later than those of a revision, and answers of which they are."""
        seen = 0
        due = self._clock.monotonic() + _REMEMBERED
        while True:
            seen = await propagated(seen, max(due - self._clock.monotonic(), 0))
            needy = set(in_need())
            asked = needy ^ self._sidecars
            if self._clock.monotonic() >= due:
                due = self._clock.monotonic() + _REMEMBERED
                asked |= needy | self._gateways
            for node_id in sorted(asked):
                node = known(node_id)
                if node is not None:
                    await self._review(node, node_id in needy, changed)

    async def _review(
        self, node: NodeInfo, is_needy: bool, changed: Callable[[NodeInfo], None]
    ) -> None:
        account = self._account(node)
        try:
            needs = is_needy or node.kind == "router"
            allowed = needs and await self._may_read(account)
        except KubeError as error:
            log.warning("cannot ask what %s.%s may read: %s", account[1], account[0], error)
            return
        if node.kind != "router":
            (self._sidecars.add if is_needy else self._sidecars.discard)(node.id)
        if node.reads_secrets is not allowed:
            log.info("%s may %sread Secrets", node.id, "" if allowed else "not ")
            changed(msgspec.structs.replace(node, reads_secrets=allowed))

    async def _asked(self, account: Account) -> bool:
        try:
            return await self._may_read(account)
        except KubeError as error:
            raise NotNow(f"cannot ask what {account[1]}.{account[0]} may read") from error

    async def _may_read(self, account: Account) -> bool:
        now = self._clock.monotonic()
        remembered = self._answers.get(account)
        if remembered is not None and now < remembered[0]:
            return remembered[1]
        namespace, name = account
        question = AccessQuestion(
            user=f"system:serviceaccount:{namespace}:{name}",
            groups=(_ACCOUNTS, f"{_ACCOUNTS}:{namespace}", "system:authenticated"),
            namespace=namespace,
            verb="list",
            resource="secrets",
        )
        allowed = await self._client.review_access(question)
        if not allowed:
            log.warning("%s.%s may not list secrets: its proxies get none", name, namespace)
        self._answers = {a: answer for a, answer in self._answers.items() if now < answer[0]}
        self._answers[account] = (now + _REMEMBERED, allowed)
        return allowed
