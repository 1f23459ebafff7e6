"""ServiceEntries as names: which addresses their hosts have, as a namespace sees them.

mesh-semantics 1.19: hosts with addresses of their own or allocated ones are answered here;
others are left to the name servers outside.
"""

import ipaddress
from collections.abc import Iterator, Sequence

import msgspec

from meltemi.api.decode import decode
from meltemi.api.service_entry import ServiceEntry
from meltemi.base.keys import ObjectKey
from meltemi.kube.informer import Event

_KIND = "ServiceEntry"


class Host(msgspec.Struct, frozen=True):
    """One host of one entry."""

    namespace: str
    name: str
    addresses: tuple[str, ...]
    export_to: tuple[str, ...]
    created: tuple[str, str, str]

    def is_seen_from(self, namespace: str) -> bool:
        shown = self.export_to or ("*",)
        return "*" in shown or namespace in shown or ("." in shown and namespace == self.namespace)


class EntryTable:
    """The hosts of all ServiceEntries. Fed by an informer."""

    def __init__(self) -> None:
        self._entries: dict[ObjectKey, tuple[Host, ...]] = {}
        self._hosts: dict[str, list[Host]] = {}

    def deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            for host in self._entries.pop(event.key, ()):
                self._hosts[host.name].remove(host)
            value = decode(_KIND, event.raw).value if event.raw is not None else None
            if not isinstance(value, ServiceEntry):
                continue
            hosts = tuple(_hosts(value))
            self._entries[event.key] = hosts
            for host in hosts:
                self._hosts.setdefault(host.name, []).append(host)

    def find(self, name: str, namespace: str) -> Host | None:
        """The host that a name means: exactly, or by the longest wildcard; of several the
        namespace's own, then the oldest."""
        for pattern in _patterns(name):
            seen = [h for h in self._hosts.get(pattern, ()) if h.is_seen_from(namespace)]
            if seen:
                return min(seen, key=lambda h: (h.namespace != namespace, h.created))
        return None


def _patterns(name: str) -> Iterator[str]:
    yield name
    rest = name
    while "." in rest:
        _, _, rest = rest.partition(".")
        yield f"*.{rest}"


def _hosts(entry: ServiceEntry) -> Iterator[Host]:
    spec = entry.spec
    own = tuple(a for a in spec.addresses if _is_single(a))
    for host in spec.hosts:
        given = tuple(a.value for a in entry.status.addresses if a.host == host)
        addresses = tuple(a.partition("/")[0] for a in own) or (() if spec.addresses else given)
        if addresses:
            yield Host(
                entry.metadata.namespace, host.lower(), addresses, spec.export_to, entry.age_order
            )


def _is_single(address: str) -> bool:
    try:
        return ipaddress.ip_network(address, strict=False).num_addresses == 1
    except ValueError:
        return False
