"""A route configuration that is changed piece by piece is the one that is joined at once."""

from hypothesis import given
from hypothesis import strategies as st

from meltemi.base.keys import HostKey
from meltemi.compile.configuration import Configuration
from meltemi.compile.envoy import routes
from meltemi.compile.envoy.kit import Kit
from meltemi.compile.plan.hosts import without_duplicates
from meltemi.compile.seal import Piece
from meltemi.protos import Protos

_HOSTS = st.sampled_from("abcd")
_SHARED = st.lists(st.sampled_from(("10.0.0.1", "short", "other")), unique=True, max_size=3)
_STEPS = st.lists(st.tuples(_HOSTS, st.none() | st.tuples(_SHARED, st.integers(0, 3))), max_size=12)


def _piece(kit: Kit, host: str, domains: list[str], mark: int) -> Piece:
    wanted = (host, *domains)
    message = kit.new("envoy.config.route.v3.VirtualHost", name=f"{host}-{mark}")
    message.domains.extend(wanted)
    return Piece(wanted, routes.element(kit, message))


@given(st.lists(_STEPS, max_size=5))
def test_changes_come_to_what_joining_at_once_does(
    protos: Protos, rounds: list[list[tuple[str, tuple[list[str], int] | None]]]
) -> None:
    kit = Kit(protos)
    subject, pieces = Configuration(kit), dict[HostKey, Piece]()
    for steps in rounds:
        for host, given_piece in steps:
            key = HostKey("space", host)
            if given_piece is None:
                subject.remove(key)
                pieces.pop(key, None)
            else:
                pieces[key] = _piece(kit, host, *given_piece)
                subject.put(key, pieces[key])
        ordered = [pieces[key] for key in sorted(pieces)]
        kept = without_duplicates([piece.domains for piece in ordered])
        wanted = [routes.renamed(kit, p.body, d) for p, d in zip(ordered, kept, strict=True)]
        assert list(subject.bodies()) == wanted
