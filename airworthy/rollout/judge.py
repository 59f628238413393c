"""The rollout judge: is the canary worse than the stable model, good enough, or not known yet?

Pure: the same observations in the same order give the same judgement bit for bit. `alpha` bounds the chance
that a canary is failed although it is neither worse than the stable model (within the tolerances) nor above
the absolute error limit, over the whole rollout, whatever the number of looks and the weights' schedule:

| process  | null hypothesis                                                       | share of alpha |
| -------- | --------------------------------------------------------------------- | -------------- |
| errors   | a request fails on the canary at most as probably as on stable        | 0.4 |
| latency  | canary latency is at most (1 + max_latency_increase) x stable latency | 0.3 |
| limit    | alone at 100 %, the canary fails at most with max_error_rate           | 0.2 |
| scores   | scores are distributed alike                                          | 0.1, warns |

The limit is enforced only where there is no stable arm to compare with: an outage that hits both arms is not
the canary's fault. PASS needs evidence too: a fifth process (level alpha) must certify that the failure rate
is below `max_error_rate`. Outside the statistics, ten canary failures in a row while stable works end it at
once. The bets themselves: `airworthy.rollout.betting`.
"""

from __future__ import annotations

import bisect
from collections import deque
from dataclasses import dataclass
from typing import Literal

from airworthy.model_spec import Rollout
from airworthy.rollout.betting import ArmBet, RateBet, ScoreBet, quantile
from airworthy.serving.observation import Arm, Observation

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
JUDGE = 2
"""Raised whenever the same observations may give another judgement; records name it."""
ALPHA_SHARES = {"errors": 0.4, "latency": 0.3, "limit": 0.2, "scores": 0.1}
RATIOS = (1.5, 2.0, 3.0, 5.0, 8.0, 15.0)
LATENCY_RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0)
LATENCY_LEVELS = ((0.95, 1.0), (0.5, 1.0), (0.99, 1.0), (0.95, 4.0))
"""Quantile of the stable arm's latest times, and factor on it: events from small shifts to rare long waits."""
FAST_KILL = 10
STABLE_MEMORY = 50
STABLE_WORKS = 0.2


@dataclass(frozen=True)
class Settings:
    """What the judge needs to know; `warm_up` counts stable answers before latency and scores are
    compared."""

    alpha: float = 0.05
    max_error_rate: float = 0.05
    max_latency_increase: float = 1.0
    warm_up: int = 200

    @classmethod
    def of(cls, plan: Rollout) -> Settings:
        """The settings that a model spec's rollout plan asks for."""
        return cls(plan.alpha, plan.max_error_rate, plan.max_latency_increase)

    def threshold(self, process: str) -> float:
        """Wealth at which a process decides: 1 over its share of alpha."""
        return 1.0 / (self.alpha * ALPHA_SHARES.get(process, 1.0))


@dataclass
class ArmCounts:
    """Requests of one arm that count as evidence."""

    requests: int = 0
    failed: int = 0
    rejected: int = 0
    slow: int = 0
    """Above the stable arm's 95th percentile (times the tolerance, for the canary)."""


@dataclass(frozen=True)
class Failure:
    """Why the canary was failed, and by which observation."""

    process: str
    reason: str
    index: int
    wealth: float | None = None


class Judge:
    """Folds observations into wealth. Feed it with `observe`; read `failure`, `certified`, `evidence`."""

    def __init__(self, settings: Settings) -> None:
        m = settings.max_error_rate
        self.settings = settings
        self.counts: dict[Arm, ArmCounts] = {"stable": ArmCounts(), "canary": ArmCounts()}
        self.failure: Failure | None = None
        self.warnings: list[str] = []
        self._errors = ArmBet(RATIOS)
        self._latency = [ArmBet(LATENCY_RATIOS) for _ in LATENCY_LEVELS]
        self._busy_until = [0.0] * len(LATENCY_LEVELS)
        self._scores: ScoreBet | None = None
        self._below = RateBet(m, (0.0, m / 5, m / 2))
        self._above = RateBet(m, tuple(m + (1.0 - m) * part for part in (0.05, 0.2, 0.5)))
        self._warm_scores: list[float] = []
        self._recent: deque[float] = deque()
        self._ordered: list[float] = []
        self._canary_run = 0
        self._stable_bad: deque[bool] = deque(maxlen=STABLE_MEMORY)

    def observe(self, seen: Observation) -> Failure | None:
        """Account for one request; returns the failure once the evidence is in. Forced requests are
        ignored."""
        if seen.forced:
            return self.failure
        counts = self.counts[seen.arm]
        counts.requests += 1
        counts.failed += seen.failed
        counts.rejected += seen.result == "rejected"
        canary = seen.arm == "canary"
        bad = seen.result != "ok"
        if bad:
            self._errors.event(canary, seen.share)
        else:
            self._compare_answers(seen, canary)
        if canary and seen.result != "rejected":
            self._below.observe(seen.failed)
            if seen.share == 1.0:
                self._above.observe(seen.failed)
        if canary:
            self._canary_run = self._canary_run + 1 if bad else 0
        else:
            self._stable_bad.append(bad)
        if self.failure is None:
            self.failure = self._failure(seen)
        return self.failure

    @property
    def certified(self) -> bool:
        """Whether the canary's failure rate is certified to be below the limit."""
        return self._below.wealth >= self.settings.threshold("certificate")

    @property
    def evidence(self) -> dict[str, float]:
        """Wealth of every process."""
        return {
            "errors": self._errors.wealth,
            "latency": sum(bet.wealth for bet in self._latency) / len(self._latency),
            "limit": self._above.wealth,
            "scores": self._scores.wealth if self._scores else 1.0,
            "certificate": self._below.wealth,
        }

    def _compare_answers(self, seen: Observation, canary: bool) -> None:
        if self._scores is None:
            if not canary and seen.score is not None:
                self._warm_scores.append(seen.score)
                self._remember(seen.seconds)
            if len(self._warm_scores) >= self.settings.warm_up:
                ordered = sorted(self._warm_scores)
                self._scores = ScoreBet(sorted({quantile(ordered, k / 10) for k in range(1, 10)}))
            return
        self._compare_latency(seen, canary)
        if seen.score is not None:
            self._scores.observe(seen.score, canary, seen.share)
        if not canary:
            self._remember(seen.seconds)

    def _compare_latency(self, seen: Observation, canary: bool) -> None:
        """An event is a time above a quantile of the stable arm's latest times, all of them before this one."""
        seconds = seen.seconds / (1.0 + self.settings.max_latency_increase) if canary else seen.seconds
        for i, (q, factor) in enumerate(LATENCY_LEVELS):
            if seconds <= factor * quantile(self._ordered, q):
                continue
            self.counts[seen.arm].slow += i == 0
            # One stall of the canary makes all its requests in flight slow, but is one event. Leaving out
            # canary events only ever lowers the wealth, so the bet stays fair.
            if canary and seen.at < self._busy_until[i]:
                continue
            self._latency[i].event(canary, seen.share)
            if canary:
                self._busy_until[i] = seen.at + seen.seconds

    def _remember(self, seconds: float) -> None:
        """Keep the stable arm's latest times, in order of arrival and of size."""
        self._recent.append(seconds)
        bisect.insort(self._ordered, seconds)
        if len(self._recent) > self.settings.warm_up:
            self._ordered.pop(bisect.bisect_left(self._ordered, self._recent.popleft()))

    def _failure(self, seen: Observation) -> Failure | None:
        stable_bad = sum(self._stable_bad) / len(self._stable_bad) if self._stable_bad else 0.0
        if self._canary_run >= FAST_KILL and stable_bad < STABLE_WORKS:
            return Failure("fast kill", f"{FAST_KILL} canary failures in a row", seen.index)
        evidence = self.evidence
        for process in ALPHA_SHARES:
            if evidence[process] < self.settings.threshold(process):
                continue
            reason = self._explain(process)
            if process == "scores":
                if reason not in self.warnings:
                    self.warnings.append(reason)
                continue
            return Failure(process, reason, seen.index, evidence[process])
        return None

    def _explain(self, process: str) -> str:
        stable, canary = self.counts["stable"], self.counts["canary"]
        if process == "scores":
            return "the canary's scores are distributed differently from the stable model's"
        if process == "limit":
            return (
                f"{canary.failed} of {canary.requests} canary requests failed: above the limit of "
                f"{self.settings.max_error_rate:.3g}"
            )
        if process == "latency":
            factor = 1.0 + self.settings.max_latency_increase
            return (
                f"the canary is more than {factor:.3g} times as slow as the stable model: {canary.slow} of "
                f"{canary.requests} requests above the limit, stable {stable.slow} of {stable.requests}"
            )
        return (
            f"requests fail more often on the canary: {canary.failed + canary.rejected} of "
            f"{canary.requests}, stable {stable.failed + stable.rejected} of {stable.requests}"
        )


@dataclass(frozen=True)
class Judgement:
    """The end of a rollout: outcome, one-sentence reason, process that decided and the deciding
    observation."""

    outcome: Outcome
    reason: str
    process: str
    index: int | None
    evidence: dict[str, float]


Ending = Literal["completed", "exhausted", "deadline", "unusable", "interrupted"]
"""How the traffic ended: all steps done; evidence bound reached; time over; canary never worked; error or
signal."""


def conclude(judge: Judge, ending: Ending, detail: str = "") -> Judgement:
    """The judgement that follows from the evidence and from how the traffic ended.

    Args:
        judge: After all observations.
        ending: Why no more observations come.
        detail: What happened, for `unusable` and `interrupted`.
    """
    evidence = judge.evidence
    if judge.failure:
        failure = judge.failure
        return Judgement("FAIL", failure.reason, failure.process, failure.index, evidence)
    if ending == "unusable":
        return Judgement("FAIL", detail or "the canary never worked", "readiness", None, evidence)
    canary = judge.counts["canary"]
    if ending == "interrupted":
        return Judgement("INCONCLUSIVE", detail or "interrupted", "controller", None, evidence)
    if ending == "deadline":
        reason = f"time was over before the evidence was in ({canary.requests} canary requests)"
        return Judgement("INCONCLUSIVE", reason, "deadline", None, evidence)
    if not judge.certified:
        reason = (
            f"{canary.requests} canary requests with {canary.failed} failures don't certify an error rate "
            f"below {judge.settings.max_error_rate:.3g}"
        )
        return Judgement("INCONCLUSIVE", reason, "certificate", None, evidence)
    reason = (
        f"{canary.failed} of {canary.requests} canary requests failed, certified below "
        f"{judge.settings.max_error_rate:.3g}"
    )
    compared = judge.counts["stable"].requests > 0
    reason += "; not shown to be worse than the stable model" if compared else "; nothing to compare with"
    return Judgement("PASS", reason, "certificate", None, evidence)
