"""The page parser: what it keeps, what it skips, and that nothing on a page can upset it."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meltemi.telemetry.parse import Labels, samples, series

from .conftest import durations, line, peers, requests

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def test_istio_metrics_are_kept_and_others_skipped() -> None:
    page = "\n".join(
        (
            "# TYPE istio_requests_total counter",
            'istio_requests_total{reporter="source"} 3',
            "envoy_server_live{} 1",
            'istio_build{component="proxy"} 1',
            "app_requests_total 7",
            'istio_tcp_connections_closed_total{reporter="source"} 2',
            'istio_request_bytes_bucket{reporter="source",le="10"} 1',
        )
    )
    assert [(text.partition("{")[0], value) for text, value in samples(page)] == [
        ("istio_requests_total", 3.0),
        ("istio_tcp_connections_closed_total", 2.0),
        ("istio_request_bytes_bucket", 1.0),
    ]


def test_unknown_and_foreign_labels_are_left_out() -> None:
    found = series('istio_requests_total{reporter="source",source_app="unknown",color="red"}')
    assert found is not None
    assert found.metric == "istio_requests_total"
    assert found.labels == Labels(reporter="source")


def test_buckets_share_their_labels() -> None:
    one = series('istio_request_duration_milliseconds_bucket{reporter="source",le="0.5"}')
    last = series('istio_request_duration_milliseconds_bucket{le="+Inf",reporter="source"}')
    assert one is not None
    assert last is not None
    assert one.labels == last.labels
    assert (one.bound, last.bound) == (0.5, math.inf)


@pytest.mark.parametrize(
    "text",
    [
        "istio_requests_total",
        "istio_requests_total{",
        'istio_requests_total{reporter="source"',
        'istio_requests_total{reporter="source"} 5 # {trace="x"}',
        "istio_requests_total{reporter=source}",
        'istio_requests_total{reporter="a"reporter="b"}',
        "{}",
    ],
)
def test_what_is_no_series_is_none(text: str) -> None:
    assert series(text) is None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "", "many", "0x10"])
def test_values_that_no_counter_has_are_skipped(value: str) -> None:
    assert list(samples(line("istio_requests_total", value, reporter="source"))) == []


def test_a_time_stamp_after_the_value_is_not_the_value() -> None:
    page = 'istio_requests_total{reporter="source"} 5 1700000000000'
    assert list(samples(page)) == [('istio_requests_total{reporter="source"}', 5.0)]


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_a_label_value_cannot_begin_a_line_of_its_own(separator: str) -> None:
    forged = line("istio_requests_total", 99, reporter="forged").replace('"', '\\"')
    page = line("istio_requests_total", 1, source_app=f"x{separator}{forged}{separator}")
    found = list(samples(page))
    assert [value for _, value in found] == [1.0]
    parsed = series(found[0][0])
    assert parsed is not None
    assert parsed.labels.reporter == ""


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(Labels.__struct_fields__), st.text(), max_size=6))
def test_any_label_values_survive(labels: dict[str, str]) -> None:
    escaped = {name: value.translate(_ESCAPES) for name, value in labels.items()}
    page = line("istio_requests_total", 4, **escaped)
    [(text, value)] = samples(page)
    found = series(text)
    assert value == 4.0
    assert found is not None
    assert found.labels == Labels(**{n: v for n, v in labels.items() if v != "unknown"})


@settings(deadline=None)
@given(st.text(), st.text())
def test_no_page_upsets_the_parser(before: str, after: str) -> None:
    page = f"istio_requests_total{{{before}\nistio_requests_total{{{after}}} 1\n{before}"
    for text, value in samples(page):
        assert math.isfinite(value)
        series(text)


@settings(deadline=None)
@given(st.floats(min_value=0, allow_infinity=False, allow_nan=False))
def test_values_are_read_as_they_are_written(value: float) -> None:
    [(_, found)] = samples(line("istio_requests_total", repr(value), reporter="source"))
    assert found == value


def test_a_page_of_300_lines_stays_within_its_budget() -> None:
    """5 ms a page, with room for a busy machine: the best of several."""
    calls = [
        peers("source", "productpage-v1", f"reviews-v{v}", host="reviews.default.svc.cluster.local")
        for v in range(12)
    ]
    bounds = {f"b{bound}": 3.0 for bound in range(20)} | {"inf": 3.0}
    page = "\n".join(f"{requests(3, c)}\n{durations(c, **bounds)}" for c in calls)
    assert page.count("\n") > 280
    best = math.inf
    for _ in range(10):
        started = time.perf_counter()
        assert sum(1 for _ in samples(page)) > 280
        best = min(best, time.perf_counter() - started)
    assert best < 0.005
