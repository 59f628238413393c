"""Prometheus exposition of the double's proxies: queue-proxy's and Istio's families, names and labels.

`prometheus_client` would append `_total` to counters, which Knative's older names don't carry.
"""

from __future__ import annotations

import bisect
from collections import Counter
from dataclasses import dataclass, field

Labels = tuple[tuple[str, str], ...]
KNATIVE_EDGES = (
    5,
    10,
    20,
    40,
    60,
    80,
    100,
    150,
    200,
    250,
    300,
    350,
    400,
    450,
    500,
    600,
    700,
    800,
    900,
    1000,
    2000,
)
ISTIO_EDGES = (0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000)


@dataclass
class Requests:
    """A counter and a latency histogram (milliseconds) with the same labels."""

    counter: str
    histogram: str
    edges: tuple[float, ...]
    counts: Counter[Labels] = field(default_factory=Counter)
    sums: Counter[Labels] = field(default_factory=Counter)
    buckets: dict[Labels, list[int]] = field(default_factory=dict)

    def add(self, seconds: float, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        self.counts[key] += 1
        self.sums[key] += seconds * 1000  # type: ignore[assignment]
        buckets = self.buckets.setdefault(key, [0] * (len(self.edges) + 1))
        buckets[bisect.bisect_left(self.edges, seconds * 1000)] += 1

    def expose(self) -> str:
        lines = [f"# TYPE {self.counter} counter"]
        lines += [f"{self.counter}{_text(key)} {count}" for key, count in self.counts.items()]
        lines.append(f"# TYPE {self.histogram} histogram")
        for key, buckets in self.buckets.items():
            total = 0
            for edge, count in zip((*map(str, self.edges), "+Inf"), buckets, strict=True):
                total += count
                lines.append(f"{self.histogram}_bucket{_text((*key, ('le', edge)))} {total}")
            lines.append(f"{self.histogram}_sum{_text(key)} {self.sums[key]}")
            lines.append(f"{self.histogram}_count{_text(key)} {total}")
        return "\n".join(lines) + "\n"


def _text(labels: Labels) -> str:
    return "{" + ",".join(f'{key}="{value}"' for key, value in labels) + "}"
