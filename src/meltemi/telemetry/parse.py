"""Reads the Prometheus text format, as far as Istio's standard metrics need it.

A page is read every two seconds from every proxy, and its lines hardly change: a line's name and
labels are looked up as text, and understood only once.
"""

import re
from collections.abc import Iterator, Mapping

import msgspec

_WANTED = (
    "istio_requests_total{",
    "istio_request_duration_milliseconds_",
    "istio_response_bytes_sum{",
    "istio_request_bytes_sum{",
    "istio_tcp_sent_bytes_total{",
    "istio_tcp_received_bytes_total{",
    "istio_tcp_connections_opened_total{",
)
"""The lines that are kept, by how they begin."""
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


class Series(msgspec.Struct, frozen=True):
    """One time series' identity."""

    metric: str
    labels: Mapping[str, str]


def samples(page: str) -> Iterator[tuple[str, float]]:
    """The wanted samples: (name and labels as they stand, value)."""
    for line in page.splitlines():
        if line.startswith(_WANTED):
            text, _, value = line.rpartition(" ")
            try:
                number = float(value)
            except ValueError:
                continue
            if text:
                yield text, number


def series(text: str) -> Series:
    """What the text before a value says: `name{label="value",...}`."""
    metric, _, rest = text.partition("{")
    labels = {
        name: _ESCAPE.sub(_unescape, value) if "\\" in value else value
        for name, value in _LABEL.findall(rest)
    }
    return Series(metric, labels)


def _unescape(match: re.Match[str]) -> str:
    return {"n": "\n"}.get(match[1], match[1])
