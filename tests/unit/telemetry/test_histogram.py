"""Quantiles: Prometheus' own rule, and its edges."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meltemi.telemetry.histogram import quantile

INF = math.inf


@pytest.mark.parametrize(
    ("q", "buckets", "expected"),
    [
        (0.5, [(5, 0), (10, 10), (INF, 10)], 7.5),
        (0.5, [(10, 10), (INF, 10)], 5.0),
        (0.95, [(10, 90), (100, 100), (INF, 100)], 55.0),
        (0.99, [(10, 90), (100, 95), (INF, 100)], 100.0),
        (1.0, [(10, 5), (20, 5), (INF, 5)], 10.0),
        (0.0, [(10, 0), (20, 5), (INF, 5)], 0.0),
        (0.5, [(0, 5), (20, 5), (INF, 5)], 0.0),
        (0.5, [(INF, 10), (5, 0), (10, 10)], 7.5),
        (0.5, [(10, 0), (INF, 0)], None),
        (0.5, [(INF, 10)], None),
        (0.5, [(5, 1), (10, 2)], None),
        (0.5, [], None),
    ],
)
def test_quantile(q: float, buckets: list[tuple[float, float]], expected: float | None) -> None:
    found = quantile(q, buckets)
    assert found == (None if expected is None else pytest.approx(expected))


def test_counts_that_fall_are_raised() -> None:
    assert quantile(0.5, [(5, 4), (10, 3.9999), (INF, 4)]) == pytest.approx(2.5)


@settings(deadline=None)
@given(
    st.lists(st.integers(min_value=0, max_value=99), min_size=1, max_size=50),
    st.sampled_from([0.5, 0.95, 0.99]),
)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[int], q: float) -> None:
    bounds = [5, 10, 25, 50, 100]
    buckets = [(float(b), float(sum(v <= b for v in values))) for b in bounds]
    found = quantile(q, [*buckets, (INF, float(len(values)))])
    true = sorted(values)[max(math.ceil(q * len(values)) - 1, 0)]
    upper = next(b for b in bounds if true <= b)
    lower = max([0, *(b for b in bounds if b < upper)])
    assert found is not None
    assert lower <= found <= upper
