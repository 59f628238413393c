"""What one model does on the test window, each number with its interval, and the spec's absolute limits.

Where rows are independent the intervals come from formulas (DeLong for AUC, the normal one for means, Wilson's
for shares); in blocks the same formulas take the errors of block sums. The area under the precision-recall
curve is resampled. `docs/gate.md` says which and why, `benchmarks/gate.py` how often they cover.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from airworthy.evaluation.statistics import metrics, significance
from airworthy.evaluation.statistics.calibration import calibrate
from airworthy.evaluation.statistics.curves import average_precision_replicates, banded
from airworthy.evaluation.statistics.metrics import Floats, Labels
from airworthy.evaluation.statistics.resampling import Bootstrap
from airworthy.evaluation.statistics.significance import Estimate
from airworthy.findings import ArmFindings, Number
from airworthy.verdict import Check, Outcome

if TYPE_CHECKING:
    from airworthy.evaluation.arms import Arm
    from airworthy.model_spec import Gate

MEASURED, FLOOR = "calibration_error_measured", "calibration_error_floor"
"""Calibration error as usually computed, and what a perfectly calibrated model may show of it by chance."""


@dataclass(frozen=True)
class _Limit:
    metric: str
    title: str
    bound: float
    higher_is_better: bool


def measure(
    labels: Labels, arm: Arm, version: str | None, gate: Gate, boot: Bootstrap, level: float
) -> ArmFindings:
    """All metrics of one model at its own decision threshold, curves and reliability.

    Args:
        labels: 0 or 1 per row.
        arm: The model's scores on these rows, all of them probabilities.
        version: Its registry version; None for the challenger.
        gate: Its `threshold` holds the costs.
        boot: What is resampled; `boot.blocked` decides between rows and blocks.
        level: Coverage of the intervals.
    """
    scores, threshold = arm.scores, arm.info.threshold
    calibrated = calibrate(labels, scores, boot, level)
    (tn, fp), (fn, tp) = metrics.confusion(labels, scores, threshold)
    alarm = scores >= threshold
    found = {
        "auc": auc_estimate(labels, scores, boot, level),
        "pr_auc": average_precision_estimate(labels, scores, boot, level),
        "log_loss": mean_estimate(metrics.log_losses(labels, scores), boot, level),
        "brier": mean_estimate(metrics.squared_errors(labels, scores), boot, level),
        "cost": mean_estimate(decision_costs(labels, arm, gate), boot, level),
        "calibration_error": calibrated.error,
        MEASURED: Estimate(calibrated.measured, math.nan, math.nan),
        FLOOR: Estimate(calibrated.floor, math.nan, math.nan),
        "calibration_slope": calibrated.slope,
        "calibration_intercept": calibrated.intercept,
        "precision": share_estimate(labels == 1, alarm, boot, level),
        "recall": share_estimate(alarm, labels == 1, boot, level),
        "threshold": Estimate(threshold, math.nan, math.nan),
    }
    roc, precision_recall = banded(labels, scores, boot, level)
    return ArmFindings(
        version=version,
        digest=arm.digest,
        metrics={
            name: Number(value=e.value, interval=e.interval)
            for name, e in found.items()
            if math.isfinite(e.value)
        },
        confusion=((tn, fp), (fn, tp)),
        roc=roc,
        precision_recall=precision_recall,
        reliability=calibrated.reliability,
    )


def decision_costs(labels: Labels, arm: Arm, gate: Gate) -> Floats:
    """Cost of each row's decision at the model's own threshold."""
    prices = gate.threshold
    return metrics.costs(labels, arm.scores, arm.info.threshold, prices.cost_false_alarm, prices.cost_miss)


def auc_estimate(labels: Labels, scores: Floats, boot: Bootstrap, level: float) -> Estimate:
    """AUC by DeLong, for blocks with the errors of block sums (Obuchowski 1997)."""
    if not boot.blocked:
        return significance.auc_interval(labels, scores, level)
    value, influence = significance.auc_influence(labels, scores)
    if not boot.spread(labels == 1, labels != 1):
        return Estimate(value, math.nan, math.nan)
    return significance.on_log_odds(value, boot.error_of_sum(influence), level, boot.freedom)


def average_precision_estimate(labels: Labels, scores: Floats, boot: Bootstrap, level: float) -> Estimate:
    """Area under the precision-recall curve. The interval takes its error from the replicates, lies on the log
    odds, and is centred where few positives don't flatter the area."""
    value = metrics.average_precision(labels, scores)
    if not boot.spread(labels == 1):
        return Estimate(value, math.nan, math.nan)
    error = boot.interval(value, average_precision_replicates(labels, scores, boot), level).error
    if error is None:
        return Estimate(value, math.nan, math.nan)
    centre = metrics.average_precision_centre(labels, scores)
    found = significance.on_log_odds(centre, error, level, boot.freedom)
    return replace(found, value=value, low=min(found.low, value), high=max(found.high, value))


def mean_estimate(values: Floats, boot: Bootstrap, level: float) -> Estimate:
    """Mean of a value per row."""
    if len(values) == 0:
        return Estimate(math.nan, math.nan, math.nan)
    value = float(values.mean())
    error = boot.error_of_sum((values - value) / len(values))
    return significance.from_error(value, error, level, boot.freedom)


def share_estimate(
    hit: NDArray[np.bool_], among: NDArray[np.bool_], boot: Bootstrap, level: float
) -> Estimate:
    """Share of `hit` among the rows `among`: Wilson's interval; for blocks of as many rows as they are worth
    (Korn & Graubard 1998)."""
    rows = int(among.sum())
    if rows == 0:
        return Estimate(math.nan, math.nan, math.nan)
    value, worth = float(hit[among].mean()), float(rows)
    if not boot.spread(among):
        return Estimate(value, math.nan, math.nan)
    if boot.blocked:
        error = boot.error_of_sum(np.where(among, hit - value, 0.0) / rows)
        if not math.isfinite(error):
            return Estimate(value, math.nan, math.nan)
        worth = min(worth, value * (1 - value) / error**2) if error > 0 else worth
    z = significance.quantile(level, boot.freedom)
    centre = (value + z**2 / (2 * worth)) / (1 + z**2 / worth)
    reach = z / (1 + z**2 / worth) * math.sqrt(value * (1 - value) / worth + z**2 / (4 * worth**2))
    return Estimate(value, max(0.0, centre - reach), min(1.0, centre + reach))


def has_limits(gate: Gate) -> bool:
    """Whether the spec sets any absolute limit."""
    return bool(_limits(gate))


def limit_checks(gate: Gate, measured: ArmFindings, level: float) -> Iterator[Check]:
    """The spec's absolute limits, judged on the estimate or its interval (`gate.limits_by`).

    The calibration error is judged on its interval, since chance alone adds to what is measured: it passes
    when even the measured error keeps the limit, fails when the true one is surely above, and is inconclusive
    in between.
    """
    for limit in _limits(gate):
        number = measured.metrics.get(limit.metric)
        if number is None:
            outcome: Outcome = "inconclusive"
            reason = f"{limit.title} can't be computed on these rows."
        elif limit.metric == "calibration_error":
            outcome, reason = _calibration_outcome(measured, limit.bound, level)
        else:
            side = "at least" if limit.higher_is_better else "at most"
            outcome = _outcome(number, limit, gate.limits_by)
            end = ", so these rows can't tell whether it is kept" if outcome == "inconclusive" else ""
            reason = f"{limit.title} is {_told(number, level)}; the limit is {side} {limit.bound:g}{end}."
        yield Check(
            name=limit.metric,
            family="limits",
            observed=None if number is None else number.value,
            threshold=limit.bound,
            interval=None if number is None else number.interval,
            outcome=outcome,
            reason=reason,
        )


def _outcome(number: Number, limit: _Limit, by: Literal["estimate", "interval"]) -> Outcome:
    ends = number.interval if by == "interval" else (number.value, number.value)
    if ends is None:
        return "inconclusive"
    kept = [end >= limit.bound if limit.higher_is_better else end <= limit.bound for end in ends]
    return "pass" if all(kept) else "inconclusive" if any(kept) else "fail"


def _calibration_outcome(measured: ArmFindings, bound: float, level: float) -> tuple[Outcome, str]:
    number, raw = measured.metrics["calibration_error"], measured.metrics[MEASURED].value
    told = f"Calibration error is {_told(number, level)} without what chance adds, {raw:.4f} with it"
    if number.interval is None:
        told = f"Calibration error is {raw:.4f}, with too few blocks to tell what chance adds"
    if raw <= bound:
        return "pass", f"{told}; the limit is at most {bound:g}."
    if number.interval is not None and number.interval[0] > bound:
        return "fail", f"{told}: surely above the limit {bound:g}."
    floor = measured.metrics[FLOOR].value
    return "inconclusive", (
        f"{told}; these rows can't tell whether the limit {bound:g} is kept, since a perfectly calibrated model "
        f"may show {floor:.4f} on them: use more rows or a wider limit."
    )


def _limits(gate: Gate) -> list[_Limit]:
    table = (
        ("auc", "AUC", gate.min_auc, True),
        ("pr_auc", "Area under the precision-recall curve", gate.min_pr_auc, True),
        ("log_loss", "Log loss", gate.max_log_loss, False),
        ("brier", "Brier score", gate.max_brier, False),
        ("cost", "Mean cost of a decision", gate.max_cost, False),
        ("calibration_error", "Calibration error", gate.max_calibration_error, False),
    )
    return [_Limit(metric, title, bound, up) for metric, title, bound, up in table if bound is not None]


def _told(number: Number, level: float) -> str:
    if number.interval is None:
        return f"{number.value:.4f}"
    return f"{number.value:.4f} ({level:.0%} interval {number.interval[0]:.4f} to {number.interval[1]:.4f})"
