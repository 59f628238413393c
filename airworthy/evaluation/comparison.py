"""Champion against challenger on the same rows, in every metric, by the spec's policy.

The primary metric must be shown to hold (its whole interval on the right side); a guard only refuses what is
surely worse than its margin; every other metric is reported. With independent rows AUC is compared by DeLong;
losses, cost and the area under the precision-recall curve by the paired bootstrap. With blocks AUC takes the
errors of block sums (Obuchowski 1997), and the bootstrap draws whole blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from airworthy.evaluation.performance import decision_costs
from airworthy.evaluation.statistics import metrics, significance
from airworthy.evaluation.statistics.curves import average_precision_replicates
from airworthy.evaluation.statistics.metrics import Floats, Labels
from airworthy.evaluation.statistics.resampling import MIN_BLOCKS, Bootstrap
from airworthy.evaluation.statistics.significance import Estimate
from airworthy.findings import Difference, Number
from airworthy.verdict import Check, Outcome

if TYPE_CHECKING:
    from airworthy.evaluation.arms import Arm, Scored
    from airworthy.model_spec import ChampionComparison, Gate

TITLES = {
    "auc": "AUC",
    "pr_auc": "Area under the precision-recall curve",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "cost": "Mean cost of a decision",
}
HIGHER_IS_BETTER = frozenset({"auc", "pr_auc"})
POWERED = 1.96 + 0.84
"""Standard errors between the truth and the margin with which a 95 % interval clears it in 80 % of cases."""


@dataclass(frozen=True)
class Compared:
    """Challenger minus champion in one metric."""

    metric: str
    difference: Estimate
    role: Literal["primary", "guard", "report"]
    margin: float | None
    """How much worse is tolerated, in the metric's unit."""

    @property
    def title(self) -> str:
        return TITLES[self.metric]

    @property
    def up(self) -> bool:
        return self.metric in HIGHER_IS_BETTER

    @property
    def gain(self) -> Estimate:
        """The difference with better above zero."""
        e = self.difference
        return e if self.up else Estimate(-e.value, -e.high, -e.low, e.p_value, e.error, e.freedom)


def compare(
    scored: Scored, gate: Gate, boot: Bootstrap, level: float
) -> tuple[list[Check], tuple[Difference, ...], float | None]:
    """Compare the two models.

    Args:
        scored: Labels and both models' scores.
        gate: `champion` holds the policy; without one differences are measured, but nothing is checked.
        boot: What is resampled.
        level: Coverage of the intervals where there is no policy (which has its own).

    Returns:
        Checks of family `champion`, named `<metric>_vs_champion`; the differences; and for blocks the number
        of independent rows that the test window is worth for the primary metric (AUC without a policy).
        All empty where there is no champion.
    """
    if scored.champion_version is None:
        return [], (), None
    policy = gate.champion
    if scored.champion is None:
        return [_impossible(scored, policy)], (), None
    level = level if policy is None else policy.confidence
    found = []
    for metric, measure in _measures(scored.labels, scored.challenger, scored.champion, gate).items():
        role, margin = _role(policy, metric)
        found.append(Compared(metric, measure(boot, level), role, margin))
    checks = [] if policy is None else [_check(item, policy, scored, boot) for item in found]
    primary = next(item for item in found if item.metric == (policy.metric if policy else "auc"))
    return checks, tuple(_finding(found)), _effective_rows(scored, primary, gate, boot)


def auc_difference(
    labels: Labels, champion: Floats, challenger: Floats, boot: Bootstrap, level: float
) -> Estimate:
    """AUC of the challenger minus AUC of the champion."""
    if not boot.blocked:
        return significance.auc_difference(labels, champion, challenger, level)
    (ours, our_influence), (theirs, their_influence) = (
        significance.auc_influence(labels, scores) for scores in (challenger, champion)
    )
    if not boot.spread(labels == 1, labels != 1):
        return Estimate(ours - theirs, math.nan, math.nan)
    error = boot.error_of_sum(our_influence - their_influence)
    return significance.from_error(ours - theirs, error, level, boot.freedom)


def average_precision_difference(
    labels: Labels, champion: Floats, challenger: Floats, boot: Bootstrap, level: float
) -> Estimate:
    """Area under the precision-recall curve, challenger minus champion, by the paired bootstrap."""
    ours, theirs = (metrics.average_precision(labels, scores) for scores in (challenger, champion))
    if not boot.spread(labels == 1):
        return Estimate(ours - theirs, math.nan, math.nan)
    replicated = [average_precision_replicates(labels, scores, boot) for scores in (challenger, champion)]
    return boot.interval(ours - theirs, replicated[0] - replicated[1], level)


def mean_difference(champion: Floats, challenger: Floats, boot: Bootstrap, level: float) -> Estimate:
    """Mean of a value per row, challenger minus champion, by the paired bootstrap."""
    values = challenger - champion
    sums = np.column_stack([boot.block_sums(values), boot.block_sums(np.ones(len(values)))])
    totals = boot.totals(sums)
    return boot.interval(float(values.mean()), totals[:, 0] / totals[:, 1], level)


def _measures(
    labels: Labels, challenger: Arm, champion: Arm, gate: Gate
) -> dict[str, Callable[[Bootstrap, float], Estimate]]:
    ours, theirs = challenger.scores, champion.scores

    def means(of: Callable[[Arm], Floats]) -> Callable[[Bootstrap, float], Estimate]:
        return lambda boot, level: mean_difference(of(champion), of(challenger), boot, level)

    return {
        "auc": lambda boot, level: auc_difference(labels, theirs, ours, boot, level),
        "pr_auc": lambda boot, level: average_precision_difference(labels, theirs, ours, boot, level),
        "log_loss": means(lambda arm: metrics.log_losses(labels, arm.scores)),
        "brier": means(lambda arm: metrics.squared_errors(labels, arm.scores)),
        "cost": means(lambda arm: decision_costs(labels, arm, gate)),
    }


def _role(
    policy: ChampionComparison | None, metric: str
) -> tuple[Literal["primary", "guard", "report"], float | None]:
    if policy is not None and metric == policy.metric:
        return "primary", policy.margin if policy.policy == "non_inferiority" else 0.0
    if policy is not None and metric in policy.guards:
        return "guard", {**policy.guards}[metric]
    return "report", None


def _check(item: Compared, policy: ChampionComparison, scored: Scored, boot: Bootstrap) -> Check:
    gain, limit = item.gain, -(item.margin or 0.0)
    outcome: Outcome
    if gain.interval is None:
        outcome = "inconclusive"
        reason = (
            f"{item.title} can't be compared with champion version {scored.champion_version}: {_why(boot)}."
        )
        p_value = None
    else:
        worse = gain.high < limit
        if item.role == "primary":
            outcome = significance.decide(gain, policy.margin, policy.policy)
        else:
            outcome = "pass" if not worse else "fail" if item.role == "guard" else "warn"
        reason = _reason(item, outcome, policy, scored)
        p_value = gain.p_above(limit) if item.role == "primary" else gain.p_below(limit)
    return Check(
        name=f"{item.metric}_vs_champion",
        family="champion",
        observed=item.difference.value if math.isfinite(item.difference.value) else None,
        threshold=None if item.margin is None else (limit if item.up else -limit) + 0.0,
        interval=item.difference.interval,
        p_value=p_value,
        rows=len(scored.labels),
        outcome=outcome,
        blocking=item.role != "report",
        reason=reason,
    )


def _reason(item: Compared, outcome: Outcome, policy: ChampionComparison, scored: Scored) -> str:
    e, margin = item.difference, item.margin or 0.0
    span = f"{e.value:+.4f}, {policy.confidence:.0%} interval {e.low:+.4f} to {e.high:+.4f}"
    told = f"{item.title} difference to champion version {scored.champion_version} ({span})"
    good, bad = ("above", "below") if item.up else ("below", "above")
    limit = f"the allowed {-margin if item.up else margin:+.4f}" if margin else "zero"
    if item.role == "primary" and outcome == "inconclusive":
        return f"{told} contains {limit}, so these rows can't tell: it does not pass{_hint(item, scored)}."
    if item.role == "primary":
        word = good if outcome == "pass" else bad
        sure = ("not worse" if margin else "better") if outcome == "pass" else "worse"
        return f"{told} lies wholly {word} {limit}: the challenger is surely {sure}{' than tolerated' * bool(margin)}."
    if item.role == "guard":
        if outcome == "pass":
            return f"{told} is not surely {bad} {limit}: no proof of harm."
        return f"{told} lies wholly {bad} {limit}: surely worse than this guard tolerates."
    word, sure = ("higher" if bad == "above" else "lower"), ("surely" if outcome == "warn" else "not surely")
    return f"{item.title} is {sure} {word} than the champion's ({span}); reported, not gated."


def _hint(item: Compared, scored: Scored) -> str:
    """How many rows would do, where it is their number that is lacking."""
    if not item.margin or not item.difference.error:
        return ""
    rows = len(scored.labels) * (POWERED * item.difference.error / item.margin) ** 2
    if rows <= len(scored.labels):
        return ""
    return f", and to show an equal model takes about {round(rows, -len(str(int(rows))) + 2):,.0f} such rows"


def _why(boot: Bootstrap) -> str:
    if boot.blocked and not boot.enough:
        return (
            f"there are {boot.blocks} blocks, and fewer than {MIN_BLOCKS} can't say how much blocks differ; "
            "widen the test window or choose a smaller gate.resampling.block"
        )
    if boot.blocked:
        return f"one of the classes occurs in fewer than {MIN_BLOCKS} blocks; widen the test window"
    return "there are too few rows of each class"


def _impossible(scored: Scored, policy: ChampionComparison | None) -> Check:
    """Without a policy a warning, since slices, too, are only held against a champion that can be."""
    return Check(
        name=f"{policy.metric if policy else 'auc'}_vs_champion",
        family="champion",
        outcome="inconclusive" if policy else "warn",
        blocking=policy is not None,
        reason=f"Version {scored.champion_version} can't be compared with, on slices neither: "
        f"{scored.champion_problem}.",
    )


def _finding(found: list[Compared]) -> Iterator[Difference]:
    for item in found:
        e = item.difference
        if math.isfinite(e.value):
            yield Difference(
                metric=item.metric,
                title=item.title,
                difference=Number(value=e.value, interval=e.interval, p_value=e.p_value),
                higher_is_better=item.up,
                margin=item.margin,
            )


def _effective_rows(scored: Scored, primary: Compared, gate: Gate, boot: Bootstrap) -> float | None:
    """Rows times the variance that independent rows would give over the one that blocks give."""
    error = primary.difference.error
    if not boot.blocked or not error or scored.champion is None:
        return None
    rows = len(scored.labels)
    alone = Bootstrap.plan(rows, boot.replicates, boot.seed)
    measure = _measures(scored.labels, scored.challenger, scored.champion, gate)[primary.metric]
    independent = measure(alone, 0.95).error
    return None if not independent else rows * (independent / error) ** 2
