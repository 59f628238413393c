"""What a rollout's report draws, gathered while its record is replayed, in memory that stays small.

Series are thinned as they grow, latencies are kept as mergeable histograms (quantiles to one percent).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from airworthy.rollout.record import Outcome, Polled, Seen
from airworthy.rollout.replay import Retelling
from airworthy.serving.observation import Arm, Observation, Pair

POINTS = 240
"""A series keeps between this many points and twice as many."""
SLICES = 32
ENOUGH = 8
PAIRED = ("shadow errors", "flips")
"""Processes that pairs decide: their failures name the index of a pair."""
RESOLUTION = 50.0
"""Histogram buckets per factor e of latency: 2 % wide."""

Histogram = Counter[int]


class Thinned:
    """Values over time, of unknown length: every k-th point; k doubles whenever the points become too many."""

    def __init__(self) -> None:
        self.points: list[tuple[float, dict[str, float]]] = []
        self._stride = 1
        self._count = 0

    def due(self) -> bool:
        """Count one moment; true if its values are to be kept."""
        self._count += 1
        return (self._count - 1) % self._stride == 0

    def keep(self, x: float, values: dict[str, float]) -> None:
        """Keep values; x must not fall."""
        self.points.append((x, values))
        if len(self.points) >= 2 * POINTS:
            self.points = self.points[::2]
            self._stride *= 2

    def series(self, name: str) -> list[tuple[float, float]]:
        """One of the values over time."""
        return [(x, values[name]) for x, values in self.points if name in values]


@dataclass
class Tally:
    """Requests of one arm during one step."""

    requests: int = 0
    failed: int = 0
    refused: int = 0


@dataclass
class Step:
    """From one transition to the next. Times are seconds since the start."""

    state: str
    percent: int
    begin: float
    reason: str = ""
    end: float = 0.0
    arms: dict[Arm, Tally] = field(default_factory=lambda: {"stable": Tally(), "canary": Tally()})


@dataclass(frozen=True)
class Moment:
    """Something that one request or pair brought about.

    Attributes:
        x: Requests up to then.
        second: Since the start.
        percent: The canary's share then.
        index: Of the observation or pair.
        pair: Whether it was a pair of the shadow phase.
    """

    x: int
    second: float
    percent: int
    index: int
    pair: bool


class Latencies:
    """Histograms of both arms over time, in at most `SLICES` slices of equal width."""

    def __init__(self) -> None:
        self.width = 0.25
        self.slices: dict[int, dict[Arm, Histogram]] = {}

    def add(self, second: float, arm: Arm, seconds: float, count: int) -> None:
        """Account for `count` answers that took `seconds` each."""
        while second >= self.width * SLICES:
            self._halve()
        arms = self.slices.setdefault(
            max(0, int(second / self.width)), {"stable": Counter(), "canary": Counter()}
        )
        arms[arm][round(math.log(max(seconds, 1e-6)) * RESOLUTION)] += count

    def _halve(self) -> None:
        merged: dict[int, dict[Arm, Histogram]] = {}
        for index, arms in self.slices.items():
            into = merged.setdefault(index // 2, {"stable": Counter(), "canary": Counter()})
            for arm, histogram in arms.items():
                into[arm].update(histogram)
        self.slices, self.width = merged, 2 * self.width

    def series(self, arm: Arm, q: float) -> list[tuple[float, float]]:
        """(second, milliseconds) of a quantile, at begin and end of stretches of at least `ENOUGH` answers."""
        points: list[tuple[float, float]] = []
        stretch: Histogram = Counter()
        begin: int | None = None
        for index in sorted(self.slices):
            if self.slices[index][arm] and begin is None:
                begin = index
            stretch.update(self.slices[index][arm])
            if begin is not None and stretch.total() >= ENOUGH:
                y = 1e3 * seconds_at(stretch, q)
                points += [(begin * self.width, y), ((index + 1) * self.width, y)]
                stretch, begin = Counter(), None
        return points

    def total(self, arm: Arm) -> Histogram:
        """All answers of one arm."""
        whole: Histogram = Counter()
        for arms in self.slices.values():
            whole.update(arms[arm])
        return whole


def seconds_at(histogram: Histogram, q: float) -> float:
    """A quantile of a histogram that is not empty, in seconds, to one percent."""
    wanted, passed = math.ceil(q * histogram.total()), 0
    bucket = 0
    for bucket in sorted(histogram):
        passed += histogram[bucket]
        if passed >= wanted:
            break
    return math.exp(bucket / RESOLUTION)


class Timeline:
    """A witness of a replay (`airworthy.rollout.replay.Witness`)."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.notes: list[tuple[float, str]] = []
        self.wealth = Thinned()
        self.effect = Thinned()
        self.latencies = Latencies()
        self.requests = 0
        """Of users, which are the x axis of the evidence."""
        self.forced = 0
        self.seconds = 0.0
        """From the start to the latest line or arrival."""
        self.decided: Moment | None = None
        self.certified: Moment | None = None
        """Since when, without interruption."""
        self.end: dict[str, Any] = {}
        self._began = 0.0
        self._latest = 0

    def __call__(self, line: dict[str, Any], seen: Seen | None, told: Retelling) -> None:
        """See `Witness`."""
        if seen is None:
            self._hear(line)
            if line["kind"] == "end":
                self._weigh(told)
                self._measure(told)
        elif isinstance(seen, Outcome):
            if self.effect.due():
                self._measure(told)
        elif isinstance(seen, Polled):
            self._look(self._latest, False, told)
        else:
            self.seconds = max(self.seconds, seen.at - self._began)
            if isinstance(seen, Observation):
                self._count(seen)
            self._latest = seen.index
            self._look(seen.index, isinstance(seen, Pair), told)

    def _hear(self, line: dict[str, Any]) -> None:
        if line["kind"] == "start":
            self._began = line["at"]
            self.steps.append(Step("starting", 0, 0.0))
        second = line["at"] - self._began
        self.seconds = max(self.seconds, second)
        if line["kind"] == "state":
            percent = 0 if line["after"] == "rolled back" else self.steps[-1].percent
            self.steps[-1].end = second
            self.steps.append(Step(line["after"], percent, second, line.get("reason", "")))
        elif line["kind"] == "weight":
            self.steps[-1].percent = line["percent"]
        elif line["kind"] == "note":
            self.notes.append((second, line["text"]))
        elif line["kind"] == "end":
            self.end = line
        self.steps[-1].end = self.seconds

    def _count(self, seen: Observation) -> None:
        if seen.forced:
            self.forced += seen.count
            return
        self.requests += seen.count
        tally = self.steps[-1].arms[seen.arm]
        tally.requests += seen.count
        tally.failed += seen.failed * seen.count
        tally.refused += (seen.result == "rejected") * seen.count
        if seen.result == "ok":
            self.latencies.add(seen.at - self._began, seen.arm, seen.seconds, seen.count)

    def _look(self, index: int, pair: bool, told: Retelling) -> None:
        judge = told.judge
        if self.decided is None and judge.failure:
            self.decided = self._moment(judge.failure.index, judge.failure.process in PAIRED)
            self._weigh(told)
        elif self.wealth.due():
            self._weigh(told)
        if not judge.certified:
            self.certified = None
        elif self.certified is None:
            self.certified = self._moment(index, pair)

    def _moment(self, index: int, pair: bool) -> Moment:
        return Moment(self.requests, self.seconds, self.steps[-1].percent, index, pair)

    def _weigh(self, told: Retelling) -> None:
        self.wealth.keep(float(self.requests), told.judge.evidence)

    def _measure(self, told: Retelling) -> None:
        if told.effect.n:
            low, high = told.effect.interval
            values = {"low": low, "estimate": told.effect.estimate, "high": high}
            self.effect.keep(float(told.effect.n), values)
