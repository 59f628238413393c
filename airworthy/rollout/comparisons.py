"""What the judge compares between the arms: latency, scores, shadow answers, and runs of failures.

Values that a bet is based on (reference times, bins, counts) are fixed before the observation it is used on. What
an observation teaches is applied by `learn`, so that several observations whose order is unknown can be judged
by the same references.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from dataclasses import dataclass

from airworthy.rollout.betting import ArmBet, BinBet, RateBet, ShiftBet, quantile
from airworthy.serving.observation import Observation, Pair, Result

RESERVE = 0.05
TAILS = (0.25, 0.125, 0.125)
"""Parts of the latency wealth for times above stable's 95th percentile, its 99th, 4 times its 95th; rest: shift."""
TAIL_RATIOS = (1.5, 2.5, 4.0)
SLOWER = (0.2, 0.4, 0.8)
OTHERWISE = (-1.0, -0.5, -0.25, 0.25, 0.5, 1.0)
SHADOW_RATIOS = (2.0, 5.0, 50.0)

FAST_KILL = 10
STABLE_MEMORY = 50
STABLE_WORKS = 0.2


class Latency:
    """Whether the canary's times are above (1 + tolerance) times stable's, plus some slack.

    Null: at the moment of a request its time on the canary is stochastically at most (1 + tolerance) times its time
    on stable, plus `slack` seconds. Half of the wealth is a shift of all ranks, the rest bets on the tail alone.

    A canary that stalls makes all its requests in flight slow, but is one event: a canary event that began before the
    last one ended isn't counted (leaving canary events out only lowers the wealth), and the shift leaves out both
    arms' requests that began before the canary's last slow answer ended (which ones is known before their arms).
    """

    def __init__(self, tolerance: float, window: int, slack: float = 0.0) -> None:
        self.wealth = 1.0
        self._slack = slack
        self._factor = 1.0 + tolerance
        self._window = window
        self._recent: deque[float] = deque()
        self._ordered: list[float] = []
        self._limits: tuple[float, ...] = ()
        self._shift = ShiftBet(SLOWER, reserve=RESERVE)
        self._tails = [ArmBet(TAIL_RATIOS, reserve=RESERVE) for _ in TAILS]
        self._busy_until = [0.0] * (len(TAILS) + 1)
        self._later: list[tuple[int, float]] = []
        self._times: list[tuple[float, int]] = []

    def observe(self, seen: Observation, span: float) -> bool:
        """Account for valid answers; returns whether they were slow.

        Args:
            seen: One answer, or `count` answers of the same time.
            span: Seconds in which the answers of a count above 1 came.
        """
        canary = seen.arm == "canary"
        slow = False
        if self._limits:
            seconds = max(0.0, seen.seconds - self._slack) / self._factor if canary else seen.seconds
            slow = self._bet(seen, seconds, canary, span)
        if not canary:
            self._times.append((seen.seconds, seen.count))
        return slow

    def _bet(self, seen: Observation, seconds: float, canary: bool, span: float) -> bool:
        rank = bisect.bisect_left(self._ordered, seconds) / len(self._ordered)
        sums = seen.count > 1
        # sums don't tell which requests overlapped: at most as many stalls as fit into the time count
        most = max(1, int(span / seen.seconds)) if sums and seen.seconds > 0 else seen.count
        if canary and rank >= 0.5:
            count = min(seen.count, most)
            self._later.append((len(TAILS), seen.at + seen.seconds))
        else:
            count = seen.count
        if sums or seen.at >= self._busy_until[-1]:
            self._shift.observe(rank, canary, seen.share, count)
        for k, limit in enumerate(self._limits):
            if seconds <= limit:
                continue
            if not canary:
                self._tails[k].event(False, seen.share, seen.count)
            elif sums or seen.at >= self._busy_until[k]:
                self._tails[k].event(True, seen.share, min(seen.count, most))
                self._later.append((k, seen.at + seen.seconds))
        tails = sum(part * bet.wealth for part, bet in zip(TAILS, self._tails, strict=True))
        self.wealth = tails + (1.0 - sum(TAILS)) * self._shift.wealth
        return seconds > self._limits[0]

    def learn(self) -> None:
        """Let what was observed move the references: stable's latest times, and when the canary was busy."""
        for k, until in self._later:
            self._busy_until[k] = max(self._busy_until[k], until)
        self._later.clear()
        if not self._times:
            return
        for seconds, count in self._times:
            for _ in range(min(count, self._window)):
                self._recent.append(seconds)
                bisect.insort(self._ordered, seconds)
        self._times.clear()
        while len(self._recent) > self._window:
            self._ordered.pop(bisect.bisect_left(self._ordered, self._recent.popleft()))
        if len(self._ordered) == self._window:
            p95, p99 = quantile(self._ordered, 0.95), quantile(self._ordered, 0.99)
            self._limits = (p95, p99, 4.0 * p95)

    def renew(self) -> None:
        self._shift.renew()
        for bet in self._tails:
            bet.renew()


class Scores:
    """Whether scores are distributed differently on the arms, in either direction or in shape.

    Null: the score of a request doesn't depend on its arm. References are the stable arm's first scores.
    """

    def __init__(self, warm_up: int) -> None:
        self.wealth = 1.0
        self._warm_up = warm_up
        self._first: list[float] = []
        self._ordered: list[float] = []
        self._shift = ShiftBet(OTHERWISE, reserve=RESERVE)
        self._bins: BinBet | None = None

    def observe(self, seen: Observation) -> None:
        if seen.score is None:
            return
        canary = seen.arm == "canary"
        if self._bins is None:
            if not canary:
                self._first += [seen.score] * min(seen.count, self._warm_up)
            return
        rank = bisect.bisect_left(self._ordered, seen.score) / len(self._ordered)
        self._shift.observe(rank, canary, seen.share, seen.count)
        self._bins.observe(seen.score, canary, seen.share, seen.count)
        self.wealth = (self._shift.wealth + self._bins.wealth) / 2

    def learn(self) -> None:
        if self._bins is not None:
            self._bins.learn()
        elif len(self._first) >= self._warm_up:
            self._ordered, self._first = sorted(self._first), []
            self._bins = BinBet(sorted({quantile(self._ordered, k / 10) for k in range(1, 10)}))

    def renew(self) -> None:
        self._shift.renew()


class Run:
    """Failures of the canary in a row while stable works: ends a rollout at once, outside the statistics."""

    def __init__(self) -> None:
        self.length = 0
        self._since = (0, 0)  # stable's answers, bad ones among them, since the run began
        self._before: deque[bool] = deque(maxlen=STABLE_MEMORY)
        self._now = {"stable": [0, 0], "canary": [0, 0]}

    def observe(self, seen: Observation) -> None:
        now = self._now[seen.arm]
        now[0] += seen.count
        now[1] += seen.count if seen.result != "ok" else 0

    def learn(self) -> None:
        """Any good canary answer among observations of unknown order ends a run."""
        (stable, stable_bad), (canary, canary_bad) = self._now["stable"], self._now["canary"]
        if canary_bad < canary:
            self.length, self._since = 0, (0, 0)
        self.length += canary_bad if canary_bad == canary else 0
        if self.length and stable:
            self._since = (self._since[0] + stable, self._since[1] + stable_bad)
        self._before.extend([True] * min(stable_bad, STABLE_MEMORY))
        self._before.extend([False] * min(stable - stable_bad, STABLE_MEMORY))
        self._now = {"stable": [0, 0], "canary": [0, 0]}

    @property
    def deadly(self) -> bool:
        """Whether the run is long enough and stable works: of its last answers, and of those since the run began."""
        if self.length < FAST_KILL:
            return False
        lately = (len(self._before), sum(self._before))
        return all(bad < STABLE_WORKS * max(answers, 1) for answers, bad in (self._since, lately))


@dataclass(frozen=True)
class ShadowSummary:
    """What the shadow phase showed.

    Attributes:
        pairs: Requests that both arms were asked.
        flips: Pairs whose decisions at the threshold differ, of those where both arms gave a score.
        flip_rate: Their share (0 without such pairs).
        difference_p50: Median of |canary score - stable score|, to 12 % (the upper end of a bin).
        difference_p95: The same for the 95th percentile.
        difference_max: Largest difference.
        canary_only_failures: Pairs where only the canary failed or refused.
        stable_only_failures: Pairs where only stable did.
    """

    pairs: int
    flips: int
    flip_rate: float
    difference_p50: float
    difference_p95: float
    difference_max: float
    canary_only_failures: int
    stable_only_failures: int


class Shadow:
    """Paired evidence: both arms were asked the same request, users got stable's answer.

    Errors. Null: a request fails on the canary at most (1 + tolerance) times as probably as on stable. Without
    tolerance only pairs in which one arm alone failed count: they are the canary's with probability at most 1/2.
    With one, pairs in which both failed count for both.
    Flips. Null: decisions differ with probability at most `max_flip_rate`.
    """

    DECADES = 8
    PER_DECADE = 20

    def __init__(self, tolerance: float, threshold: float, max_flip_rate: float | None) -> None:
        self.errors = ArmBet(SHADOW_RATIOS, tolerance=tolerance)
        self.flips: RateBet | None = None
        if max_flip_rate is not None and max_flip_rate < 1.0:
            limit = max(max_flip_rate, 1e-9)  # no flips allowed: the first one decides
            self.flips = RateBet(limit, tuple(limit + (1.0 - limit) * part for part in (0.02, 0.1, 0.4)))
        self._tolerance = tolerance
        self._threshold = threshold
        self._pairs = self._scored = self._flipped = self._canary_only = self._stable_only = 0
        self._bins = [0] * (self.DECADES * self.PER_DECADE + 2)
        self._max = 0.0

    def compare(self, pair: Pair) -> None:
        self._pairs += 1
        canary, stable = _bad(pair.result), _bad(pair.stable_result)
        self._canary_only += canary and not stable
        self._stable_only += stable and not canary
        if canary != stable or self._tolerance > 0:
            if stable:
                self.errors.event(False, 0.5)
            if canary:
                self.errors.event(True, 0.5)
        if not canary and not stable and pair.score is not None and pair.stable_score is not None:
            self._differ(pair.score, pair.stable_score)

    def _differ(self, score: float, stable: float) -> None:
        flipped = (score >= self._threshold) != (stable >= self._threshold)
        self._scored += 1
        self._flipped += flipped
        if self.flips:
            self.flips.observe(flipped)
        difference = abs(score - stable)
        self._max = max(self._max, difference)
        self._bins[self._bin(difference)] += 1

    def _bin(self, difference: float) -> int:
        if difference < 10.0**-self.DECADES:
            return 0
        place = 1 + math.floor(self.PER_DECADE * (math.log10(difference) + self.DECADES))
        return min(place, len(self._bins) - 1)

    def _quantile(self, q: float) -> float:
        wanted, so_far = math.ceil(q * self._scored), 0
        for k, count in enumerate(self._bins):
            so_far += count
            if count and so_far >= wanted:
                return min(self._max, 10.0 ** (k / self.PER_DECADE - self.DECADES))
        return 0.0

    @property
    def flip_wealth(self) -> float:
        """Evidence that decisions differ more often than allowed; 1 where no limit is set."""
        return self.flips.wealth if self.flips else 1.0

    @property
    def pairs(self) -> int:
        return self._pairs

    @property
    def summary(self) -> ShadowSummary:
        return ShadowSummary(
            pairs=self._pairs,
            flips=self._flipped,
            flip_rate=self._flipped / self._scored if self._scored else 0.0,
            difference_p50=self._quantile(0.5),
            difference_p95=self._quantile(0.95),
            difference_max=self._max,
            canary_only_failures=self._canary_only,
            stable_only_failures=self._stable_only,
        )


def _bad(result: Result) -> bool:
    return result != "ok"
