"""Reads the Prometheus text format, as far as Istio's standard metrics need it.

A page is read every two seconds from every proxy, and its lines hardly change: a line's name and
labels are looked up as text, and understood only once. What a page holds beside these metrics is
skipped by its first letters; a line that makes no sense is skipped too.
"""

import math
import re
from collections.abc import Iterator
from sys import intern

import msgspec

_WANTED = (
    "istio_requests_total{",
    "istio_request_duration_milliseconds_",
    "istio_response_bytes_",
    "istio_request_bytes_",
    "istio_tcp_sent_bytes_total{",
    "istio_tcp_received_bytes_total{",
    "istio_tcp_connections_opened_total{",
    "istio_tcp_connections_closed_total{",
)
"""The lines that are kept, by how they begin."""
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\{")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|(?=\}))')
_ESCAPE = re.compile(r"\\(.)")
UNKNOWN = "unknown"


class Labels(msgspec.Struct, frozen=True, order=True, kw_only=True):
    """Istio's labels. Empty where a metric does not have the label or its value is `unknown`."""

    reporter: str = ""
    """`source`: the client's proxy counted; `destination`: the server's."""
    source_workload: str = ""
    source_workload_namespace: str = ""
    source_principal: str = ""
    source_app: str = ""
    source_version: str = ""
    source_cluster: str = ""
    source_canonical_service: str = ""
    source_canonical_revision: str = ""
    destination_workload: str = ""
    destination_workload_namespace: str = ""
    destination_principal: str = ""
    destination_app: str = ""
    destination_version: str = ""
    destination_cluster: str = ""
    destination_canonical_service: str = ""
    destination_canonical_revision: str = ""
    destination_service: str = ""
    destination_service_name: str = ""
    destination_service_namespace: str = ""
    connection_security_policy: str = ""
    request_protocol: str = ""
    response_code: str = ""
    response_flags: str = ""
    grpc_response_status: str = ""


_KNOWN = frozenset(Labels.__struct_fields__)


class Series(msgspec.Struct, frozen=True):
    """One time series' identity."""

    metric: str
    labels: Labels
    bound: float | None = None
    """A histogram bucket's upper bound; infinity for the last."""


def samples(page: str) -> Iterator[tuple[str, float]]:
    """The wanted samples: (name and labels as they stand, value). Counters are never negative."""
    # Only a line feed ends a line here: other separators may stand inside a label's value.
    for line in page.split("\n"):
        if not line.startswith(_WANTED):
            continue
        text, _, value = line.rpartition(" ")
        if not text.endswith("}"):
            # The format allows a time stamp after the value.
            text, _, value = text.rpartition(" ")
        number = _number(value)
        if text and number is not None:
            yield text, number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def series(text: str) -> Series | None:
    """What the text before a value says: `name{label="value",...}`; None for what is not that."""
    start = _METRIC.match(text)
    if start is None:
        return None
    found: dict[str, str] = {}
    position = start.end()
    while (match := _LABEL.match(text, position)) is not None:
        name, value = match.groups()
        found[name] = _ESCAPE.sub(_unescape, value) if "\\" in value else value
        position = match.end()
    if text[position:] != "}":
        return None
    bound = _bound(found.pop("le")) if "le" in found else None
    known = {n: intern(v) for n, v in found.items() if n in _KNOWN and v != UNKNOWN}
    return Series(intern(start.group()[:-1]), Labels(**known), bound)


def _bound(text: str) -> float:
    """A bucket's bound; one that is no number counts as the last, which holds everything."""
    try:
        bound = float(text)
    except ValueError:
        return math.inf
    return math.inf if math.isnan(bound) else bound


def _unescape(match: re.Match[str]) -> str:
    return {"n": "\n"}.get(match[1], match[1])
