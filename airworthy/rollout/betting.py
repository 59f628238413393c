"""E-processes: the arithmetic of the rollout judge.

Every class here keeps the wealth of a gambler who bets against one null hypothesis. Under the null the wealth
is a supermartingale that starts at 1, so by Ville's inequality (Ville 1939) it ever reaches 1/alpha with
probability at most alpha, however often and whenever one looks. Means of such processes are such processes,
which is how a grid of alternatives is mixed ("testing by betting": Shafer 2021; Ramdas, Gruenwald, Vovk,
Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference"; Howard, Ramdas, McAuliffe, Sekhon
2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences"). All sums run in logarithms.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

MAX_LOG = 690.0  # exp of this is finite; more evidence than that changes no decision


def _mean_wealth(logs: Sequence[float]) -> float:
    top = max(logs)
    if top == -math.inf:
        return 0.0
    total = math.fsum(math.exp(value - top) for value in logs)
    return math.exp(min(top + math.log(total / len(logs)), MAX_LOG))


class ArmBet:
    """Bets that bad events come from the canary more often than the random draw of the arm explains.

    The splitter sends a request to the canary with known probability q. If events are at most as likely on
    the canary as on the stable arm at that moment, then given that an event happened it is the canary's with
    probability at most q, whatever the base rate is and however it drifts: load, weight ramps and outages
    that hit both arms cancel. A bet with ratio r multiplies the wealth by `r / (1 - q + q r)` on a canary
    event and by `1 / (1 - q + q r)` on a stable one: expectation at most 1 for every r > 1.
    """

    def __init__(self, ratios: Sequence[float]) -> None:
        self._ratios = tuple(ratios)
        self._logs = [0.0] * len(self._ratios)

    def event(self, canary: bool, share: float) -> None:
        """Account for one bad event; draws that were certain (share 0 or 1) say nothing."""
        if not 0.0 < share < 1.0:
            return
        for i, ratio in enumerate(self._ratios):
            self._logs[i] += (math.log(ratio) if canary else 0.0) - math.log(1.0 - share + share * ratio)

    @property
    def wealth(self) -> float:
        return _mean_wealth(self._logs)


class RateBet:
    """Bets that a failure rate lies on one side of a limit.

    Null for alternatives below the limit: the rate is `limit` or more; above: `limit` or less. Each request
    multiplies the wealth by the likelihood ratio of the alternative to the limit; on the null's side of the
    limit its expectation is at most 1 (the ratio is monotone in the rate).
    """

    def __init__(self, limit: float, alternatives: Sequence[float]) -> None:
        self._failure = [math.log(a / limit) if a > 0 else -math.inf for a in alternatives]
        self._success = [math.log((1.0 - a) / (1.0 - limit)) if a < 1 else -math.inf for a in alternatives]
        self._logs = [0.0] * len(alternatives)

    def observe(self, failed: bool) -> None:
        step = self._failure if failed else self._success
        for i, value in enumerate(step):
            self._logs[i] += value

    @property
    def wealth(self) -> float:
        return _mean_wealth(self._logs)


class ScoreBet:
    """Bets that scores tell the arms apart, in either direction.

    Scores are binned at quantiles of the stable arm's warm-up. Before each request the bet predicts the arm
    from the scores' bin: `p = share * lift / (1 - share + share * lift)` with the bin's canary count over its
    expected count so far as lift. Given equal score distributions the arm is the canary's with probability
    `share`, so `p / share` (canary) and `(1 - p) / (1 - share)` (stable) have expectation 1 for any p fixed
    beforehand.
    """

    PRIOR = 20.0  # requests per bin that the prediction starts with, at the lift 1

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = tuple(edges)
        self._seen = [0.0] * (len(self._edges) + 1)
        self._expected = [0.0] * (len(self._edges) + 1)
        self._log = 0.0

    def observe(self, score: float, canary: bool, share: float) -> None:
        if not 0.0 < share < 1.0:
            return
        k = bisect.bisect_right(self._edges, score)
        prior = self.PRIOR * share
        lift = (self._seen[k] + prior) / (self._expected[k] + prior)
        p = share * lift / (1.0 - share + share * lift)
        self._log += math.log(p / share) if canary else math.log((1.0 - p) / (1.0 - share))
        self._seen[k] += 1.0 if canary else 0.0
        self._expected[k] += share

    @property
    def wealth(self) -> float:
        return math.exp(min(self._log, MAX_LOG))


def quantile(ordered: Sequence[float], q: float) -> float:
    """The empirical quantile (inverse of the distribution function) of sorted values."""
    return ordered[min(len(ordered) - 1, max(0, math.ceil(q * len(ordered)) - 1))]
