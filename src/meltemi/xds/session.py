"""One proxy's conversation, sans-IO: requests and marks in, responses out.

At most one response of a type is in flight; what changes meanwhile is merged into the next.
`order` says what must wait for what. A rejected version is not sent again: the proxy keeps the last
good one.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from meltemi.base.resource import CLUSTER, ENDPOINT, SECRET, VIRTUAL_HOST
from meltemi.xds.cache import Cache
from meltemi.xds.messages import (
    DeltaRequest,
    Request,
    Wrapped,
    response,
    versions_of,
)
from meltemi.xds.order import Order
from meltemi.xds.subscription import (
    CLIENTS,
    CONFIGURATION,
    ORDER,
    WILDCARD_TYPES,
    Rejection,
    Subscription,
)

__all__ = ["DeltaSession", "Rejection", "Session", "SotwSession", "Subscription"]


class Session:
    """The part both protocol forms share. `wake_up` is called when there may be work to flush."""

    def __init__(
        self,
        node_id: str,
        cache: Cache,
        wake_up: Callable[[], None],
        demand: Callable[[Sequence[str]], bool] = lambda _names: False,
        *,
        serves: frozenset[str] = CONFIGURATION,
    ) -> None:
        """`demand(names)`: the proxy needs virtual hosts that nobody has made yet; it answers
        whether they will be. `serves`: the types it answers for; of others it says nothing."""
        self._demand = demand
        self.serves = serves
        self._node = node_id
        self._cache = cache
        self._wake_up = wake_up
        self.types: dict[str, Subscription] = {}
        self._waiting: list[Callable[[], None]] = []
        self._order = Order(self.types, self._current)

    @property
    def node_id(self) -> str:
        return self._node

    def mark(self, type_url: str, name: str, revision: int) -> None:
        found = self.types.get(type_url)
        if found is not None and found.wants(name):
            found.mark(name, revision)

    def mark_all(self, revision: int) -> None:
        for type_url in self.types:
            self._mark_everything(type_url, revision)

    @property
    def waits(self) -> bool:
        """Whether requests wait for the compiler to say what the proxy sees: what it has can then
        be compared with whole sets. Nothing more should be read from it."""
        return bool(self._waiting)

    def _when_known(self, request: Callable[[], None]) -> None:
        if self._waiting or not self._cache.is_known(self._node):
            self._waiting.append(request)
        else:
            request()

    def wake(self) -> None:
        self._wake_up()

    def oldest(self) -> int | None:
        """The oldest revision the proxy has not acknowledged; None: it has everything."""
        if self.waits or not self._cache.is_known(self._node):
            return 0
        found = [s.oldest for s in self.types.values() if s.dirty or s.nonce]
        return min((revision for revision in found if revision is not None), default=None)

    @property
    def has_work(self) -> bool:
        """Whether `flush` may have something to send."""
        return any((s.dirty or s.owes) and not s.nonce for s in self.types.values())

    def waiting(self) -> Iterable[str]:
        """What the proxy has not acknowledged, in words."""
        for type_url, found in self.types.items():
            kind = type_url.rpartition(".")[2]
            if found.flight:
                yield f"{kind} {', '.join(sorted(found.flight)[:3])}: sent, not acknowledged"
            held = sorted(found.dirty.keys() - found.parked)
            if held:
                yield f"{kind} {', '.join(held[:3])}: not sent yet"

    def rejections(self) -> Iterable[Rejection]:
        """What is refused of the present world."""
        return [
            rejection
            for type_url, found in self.types.items()
            for rejection in (*found.rejected.values(), *found.patched.values())
            if self._is_present(type_url, rejection)
        ]

    def _is_present(self, type_url: str, rejection: Rejection) -> bool:
        current = self._cache.get(self._node, type_url, rejection.name)
        return current is not None and current.version == rejection.version

    def flush(self, now: float) -> list[bytes]:
        """The responses that may go out now, in order. `now`: seconds of any steady clock."""
        self._order.begin()
        if not self._cache.is_known(self._node):
            return []
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            request()
        out: list[bytes] = []
        for type_url in ORDER:
            found = self.types.get(type_url)
            if found is not None and (found.dirty or found.owes) and not found.nonce:
                body = self._send(type_url, found, now)
                if body is not None:
                    out.append(body)
        return out

    def _current(self, type_url: str, name: str) -> Wrapped | None:
        """A resource as this proxy gets it: without the patches it has refused."""
        resource = self._cache.get(self._node, type_url, name)
        found = self.types.get(type_url)
        refused = found.patched.get(name) if found is not None else None
        if found is None or refused is None:
            return resource
        if resource is None or resource.version != refused.version:
            del found.patched[name]
            return resource
        return resource.fallback

    def due(self) -> float | None:
        """When to flush again though nothing happens: a wait is over then. None: never."""
        return self._order.due()

    def _mark_everything(self, type_url: str, revision: int) -> None:
        """Mark what differs between what the proxy wants and what it has."""
        if not self._cache.is_known(self._node):
            return
        found = self.types[type_url]
        missing = (found.has.keys() - found.resumed) | (found.names - found.resumed)
        is_quiet = found.is_quiet
        for held in self._cache.sets(self._node, type_url):
            if found.resumed is held.names:
                continue
            versions = held.versions
            missing.difference_update(versions)
            if is_quiet and versions.items() <= found.has.items():
                continue
            if is_quiet and found.wants_all(held.names) and found.has.keys().isdisjoint(versions):
                found.dirty.update(dict.fromkeys(versions, revision))
                continue
            for name, version in versions.items():
                is_old = found.has.get(name) == version
                if is_old and name not in found.flight and name not in found.again:
                    found.settle(name)
                elif found.wants(name):
                    found.mark(name, revision)
        found.resumed = frozenset()
        for name in missing:
            found.mark(name, revision)

    def _send(self, type_url: str, found: Subscription, now: float) -> bytes | None:
        raise NotImplementedError

    def _ready(self, type_url: str, found: Subscription, now: float) -> dict[str, Wrapped | None]:
        """The dirty names that may be sent now, with what they are; the rest stays dirty.

        Names whose version the proxy has, or has rejected, are dropped as settled.
        """
        ready: dict[str, Wrapped | None] = {}
        if type_url in (CLUSTER, ENDPOINT) and found.is_new:
            all_of_it = self._cache.several(self._node, type_url, found.dirty)
            if len(all_of_it) == len(found.dirty):
                return {**all_of_it}
        alone = found.suspects & found.dirty.keys()
        for name in sorted(alone)[:1] if alone else list(found.dirty):
            resource = self._current(type_url, name)
            if resource is None:
                if type_url == SECRET:
                    # What held it goes by itself; what still asks for it keeps what it has.
                    found.settle(name)
                    continue
                if name in found.coming:
                    continue  # It is being compiled; the request it is for waits.
                if type_url == VIRTUAL_HOST and self._order.holds_host(name):
                    continue
                if name not in found.has and not self._is_awaited(type_url, name):
                    found.settle(name)
                    found.rejected.pop(name, None)
                elif not self._holds_removal(type_url, found, name, now):
                    ready[name] = None
                continue
            found.coming.discard(name)
            if self._is_settled(found, resource):
                found.settle(name)
            elif type_url not in CLIENTS or not self._order.holds_change(
                found, name, resource, now
            ):
                ready[name] = resource
        return ready

    def _holds_removal(self, type_url: str, found: Subscription, name: str, now: float) -> bool:
        if name not in found.has:
            return False
        found.parked.discard(name)
        if type_url == CLUSTER:
            return self._order.holds_removal(found, name, now)
        return type_url == ENDPOINT and self._order.holds_endpoints(found, name)

    def _owes(self, found: Subscription) -> bool:
        """Whether a first answer must go out though it says nothing: Envoy starts only then."""
        return found.owes and not found.dirty

    def _is_awaited(self, type_url: str, name: str) -> bool:
        """Whether the proxy asked for a name by itself, and waits to hear that it is not there."""
        found = self.types[type_url]
        return type_url not in WILDCARD_TYPES and name in found.names and name not in found.absent

    def _is_settled(self, found: Subscription, resource: Wrapped) -> bool:
        name, version = resource.resource.name, resource.version
        if found.has.get(name) == version:
            found.rejected.pop(name, None)
            return name not in found.again
        return found.is_refused(name, version)

    def _fly(self, type_url: str, found: Subscription, ready: Mapping[str, Wrapped | None]) -> str:
        """Note what is about to be sent; answers the nonce."""
        # Proxies that are sent the same are sent the same nonce: their responses share bytes.
        found.count = max(found.count + 1, self._cache.revision)
        found.nonce = str(found.count)
        found.flight_revision = found.oldest_of(ready.keys(), self._cache.revision)
        found.settle_all(ready.keys())
        found.owes = False
        found.flight = {n: r.version if r is not None else None for n, r in ready.items()}
        if type_url in CLIENTS:
            found.flight_clusters = {n: r.clusters for n, r in ready.items() if r is not None}
        if type_url == CLUSTER and ENDPOINT in self.types:
            for name, resource in ready.items():
                if resource is not None:
                    self._renew_endpoints(resource.assignment, is_new=name not in found.has)
        found.sent_any = True
        return found.nonce

    def _land(self, type_url: str, found: Subscription, nonce: str, error: str | None) -> None:
        """Take an acknowledgement or a rejection; an answer to an older response is ignored."""
        if nonce != found.nonce or not nonce:
            return
        flight, found.flight, found.nonce = found.flight, {}, ""
        clusters, found.flight_clusters = found.flight_clusters, {}
        if error is None and found.takes(flight):
            found.clusters.update(clusters)
            return
        blamed = _blamed(flight, error) if error is not None else frozenset()
        found.suspects -= flight.keys()
        if self._CAN_SEND_ALONE and len(blamed) > 1 and not _names_any(flight, error or ""):
            self._suspect(found, blamed)
        for name, version in flight.items():
            if name in found.suspects:
                continue
            if name in blamed and version is not None:
                self._refuse(type_url, name, version, error or "")
                continue
            found.rejected.pop(name, None)
            if version is None:
                found.drop(name)
                if name in found.names:
                    found.absent.add(name)
                continue
            if not found.wants(name):
                continue
            found.has[name] = version
            found.absent.discard(name)
            if name in clusters:
                found.clusters[name] = clusters[name]

    def _refuse(self, type_url: str, name: str, version: str, error: str) -> None:
        """Quarantine a version; a patched one gives way to what was before the patch."""
        found = self.types[type_url]
        resource = self._cache.get(self._node, type_url, name)
        if resource is None or resource.version != version:
            found.rejected[name] = Rejection(type_url, name, version, error)
            return
        about = resource.resource.patched_by
        rejection = Rejection(type_url, name, version, error, about)
        if resource.resource.fallback is None:
            found.rejected[name] = rejection
        else:
            found.patched[name] = rejection
            found.mark(name, self._cache.revision)

    _CAN_SEND_ALONE = True

    def _suspect(self, found: Subscription, names: frozenset[str]) -> None:
        """A rejection that names nothing: send what it was about again, one by one."""
        for name in names:
            found.suspects.add(name)
            found.mark(name, self._cache.revision, again=True)

    def _renew_endpoints(self, assignment: str, *, is_new: bool) -> None:
        """A cluster that is sent waits for endpoints, which it does not ask for again when it had
        some; those that a former cluster of the name had do not count.

        They follow in the same breath: Envoy does not acknowledge clusters while one of them waits.
        """
        endpoints = self.types.get(ENDPOINT)
        if endpoints is not None and endpoints.wants(assignment):
            if is_new:
                endpoints.drop(assignment)
            endpoints.mark(assignment, self._cache.revision, again=True)

    def _resume(self, type_url: str, found: Subscription, initial: frozenset[bytes]) -> None:
        """What a proxy says it has from an earlier stream: nearly always whole sets, or all but a
        few of their resources."""
        rest = initial
        for held in self._cache.sets(self._node, type_url) if initial else ():
            lacking = held.entries - rest
            if 2 * len(lacking) > len(held.entries):
                continue
            found.has.update(held.versions)
            for name in versions_of(lacking):
                del found.has[name]
            rest = rest - held.entries
            if not lacking and len(held.names) > len(found.resumed):
                found.resumed = held.names
        if rest:
            found.has.update(versions_of(rest))
        for name, version in found.has.items() if type_url in CLIENTS else ():
            current = self._current(type_url, name)
            is_current = current is not None and current.version == version
            found.clusters[name] = current.clusters if current and is_current else None


def _blamed(flight: Mapping[str, str | None], error: str) -> frozenset[str]:
    """The resources a rejection is about: those it names, or all when it names none."""
    named: set[str] = set()
    for name in sorted(flight, key=len, reverse=True):
        if name and name in error:
            named.add(name)
            error = error.replace(name, "")
    sent = (name for name, version in flight.items() if version is not None)
    return frozenset(named) or frozenset(sent)


def _names_any(flight: Mapping[str, str | None], error: str) -> bool:
    return any(name and name in error for name in flight)


class DeltaSession(Session):
    """Incremental xDS."""

    def on_request(self, request: DeltaRequest) -> None:
        self._when_known(lambda: self._take(request))

    def _take(self, request: DeltaRequest) -> None:
        found = self.types.get(request.type_url)
        if found is None:
            if request.type_url not in self.serves:
                return
            found = self.types[request.type_url] = Subscription()
            self._begin(found, request)
            missing = found.names - found.has.keys()
            fresh = [name for name in request.subscribe if name in missing] if missing else []
        else:
            fresh = [name for name in request.subscribe if name != "*"]
        if request.nonce:
            self._land(request.type_url, found, request.nonce, request.error)
        if fresh:
            found.names |= frozenset(map(sys.intern, fresh)) - found.names
            found.drop_all(fresh)
            found.mark_again(fresh, self._cache.revision)
        if request.unsubscribe:
            found.forget(request.unsubscribe)
        if request.type_url == VIRTUAL_HOST:
            unknown = [name for name in found.names if self._is_unknown(name)]
            found.coming = set(unknown) if unknown and self._demand(unknown) else set()

    def _begin(self, found: Subscription, request: DeltaRequest) -> None:
        """The first request for a type."""
        type_url = request.type_url
        self._resume(type_url, found, request.initial)
        found.wildcard = not request.subscribe and type_url in WILDCARD_TYPES
        found.owes = type_url == VIRTUAL_HOST  # It asks for none, and waits for that.
        if found.wildcard or "*" in request.subscribe:
            found.wildcard = found.owes = True
        if request.subscribe:
            names = frozenset(request.subscribe) - {"*"}
            found.names = self._cache.shared(self._node, type_url, names)
        self._mark_everything(type_url, self._cache.revision)

    def _is_unknown(self, name: str) -> bool:
        return "/" in name and self._cache.get(self._node, VIRTUAL_HOST, name) is None

    def _send(self, type_url: str, found: Subscription, now: float) -> bytes | None:
        ready = self._ready(type_url, found, now)
        if not ready and not self._owes(found):
            return None
        nonce = self._fly(type_url, found, ready)
        resources = [r for r in ready.values() if r is not None]
        removed = [name for name, r in ready.items() if r is None]
        return self._cache.responses.delta(type_url, nonce, resources, removed)


class SotwSession(Session):
    """State-of-the-world xDS: clusters and listeners always in full, other types as changed."""

    _CAN_SEND_ALONE = False

    def on_request(self, request: Request) -> None:
        self._when_known(lambda: self._take(request))

    def _take(self, request: Request) -> None:
        found = self.types.get(request.type_url)
        if found is None:
            if request.type_url not in self.serves:
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
            found.mark(name, self._cache.revision)
        found.forget(found.names - set(request.names))
        found.names = frozenset(request.names)

    def _send(self, type_url: str, found: Subscription, now: float) -> bytes | None:
        ready = self._ready(type_url, found, now)
        if not ready and not self._owes(found):
            return None
        if type_url in WILDCARD_TYPES:
            if found.dirty.keys() - ready.keys():
                return None
            for name, resource in self._cache.resources(self._node, type_url):
                if name not in ready and found.wants(name):
                    ready[name] = self._current(type_url, name) or resource
        nonce = self._fly(type_url, found, ready)
        resources = [r for r in ready.values() if r is not None]
        return response(type_url, nonce, str(self._cache.revision), resources)
