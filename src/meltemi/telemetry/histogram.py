"""Quantiles of histograms, by Prometheus' rule, so that dashboards show the same numbers. Pure."""

import math
from collections.abc import Iterable


def quantile(q: float, buckets: Iterable[tuple[float, float]]) -> float | None:
    """Prometheus' histogram_quantile: `buckets` are (upper bound, cumulative count).

    None without observations or without the last, open bucket; where the quantile lies in that
    one, the answer is the highest bound. Every bucket is needed, the empty ones too: a bucket
    begins where the one before it ends.
    """
    ordered = _rising(buckets)
    if len(ordered) < 2 or ordered[-1][0] != math.inf or ordered[-1][1] <= 0:
        return None
    rank = q * ordered[-1][1]
    index = next(i for i, (_, count) in enumerate(ordered) if count >= rank)
    bound, count = ordered[index]
    if bound == math.inf:
        return ordered[-2][0]
    if index == 0 and bound <= 0:
        return bound
    start, below = ordered[index - 1] if index else (0.0, 0.0)
    if count == below:
        return start
    return start + (bound - start) * (rank - below) / (count - below)


def _rising(buckets: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """By bound; a count below the one before it (rounding, pages of two moments) is raised."""
    ordered: list[tuple[float, float]] = []
    for bound, count in sorted(buckets):
        most = ordered[-1][1] if ordered else 0.0
        ordered.append((bound, max(count, most)))
    return ordered
