"""Cumulative counters to whole requests: what was counted between two scrapes of a target, exactly.

Prometheus' own `increase()` extrapolates to the ends of its range and answers in fractions of requests. Here the
raw samples are subtracted, series by series. A series that wasn't there at the scrape before began at 0; one whose
value fell was reset (its process restarted), and what it shows has been counted since.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from airworthy.errors import ServingError
from airworthy.rollout.signals.families import Family
from airworthy.serving.observation import Arm, Result

LONGEST = 86_400.0
"""Seconds that stand for "longer than the last edge" on the stable arm: nothing answers later than in a day."""

Target = tuple[str, str]
"""Labels `job` and `instance`: what Prometheus scrapes, all series of it at one time."""


class Series(NamedTuple):
    """One counter, or all buckets of one histogram: what is reset together."""

    arm: Arm
    status: str
    timed: bool
    labels: tuple[tuple[str, str], ...]


class Bucket(NamedTuple):
    """Requests whose seconds lie in `(lower, upper]`."""

    lower: float
    upper: float
    number: int


Sums = Mapping[float, int]
"""Upper edge in seconds (infinite for plain counters) to the requests up to it since the process began."""


@dataclass(frozen=True)
class Scrape:
    """What a target showed at one time (seconds, Prometheus' clock)."""

    at: float
    sums: Mapping[Series, Sums]


@dataclass(frozen=True)
class Window:
    """What one target counted after `start`, up to `end`."""

    start: float
    end: float
    added: Mapping[Series, tuple[Bucket, ...]]


class Request(NamedTuple):
    """What is known of a counted request."""

    arm: Arm
    result: Result
    seconds: float


def read_scrapes(
    matrix: Iterable[Mapping[str, Any]], family: Family, arms: Mapping[Arm, str]
) -> dict[Target, list[Scrape]]:
    """The scrapes of each target, in order, from the range vector that Prometheus answered with.

    Raises:
        ServingError: A series belongs to both arms.
    """
    patterns = {arm: re.compile(family.arm_pattern(name)) for arm, name in arms.items()}
    sums: dict[Target, dict[float, dict[Series, dict[float, int]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    for item in matrix:
        labels = dict(item["metric"])
        value = labels.get(family.arm_label, "")
        of = [arm for arm, pattern in patterns.items() if pattern.fullmatch(value)]
        if len(of) > 1:
            raise ServingError(
                f"metrics of family {family.name}: {family.arm_label}={value!r} stands for both arms, so they "
                "can't be told apart"
            )
        if not of:
            continue
        timed = labels.pop("__name__") == family.bucket
        edge = float(labels.pop("le", "inf")) * family.unit
        status = labels.pop(family.status_label, "")
        series = Series(of[0], status, timed, tuple(sorted(labels.items())))
        target = sums[labels.get("job", ""), labels.get("instance", "")]
        for at, text in item["values"]:
            target[float(at)][series][edge] = round(float(text))
    return {target: [Scrape(at, scrapes[at]) for at in sorted(scrapes)] for target, scrapes in sums.items()}


def windows(scrapes: Sequence[Scrape]) -> Iterator[Window]:
    """What was counted between each scrape and the next."""
    for before, after in pairwise(scrapes):
        added = {
            series: tuple(_added(before.sums.get(series, {}), sums)) for series, sums in after.sums.items()
        }
        yield Window(before.at, after.at, added)


def _added(before: Sums, after: Sums) -> Iterator[Bucket]:
    if any(after[edge] < before.get(edge, 0) for edge in after):
        before = {}
    lower, below = 0.0, 0
    for edge in sorted(after):
        up_to = after[edge] - before.get(edge, 0)
        if up_to > below:
            yield Bucket(lower, edge, up_to - below)
        lower, below = edge, max(below, up_to)


def requests(window: Window, family: Family) -> Counter[Request]:
    """The window's requests, equal ones summed up.

    Latency is known by bucket only. The stable arm's requests get the upper edge and the canary's the lower one
    (just above it, as the edge belongs to the bucket below). An event "slower than x" is then never left out for
    stable and never made up for the canary, whatever x is: where the canary is not slower, its events stay at
    most as probable as stable's, which is all that the judge's null hypothesis says.

    Where the histogram isn't split by status, it isn't known which times belong to answers and which to failures:
    the canary's answers get the shortest of all times, stable's the longest.
    """
    found: Counter[Request] = Counter()
    arms: tuple[Arm, Arm] = ("stable", "canary")
    for arm in arms:
        results: Counter[Result] = Counter()
        times: list[Bucket] = []
        for series, buckets in window.added.items():
            if series.arm != arm:
                continue
            result = result_of(series.status)
            if series.timed != bool(family.counter):
                results[result] += sum(bucket.number for bucket in buckets)
            if series.timed and (result == "ok" or (family.counter and not series.status)):
                times += buckets
        for seconds, number in _times_of(arm, times, results.pop("ok", 0)):
            found[Request(arm, "ok", seconds)] += number
        for result, number in results.items():
            found[Request(arm, result, 0.0)] += number
    return +found


def result_of(status: str) -> Result:
    """What a status code or its class (`503`, `5xx`, `5`) stands for; no or odd codes: no answer came."""
    known: dict[str, Result] = {"1": "ok", "2": "ok", "3": "ok", "4": "rejected", "5": "error"}
    return known.get(status[:1], "connection")


def _times_of(arm: Arm, times: list[Bucket], answers: int) -> Iterator[tuple[float, int]]:
    """Times of so many answers; a scrape that caught a count and not yet its time is filled up to stable's cost."""
    stable = arm == "stable"
    slowest = 0.0
    for bucket in sorted(times, key=lambda bucket: bucket.lower, reverse=stable):
        if stable:
            seconds = min(bucket.upper, LONGEST)
        else:
            seconds = math.nextafter(bucket.lower, math.inf) if bucket.lower else 0.0
        slowest = max(slowest, seconds)
        number = min(answers, bucket.number)
        answers -= number
        yield seconds, number
    yield (slowest or LONGEST) if stable else 0.0, answers
