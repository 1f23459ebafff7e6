"""Who has acknowledged what: for people, for `wait`, and for tests."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from meltemi.base.resource import CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE
from meltemi.xds.cache import Cache
from meltemi.xds.session import Rejection, Session, Subscription

SYNCED, STALE, NOT_SENT = "SYNCED", "STALE", "NOT SENT"
_COLUMNS = {"cds": CLUSTER, "lds": LISTENER, "rds": ROUTE, "eds": ENDPOINT, "ecds": EXTENSION}


class ProxyStatus(msgspec.Struct, frozen=True):
    """One proxy, as `meltemi proxy-status` shows it."""

    proxy: str
    """`pod.namespace`."""
    cds: str
    lds: str
    rds: str
    eds: str
    ecds: str
    rejected: tuple[str, ...]

    @property
    def is_synced(self) -> bool:
        return STALE not in (self.cds, self.lds, self.rds, self.eds, self.ecds)


class Status:
    """Knows the open sessions; tells when a revision has settled."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._sessions: set[Session] = set()
        self._progress = asyncio.Event()

    def add(self, session: Session) -> None:
        self._sessions.add(session)

    def remove(self, session: Session) -> None:
        self._sessions.discard(session)
        self.progressed()

    def progressed(self) -> None:
        """A proxy acknowledged something, or something new is known."""
        self._progress.set()

    async def settled(self, revision: int) -> int:
        """Wait until the cache has the revision and every proxy has acknowledged all of it.

        Answers how many proxies are connected.
        """
        while not self._is_settled(revision):
            self._progress.clear()
            await self._progress.wait()
        return len(self._sessions)

    def _is_settled(self, revision: int) -> bool:
        if self._cache.revision < revision:
            return False
        waiting = (session.oldest() for session in self._sessions)
        return all(oldest is None or oldest > revision for oldest in waiting)

    def proxies(self) -> Sequence[ProxyStatus]:
        """Every connected proxy, by name."""
        return sorted((_status(s) for s in self._sessions), key=lambda status: status.proxy)

    def rejections(self) -> Mapping[str, Iterable[Rejection]]:
        """What proxies refuse, by node id."""
        found = {s.node_id: tuple(s.rejections()) for s in self._sessions}
        return {node: rejections for node, rejections in found.items() if rejections}


def _status(session: Session) -> ProxyStatus:
    columns = {name: _word(session.types.get(url)) for name, url in _COLUMNS.items()}
    rejected = tuple(
        f"{r.type_url.rpartition('.')[2]} {r.name}: {r.message}" for r in session.rejections()
    )
    parts = session.node_id.split("~")
    return ProxyStatus(proxy=parts[2], rejected=rejected, **columns)


def _word(subscription: Subscription | None) -> str:
    if subscription is None or not subscription.sent_any:
        return NOT_SENT
    return SYNCED if subscription.oldest is None and not subscription.rejected else STALE
