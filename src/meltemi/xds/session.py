"""One proxy's conversation, sans-IO: requests and marks in, responses out.

At most one response of a type is in flight; what changes meanwhile is merged into the next. What
a proxy needs first goes first: clusters, then their endpoints, then the listeners and routes that
name them; clusters are taken away last. A rejected version is not sent again.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from meltemi.base.resource import CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE, SECRET
from meltemi.xds.cache import Cache
from meltemi.xds.messages import (
    DeltaRequest,
    Request,
    Wrapped,
    delta_response,
    response,
)

ORDER = (CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE, SECRET)
WILDCARD_TYPES = frozenset((CLUSTER, LISTENER))
_CLIENTS = (LISTENER, ROUTE)
"""What names clusters: sent after them, and before they go."""


class Rejection(msgspec.Struct, frozen=True):
    """One version of one resource that a proxy refused, in its own words."""

    type_url: str
    name: str
    version: str
    message: str


class Subscription:
    """What a proxy wants, has and is being sent, for one type."""

    def __init__(self) -> None:
        self.wildcard = False
        self.owes = False
        """A wildcard subscription is answered once even when there is nothing."""
        self.names: set[str] = set()
        self.has: dict[str, str] = {}
        """Name to the version the proxy last took; absent: it has none."""
        self.dirty: dict[str, int] = {}
        """Names to send, with the revision they changed at."""
        self.flight: dict[str, str | None] = {}
        """What the response in flight carries: versions, None for removals."""
        self.nonce = ""
        self.flight_revision = 0
        self.rejected: dict[str, Rejection] = {}
        self.sent_any = False
        self.count = 0

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    @property
    def oldest(self) -> int | None:
        """The oldest revision not yet acknowledged; None when there is none."""
        waiting = list(self.dirty.values())
        if self.nonce:
            waiting.append(self.flight_revision)
        return min(waiting, default=None)


class Session:
    """The part both protocol forms share. `wake_up` is called when there may be work to flush."""

    def __init__(self, node_id: str, cache: Cache, wake_up: Callable[[], None]) -> None:
        self._node = node_id
        self._cache = cache
        self._wake_up = wake_up
        self.types: dict[str, Subscription] = {}

    @property
    def node_id(self) -> str:
        return self._node

    def mark(self, type_url: str, name: str, revision: int) -> None:
        found = self.types.get(type_url)
        if found is not None and found.wants(name):
            found.dirty.setdefault(name, revision)

    def mark_all(self, revision: int) -> None:
        for type_url in self.types:
            self._mark_everything(type_url, revision)

    def wake(self) -> None:
        self._wake_up()

    def oldest(self) -> int | None:
        """The oldest revision the proxy has not acknowledged; None: it has everything."""
        if not self._cache.is_known(self._node):
            return 0
        found = [s.oldest for s in self.types.values()]
        return min((revision for revision in found if revision is not None), default=None)

    @property
    def has_work(self) -> bool:
        """Whether `flush` may have something to send."""
        return any((s.dirty or s.owes) and not s.nonce for s in self.types.values())

    def rejections(self) -> Iterable[Rejection]:
        return [r for s in self.types.values() for r in s.rejected.values()]

    def flush(self) -> list[bytes]:
        """The responses that may go out now, in order."""
        if not self._cache.is_known(self._node):
            return []
        out: list[bytes] = []
        for type_url in ORDER:
            found = self.types.get(type_url)
            if found is not None and (found.dirty or found.owes) and not found.nonce:
                body = self._send(type_url, found)
                if body is not None:
                    out.append(body)
        return out

    def _mark_everything(self, type_url: str, revision: int) -> None:
        """Mark what differs between what the proxy wants and what it has.

        Before the compiler has said what it sees, nothing does: `mark_all` follows.
        """
        if not self._cache.is_known(self._node):
            return
        found = self.types[type_url]
        missing = found.names | found.has.keys()
        for name, resource in self._cache.resources(self._node, type_url):
            missing.discard(name)
            if found.has.get(name) == resource.version and name not in found.flight:
                found.dirty.pop(name, None)
            elif found.wants(name):
                found.dirty.setdefault(name, revision)
        for name in missing:
            found.dirty.setdefault(name, revision)

    def _send(self, type_url: str, found: Subscription) -> bytes | None:
        raise NotImplementedError

    def _ready(self, type_url: str, found: Subscription) -> dict[str, Wrapped | None]:
        """The dirty names that may be sent now, with what they are; the rest stays dirty.

        Names whose version the proxy has, or has rejected, are dropped as settled.
        """
        if type_url in _CLIENTS and not self._clusters_settled():
            return {}
        ready: dict[str, Wrapped | None] = {}
        for name in list(found.dirty):
            resource = self._cache.get(self._node, type_url, name)
            if resource is None:
                if type_url == SECRET:
                    # What held it goes by itself; what still asks for it keeps what it has.
                    found.dirty.pop(name)
                    continue
                if name not in found.has and not self._is_awaited(type_url, name):
                    found.dirty.pop(name)
                    continue
                if type_url == CLUSTER and not self._clients_settled():
                    continue
            elif self._is_settled(found, resource):
                found.dirty.pop(name)
                continue
            ready[name] = resource
        return ready

    def _owes(self, type_url: str, found: Subscription) -> bool:
        """Whether a first answer must go out though it says nothing: Envoy starts only then."""
        if not found.owes or found.dirty:
            return False
        return type_url not in _CLIENTS or self._clusters_settled()

    def _is_awaited(self, type_url: str, name: str) -> bool:
        """Whether the proxy asked for a name by itself, and waits to hear that it is not there."""
        return type_url not in WILDCARD_TYPES and name in self.types[type_url].names

    def _is_settled(self, found: Subscription, resource: Wrapped) -> bool:
        name, version = resource.resource.name, resource.version
        if found.has.get(name) == version:
            return True
        refused = found.rejected.get(name)
        return refused is not None and refused.version == version

    def _clusters_settled(self) -> bool:
        """Whether new clusters, and the endpoints they need, have been taken."""
        clusters, endpoints = self.types.get(CLUSTER), self.types.get(ENDPOINT)
        if clusters is None:
            return True
        if self._is_adding(CLUSTER, clusters):
            return False
        if endpoints is None:
            return True
        return not self._is_adding(ENDPOINT, endpoints)

    def _is_adding(self, type_url: str, found: Subscription) -> bool:
        """Whether something is in flight or waits that is not a removal."""
        if any(version is not None for version in found.flight.values()):
            return True
        for name in found.dirty:
            resource = self._cache.get(self._node, type_url, name)
            if resource is not None and not self._is_settled(found, resource):
                return True
        return False

    def _clients_settled(self) -> bool:
        """Whether no listener or route that may name an old cluster waits to be replaced."""
        return not any(
            self.types[t].dirty or self.types[t].nonce for t in _CLIENTS if t in self.types
        )

    def _fly(self, found: Subscription, ready: Mapping[str, Wrapped | None]) -> str:
        """Note what is about to be sent; answers the nonce."""
        found.count += 1
        found.nonce = str(found.count)
        revisions = [found.dirty.pop(name) for name in ready]
        if not found.dirty:
            found.dirty = {}  # A dict that was large once stays large.
        found.flight_revision = min(revisions, default=self._cache.revision)
        found.owes = False
        found.flight = {n: r.version if r is not None else None for n, r in ready.items()}
        found.sent_any = True
        return found.nonce

    def _land(self, type_url: str, found: Subscription, nonce: str, error: str | None) -> None:
        """Take an acknowledgement or a rejection; an answer to an older response is ignored."""
        if nonce != found.nonce or not nonce:
            return
        flight, found.flight, found.nonce = found.flight, {}, ""
        blamed = _blamed(flight, error) if error is not None else frozenset()
        for name, version in flight.items():
            if name in blamed:
                text = error or ""
                found.rejected[name] = Rejection(type_url, name, version or "", text)
            elif version is None:
                found.has.pop(name, None)
                found.rejected.pop(name, None)
            else:
                if type_url == CLUSTER and name in found.has and found.has[name] != version:
                    self._resend_endpoints(name)
                found.has[name] = version
                found.rejected.pop(name, None)

    def _resend_endpoints(self, cluster: str) -> None:
        """An updated cluster warms again, and waits for endpoints it does not ask for again."""
        endpoints = self.types.get(ENDPOINT)
        if endpoints is not None and endpoints.wants(cluster):
            endpoints.has.pop(cluster, None)
            endpoints.dirty.setdefault(cluster, self._cache.revision)


def _blamed(flight: Mapping[str, str | None], error: str) -> frozenset[str]:
    """The resources a rejection is about: those it names, or all when it names none."""
    named = frozenset(name for name in flight if name and name in error)
    return named or frozenset(flight)


class DeltaSession(Session):
    """Incremental xDS."""

    def on_request(self, request: DeltaRequest) -> None:
        found = self.types.get(request.type_url)
        if found is None:
            if request.type_url not in ORDER:
                return
            found = self.types[request.type_url] = Subscription()
            found.has.update(request.initial)
            found.wildcard = not request.subscribe and request.type_url in WILDCARD_TYPES
            if found.wildcard or "*" in request.subscribe:
                found.wildcard = found.owes = True
            found.names.update(request.subscribe)
            found.names.discard("*")
            self._mark_everything(request.type_url, self._cache.revision)
        if request.nonce:
            self._land(request.type_url, found, request.nonce, request.error)
        for name in request.subscribe:
            if name == "*" or name in request.initial:
                continue
            found.names.add(name)
            found.has.pop(name, None)
            found.dirty.setdefault(name, self._cache.revision)
        for name in request.unsubscribe:
            found.names.discard(name)
            found.has.pop(name, None)
            found.dirty.pop(name, None)

    def _send(self, type_url: str, found: Subscription) -> bytes | None:
        ready = self._ready(type_url, found)
        if not ready and not self._owes(type_url, found):
            return None
        nonce = self._fly(found, ready)
        resources = [r for r in ready.values() if r is not None]
        removed = [name for name, r in ready.items() if r is None]
        return delta_response(type_url, nonce, resources, removed)


class SotwSession(Session):
    """State-of-the-world xDS: clusters and listeners always in full, other types as changed."""

    def on_request(self, request: Request) -> None:
        found = self.types.get(request.type_url)
        if found is None:
            if request.type_url not in ORDER:
                return
            found = self.types[request.type_url] = Subscription()
            found.wildcard = not request.names and request.type_url in WILDCARD_TYPES
            found.owes = found.wildcard
            self._mark_everything(request.type_url, self._cache.revision)
        if request.nonce:
            self._land(request.type_url, found, request.nonce, request.error)
        if request.nonce and found.nonce:
            return
        for name in set(request.names) - found.names:
            found.dirty.setdefault(name, self._cache.revision)
        for name in found.names - set(request.names):
            found.has.pop(name, None)
            found.dirty.pop(name, None)
        found.names = set(request.names)

    def _send(self, type_url: str, found: Subscription) -> bytes | None:
        ready = self._ready(type_url, found)
        if not ready and not self._owes(type_url, found):
            return None
        if type_url in WILDCARD_TYPES:
            for name, resource in self._cache.resources(self._node, type_url):
                if name not in ready and found.wants(name):
                    found.dirty.setdefault(name, self._cache.revision)
                    ready[name] = resource
        nonce = self._fly(found, ready)
        resources = [r for r in ready.values() if r is not None]
        return response(type_url, nonce, str(self._cache.revision), resources)
