"""The rollout judge: is the canary worse than the stable model, good enough, or not known yet?

Pure: the same observations in the same order give the same judgement bit for bit. `alpha` bounds the chance
that a canary is failed although it is neither worse than the stable model (within the tolerances) nor above
the absolute limits, over the whole rollout, whatever the number of looks and the weights' schedule. It is spread
over the processes that can fail a canary:

| process       | null hypothesis                                                                | parts |
| ------------- | ------------------------------------------------------------------------------ | ----- |
| errors        | a request fails on the canary at most (1 + max_error_increase) times as likely | 16 |
| latency       | canary latency is at most (1 + max_latency_increase) x stable latency + slack  | 3 |
| limit         | alone at 100 %, the canary fails at most with max_error_rate                   | 1 |
| shadow errors | as errors, in pairs; with a shadow phase                                       | 2 |
| flips         | decisions differ at most with max_flip_rate; if that is set                    | 2 |
| scores        | scores don't depend on the arm; if `on_score_shift` is "fail"                  | 3 |

Otherwise scores only warn, at a level alpha of their own. The limit is enforced only where there is no stable arm
to compare with: an outage that hits both arms is not the canary's fault. PASS needs evidence too: one more process
(level alpha) must certify that the failure rate is below `max_error_rate`. Outside the statistics, ten canary
failures in a row while stable works end it at once. The bets: `airworthy.rollout.betting`; what they are made on:
`airworthy.rollout.comparisons`; derivation, sources and limits: docs/judge.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airworthy.rollout.betting import ArmBet, RateBet
from airworthy.rollout.comparisons import FAST_KILL, RESERVE, Latency, Run, Scores, Shadow, ShadowSummary
from airworthy.rollout.settings import ALPHA_SHARES, Settings
from airworthy.serving.observation import Arm, Observation, Pair

__all__ = [
    "ALPHA_SHARES",
    "JUDGE",
    "ArmCounts",
    "Ending",
    "Failure",
    "Judge",
    "Judgement",
    "Settings",
    "conclude",
]

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
JUDGE = 3
"""Raised whenever the same observations may give another judgement; records name it."""
RATIOS = {2.0: 1.0, 4.0: 4.0, 6.0: 3.0, 25.0: 2.0}
"""How many times as often a request fails on the canary: part of the capital that is staked on it."""
FRESH_REQUESTS = 1000
"""Comparisons bet afresh, with part of the reserve, after so many requests and after each doubling."""
FRESH_ANSWERS = {"certificate": 200, "limit": 20}
"""After so many canary answers these bet afresh: an outage doesn't decide for ever, nor does a good past."""


@dataclass
class ArmCounts:
    """Requests of one arm; forced ones are left out."""

    requests: int = 0
    failed: int = 0
    rejected: int = 0
    slow: int = 0
    """Above the stable arm's 95th percentile (times the tolerance, for the canary)."""


@dataclass(frozen=True)
class Failure:
    """Why the canary was failed, and by which observation (by which pair, for shadow errors and flips)."""

    process: str
    reason: str
    index: int
    wealth: float | None = None


class Judge:
    """Folds observations into wealth: `observe` and `compare`, then read `failure`, `certified`, `evidence`.

    Observations with a count are sums of one poll, of unknown order. All that follow with the same time `at` belong
    to the same poll: they are judged by the same references, and a decision is taken when the poll is over, which
    the next time tells, or `complete`.
    """

    def __init__(self, settings: Settings) -> None:
        m, tolerated = settings.max_error_rate, settings.max_error_increase
        self.settings = settings
        self.counts: dict[Arm, ArmCounts] = {"stable": ArmCounts(), "canary": ArmCounts()}
        self.failure: Failure | None = None
        self.warnings: list[str] = []
        self._thresholds = {name: settings.threshold(name) for name in ALPHA_SHARES}
        self._can_fail = frozenset(settings.shares)
        self._errors = ArmBet(tuple(RATIOS), tuple(RATIOS.values()), tolerance=tolerated, reserve=RESERVE)
        self._latency = Latency(settings.max_latency_increase, settings.warm_up, settings.latency_slack)
        self._scores = Scores(settings.warm_up)
        self._shadow = Shadow(tolerated, settings.decision_threshold, settings.max_flip_rate)
        self._below = RateBet(m, (0.0, m / 5, m / 2), (2.0, 2.0, 1.0), reserve=0.2)
        self._above = RateBet(m, tuple(m + (1.0 - m) * part for part in (0.05, 0.2, 0.5)), reserve=0.5)
        self._run = Run()
        self._drawn = 0
        self._next_fresh = FRESH_REQUESTS
        self._answers = dict.fromkeys(FRESH_ANSWERS, 0)
        self._poll: Observation | None = None
        self._last_at: float | None = None

    def observe(self, seen: Observation) -> Failure | None:
        """Account for requests; returns the failure once the evidence is in. Forced requests are ignored."""
        if self._poll is not None and seen.at != self._poll.at:
            self.complete()
        if seen.forced:
            return self.failure
        self._count(seen)
        self._run.observe(seen)
        if not seen.repeat:
            self._compare_arms(seen)
        if seen.arm == "canary" and seen.result != "rejected":
            self._measure(seen.failed, seen.count, alone=seen.share == 1.0)
        if seen.count > 1 or self._poll is not None:
            self._poll = seen
        else:
            self._take_in(seen)
        return self.failure

    def compare(self, pair: Pair) -> Failure | None:
        """Account for a pair of shadow answers; returns the failure once the evidence is in."""
        self.complete()
        self._shadow.compare(pair)
        if pair.result != "rejected":
            self._measure(pair.result != "ok", 1, alone=False)
        self._decide(pair.index)
        return self.failure

    def complete(self) -> Failure | None:
        """Nothing more of the present poll comes: decide on it. Safe to repeat."""
        if self._poll is not None:
            seen, self._poll = self._poll, None
            self._take_in(seen)
        return self.failure

    @property
    def certified(self) -> bool:
        """Whether what PASS needs is in: the failure rate certified to be below the limit, and enough requests."""
        return self._below.wealth >= self.settings.threshold("certificate") and not self.missing

    @property
    def missing(self) -> int:
        """Canary requests that PASS needs, whatever the other evidence says."""
        return max(0, self.settings.min_requests - self.counts["canary"].requests)

    @property
    def evidence(self) -> dict[str, float]:
        """Wealth of every process; of the shadow's once there were pairs."""
        wealth = {
            "errors": self._errors.wealth,
            "latency": self._latency.wealth,
            "limit": self._above.wealth,
            "scores": self._scores.wealth,
            "certificate": self._below.wealth,
        }
        if self._shadow.pairs:
            wealth["shadow errors"] = self._shadow.errors.wealth
            wealth["flips"] = self._shadow.flip_wealth
        return wealth

    @property
    def shadow(self) -> ShadowSummary:
        """What the pairs have shown."""
        return self._shadow.summary

    def _count(self, seen: Observation) -> None:
        counts = self.counts[seen.arm]
        counts.requests += seen.count
        if seen.failed:
            counts.failed += seen.count
        elif seen.result == "rejected":
            counts.rejected += seen.count

    def _compare_arms(self, seen: Observation) -> None:
        if 0.0 < seen.share < 1.0:
            self._drawn += seen.count
        if seen.result != "ok":
            self._errors.event(seen.arm == "canary", seen.share, seen.count)
            return
        span = 0.0 if self._last_at is None else seen.at - self._last_at
        if self._latency.observe(seen, span):
            self.counts[seen.arm].slow += seen.count
        self._scores.observe(seen)

    def _measure(self, failed: bool, count: int, *, alone: bool) -> None:
        """The canary's own failure rate: for the certificate always, against the limit where it is alone."""
        self._bet_on_rate("certificate", self._below, failed, count)
        if alone:
            self._bet_on_rate("limit", self._above, failed, count)

    def _bet_on_rate(self, process: str, bet: RateBet, failed: bool, count: int) -> None:
        bet.observe(failed, count)
        before = self._answers[process] // FRESH_ANSWERS[process]
        self._answers[process] += count
        for _ in range(self._answers[process] // FRESH_ANSWERS[process] - before):
            bet.renew()

    def _take_in(self, seen: Observation) -> None:
        """Learn from what was observed up to `seen`, and decide."""
        self._last_at = seen.at
        self._latency.learn()
        self._scores.learn()
        self._run.learn()
        while self._drawn >= self._next_fresh:
            self._next_fresh *= 2
            self._errors.renew()
            self._latency.renew()
            self._scores.renew()
        self._decide(seen.index)

    def _decide(self, index: int) -> None:
        if self.failure is not None:
            return
        if self._run.deadly:
            self.failure = Failure("fast kill", f"{FAST_KILL} canary failures in a row", index)
            return
        evidence = self.evidence
        for process, threshold in self._thresholds.items():
            if evidence.get(process, 0.0) < threshold:
                continue
            if process in self._can_fail:
                self.failure = Failure(process, self._explain(process), index, evidence[process])
                return
            reason = self._explain(process)
            if process == "scores" and reason not in self.warnings:
                self.warnings.append(reason)

    def _explain(self, process: str) -> str:
        stable, canary = self.counts["stable"], self.counts["canary"]
        shadow = self.shadow
        if process == "scores":
            return "the canary's scores are distributed differently from the stable model's"
        if process == "limit":
            limit = self.settings.max_error_rate
            return (
                f"{canary.failed} of {canary.requests} canary requests failed: above the limit of {limit:.3g}"
            )
        if process == "latency":
            factor = 1.0 + self.settings.max_latency_increase
            slack = (
                f", plus {1e3 * self.settings.latency_slack:.3g} ms," if self.settings.latency_slack else ""
            )
            return (
                f"the canary is more than {factor:.3g} times as slow{slack} as the stable model: {canary.slow} of "
                f"{canary.requests} requests above the limit, stable {stable.slow} of {stable.requests}"
            )
        if process == "shadow errors":
            return (
                f"of {shadow.pairs} requests that both models were asked, {shadow.canary_only_failures} failed on "
                f"the canary alone, {shadow.stable_only_failures} on the stable model alone"
            )
        if process == "flips":
            return (
                f"{shadow.flips} of {shadow.pairs} decisions differ from the stable model's: above the limit of "
                f"{self.settings.max_flip_rate:.3g}"
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


Ending = Literal["completed", "exhausted", "observed", "deadline", "unusable", "interrupted"]
"""How the traffic ended: all steps done; evidence bound reached; a plan that never promotes is over; time over;
canary never worked; error or signal."""


def conclude(judge: Judge, ending: Ending, detail: str = "") -> Judgement:
    """The judgement that follows from the evidence and from how the traffic ended.

    Args:
        judge: After all observations.
        ending: Why no more observations come.
        detail: What happened, for `unusable`, `observed` and `interrupted`.
    """
    failure = judge.complete()
    evidence = judge.evidence
    if failure:
        return Judgement("FAIL", failure.reason, failure.process, failure.index, evidence)
    if ending == "unusable":
        return Judgement("FAIL", detail or "the canary never worked", "readiness", None, evidence)
    canary, limit = judge.counts["canary"], judge.settings.max_error_rate
    if ending == "interrupted":
        return Judgement("INCONCLUSIVE", detail or "interrupted", "controller", None, evidence)
    if ending == "observed":
        return Judgement(
            "INCONCLUSIVE", detail or "observed; nothing was to be promoted", "plan", None, evidence
        )
    if ending == "deadline":
        reason = f"time was over before the evidence was in ({canary.requests} canary requests)"
        return Judgement("INCONCLUSIVE", reason, "deadline", None, evidence)
    if judge.missing:
        reason = (
            f"{canary.requests} canary requests are fewer than the {judge.settings.min_requests} required"
        )
        return Judgement("INCONCLUSIVE", reason, "minimum", None, evidence)
    if not judge.certified:
        reason = (
            f"{canary.requests} canary requests with {canary.failed} failures don't certify an error rate "
            f"below {limit:.3g}"
        )
        return Judgement("INCONCLUSIVE", reason, "certificate", None, evidence)
    reason = f"{canary.failed} of {canary.requests} canary requests failed, certified below {limit:.3g}"
    compared = judge.counts["stable"].requests > 0
    reason += "; not shown to be worse than the stable model" if compared else "; nothing to compare with"
    return Judgement("PASS", reason, "certificate", None, evidence)
