"""Latencies as people read them: percentiles, and a histogram.

Behind clients/bench.py, beside the walk SavedModel -> server -> client. All latencies are kept, 8 bytes each, so that
nothing is rounded to a bucket.
"""

import dataclasses
import math

import numpy as np

from clients.pace import Seconds

PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
_ROWS = 16  # of a histogram


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Latencies of low_ms and more, and less than high_ms; of the last bucket high_ms too."""

    low_ms: float
    high_ms: float
    count: int


def summary(latencies: Seconds) -> dict[str, float | None]:
    """Mean, smallest, percentiles and largest, in milliseconds; None for each where there is no latency.

    A percentile is a latency that was measured: the smallest that so many are not above. Of fewer than 1,000 latencies
    p99.9 is the largest one.
    """
    names = ["mean", "min", *(f"p{percent:g}" for percent in PERCENTILES), "max"]
    if not len(latencies):
        return dict.fromkeys(names)
    chosen = np.percentile(latencies, PERCENTILES, method="inverted_cdf")
    found = [latencies.mean(), latencies.min(), *chosen, latencies.max()]
    return {name: round(1e3 * float(value), 3) for name, value in zip(names, found, strict=True)}


def histogram(latencies: Seconds) -> list[Bucket]:
    """Buckets from the smallest to the largest latency; each is as many times as long as the one before."""
    if not len(latencies):
        return []
    low, high = 1e3 * float(latencies.min()), 1e3 * float(latencies.max())
    low = max(low, 1e-3)  # a microsecond, since no ratio begins at 0
    if high <= low:
        return [Bucket(round(low, 3), round(low, 3), len(latencies))]
    # No finer than 5%, which would show the noise.
    rows = max(1, min(_ROWS, math.floor(math.log(high / low) / math.log(1.05))))
    edges = np.geomspace(low, high, rows + 1)
    places = np.clip(np.searchsorted(edges, 1e3 * latencies, side="right") - 1, 0, rows - 1)
    counts = np.bincount(places, minlength=rows)
    edges = edges.round(3)
    return [Bucket(float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]
