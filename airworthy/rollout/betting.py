"""E-processes: the arithmetic of the rollout judge.

Every class here keeps the wealth of a gambler who bets against one null hypothesis. Under the null the wealth
is a supermartingale that starts at 1, so by Ville's inequality (Ville 1939) it ever reaches 1/alpha with
probability at most alpha, however often and whenever one looks. Means of such processes are such processes,
which is how several alternatives and several starts are mixed ("testing by betting": Shafer 2021; Ramdas,
Gruenwald, Vovk, Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference"; Howard, Ramdas,
McAuliffe, Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences"). Derivations in plain
words: docs/judge.md. All sums run in logarithms.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TypeVar

T = TypeVar("T")

MAX_LOG = 690.0  # exp of this is finite; more evidence than that changes no decision
_MOST = math.exp(MAX_LOG)
MOST_SHARES = 256  # bets are kept ready for so many different shares of traffic
BASEL = math.pi**2 / 6


class Capital:
    """A capital of 1, spread over bets on the same null.

    Args:
        parts: How it is spread over the bets; any positive numbers.
        reserve: The part that is kept back for `renew`. What lies in reserve counts as wealth, too.
    """

    def __init__(self, parts: Sequence[float], reserve: float = 0.0) -> None:
        total = math.fsum(parts)
        self._parts = tuple(math.log(part / total) for part in parts)
        self._logs = [math.log1p(-reserve) + part for part in self._parts]
        self._reserve = self._left = reserve
        self._renewed = 0
        self.wealth = 1.0

    def bet(self, steps: Sequence[float], times: int = 1) -> None:
        """Multiply each bet's stake by exp(step), `times` over."""
        logs, wealth = self._logs, self._left
        for k, step in enumerate(steps):
            logs[k] += times * step
            wealth += math.exp(logs[k]) if logs[k] < MAX_LOG else _MOST
        self.wealth = wealth

    def renew(self) -> None:
        """Bet once more from here: the k-th time with 6 / (pi k)^2 of the reserve, which so never runs out.

        Evidence that begins late is then not held up by what was lost before.
        """
        if not self._reserve:
            return
        self._renewed += 1
        stake = self._reserve / (BASEL * self._renewed**2)
        self._left = max(0.0, self._left - stake)
        fresh = math.log(stake)
        self._logs = [_log_add(log, fresh + part) for log, part in zip(self._logs, self._parts, strict=True)]
        self.bet([0.0] * len(self._logs))


def _log_add(a: float, b: float) -> float:
    low, high = sorted((a, b))
    return high + math.log1p(math.exp(low - high))


class ArmBet:
    """Bets that bad events come from the canary more often than the random draw of the arm explains.

    The splitter sends a request to the canary with known probability q. If events are at most (1 + tolerance)
    times as likely on the canary as on the stable arm at that moment, then given that an event happened it is the
    canary's with probability at most q' = q (1 + tolerance) / (1 + q tolerance), whatever the base rate is and
    however it drifts: load, weight ramps and outages that hit both arms cancel. A bet with ratio r multiplies the
    wealth by `r / (1 - q' + q' r)` on a canary event and by `1 / (1 - q' + q' r)` on a stable one: expectation at
    most 1 for every r > 1.

    Args:
        ratios: How much likelier events may be on the canary than tolerated, each above 1.
        parts: How much is staked on each ratio.
        tolerance: Tolerated relative excess of the canary's rate.
        reserve: See `Capital`.
    """

    def __init__(
        self,
        ratios: Sequence[float],
        parts: Sequence[float] | None = None,
        *,
        tolerance: float = 0.0,
        reserve: float = 0.0,
    ) -> None:
        self._ratios = tuple(ratios)
        self._tolerance = tolerance
        self._capital = Capital(parts or [1.0] * len(self._ratios), reserve)
        self._steps: dict[tuple[bool, float], tuple[float, ...]] = {}

    def event(self, canary: bool, share: float, count: int = 1) -> None:
        """Account for bad events; draws that were certain (share 0 or 1) say nothing."""
        if not 0.0 < share < 1.0:
            return
        steps = self._steps.get((canary, share))
        if steps is None:
            q = share * (1.0 + self._tolerance) / (1.0 + share * self._tolerance)
            steps = tuple((math.log(r) if canary else 0.0) - math.log(1.0 - q + q * r) for r in self._ratios)
            _keep(self._steps, (canary, share), steps)
        self._capital.bet(steps, count)

    def renew(self) -> None:
        self._capital.renew()

    @property
    def wealth(self) -> float:
        return self._capital.wealth


class RateBet:
    """Bets that a failure rate lies on one side of a limit.

    Null for alternatives below the limit: the rate is `limit` or more; above: `limit` or less. Each request
    multiplies the wealth by the likelihood ratio of the alternative to the limit; on the null's side of the
    limit its expectation is at most 1 (the ratio is monotone in the rate).
    """

    def __init__(
        self,
        limit: float,
        alternatives: Sequence[float],
        parts: Sequence[float] | None = None,
        *,
        reserve: float = 0.0,
    ) -> None:
        self._failure = [math.log(a / limit) if a > 0 else -math.inf for a in alternatives]
        self._success = [math.log((1.0 - a) / (1.0 - limit)) if a < 1 else -math.inf for a in alternatives]
        self._capital = Capital(parts or [1.0] * len(alternatives), reserve)

    def observe(self, failed: bool, count: int = 1) -> None:
        self._capital.bet(self._failure if failed else self._success, count)

    def renew(self) -> None:
        self._capital.renew()

    @property
    def wealth(self) -> float:
        return self._capital.wealth


RANKS = (*(k / 20 for k in range(1, 20)), 0.975, 0.99)
"""Where ranks (0..1) among reference values are cut into bins."""


class ShiftBet:
    """Bets that values rank higher (or lower) on the canary.

    A value counts by the bin of its rank among reference values that were fixed before it. Each alternative says
    that normal scores of the canary's ranks are moved by `shift`; it gives each bin a lift L (canary density over
    stable density). A request in the bin multiplies the wealth by `L / (1 - q + q L)` if the canary's and by
    `1 / (1 - q + q L)` if not. If both arms are distributed alike the expectation is 1. For positive shifts L rises
    with the rank, and the expectation is at most 1 also if the canary's values are stochastically smaller: so
    positive shifts alone test one side.
    """

    def __init__(
        self, shifts: Sequence[float], parts: Sequence[float] | None = None, *, reserve: float = 0.0
    ) -> None:
        self._lifts = tuple(zip(*(_lifts(shift) for shift in shifts), strict=True))
        self._capital = Capital(parts or [1.0] * len(shifts), reserve)
        self._steps: dict[tuple[bool, float], tuple[tuple[float, ...], ...]] = {}

    def observe(self, rank: float, canary: bool, share: float, count: int = 1) -> None:
        """Account for a request whose value has this rank (0..1) among the reference values."""
        if not 0.0 < share < 1.0:
            return
        table = self._steps.get((canary, share))
        if table is None:
            table = tuple(
                tuple((math.log(x) if canary else 0.0) - math.log(1.0 - share + share * x) for x in lifts)
                for lifts in self._lifts
            )
            _keep(self._steps, (canary, share), table)
        self._capital.bet(table[bisect.bisect_right(RANKS, rank)], count)

    def renew(self) -> None:
        self._capital.renew()

    @property
    def wealth(self) -> float:
        return self._capital.wealth


def _lifts(shift: float) -> list[float]:
    """Per bin of `RANKS`: how much likelier it is after moving a standard normal variable by `shift`."""
    normal = NormalDist()
    below = [0.0, *(normal.cdf(normal.inv_cdf(rank) - shift) for rank in RANKS), 1.0]
    ranks = [0.0, *RANKS, 1.0]
    return [(below[k + 1] - below[k]) / (ranks[k + 1] - ranks[k]) for k in range(len(RANKS) + 1)]


class BinBet:
    """Bets that values tell the arms apart in whatever way the values seen so far show.

    Values are binned at fixed edges. The bet predicts the arm from the bin: its lift L is the canary's count there
    over its expected count so far; the wealth changes as in `ShiftBet`. Given equal distributions the arm is the
    canary's with probability q, so the expectation is 1 for any L fixed beforehand.
    """

    PRIOR = 20.0  # requests per bin that the prediction starts with, at the lift 1

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = tuple(edges)
        self._seen = [0.0] * (len(self._edges) + 1)
        self._expected = [0.0] * (len(self._edges) + 1)
        self._pending: list[tuple[int, bool, float, int]] = []
        self._log = 0.0

    def observe(self, value: float, canary: bool, share: float, count: int = 1) -> None:
        """Account for requests; the predictions change with the next `learn`."""
        if not 0.0 < share < 1.0:
            return
        k = bisect.bisect_right(self._edges, value)
        prior = self.PRIOR * share
        lift = (self._seen[k] + prior) / (self._expected[k] + prior)
        step = (math.log(lift) if canary else 0.0) - math.log(1.0 - share + share * lift)
        self._log += count * step
        self._pending.append((k, canary, share, count))

    def learn(self) -> None:
        """Let what was observed inform the predictions from now on."""
        for k, canary, share, count in self._pending:
            self._seen[k] += count if canary else 0
            self._expected[k] += share * count
        self._pending.clear()

    @property
    def wealth(self) -> float:
        return math.exp(min(self._log, MAX_LOG))


def _keep(cache: dict[tuple[bool, float], T], key: tuple[bool, float], value: T) -> None:
    if len(cache) >= MOST_SHARES:
        cache.clear()
    cache[key] = value


def quantile(ordered: Sequence[float], q: float) -> float:
    """The empirical quantile (inverse of the distribution function) of sorted values."""
    return ordered[min(len(ordered) - 1, max(0, math.ceil(q * len(ordered)) - 1))]
