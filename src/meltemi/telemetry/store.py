"""Counters of the last minutes, in memory.

A series keeps only the pages at which it changed, so silence costs nothing. What it keeps are
running totals since it was first seen: a counter that falls was restarted, and goes on from there.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from sys import intern
from typing import NamedTuple

from meltemi.telemetry.parse import Labels, Series, samples, series

RETENTION = 900.0
"""Seconds."""
MOST_SERIES = 50_000
"""Of one proxy; what it tells beyond that is not kept."""
_LAG = 5.0
"""Seconds. A proxy whose newest page is younger is still there, only not asked again yet."""


class Sample(NamedTuple):
    """A series' increase over a window."""

    series: Series
    increase: float


class _Span(NamedTuple):
    """A window as pages of one proxy: from a moment between two of them to the newest."""

    before: int
    """The page at or before the start."""
    after: int
    """The page that follows it; the same one when the proxy was not watched before."""
    weight: float
    """Where between the two the window starts, 0 to 1."""
    last: int


class _Points:
    """One series of one proxy."""

    __slots__ = ("last", "offset", "pages", "seen", "series", "totals")

    def __init__(self, found: Series) -> None:
        self.series = found
        self.pages = array("I")
        self.totals = array("d")
        self.last = 0.0
        self.offset = 0.0
        self.seen = 0

    def add(self, page: int, value: float) -> None:
        if not self.pages and page == 0:
            # What was counted before we looked is not traffic of now.
            self.offset = -value
        elif value < self.last:
            self.offset += self.last
        total = value + self.offset
        if not self.totals or total != self.totals[-1]:
            self.pages.append(page)
            self.totals.append(total)
        self.last = value
        self.seen = page

    def increase(self, span: _Span) -> float:
        """How much was counted in the window."""
        if self.pages[-1] <= span.before:
            return 0.0
        start = self._at(span.before)
        if span.weight:
            start += (self._at(span.after) - start) * span.weight
        return self._at(span.last) - start

    def _at(self, page: int) -> float:
        index = bisect_right(self.pages, page)
        return self.totals[index - 1] if index else 0.0

    def forget(self, page: int) -> None:
        """Drop what no window that starts at or after this page needs."""
        keep = bisect_right(self.pages, page) - 1
        if keep > 0:
            del self.pages[:keep]
            del self.totals[:keep]


class _Proxy:
    """What one proxy told, page by page."""

    __slots__ = ("began", "dropped", "series", "times")

    def __init__(self, began: float) -> None:
        self.began = began
        self.times = array("d")
        self.dropped = 0
        """Pages before the first of `times`."""
        self.series: dict[str, _Points] = {}

    def span(self, seconds: float, end: float) -> _Span | None:
        """A window of this proxy; None with fewer than two pages in it.

        Each proxy is asked at a moment of its own, so its window ends with its newest page; one
        that has vanished keeps the asked end, and fades as the window passes.
        """
        times = self.times
        last = bisect_right(times, end) - 1
        if last < 0:
            return None
        if end - times[last] <= _LAG:
            end = times[last]
        start = end - seconds
        if last - bisect_left(times, start) < 1:
            return None
        before = bisect_right(times, start) - 1
        base = self.dropped
        if before < 0:
            return _Span(base, base, 0.0, base + last)
        width = times[before + 1] - times[before]
        weight = (start - times[before]) / width if width else 0.0
        return _Span(base + before, base + before + 1, weight, base + last)

    def forget(self, before: float) -> None:
        """Drop pages older than that, but for one to count from, and series long gone.

        A series that is only idle stays: it would go on where it stopped.
        """
        keep = bisect_right(self.times, before) - 1
        if keep <= 0:
            return
        del self.times[:keep]
        self.dropped += keep
        for text, points in list(self.series.items()):
            if points.seen < self.dropped:
                del self.series[text]
            else:
                points.forget(self.dropped)


class Store:
    """Takes pages, answers windows. Times are seconds since the epoch."""

    def __init__(self, retention: float = RETENTION, most_series: int = MOST_SERIES) -> None:
        self._retention = retention
        self._most_series = most_series
        self._proxies: dict[str, _Proxy] = {}
        self._known: dict[str, Series] = {}
        self._labels: dict[Labels, Labels] = {}
        self.revision = 0
        """Counts the rounds of pages."""
        self.latest = 0.0
        """When the newest page was taken."""

    def add(self, proxy: str, page: str, at: float) -> None:
        """Take a proxy's page."""
        found = self._proxies.get(proxy)
        if found is None or at < found.times[-1]:
            # A clock that was set back makes the proxy a new one: order is what windows rest on.
            found = self._proxies[proxy] = _Proxy(at)
        number = found.dropped + len(found.times)
        found.times.append(at)
        known = found.series
        for text, value in samples(page):
            points = known.get(text)
            if points is None:
                points = self._new(known, text)
            if points is not None:
                points.add(number, value)
        self.latest = at

    def _new(self, of_proxy: dict[str, _Points], text: str) -> _Points | None:
        if len(of_proxy) >= self._most_series:
            return None
        known = self._known.get(text)
        if known is None:
            parsed = series(text)
            if parsed is None:
                return None
            text = intern(text)
            labels = self._labels.setdefault(parsed.labels, parsed.labels)
            known = self._known[text] = Series(parsed.metric, labels, parsed.bound)
        points = of_proxy[intern(text)] = _Points(known)
        return points

    def forget(self, now: float) -> None:
        """Drop what is older than the retention."""
        before = now - self._retention - _LAG
        for name, proxy in list(self._proxies.items()):
            if proxy.times[-1] < before:
                del self._proxies[name]
            else:
                proxy.forget(before)
        used = {text for proxy in self._proxies.values() for text in proxy.series}
        for text in self._known.keys() - used:
            del self._known[text]
        labels = {known.labels for known in self._known.values()}
        for gone in self._labels.keys() - labels:
            del self._labels[gone]

    def window(self, seconds: float, end: float) -> Iterator[Sample]:
        """Every series that counted in the window, with how much.

        Of a histogram that counted, the buckets that did not are there too, with 0: they say
        where the others begin.
        """
        for proxy in self._proxies.values():
            span = proxy.span(seconds, end)
            if span is not None:
                yield from _increases(proxy, span)

    def rates(self, seconds: float, now: float) -> Iterator[tuple[Labels, str, float]]:
        """(labels, metric, increase a second) of what counted; histograms without buckets."""
        watched = self.span(seconds, now)
        for found, increase in self.window(seconds, now):
            if found.bound is None:
                yield found.labels, found.metric, increase / watched

    def span(self, seconds: float, end: float) -> float:
        """The part of a window in which proxies were watched: what rates are divided by."""
        began = min((proxy.began for proxy in self._proxies.values()), default=end)
        return max(min(seconds, end - began), 1.0)


def _increases(proxy: _Proxy, span: _Span) -> Iterator[Sample]:
    # Labels are interned, so that one histogram's buckets share the very same.
    silent: list[Series] = []
    counted: set[tuple[str, int]] = set()
    for points in proxy.series.values():
        found = points.series
        increase = points.increase(span)
        if increase > 0:
            yield Sample(found, increase)
            if found.bound is not None:
                counted.add((found.metric, id(found.labels)))
        elif found.bound is not None:
            silent.append(found)
    for found in silent:
        if (found.metric, id(found.labels)) in counted:
            yield Sample(found, 0.0)
