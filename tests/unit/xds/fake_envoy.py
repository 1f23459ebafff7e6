"""A proxy as the protocol knows it: subscribes, warms, acknowledges, and notes broken promises."""

from collections import deque
from collections.abc import Callable, Iterable

from meltemi.base.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resource, node_from_id, seal
from meltemi.xds.messages import DeltaRequest, entry
from meltemi.xds.references import assignment_of, clusters_named, fields

NODE = "sidecar~10.0.0.1~a.default~default.svc.cluster.local"


def _field(number: int, value: bytes) -> bytes:
    return bytes((number << 3 | 2, len(value))) + value


def cluster(name: str, mark: str = "", *, eds: bool = True) -> Resource:
    """The bytes that matter of a cluster; `mark` makes versions differ."""
    body = _field(1, name.encode()) + (b"\x10\x03" if eds else b"")
    return seal(CLUSTER, name, body + _field(30, mark.encode())[:0] + _field(13, mark.encode()))


def endpoints(name: str, mark: str = "") -> Resource:
    return seal(ENDPOINT, name, _field(1, name.encode()) + _field(2, mark.encode()))


def names_clusters(type_url: str, name: str, clusters: Iterable[str], mark: str = "") -> Resource:
    """A listener or a route configuration that names clusters."""
    body = _field(1, name.encode()) + b"".join(_field(2, c.encode()) for c in sorted(clusters))
    return seal(type_url, name, body + _field(3, mark.encode()))


class Response:
    """A DeltaDiscoveryResponse, read."""

    def __init__(self, body: bytes) -> None:
        self.type_url = self.nonce = ""
        self.resources: dict[str, tuple[str, bytes]] = {}
        self.removed: list[str] = []
        for number, value in fields(body):
            assert isinstance(value, bytes)
            if number == 2:
                self._resource(value)
            elif number == 4:
                self.type_url = value.decode()
            elif number == 5:
                self.nonce = value.decode()
            elif number == 6:
                self.removed.append(value.decode())

    def _resource(self, body: bytes) -> None:
        version, name, message = "", "", b""
        for number, value in fields(body):
            assert isinstance(value, bytes)
            if number == 1:
                version = value.decode()
            elif number == 3:
                name = value.decode()
            else:
                message = next(v for n, v in fields(value) if n == 2)  # type: ignore[misc]
        self.resources[name] = (version, message)


class FakeEnvoy:
    """Delta only. `refuses(type_url, name, version)` decides what it rejects."""

    def __init__(self, refuses: Callable[[str, str, str], bool]) -> None:
        self.refuses = refuses
        self.has: dict[str, dict[str, tuple[str, bytes]]] = {
            t: {} for t in (CLUSTER, ENDPOINT, LISTENER, ROUTE)
        }
        self.warm: set[str] = set()
        """Clusters that requests can use."""
        self.out: deque[DeltaRequest] = deque()
        self.taken: list[tuple[str, frozenset[str]]] = []
        """(what, clusters it named that could not be used) of each replaced client."""
        self.names_errors = True

    def connect(self) -> None:
        """Open a stream; what is known already is told."""
        self.out.clear()
        node = node_from_id(NODE, {}, {})
        for type_url in (CLUSTER, ENDPOINT, LISTENER, ROUTE):
            known = frozenset(entry(n, v) for n, (v, _) in self.has[type_url].items())
            wanted = () if type_url in (CLUSTER, LISTENER) else tuple(self._wanted(type_url))
            if type_url in (CLUSTER, LISTENER) or wanted:
                self.out.append(DeltaRequest(type_url, wanted, (), known, "", None, node))
                node = None  # type: ignore[assignment]

    def _wanted(self, type_url: str) -> set[str]:
        if type_url == ENDPOINT:
            assignments = {assignment_of(n, b) for n, (_, b) in self.has[CLUSTER].items()}
            return assignments - {""}
        return set(self.has[LISTENER])

    def take(self, body: bytes) -> None:
        """One response: apply, subscribe to what it needs, acknowledge."""
        response = Response(body)
        type_url, held = response.type_url, self.has[response.type_url]
        before = {t: self._wanted(t) for t in (ENDPOINT, ROUTE)}
        refused = [n for n, (v, _) in response.resources.items() if self.refuses(type_url, n, v)]
        for name, (version, message) in response.resources.items():
            if name in refused or (refused and not self.names_errors):
                continue
            if type_url in before and name not in before[type_url]:
                continue
            is_new = name not in held
            held[name] = (version, message)
            self._applied(type_url, name, message, is_new)
        for name in response.removed:
            held.pop(name, None)
            if type_url == CLUSTER:
                self.warm.discard(name)
        self._subscribe(before, set(response.resources) if type_url == CLUSTER else set())
        error = None
        if refused:
            error = f"bad {', '.join(refused)}" if self.names_errors else "something is wrong"
        self.out.append(DeltaRequest(type_url, (), (), frozenset(), response.nonce, error))

    def _applied(self, type_url: str, name: str, message: bytes, is_new: bool) -> None:
        if type_url == CLUSTER:
            if not assignment_of(name, message):
                self.warm.add(name)
        elif type_url == ENDPOINT:
            self.warm |= {
                n for n, (_, b) in self.has[CLUSTER].items() if assignment_of(n, b) == name
            }
        elif not is_new:
            self.taken.append((name, clusters_named(message) - self.warm))

    def _subscribe(self, before: dict[str, set[str]], _changed: set[str]) -> None:
        for type_url, old in before.items():
            new = self._wanted(type_url)
            if new != old:
                for gone in old - new:
                    self.has[type_url].pop(gone, None)
                self.out.append(
                    DeltaRequest(
                        type_url,
                        tuple(sorted(new - old)),
                        tuple(sorted(old - new)),
                        frozenset(),
                        "",
                        None,
                    )
                )

    def dangling(self) -> set[str]:
        """Clusters that its listeners and routes name and requests cannot use."""
        clients = [*self.has[LISTENER].values(), *self.has[ROUTE].values()]
        return {c for _, b in clients for c in clusters_named(b)} - self.warm
