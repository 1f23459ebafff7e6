"""Destinations: from the host, subset and port a rule names to a cluster, and what is wrong there.

HTTP, TLS and TCP routes share it.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from meltemi.api.networking import TrafficPolicy
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Problem, Severity
from meltemi.compile import ir, names
from meltemi.compile.scope import is_subset
from meltemi.model.policy import Blocks, DestinationPolicy
from meltemi.model.route import DEFAULT_RETRY, Retry, Target
from meltemi.model.service import Resolution, Service

_LONGEST_ALIAS = 8


class Client(NamedTuple):
    """Who asks: what the control plane itself tests in a match."""

    gateway: str
    """`mesh`, or the gateway's `namespace/name`."""
    namespace: str
    labels: tuple[tuple[str, str], ...]
    port: int
    """The listener's port, as the service (not the pod) numbers it."""
    tls: bool = False
    """Requests come in TLS that the proxy ends: their scheme is https."""


class Resolver(NamedTuple):
    """What a client knows of the destinations that rules name."""

    service: Callable[[str], Service | None]
    policy: Callable[[str], DestinationPolicy | None]
    """The DestinationRules the client applies for a host."""
    default_retry: Retry = DEFAULT_RETRY
    """Where a rule is silent."""
    default_policy: TrafficPolicy | None = None
    """The mesh's, block by block where no DestinationRule has the block."""

    def place(self, service: Service | None) -> Service | None:
        """Where a service's traffic goes: an alias (ExternalName) leads on to what it names."""
        for _ in range(_LONGEST_ALIAS):
            if service is None or service.resolution is not Resolution.ALIAS:
                return service
            service = self.service(service.external_name)
        return None

    def subsets(self, host: str) -> frozenset[str]:
        found = self.policy(host)
        return frozenset(s.name for s in found.subsets) if found else frozenset()

    def blocks(self, host: str, subset: str, port: int) -> Blocks:
        found = self.policy(host)
        own = found.blocks(port, subset) if found else Blocks()
        return own.over(self.default_policy)

    def hashes(self, host: str, subset: str, port: int) -> tuple[ir.HashPolicy, ...]:
        return hash_policies(self.blocks(host, subset, port))


class Place(NamedTuple):
    """A destination, found: the parts of its cluster's name."""

    host: str
    subset: str
    port: int

    @property
    def cluster(self) -> str:
        return names.outbound(self.port, self.subset, self.host)


class Destinations:
    """Finds the places of one object's targets; collects what is wrong with them."""

    def __init__(self, client: Client, resolver: Resolver) -> None:
        self._client = client
        self._resolver = resolver
        self.problems: list[Problem] = []

    def place(self, target: Target, about: ObjectKey) -> Place:
        """Where a target leads, whether it exists or not; a problem where it does not."""
        service = self._service(target.host)
        host = service.host if service is not None else target.host
        port = self._port(target, service)
        if service is None:
            self._report(
                about,
                Code.UNKNOWN_HOST,
                f"{target.path}.host",
                f"no service has the host {target.host}: traffic routed there fails with 503; "
                "create the service, or correct the name",
            )
        elif service.port(port) is None:
            self._report(
                about,
                Code.UNKNOWN_PORT,
                f"{target.path}.port",
                f"{target.host} has no port {port}: it has "
                f"{', '.join(str(p.number) for p in service.ports) or 'none'}",
            )
        elif target.subset and target.subset not in self._resolver.subsets(host):
            self._report(
                about,
                Code.UNKNOWN_SUBSET,
                f"{target.path}.subset",
                f"no DestinationRule for {target.host} defines the subset {target.subset!r}: "
                "traffic routed there fails with 503; define it, or correct the name",
            )
        return Place(host, target.subset, port)

    def _service(self, host: str) -> Service | None:
        """The service of a host; an alias (ExternalName) leads on to the one it names."""
        return self._resolver.place(self._resolver.service(host))

    def _port(self, target: Target, service: Service | None) -> int:
        """The destination's port: named, or the service's only one, or the listener's."""
        if target.port is not None:
            return target.port
        if service is not None and len(service.ports) == 1:
            return service.ports[0].number
        return self._client.port

    def _report(self, about: ObjectKey, code: Code, path: str, message: str) -> None:
        problem = Problem(code, Severity.ERROR, about, path, message)
        if problem not in self.problems:
            self.problems.append(problem)


def may_match(client: Client, port: int | None, namespace: str, labels: Mapping[str, str]) -> bool:
    """Whether the source conditions of a match hold for a client: what Envoy is never asked."""
    return (
        (port is None or port == client.port)
        and (not namespace or namespace == client.namespace)
        and is_subset(labels, client.labels)
    )


def hash_policies(blocks: Blocks) -> tuple[ir.HashPolicy, ...]:
    """What a consistent hash is taken of, which in Envoy the routes say."""
    balancer = blocks.load_balancer
    consistent = balancer.consistent_hash if balancer is not None else None
    if consistent is None:
        return ()
    if consistent.http_header_name:
        return (ir.HashPolicy(header=consistent.http_header_name),)
    if consistent.http_query_parameter_name:
        return (ir.HashPolicy(query=consistent.http_query_parameter_name),)
    if consistent.http_cookie is not None:
        cookie = consistent.http_cookie
        return (
            ir.HashPolicy(
                cookie=cookie.name,
                cookie_path=cookie.path,
                cookie_ttl=cookie.ttl,
                cookie_attributes=tuple((a.name, a.value) for a in cookie.attributes),
            ),
        )
    return (ir.HashPolicy(source=True),) if consistent.use_source_ip else ()
