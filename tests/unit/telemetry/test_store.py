"""Windows over counters: restarts, gaps, proxies that come and go, and what is forgotten."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meltemi.telemetry.store import Store

from .conftest import durations, line

START = 1_000_000.0


def page(value: float, name: str = "a") -> str:
    return line("istio_requests_total", value, source_app=name)


def fill(store: Store, values: list[float | None], proxy: str = "p", *, step: float = 2) -> float:
    """One page every `step` seconds, None for one that could not be had; the time of the last."""
    for i, value in enumerate(values):
        if value is not None:
            store.add(proxy, page(value), START + i * step)
    return START + (len(values) - 1) * step


def increase(store: Store, seconds: float, end: float) -> float:
    return sum(sample.increase for sample in store.window(seconds, end))


def test_a_window_counts_what_was_added_in_it() -> None:
    store = Store()
    end = fill(store, [100, 103, 107, 112, 118])
    assert increase(store, 4, end) == 11
    assert increase(store, 8, end) == 18
    assert increase(store, 800, end) == 18


def test_what_was_counted_before_the_first_page_is_not_traffic() -> None:
    store = Store()
    store.add("p", page(5000), START)
    assert increase(store, 60, START) == 0
    assert increase(store, 60, START + 1) == 0


def test_a_series_that_appears_later_counts_from_zero() -> None:
    store = Store()
    store.add("p", page(7, "old"), START)
    store.add("p", page(7, "old") + "\n" + page(3, "new"), START + 2)
    assert [(s.series.labels.source_app, s.increase) for s in store.window(60, START + 2)] == [
        ("new", 3)
    ]


def test_a_counter_that_falls_was_restarted() -> None:
    store = Store()
    end = fill(store, [10, 20, 4, 6])
    assert increase(store, 60, end) == 10 + 4 + 2


def test_two_restarts_add_up() -> None:
    store = Store()
    end = fill(store, [10, 20, 4, 1, 5])
    assert increase(store, 60, end) == 10 + 4 + 1 + 4


def test_fewer_than_two_pages_in_the_window_say_nothing() -> None:
    store = Store()
    end = fill(store, [0, 10, 20])
    assert increase(store, 1.5, end) == 0
    assert increase(store, 2, end) == 10


def test_a_window_that_starts_between_pages_takes_its_part() -> None:
    store = Store()
    end = fill(store, [0, 10, 20, 40])
    assert increase(store, 3, end) == pytest.approx(25)


def test_traffic_of_a_gap_is_spread_over_it() -> None:
    store = Store()
    end = fill(store, [0, 10, None, None, None, 50, 60])
    assert increase(store, 6, end) == pytest.approx(10 + 40 / 2)


def test_each_proxy_s_window_ends_with_its_newest_page() -> None:
    """Proxies are asked at moments of their own; a short window must not lose their last page."""
    store = Store()
    for i in range(6):
        store.add("a", page(10 * i), START + 2 * i)
        store.add("b", page(10 * i), START + 2 * i + 1.5)
    assert increase(store, 4, store.latest) == pytest.approx(40)


def test_a_proxy_that_vanished_counts_until_the_window_has_passed() -> None:
    store = Store()
    gone = fill(store, [0, 10, 20, 30], "gone")
    assert increase(store, 20, gone + 10) == 30
    assert increase(store, 20, gone + 16) == pytest.approx(20)
    assert increase(store, 20, gone + 30) == 0


def test_rates_divide_by_the_time_that_was_watched() -> None:
    store = Store()
    end = fill(store, [0, 10, 20])
    assert [rate for _, _, rate in store.rates(60, end)] == [5]
    assert [rate for _, _, rate in store.rates(2, end)] == [5]


def test_silent_buckets_of_a_histogram_that_counted_are_there() -> None:
    """A quantile needs to know where the bucket begins that holds everything."""
    store = Store()
    labels = {"source_app": "a"}
    store.add("p", durations(labels, b5=0, b10=0, binf=0), START)
    store.add("p", durations(labels, b5=0, b10=4, binf=4), START + 2)
    store.add("p", durations({"source_app": "idle"}, b5=0, binf=0), START + 2)
    found = {s.series.bound: s.increase for s in store.window(60, START + 2)}
    assert found[5.0] == 0
    assert found[10.0] == found[float("inf")] == 4
    assert all(s.series.labels.source_app == "a" for s in store.window(60, START + 2))


def test_what_is_older_than_the_retention_is_forgotten() -> None:
    store = Store(retention=20)
    end = fill(store, [float(i) for i in range(200)])
    store.add("gone", page(1), START)
    store.forget(end)
    assert len(store._proxies["p"].times) < 20
    assert len(store._proxies["p"].series[page(0).rpartition(" ")[0]].totals) < 20
    assert "gone" not in store._proxies
    assert increase(store, 20, end) == 10


def test_forgetting_changes_no_window_that_is_kept() -> None:
    store, lean = Store(retention=20), Store(retention=20)
    values: list[float | None] = [float(i * i % 37) for i in range(100)]
    end = fill(store, values)
    fill(lean, values)
    lean.forget(end)
    for seconds in (4, 7, 12.5, 20):
        assert increase(lean, seconds, end) == pytest.approx(increase(store, seconds, end))


def test_an_idle_series_keeps_one_point_and_goes_on() -> None:
    store = Store(retention=20)
    end = fill(store, [5, *([9.0] * 100)])
    store.forget(end)
    [points] = store._proxies["p"].series.values()
    assert len(points.totals) == 1
    store.add("p", page(10), end + 2)
    assert increase(store, 10, end + 2) == 1


def test_a_series_that_left_the_page_is_forgotten_with_its_labels() -> None:
    store = Store(retention=20)
    store.add("p", page(1, "old"), START)
    end = fill(store, [1.0] * 60)
    store.forget(end)
    assert [labels.source_app for labels in store._labels] == ["a"]
    assert len(store._known) == len(store._proxies["p"].series) == 1


def test_a_clock_that_was_set_back_starts_the_proxy_anew() -> None:
    store = Store()
    fill(store, [0, 10, 20])
    back = START - 3600
    store.add("p", page(30), back)
    store.add("p", page(34), back + 2)
    assert increase(store, 60, store.latest) == 4


def test_one_proxy_cannot_fill_the_memory() -> None:
    store = Store(most_series=10)
    store.add("p", "\n".join(page(1, f"app{i}") for i in range(1000)), START)
    assert len(store._proxies["p"].series) == 10
    assert len(store._known) == 10


def test_lines_that_make_no_sense_are_not_kept() -> None:
    store = Store()
    store.add("p", "istio_requests_total{nonsense} 4\nistio_requests_total{} x", START)
    assert not store._proxies["p"].series


@settings(deadline=None)
@given(
    st.lists(st.integers(min_value=0, max_value=50), min_size=2, max_size=40),
    st.integers(min_value=1, max_value=39),
)
def test_windows_side_by_side_add_up(steps: list[int], cut: int) -> None:
    """Whatever was counted between pages is found again, in two windows or in one."""
    values = [sum(steps[: i + 1]) for i in range(len(steps))]
    store = Store()
    end = fill(store, [float(v) for v in values], step=10)
    middle = START + 10 * min(cut, len(steps) - 1)
    whole = increase(store, end - START, end)
    assert whole == pytest.approx(values[-1] - values[0])
    first = increase(store, middle - START, middle) if middle > START else 0.0
    second = increase(store, end - middle, end) if end > middle else 0.0
    assert first + second == pytest.approx(whole)


@settings(deadline=None)
@given(st.lists(st.integers(min_value=0, max_value=100), min_size=2, max_size=30))
def test_restarts_follow_prometheus_rule(values: list[int]) -> None:
    store = Store()
    end = fill(store, [float(v) for v in values])
    expected = sum(b - a if b >= a else b for a, b in pairwise(values))
    assert increase(store, end - START, end) == pytest.approx(expected)
