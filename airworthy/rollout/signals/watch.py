"""Which scrapes may be compared, so that neither arm is seen earlier or more fully than the other.

Where each target counts both arms (gateways), the windows between its scrapes are the same for both, and all that
they hold is compared.

Where each arm has targets of its own (model servers, queue-proxies), these are scraped at different times. Reports
are then made in batches: a canary window counts as compared only if it lies within what is reported of every stable
target in the same batch. So each failure of the canary is matched by all of stable's at that time, and what there is
more of stable's only lowers the judge's wealth. That holds for failures, of which more on the stable arm is always
less evidence. It does not hold for times, where fast answers of the stable arm are evidence too: they aren't compared.
Requests that aren't compared still count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from airworthy.rollout.signals.counters import Scrape, Target, Window, result_of, windows
from airworthy.serving.observation import FAILED, Arm

FIRST_GUESS = 60.0
"""Seconds between scrapes, until two were seen: Prometheus' default."""
LOOKBACK = 300.0
"""Seconds before the start in which a target that exists was scraped: beyond, Prometheus calls its series stale."""
MISSES = 3
"""Scrapes that a live target may miss."""


@dataclass
class _State:
    """What is known of a target: `base` is the scrape up to which its requests have been reported."""

    seen: float
    interval: float = FIRST_GUESS
    arms: frozenset[Arm] = frozenset()
    base: Scrape | None = None
    pending: list[Scrape] = field(default_factory=list)

    @property
    def stable(self) -> bool:
        return "stable" in self.arms

    @property
    def end(self) -> float:
        """Up to when something is known."""
        return self.pending[-1].at if self.pending else self.base.at if self.base else 0.0

    def live(self, now: float) -> bool:
        return now - self.seen <= MISSES * self.interval

    def add(self, scrape: Scrape, since: float) -> None:
        self.arms |= {series.arm for series in scrape.sums}
        if scrape.at > self.seen:
            self.interval = scrape.at - self.seen
            self.seen = scrape.at
        if scrape.at > max(since, self.end):
            self.pending.append(scrape)

    def begin(self, earliest: float) -> None:
        """Begin at the first scrape since `earliest`, where nothing earlier is known or wanted."""
        if self.base is not None and self.base.at < earliest:
            self.base = None
        while self.base is None and self.pending:
            first = self.pending.pop(0)
            self.base = first if first.at >= earliest else None

    def consume(self, scrapes: list[Scrape]) -> Iterator[Window]:
        """The windows up to the last of these pending scrapes."""
        if self.base is None or not scrapes:
            return
        yield from windows([self.base, *scrapes])
        self.base = scrapes[-1]
        self.pending = self.pending[len(scrapes) :]


@dataclass(frozen=True)
class Batch:
    """Windows to be reported together, all after `start`; of `lone` ones, only the counts."""

    start: float
    compared: Sequence[Window]
    lone: Sequence[Window]


class Watch:
    """Follows the targets of one service since a moment before which nothing counts.

    Args:
        since: Start (Prometheus' clock): only what is counted between two scrapes after it is reported.
        scrapes: Scrapes of each stable target per batch; 0: there is nothing to wait for, as each target counts
            both arms, or the canary is alone.
    """

    def __init__(self, since: float, scrapes: int) -> None:
        self.since = since
        self._scrapes = scrapes
        self._states: dict[Target, _State] = {}
        self._first: float | None = None
        """Since when every stable target is followed: the canary counts from here."""

    def wanted_since(self, now: float) -> float:
        """From when on raw samples are needed; None are known at first, so those before the start tell who is new."""
        return min((s.seen for s in self._states.values() if s.live(now)), default=self.since - LOOKBACK)

    def newcomers(self, scrapes: Mapping[Target, Sequence[Scrape]]) -> list[Target]:
        """Targets that appear for the first time, after the start."""
        return [
            target
            for target, found in scrapes.items()
            if target not in self._states and found[0].at > self.since
        ]

    def add(self, scrapes: Mapping[Target, Sequence[Scrape]], empty: Mapping[Target, float]) -> None:
        """Take in what was scraped; scrapes that are known already do no harm.

        Args:
            scrapes: By target, in order.
            empty: When newcomers had counted nothing yet, for sure. Others begin with their first scrape: what they
                show there may have been counted before the start.
        """
        for target, found in scrapes.items():
            state = self._states.get(target)
            if state is None:
                state = self._states[target] = _State(seen=found[0].at)
                if empty.get(target, self.since) > self.since:
                    state.base = Scrape(empty[target], {})
            for scrape in found:
                state.add(scrape, self.since)

    def fresh(self, arm: Arm) -> float | None:
        """When an arm was last heard of."""
        return max((s.seen for s in self._states.values() if arm in s.arms), default=None)

    def take(self, now: float) -> Batch | None:
        """The next batch, if there is one; each request is handed out once.

        Args:
            now: Prometheus' clock.
        """
        for state in self._states.values():
            if state.stable or not self._scrapes:
                state.begin(self.since)
        if not self._scrapes:
            return self._batch(self.since, {})
        canaries = [state for state in self._states.values() if not state.stable]
        stable = [state for state in self._states.values() if state.stable and state.live(now)]
        if not stable or any(state.base is None for state in stable):
            return None  # the stable arm has yet to be scraped after the start
        began = max(state.base.at for state in stable if state.base)
        self._first = began if self._first is None else self._first
        known = min(state.end for state in stable)
        for state in canaries:
            state.begin(self._first)
        held = {id(state): [s for s in state.pending if s.at <= known] for state in canaries}
        if any(state.live(now) for state in canaries) and not self._due(stable, canaries, held, began):
            return None
        return self._batch(began, held)

    def _due(
        self, stable: list[_State], canaries: list[_State], held: dict[int, list[Scrape]], began: float
    ) -> bool:
        """Enough scrapes for most of the canary's windows to lie within stable's; at once if it fails in one."""
        if min(len(state.pending) for state in stable) >= self._scrapes:
            return True
        return any(
            window.start >= began and series.status and result_of(series.status) in FAILED and buckets
            for state in canaries
            if state.base
            for window in windows([state.base, *held[id(state)]])
            for series, buckets in window.added.items()
        )

    def _batch(self, began: float, held: Mapping[int, list[Scrape]]) -> Batch | None:
        compared: list[Window] = []
        lone: list[Window] = []
        for state in self._states.values():
            for window in state.consume(held.get(id(state), state.pending)):
                fits = state.stable or window.start >= began
                (compared if fits else lone).append(window)
        found = compared + lone
        return Batch(min(window.start for window in found), compared, lone) if found else None
