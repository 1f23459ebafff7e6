"""One proxy's conversation: order, merging, rejection, and convergence under any schedule."""

from collections import deque
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meltemi.base.keys import ObjectKey
from meltemi.base.resource import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ROUTE,
    VIRTUAL_HOST,
    Change,
    ProxyView,
    Resource,
    SetKey,
)
from meltemi.xds.cache import Cache
from meltemi.xds.messages import DeltaRequest, entry
from meltemi.xds.order import COMING, MISSING
from meltemi.xds.references import clusters_named
from meltemi.xds.session import DeltaSession

from .fake_envoy import NODE, FakeEnvoy, Response, cluster, endpoints, names_clusters

TYPES = (CLUSTER, ENDPOINT, LISTENER, ROUTE)
A, B = "outbound|80|v1|a.default", "outbound|80|v2|a.default"


class World:
    """A cache with one proxy's sets, the session, the proxy, and the wire between them."""

    def __init__(self) -> None:
        self.cache = Cache()
        self.now = 100.0
        self.bad: set[tuple[str, str]] = set()
        self.envoy = FakeEnvoy(lambda kind, _n, version: (kind, version) in self.bad)
        self.wire: deque[bytes] = deque()
        self.revision = 0
        view = ProxyView(NODE, tuple(SetKey(t, "s") for t in TYPES))
        self.change(views={NODE: view})
        self.connect()

    def change(
        self, *resources: Resource, gone: dict[str, str] | None = None, views: object = None
    ) -> None:
        self.revision += 1
        changed: dict[SetKey, dict[str, Resource | None]] = {}
        for resource in resources:
            changed.setdefault(SetKey(resource.type_url, "s"), {})[resource.name] = resource
        for name, type_url in (gone or {}).items():
            changed.setdefault(SetKey(type_url, "s"), {})[name] = None
        self.cache.apply(Change(self.revision, changed, views or {}))  # type: ignore[arg-type]

    def connect(self) -> None:
        if hasattr(self, "session"):
            self.cache.close(self.session)
        self.wire.clear()
        self.session = DeltaSession(NODE, self.cache, lambda: None)
        self.cache.open(self.session)
        self.envoy.connect()

    def ask(self) -> bool:
        """The proxy's oldest message reaches the server."""
        if self.envoy.out:
            self.session.on_request(self.envoy.out.popleft())
            return True
        return False

    def answer(self) -> None:
        self.wire.extend(self.session.flush(self.now))

    def take(self) -> bool:
        if self.wire:
            self.envoy.take(self.wire.popleft())
            return True
        return False

    def run(self) -> None:
        """Until nothing moves without time."""
        moved = True
        while moved:
            moved = self.ask()
            self.answer()
            moved = self.take() or moved

    def settle(self) -> None:
        """Until nothing moves and no wait is left."""
        self.run()
        while (due := self.session.due()) is not None:
            self.now = max(self.now, due)
            self.run()

    def holds(self, type_url: str) -> dict[str, str]:
        return {n: v for n, (v, _) in self.envoy.has[type_url].items()}

    def wanted(self, type_url: str) -> dict[str, str]:
        return {name: found.version for name, found in self.cache.resources(NODE, type_url)}


def serving() -> World:
    """A proxy whose route goes to A."""
    world = World()
    world.change(
        cluster(A),
        endpoints(A),
        names_clusters(LISTENER, "l", ()),
        names_clusters(ROUTE, "l", (A,)),
    )
    world.settle()
    assert world.holds(ROUTE) == world.wanted(ROUTE)
    return world


def test_a_route_waits_for_its_clusters_endpoints() -> None:
    world = serving()
    world.change(cluster(B), endpoints(B), names_clusters(ROUTE, "l", (A, B)))
    sent = [Response(body).type_url for body in world.session.flush(world.now)]
    assert sent == [CLUSTER]
    world.change(names_clusters(ROUTE, "l", (A, B), "2"))
    world.wire.extend([])
    assert world.session.flush(world.now) == []


def test_a_subset_and_its_route_in_either_order_break_nothing() -> None:
    world = serving()
    world.change(names_clusters(ROUTE, "l", (A, B)))
    world.run()
    assert clusters_named(world.envoy.has[ROUTE]["l"][1]) == {A}
    world.now += MISSING / 2
    world.change(cluster(B), endpoints(B))
    world.settle()
    assert clusters_named(world.envoy.has[ROUTE]["l"][1]) == {A, B}
    assert world.now == 100 + MISSING / 2
    assert all(not unusable for _, unusable in world.envoy.taken)


def test_a_removed_subset_stays_until_its_route_is_gone() -> None:
    world = serving()
    world.change(cluster(B), endpoints(B), names_clusters(ROUTE, "l", (A, B)))
    world.settle()
    world.change(gone={B: CLUSTER})
    world.change(gone={B: ENDPOINT})
    world.run()
    assert world.envoy.dangling() == set()
    assert B in world.envoy.has[ENDPOINT]
    world.change(names_clusters(ROUTE, "l", (A,)))
    world.run()
    assert world.holds(CLUSTER) == world.wanted(CLUSTER)
    assert world.holds(ENDPOINT) == world.wanted(ENDPOINT)
    assert world.session.oldest() is None


def test_what_is_missing_for_too_long_is_sent_as_it_is_and_not_waited_for_again() -> None:
    world = serving()
    world.change(names_clusters(ROUTE, "l", (A, B)))
    world.run()
    assert world.session.oldest() is not None
    assert world.session.due() == world.now + MISSING
    world.now += MISSING
    world.run()
    assert world.envoy.dangling() == {B}
    world.change(names_clusters(ROUTE, "l", (A, B), "other"))
    world.run()
    assert world.session.oldest() is None


def test_a_new_proxy_with_a_missing_subset_is_served_at_once() -> None:
    world = World()
    world.change(
        cluster(A),
        endpoints(A),
        names_clusters(LISTENER, "l", ()),
        names_clusters(ROUTE, "l", (A, B)),
    )
    world.run()
    assert world.holds(ROUTE) == world.wanted(ROUTE)


def test_one_missing_subset_holds_up_no_other_configuration() -> None:
    world = serving()
    world.change(names_clusters(LISTENER, "m", ()), names_clusters(ROUTE, "m", (A,)))
    world.settle()
    world.change(names_clusters(ROUTE, "l", (B,)), names_clusters(ROUTE, "m", (A,), "new"))
    world.run()
    assert world.holds(ROUTE)["m"] == world.wanted(ROUTE)["m"]


def test_a_changed_cluster_has_its_endpoints_sent_in_the_same_breath() -> None:
    """Envoy holds back its acknowledgement of clusters while one of them waits for endpoints."""
    world = serving()
    world.change(cluster(A, "changed"))
    sent = [Response(body).type_url for body in world.session.flush(world.now)]
    assert sent == [CLUSTER, ENDPOINT]


def test_endpoints_in_flight_do_not_count_for_a_cluster_changed_meanwhile() -> None:
    world = serving()
    world.change(endpoints(A, "1"))
    world.answer()
    world.change(cluster(A, "changed"))
    world.answer()
    sent = [Response(body).type_url for body in world.wire]
    assert sent == [ENDPOINT, CLUSTER]
    world.wire.rotate(0)
    kinds = []
    while world.take() or world.ask() or world.wire:
        before = len(world.wire)
        world.answer()
        kinds += [Response(body).type_url for body in list(world.wire)[before:]]
    assert kinds == [ENDPOINT]


def test_a_refused_change_keeps_the_last_good_one_and_its_clusters() -> None:
    world = serving()
    bad = names_clusters(ROUTE, "l", (), "bad")
    world.bad.add((bad.type_url, bad.version))
    good = world.holds(ROUTE)["l"]
    world.change(bad, gone={A: CLUSTER})
    world.settle()
    assert world.holds(ROUTE)["l"] == good
    assert world.envoy.dangling() == set()
    assert [r.name for r in world.session.rejections()] == ["l"]
    better = names_clusters(ROUTE, "l", (), "good")
    world.change(better)
    world.settle()
    assert world.holds(ROUTE)["l"] == better.version
    assert A not in world.envoy.has[CLUSTER]
    assert list(world.session.rejections()) == []


def test_a_rejection_that_names_nothing_is_tracked_down() -> None:
    world = serving()
    world.envoy.names_errors = False
    bad = cluster(B, "bad")
    world.bad.add((bad.type_url, bad.version))
    world.change(cluster(A, "fine"), bad, endpoints(B))
    world.settle()
    assert world.holds(CLUSTER) == {A: world.wanted(CLUSTER)[A]}
    assert [r.name for r in world.session.rejections()] == [B]


def test_a_refused_patch_gives_way_to_what_was_before_it() -> None:
    world = serving()
    plain = names_clusters(ROUTE, "l", (A,), "plain")
    bad = names_clusters(ROUTE, "l", (A,), "patched")
    about = ObjectKey("EnvoyFilter", "default", "f")
    patched = Resource(bad.type_url, bad.name, bad.version, bad.body, plain, (about,))
    world.bad.add((ROUTE, bad.version))
    world.change(patched)
    world.settle()
    assert world.holds(ROUTE)["l"] == plain.version
    assert [r.about for r in world.session.rejections()] == [(about,)]
    assert world.session.oldest() is None
    world.connect()
    world.settle()
    assert world.holds(ROUTE)["l"] == plain.version
    world.change(views={NODE: ProxyView(NODE, tuple(SetKey(t, "other") for t in TYPES))})
    assert list(world.session.rejections()) == []


def test_inbound_clusters_come_before_and_go_after_their_listener() -> None:
    world = World()
    inbound = "inbound|9080||"
    world.change(cluster(inbound, eds=False), names_clusters(LISTENER, "in", (inbound,)))
    world.settle()
    world.change(names_clusters(LISTENER, "in", ()), gone={inbound: CLUSTER})
    world.settle()
    assert all(not unusable for _, unusable in world.envoy.taken)
    assert world.envoy.dangling() == set()
    assert inbound not in world.envoy.has[CLUSTER]


def test_names_are_found_whatever_their_length() -> None:
    short = "outbound|80||a.b"
    long = f"outbound|80||{'x' * 180}.svc"
    body = b"\x0a" + bytes((len(short),)) + short.encode()
    size = len(long)
    body += b"\x82\x01" + bytes((size & 0x7F | 0x80, size >> 7)) + long.encode() + b"*z"
    assert clusters_named(body) == {short, long}


@pytest.mark.parametrize("will_be", [True, False])
def test_a_virtual_host_that_is_being_made_is_waited_for(will_be: bool) -> None:
    asked: list[str] = []
    world = serving()

    def demand(names: Sequence[str]) -> bool:
        asked.extend(names)
        return will_be

    session = DeltaSession(NODE, world.cache, lambda: None, demand)
    world.cache.open(session)
    view = ProxyView(NODE, tuple(SetKey(t, "s") for t in (*TYPES, VIRTUAL_HOST)))
    world.change(views={NODE: view})

    def answers() -> list[Response]:
        return [Response(body) for body in session.flush(world.now)]

    session.on_request(DeltaRequest(VIRTUAL_HOST, (), (), frozenset(), "", None))
    first = answers()
    assert [(r.resources, r.removed) for r in first] == [({}, [])]
    session.on_request(DeltaRequest(VIRTUAL_HOST, (), (), frozenset(), first[0].nonce, None))
    session.on_request(DeltaRequest(VIRTUAL_HOST, ("80/a",), (), frozenset(), "", None))
    assert asked == ["80/a"]
    if not will_be:
        assert [r.removed for r in answers()] == [["80/a"]]
        return
    assert answers() == []
    made = names_clusters(VIRTUAL_HOST, "80/a", ())
    world.change(made)
    assert [set(r.resources) for r in answers()] == [{"80/a"}]


def test_a_virtual_host_stays_until_its_configuration_has_it_inside() -> None:
    world = serving()
    session = DeltaSession(NODE, world.cache, lambda: None, lambda _names: False)
    world.cache.open(session)
    world.change(
        views={NODE: ProxyView(NODE, tuple(SetKey(t, "s") for t in (*TYPES, VIRTUAL_HOST)))}
    )
    world.change(names_clusters(VIRTUAL_HOST, "l/a", ()))
    route, host = (world.cache.get(NODE, t, n) for t, n in ((ROUTE, "l"), (VIRTUAL_HOST, "l/a")))
    assert route is not None
    assert host is not None
    session.on_request(
        DeltaRequest(ROUTE, ("l",), (), frozenset({entry("l", route.version)}), "", None)
    )
    session.on_request(
        DeltaRequest(VIRTUAL_HOST, ("l/a",), (), frozenset({entry("l/a", host.version)}), "", None)
    )
    world.change(names_clusters(ROUTE, "l", (A,), "whole"), gone={"l/a": VIRTUAL_HOST})
    sent = [Response(body) for body in session.flush(world.now)]
    assert [r.type_url for r in sent if r.resources or r.removed] == [ROUTE]
    session.on_request(DeltaRequest(ROUTE, (), (), frozenset(), sent[0].nonce, None))
    session.on_request(DeltaRequest(VIRTUAL_HOST, (), (), frozenset(), "1", None))
    sent = [Response(body) for body in session.flush(world.now)]
    assert [r.removed for r in sent] == [["l/a"]]


def _returning(known: Sequence[Resource]) -> DeltaRequest:
    entries = frozenset(entry(resource.name, resource.version) for resource in known)
    return DeltaRequest(CLUSTER, (), (), entries, "", None)


def test_a_returning_proxy_is_heard_once_it_is_known_what_it_sees() -> None:
    world, has = World(), [cluster(f"outbound|80|v{i}|a.default", eds=False) for i in range(5)]
    world.change(*has, views={NODE: None})
    session = DeltaSession(NODE, world.cache, lambda: None)
    world.cache.open(session)
    session.on_request(_returning(has))
    assert session.waits
    assert session.flush(world.now) == []
    assert session.oldest() == 0
    world.change(views={NODE: ProxyView(NODE, (SetKey(CLUSTER, "s"),))})
    assert session.oldest() == 0
    sent = [Response(body) for body in session.flush(world.now)]
    assert not session.waits
    assert [(r.resources, r.removed) for r in sent] == [({}, [])]


def test_a_returning_proxy_is_sent_what_changed_while_it_was_away() -> None:
    world, had = World(), [cluster(f"outbound|80|v{i}|a.default", eds=False) for i in range(5)]
    world.change(*had[1:], cluster(had[1].name, "new", eds=False))
    session = DeltaSession(NODE, world.cache, lambda: None)
    world.cache.open(session)
    session.on_request(_returning(had))
    sent = [Response(body) for body in session.flush(world.now)]
    assert [(set(r.resources), r.removed) for r in sent] == [({had[1].name}, [had[0].name])]


def test_versions_that_cannot_be_read_count_as_none() -> None:
    world, has = World(), cluster(A, eds=False)
    world.change(has)
    session = DeltaSession(NODE, world.cache, lambda: None)
    world.cache.open(session)
    session.on_request(DeltaRequest(CLUSTER, (), (), frozenset({b"\xff\xff"}), "", None))
    sent = [Response(body) for body in session.flush(world.now)]
    assert [set(r.resources) for r in sent] == [{A}]


NAMES = [f"outbound|80|v{i}|a.default" for i in range(3)]
STEPS = ("ask", "answer", "take", "subset", "route", "time", "reconnect", "bad")
WEIGHTS = (30, 30, 30, 8, 8, 6, 1, 1)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), names_errors=st.booleans())
def test_any_schedule_converges_and_never_names_what_will_come(
    seed: int, names_errors: bool
) -> None:
    random = Random(seed)
    world = World()
    world.envoy.names_errors = names_errors
    subsets: set[str] = set()
    world.change(names_clusters(LISTENER, "l", ()), names_clusters(ROUTE, "l", ()))

    def mutate(step: str) -> None:
        mark = str(random.randrange(4))
        if step == "subset":
            name = random.choice(NAMES)
            if name in subsets and random.random() < 0.5:
                subsets.discard(name)
                world.change(gone={name: CLUSTER})
                world.change(gone={name: ENDPOINT})
            else:
                subsets.add(name)
                made = [cluster(name, mark), endpoints(name, mark)]
                random.shuffle(made)
                for one in made:
                    world.change(one)
        elif step == "route":
            chosen = [n for n in NAMES if random.random() < 0.4]
            world.change(names_clusters(ROUTE, "l", chosen, mark))
        elif step == "bad":
            kind = random.choice([CLUSTER, ROUTE])
            for version in list(world.wanted(kind).values())[:1]:
                world.bad.add((kind, version))

    for _ in range(150):
        step = random.choices(STEPS, WEIGHTS)[0]
        if step in ("ask", "answer", "take"):
            getattr(world, step)()
        elif step == "time":
            world.now += random.choice((0.01, MISSING / 2, MISSING))
        elif step == "reconnect":
            world.connect()
        else:
            mutate(step)
        lacking = {c for _, found in world.envoy.taken for c in found}
        patient = world.now < 100 + MISSING
        assert not (patient and lacking and not world.bad), "sent before its time"
    world.settle()
    world.now += COMING
    world.settle()
    assert world.session.oldest() is None
    refused = {(r.type_url, r.name) for r in world.session.rejections()}
    for type_url in (CLUSTER, ROUTE, LISTENER):
        has, wanted = world.holds(type_url), world.wanted(type_url)
        differing = {n for n in has.keys() | wanted.keys() if has.get(n) != wanted.get(n)}
        excused = {n for t, n in refused if t == type_url}
        if refused and type_url == CLUSTER:
            excused |= has.keys() - wanted.keys()
        assert differing <= excused
    if not refused:
        assert world.holds(ENDPOINT).keys() == world.wanted(ENDPOINT).keys()
        assert world.envoy.dangling() <= set(NAMES) - subsets
