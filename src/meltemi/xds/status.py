"""Who has acknowledged what: for people, for `wait`, and for tests."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Problem, Severity
from meltemi.base.resource import CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE
from meltemi.xds.cache import Cache
from meltemi.xds.session import Rejection, Session, Subscription
from meltemi.xds.subscription import CONFIGURATION

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


class _Wait:
    """One waiter's sessions that have not acknowledged a revision yet."""

    def __init__(self, revision: int, sessions: Iterable[Session]) -> None:
        self._revision = revision
        self._late = {session for session in sessions if self._is_late(session)}
        self.done = asyncio.Event()
        self._tell()

    def look(self, session: Session) -> None:
        """A session came further."""
        if session in self._late and not self._is_late(session):
            self.remove(session)

    def remove(self, session: Session) -> None:
        self._late.discard(session)
        self._tell()

    def _is_late(self, session: Session) -> bool:
        oldest = session.oldest()
        return oldest is not None and oldest <= self._revision

    def _tell(self) -> None:
        if not self._late:
            self.done.set()


class Status:
    """Knows the open sessions; tells when a revision has settled."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._sessions: set[Session] = set()
        self._waits: set[_Wait] = set()

    def add(self, session: Session) -> None:
        self._sessions.add(session)

    def remove(self, session: Session) -> None:
        self._sessions.discard(session)
        for wait in self._waits:
            wait.remove(session)

    def progressed(self, session: Session) -> None:
        """A proxy acknowledged something, or was found to have everything."""
        for wait in self._waits:
            wait.look(session)

    async def settled(self, revision: int) -> int:
        """Wait until every proxy has acknowledged all of a revision that the cache has.

        Answers how many proxies are connected.
        """
        wait = _Wait(revision, self._sessions)
        self._waits.add(wait)
        try:
            await wait.done.wait()
        finally:
            self._waits.discard(wait)
        return sum(_is_proxy(s) for s in self._sessions)

    def late(self, revision: int) -> Sequence[str]:
        """The proxies that have not acknowledged a revision, with what they lack."""
        found = []
        for session in self._sessions:
            oldest = session.oldest()
            if oldest is not None and oldest <= revision:
                name = session.node_id.split("~")[2]
                found.append(f"{name} ({'; '.join(session.waiting())})")
        return sorted(found)

    def proxies(self) -> Sequence[ProxyStatus]:
        """Every connected proxy, by name."""
        found = (_status(s) for s in self._sessions if _is_proxy(s))
        return sorted(found, key=lambda status: status.proxy)

    def problems(self) -> Sequence[Problem]:
        """What proxies refuse, each once: of users' patches, however many proxies refuse it; of
        ours, by the proxy."""
        found: dict[Problem, None] = {}
        for session in self._sessions:
            for rejection in session.rejections():
                for problem in _refused(session.node_id, rejection):
                    found[problem] = None
        return list(found)

    def rejections(self) -> Mapping[str, Iterable[Rejection]]:
        """What proxies refuse, by node id."""
        found: dict[str, tuple[Rejection, ...]] = {}
        for session in self._sessions:
            rejections = tuple(session.rejections())
            if rejections:
                found[session.node_id] = (*found.get(session.node_id, ()), *rejections)
        return found


def _is_proxy(session: Session) -> bool:
    """A proxy has one conversation about its configuration; others are about single Secrets."""
    return session.serves == CONFIGURATION


def _refused(node_id: str, rejection: Rejection) -> Iterable[Problem]:
    code, severity = Code.REJECTED_BY_PROXY, Severity.ERROR
    what = f"Envoy refuses {rejection.type_url.rpartition('.')[2]} {rejection.name}"
    for about in rejection.about:
        message = f"{what} with this patch, and gets it without: {rejection.message}"
        yield Problem(code, severity, about, "spec.configPatches", message)
    if not rejection.about:
        name, _, namespace = node_id.split("~")[2].partition(".")
        message = f"{what} and keeps its last version: {rejection.message}"
        yield Problem(code, severity, ObjectKey("Pod", namespace, name), "", message)


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
