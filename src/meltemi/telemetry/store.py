"""Counters of the last minutes, in memory.

A series keeps only the points at which it changed, so silence costs nothing. Points are running
totals since the series was first seen: a counter that falls was restarted, and goes on from there.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from sys import intern

import msgspec

from meltemi.telemetry.parse import Series, samples, series

RETENTION = 900.0
"""Seconds."""


class _Points:
    """One series of one proxy."""

    __slots__ = ("last", "offset", "series", "times", "values")

    def __init__(self, found: Series) -> None:
        self.series = found
        self.times = array("d")
        self.values = array("d")
        self.last = 0.0
        self.offset = 0.0

    def add(self, at: float, value: float, *, is_new: bool) -> None:
        """`is_new`: the proxy was watched before this series existed, so it began at 0."""
        if not self.times and not is_new:
            # What was counted before we looked is not traffic of now.
            self.offset = -value
        elif value < self.last:
            self.offset += self.last
        total = value + self.offset
        if not self.times or total != self.values[-1]:
            self.times.append(at)
            self.values.append(total)
        self.last = value

    def increase(self, start: float, end: float) -> float:
        """How much was counted after `start`, until `end`."""
        return self._at(end) - self._at(start)

    def _at(self, time: float) -> float:
        index = bisect_right(self.times, time)
        return self.values[index - 1] if index else 0.0

    def forget(self, before: float) -> None:
        """Drop points that no window needs."""
        keep = bisect_right(self.times, before) - 1
        if keep > 0:
            del self.times[:keep]
            del self.values[:keep]


class _Proxy:
    """What one proxy told."""

    __slots__ = ("began", "latest", "series")

    def __init__(self, began: float) -> None:
        self.began = began
        self.latest = began
        self.series: dict[str, _Points] = {}


class Sample(msgspec.Struct, frozen=True):
    """A series' increase over a window."""

    proxy: str
    metric: str
    labels: Mapping[str, str]
    increase: float


class Store:
    """Takes pages, answers windows."""

    def __init__(self, retention: float = RETENTION) -> None:
        self._retention = retention
        self._proxies: dict[str, _Proxy] = {}
        self._known: dict[str, Series] = {}
        self.revision = 0
        """Counts the rounds of pages."""
        self.latest = 0.0
        """When the newest page was taken (seconds since the epoch)."""

    def add(self, proxy: str, page: str, at: float) -> None:
        """Take a proxy's page."""
        found = self._proxies.get(proxy)
        is_first = found is None
        if found is None:
            found = self._proxies[proxy] = _Proxy(at)
        for text, value in samples(page):
            points = found.series.get(text)
            if points is None:
                points = found.series[intern(text)] = _Points(self._series(text))
            points.add(at, value, is_new=not is_first)
        found.latest = at
        self.latest = max(self.latest, at)

    def _series(self, text: str) -> Series:
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = series(text)
        return known

    def forget(self, now: float) -> None:
        """Drop what is older than the retention."""
        before = now - self._retention
        for name, proxy in list(self._proxies.items()):
            # An idle series stays while its proxy does: it would go on where it stopped.
            for points in proxy.series.values():
                points.forget(before)
            if proxy.latest < before:
                del self._proxies[name]
        used = {text for proxy in self._proxies.values() for text in proxy.series}
        for text in self._known.keys() - used:
            del self._known[text]

    def window(self, seconds: float, end: float) -> Iterator[Sample]:
        """Every series that counted in the window, with how much."""
        start = end - seconds
        for name, proxy in self._proxies.items():
            for points in proxy.series.values():
                if points.times[-1] <= start:
                    continue
                increase = points.increase(start, end)
                if increase > 0:
                    yield Sample(name, points.series.metric, points.series.labels, increase)

    def span(self, seconds: float, end: float) -> float:
        """The part of a window in which proxies were watched: what rates are divided by."""
        began = min((proxy.began for proxy in self._proxies.values()), default=end)
        return max(min(seconds, end - began), 1.0)


def quantile(q: float, buckets: Iterable[tuple[float, float]]) -> float | None:
    """Prometheus' histogram_quantile: `buckets` are (upper bound, cumulative count).

    None without observations. In the last, open bucket the answer is the highest bound.
    """
    ordered = sorted(buckets)
    if len(ordered) < 2 or ordered[-1][1] <= 0:
        return None
    rank = q * ordered[-1][1]
    below_bound, below_count = 0.0, 0.0
    for bound, count in ordered:
        if count >= rank:
            if bound == float("inf"):
                return ordered[-2][0]
            if count == below_count:
                return bound
            return below_bound + (bound - below_bound) * (rank - below_count) / (
                count - below_count
            )
        below_bound, below_count = bound, count
    return ordered[-2][0]
