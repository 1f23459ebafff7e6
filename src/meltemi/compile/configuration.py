"""One route configuration of a scope, joined from the pieces of its hosts.

A thousand hosts share a configuration, and changes come for one at a time: as long as the domains
stay as they are, nothing but the piece that changed is looked at.
"""

from collections.abc import Collection, Iterable

from meltemi.base.keys import HostKey
from meltemi.compile.envoy import routes as envoy_routes
from meltemi.compile.envoy.kit import Kit
from meltemi.compile.plan.hosts import without_duplicates
from meltemi.compile.seal import Piece

Domains = tuple[str, ...]


class Configuration:
    """Pieces by host, and what they came to when they were last joined."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._pieces: dict[HostKey, Piece] = {}
        self._touched: set[HostKey] = set()
        self._wanted: dict[HostKey, Domains] = {}
        self._kept: dict[HostKey, Domains] = {}
        """The domains each host gets: of several that want one, the first has it."""
        self._bodies: dict[HostKey, bytes] = {}

    def __len__(self) -> int:
        return len(self._pieces)

    def put(self, host: HostKey, piece: Piece) -> None:
        self._pieces[host] = piece
        self._touched.add(host)

    def remove(self, host: HostKey) -> None:
        self._pieces.pop(host, None)
        self._touched.add(host)

    def bodies(self) -> Iterable[bytes]:
        """The virtual hosts, in the order of hosts."""
        touched = set(self._touched)
        self._touched.clear()
        if any(self._domains(host) != self._wanted.get(host) for host in touched):
            touched = set(self._pieces)
            self._arrange()
        for host in touched & self._pieces.keys():
            self._bodies[host] = self._body(host)
        return self._bodies.values()

    def _domains(self, host: HostKey) -> Domains | None:
        piece = self._pieces.get(host)
        return piece.domains if piece is not None else None

    def _arrange(self) -> None:
        """Order the hosts, and share out their domains."""
        ordered = sorted(self._pieces)
        self._wanted = {host: self._pieces[host].domains for host in ordered}
        wanted: Collection[Domains] = self._wanted.values()
        self._kept = dict(zip(ordered, without_duplicates(list(wanted)), strict=True))
        self._bodies = dict.fromkeys(ordered, b"")

    def _body(self, host: HostKey) -> bytes:
        piece, domains = self._pieces[host], self._kept[host]
        if domains == piece.domains:
            return piece.body
        return envoy_routes.renamed(self._kit, piece.body, domains)
