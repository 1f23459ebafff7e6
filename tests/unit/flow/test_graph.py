"""The graph refreshes exactly what depends on what changed, and agrees with scratch."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity
from meltemi.flow import Fetch, Graph, Index, Source

ABOUT = ObjectKey("Thing", "ns", "a")
BAD = Problem(Code.BAD_VALUE, Severity.ERROR, ABOUT, "spec", "negative")
BY_PARITY: Index[int] = Index("parity", lambda n: (n % 2,))


def doubled(_fetch: Fetch, key: str, value: int) -> Mapping[str, Outcome[int]]:
    if value < 0:
        return {key: Outcome(None, (BAD,))}
    return {key: Outcome(value * 2)}


def test_equal_output_stops_the_wave() -> None:
    graph = Graph()
    numbers: Source[str, int] = graph.source("numbers")
    halves = graph.derive("halves", numbers, lambda _f, k, v: {k: Outcome(v // 2)})
    doubles = graph.derive("doubles", halves, doubled)
    numbers.set("a", 4)
    graph.propagate()
    numbers.set("a", 5)
    changes = graph.propagate()
    assert doubles.runs == 1
    assert set(changes) == {numbers}


def test_last_good_value_stands_while_the_input_is_bad() -> None:
    graph = Graph()
    numbers: Source[str, int] = graph.source("numbers")
    doubles = graph.derive("doubles", numbers, doubled)
    numbers.set("a", 3)
    graph.propagate()
    numbers.set("a", -1)
    graph.propagate()
    assert doubles.get("a") == 6
    assert list(graph.problems()) == [BAD]
    graph.verify()
    numbers.set("a", 4)
    graph.propagate()
    assert doubles.get("a") == 8
    assert not graph.problems()


def test_an_exception_is_contained_to_its_key() -> None:
    graph = Graph()
    numbers: Source[str, int] = graph.source("numbers")
    inverse = graph.derive("inverse", numbers, lambda _f, k, v: {k: Outcome(100 // v)})
    numbers.set("a", 0)
    numbers.set("b", 5)
    graph.propagate()
    assert inverse.get("b") == 20
    assert [p.code for p in graph.problems()] == [Code.INTERNAL]


def test_reading_an_undeclared_view_is_our_bug() -> None:
    graph = Graph()
    numbers: Source[str, int] = graph.source("numbers")
    later = graph.derive("later", numbers, doubled)
    sneaky = graph.derive(
        "sneaky", numbers, lambda fetch, k, _v: {k: Outcome(fetch.get(later, k) or 0)}
    )
    numbers.set("a", 1)
    graph.propagate()
    assert "did not declare" in graph.problems()[0].message
    assert sneaky.get("a") is None


def test_a_dropped_input_drops_its_outputs() -> None:
    graph = Graph()
    numbers: Source[str, int] = graph.source("numbers")
    doubles = graph.derive("doubles", numbers, doubled)
    numbers.set("a", 1)
    graph.propagate()
    numbers.drop("a")
    changes = graph.propagate()
    assert changes[doubles] == {"a"}
    assert len(doubles) == 0


EVENTS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.one_of(st.none(), st.integers(-2, 6))), max_size=40
)


@given(EVENTS)
def test_incremental_equals_from_scratch(events: list[tuple[str, int | None]]) -> None:
    graph = Graph()
    numbers: Source[str, int] = graph.source("numbers")
    doubles = graph.derive("doubles", numbers, doubled, indexes=(BY_PARITY,))
    sums = graph.derive(
        "sums",
        numbers,
        lambda fetch, k, v: {
            (k, v % 2): Outcome(
                sum(fetch.by(doubles, BY_PARITY, 0)) + (fetch.get(doubles, "a") or 0)
            )
        },
        reads=(doubles,),
    )
    for key, value in events:
        if value is None:
            numbers.drop(key)
        else:
            numbers.set(key, value)
        graph.propagate()
        graph.verify()
    assert len(sums) == len(numbers)


def test_two_inputs_may_not_produce_one_key() -> None:
    graph = Graph()
    numbers: Source[str, int] = graph.source("numbers")
    graph.derive("clash", numbers, lambda _f, _k, v: {"same": Outcome(v)})
    numbers.set("a", 1)
    numbers.set("b", 2)
    with pytest.raises(AssertionError, match="two inputs"):
        graph.propagate()
