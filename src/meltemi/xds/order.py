"""Make before break: what must wait for what, so that no request meets a cluster that is not there.

- A route or listener waits until every cluster it names is usable: taken by the proxy, and its
  endpoints too.
- A cluster is taken away once nothing the proxy has names it; its endpoints stay until then.
- What is missing altogether, a subset whose DestinationRule comes later or went first, is waited
  for `MISSING` seconds while the version before keeps serving; then the world is sent as it is.

The waits are per name and per proxy. Time comes from the caller; a wait that is over is told by
`due`.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from itertools import chain

from meltemi.base.resource import CLUSTER, ENDPOINT, ROUTE
from meltemi.xds.messages import Wrapped
from meltemi.xds.subscription import CLIENTS, Subscription

MISSING = 3.0
"""Seconds a change waits for a cluster that nobody has made."""
COMING = 15.0
"""Seconds a change waits for a cluster that was sent and never became usable."""


class Order:
    """The rules for one proxy's conversation; `types` is the session's own state."""

    def __init__(
        self,
        types: Mapping[str, Subscription],
        current: Callable[[str, str], Wrapped | None],
    ) -> None:
        """`current(type_url, name)`: a resource as the proxy should have it."""
        self._types = types
        self._current = current
        self._lacked: dict[str, tuple[bool, float]] = {}
        """Clusters that changes wait for: whether it is on its way, and since when."""
        self._proven: tuple[frozenset[str], int, int] = (frozenset(), 0, 0)
        """Clusters that were all taken with their endpoints, and what had been lost by then."""
        self._deadlines: list[float] = []

    def begin(self) -> None:
        """A new round: forget the deadlines of the last one."""
        self._deadlines.clear()

    def due(self) -> float | None:
        """When the next wait of this round is over; None: nothing waits."""
        return min(self._deadlines, default=None)

    def holds_change(self, found: Subscription, name: str, resource: Wrapped, now: float) -> bool:
        """Whether a route configuration or listener must wait for clusters.

        Where nothing serves before it, it waits only for what is on its way.
        """
        clusters = self._types.get(CLUSTER)
        if clusters is None:
            return False
        doubtful = self._doubtful(clusters, resource)
        if doubtful:
            self._lacked = dict.fromkeys(doubtful, (True, now)) | self._lacked
        lacking: set[str] = set()
        for cluster in chain(doubtful, self._strangers(clusters, resource)):
            if self._is_usable(clusters, cluster):
                continue
            lacking.add(cluster)
            coming = self._is_coming(cluster)
            if (coming or name in found.has) and self._is_awaited(cluster, coming, now):
                return True
        usable = [c for c in self._lacked if c in resource.clusters and c not in lacking]
        for cluster in usable:
            del self._lacked[cluster]
        return False

    def _is_awaited(self, cluster: str, coming: bool, now: float) -> bool:
        """Whether there is still hope; each cluster is waited for once."""
        was_coming, since = self._lacked.get(cluster, (not coming, now))
        if was_coming != coming:
            since = now
        self._lacked[cluster] = (coming, since)
        over = since + (COMING if coming else MISSING)
        if now < over:
            self._deadlines.append(over)
        return now < over

    def holds_removal(self, found: Subscription, cluster: str, now: float) -> bool:
        """Whether a cluster must stay because the proxy has something that names it."""
        users = [
            (client, name)
            for client in CLIENTS
            if client in self._types
            for name in self._types[client].clusters
            if self._may_use(client, name, cluster)
        ]
        if self._flies(cluster):
            return True
        if not users:
            return False
        outdated = [user for user in users if self._is_outdated(*user)]
        if outdated:
            if all(self._is_quarantined(*user) for user in outdated):
                found.parked.add(cluster)
            return True
        return self._waits(found, cluster, MISSING, now)

    def holds_endpoints(self, found: Subscription, name: str) -> bool:
        """Whether endpoints that are gone must stay because their cluster does."""
        clusters = self._types.get(CLUSTER)
        if clusters is None or name not in clusters.has:
            return False
        found.parked.add(name)
        return True

    def holds_host(self, name: str) -> bool:
        """Whether a virtual host that is gone must stay: the route configuration that asked for it
        is about to be replaced by one that has it."""
        routes = self._types.get(ROUTE)
        configuration = name.partition("/")[0]
        current = self._current(ROUTE, configuration)
        if routes is None or current is None or configuration not in routes.has:
            return False
        return routes.has[configuration] != current.version

    def _may_use(self, client: str, name: str, cluster: str) -> bool:
        """Whether what the proxy has under a name may lead to a cluster."""
        found = self._types[client]
        used = found.clusters[name]
        if used is None:
            current = self._current(client, name)
            if current is None or found.has.get(name) != current.version:
                return True
            used = found.clusters[name] = current.clusters
        return cluster in used

    def _waits(self, found: Subscription, name: str, limit: float, now: float) -> bool:
        over = found.since.setdefault(name, now) + limit
        if now >= over:
            found.since.pop(name)
            return False
        self._deadlines.append(over)
        return True

    def _flies(self, cluster: str) -> bool:
        return any(
            cluster in used
            for client in CLIENTS
            if client in self._types
            for used in self._types[client].flight_clusters.values()
        )

    def _is_outdated(self, client: str, name: str) -> bool:
        """Whether the proxy has another version than it should, because the new one waits or
        because it was refused."""
        current = self._current(client, name)
        has = self._types[client].has.get(name)
        return current is None or has != current.version

    def _is_quarantined(self, client: str, name: str) -> bool:
        """Whether the proxy keeps an old version because it refused the new one."""
        current = self._current(client, name)
        return current is not None and self._types[client].is_refused(name, current.version)

    def _doubtful(self, clusters: Subscription, resource: Wrapped) -> Set[str]:
        """All but those that were taken together with endpoints of the same name, which nearly all
        are: a route configuration names thousands, so they are found by whole sets."""
        endpoints = self._types.get(ENDPOINT)
        named = resource.clusters
        if endpoints is None:
            return named
        proof = (named, clusters.losses, endpoints.losses)
        if not clusters.flight and self._is_proven(proof):
            return frozenset()
        taken, filled = clusters.has.keys(), endpoints.has.keys()
        if not clusters.flight and named <= taken and named <= filled:
            self._proven = proof
            return frozenset()
        return named - ((named & taken & filled) - clusters.flight.keys())

    def _is_proven(self, proof: tuple[frozenset[str], int, int]) -> bool:
        """Whether the very same clusters were all usable before, and nothing was lost since."""
        return self._proven[0] is proof[0] and self._proven[1:] == proof[1:]

    def _is_usable(self, clusters: Subscription, name: str) -> bool:
        is_leaving = clusters.flight.get(name, "") is None
        if name not in clusters.has or is_leaving:
            return False
        endpoints = self._types.get(ENDPOINT)
        current = self._current(CLUSTER, name)
        if current is None:
            return endpoints is None or name not in endpoints.names or name in endpoints.has
        if not current.assignment:
            return True
        if endpoints is None:
            return False
        assignment = current.assignment
        if self._current(ENDPOINT, assignment) is None:
            return assignment in endpoints.has or assignment in endpoints.absent
        return assignment in endpoints.has

    def _strangers(self, clusters: Subscription, resource: Wrapped) -> Iterator[str]:
        """New clusters whose names have not the mesh's own form: EnvoyFilters add them."""
        for name in chain(tuple(clusters.dirty), tuple(clusters.flight)):
            if (
                "bound|" not in name
                and name not in clusters.has
                and self._is_coming(name)
                and name.encode() in resource.resource.body
            ):
                yield name

    def _is_coming(self, cluster: str) -> bool:
        """Whether a cluster that the proxy cannot use yet is on its way."""
        current = self._current(CLUSTER, cluster)
        return current is not None and not self._types[CLUSTER].is_refused(cluster, current.version)
