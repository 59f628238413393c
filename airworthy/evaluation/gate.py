"""The gate: turns scored rows and the spec's policy into checks. Every check says in one sentence why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airworthy.errors import ConfigError
from airworthy.evaluation import metrics, significance
from airworthy.evaluation.metrics import Calibration
from airworthy.evaluation.significance import Estimate
from airworthy.verdict import Check, Outcome

if TYPE_CHECKING:
    from airworthy.datasets import DatasetInfo
    from airworthy.evaluation.arms import Arm, Scored
    from airworthy.model_spec import ChampionComparison, Gate

MIN_PER_CLASS = 20
"""Fewest rows of each class in the test window; with fewer no limit means anything."""
LEVEL = 0.95
"""Coverage of the intervals recorded with absolute limits."""


@dataclass(frozen=True)
class Measured:
    """One model's numbers on the test window."""

    values: dict[str, float]
    """By metric name; what the rows can't give is absent."""
    intervals: dict[str, tuple[float, float]]
    confusion: list[list[int]]
    calibration: Calibration


@dataclass(frozen=True)
class _Limit:
    metric: str
    title: str
    bound: float
    higher_is_better: bool


def require_policy(gate: Gate, champion_version: str | None) -> None:
    """Refuse a gate that would judge nothing.

    Raises:
        ConfigError: No limit and no comparison; or a comparison only, and no champion to compare with.
    """
    if _limits(gate):
        return
    if gate.champion is None:
        raise ConfigError("gate: no limit and no champion comparison, so it judges nothing; set min_auc")
    if champion_version is None:
        raise ConfigError(
            "gate: there is no champion to compare with yet, and no absolute limit to judge a first release "
            "by; set min_auc"
        )


def measure(scored: Scored, arm: Arm, gate: Gate) -> Measured:
    """All metrics of one model, at its own decision threshold."""
    labels, scores = scored.labels, arm.scores
    auc = significance.auc_interval(labels, scores, LEVEL)
    pr_auc = significance.average_precision_interval(
        metrics.average_precision(labels, scores), int(labels.sum()), LEVEL
    )
    log_loss = significance.mean_interval(metrics.log_losses(labels, scores), LEVEL)
    brier = significance.mean_interval(metrics.squared_errors(labels, scores), LEVEL)
    reliability = metrics.calibration(labels, scores)
    slope, intercept = metrics.calibration_line(labels, scores)
    matrix = metrics.confusion(labels, scores, arm.info.threshold)
    (_, fp), (fn, tp) = matrix
    estimates = {"auc": auc, "pr_auc": pr_auc, "log_loss": log_loss, "brier": brier}
    values = {name: estimate.value for name, estimate in estimates.items()} | {
        "calibration_error": reliability.error,
        "calibration_slope": slope,
        "calibration_intercept": intercept,
        "precision": tp / (tp + fp) if tp + fp else math.nan,
        "recall": tp / (tp + fn) if tp + fn else math.nan,
        "expected_cost": metrics.expected_cost(
            matrix, gate.threshold.cost_false_alarm, gate.threshold.cost_miss
        ),
        "threshold": arm.info.threshold,
    }
    return Measured(
        values={name: value for name, value in values.items() if math.isfinite(value)},
        intervals={name: e.interval for name, e in estimates.items() if e.interval is not None},
        confusion=matrix,
        calibration=reliability,
    )


def integrity_checks(scored: Scored, train: DatasetInfo | None) -> list[Check]:
    """Whether the rows and scores can carry a judgement at all."""
    positives = int(scored.labels.sum())
    negatives = len(scored.labels) - positives
    improbable = scored.challenger.improbable
    checks = [
        _integrity(
            "rows",
            len(scored.ids) == scored.dataset.rows,
            f"{len(scored.ids):,} rows scored by every model, the number that the dataset declares",
            f"{len(scored.ids):,} rows read, but {scored.dataset.rows:,} were declared; retrieve again",
            observed=float(len(scored.ids)),
            threshold=float(scored.dataset.rows),
        ),
        _integrity(
            "finite_scores",
            improbable == 0,
            "every score is a probability",
            f"{improbable:,} of {len(scored.labels):,} scores are not probabilities (NaN, or outside 0 to 1)",
            observed=float(improbable),
            threshold=0.0,
        ),
        _integrity(
            "class_counts",
            min(positives, negatives) >= MIN_PER_CLASS,
            f"{positives:,} positive and {negatives:,} negative rows are enough to judge on",
            f"{positives:,} positive and {negatives:,} negative rows; with fewer than {MIN_PER_CLASS} of "
            "each no limit means anything: widen the test window",
            observed=float(min(positives, negatives)),
            threshold=float(MIN_PER_CLASS),
            otherwise="inconclusive",
        ),
        _unseen_check(scored),
    ]
    if train is not None:
        checks += _training_checks(scored, train)
    return checks


def limit_checks(gate: Gate, measured: Measured) -> Iterator[Check]:
    """The spec's absolute limits, judged on the estimate, with its interval recorded."""
    for limit in _limits(gate):
        value, interval = measured.values.get(limit.metric), measured.intervals.get(limit.metric)
        span = f" ({LEVEL:.0%} interval {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
        side = "at least" if limit.higher_is_better else "at most"
        outcome: Outcome
        if value is None:
            outcome, reason = "inconclusive", f"{limit.title} can't be computed on these rows."
        else:
            kept = value >= limit.bound if limit.higher_is_better else value <= limit.bound
            outcome = "pass" if kept else "fail"
            reason = f"{limit.title} is {value:.4f}{span}; the limit is {side} {limit.bound:g}."
            if limit.metric == "calibration_error" and not kept and value <= measured.calibration.floor:
                outcome = "inconclusive"
                reason = (
                    f"{limit.title} is {value:.4f}, above the limit {limit.bound:g}, but a perfectly "
                    f"calibrated model may show {measured.calibration.floor:.4f} on so few rows; use more "
                    "rows or a wider limit."
                )
        yield Check(
            name=limit.metric,
            family="limits",
            observed=value,
            threshold=limit.bound,
            interval=interval,
            outcome=outcome,
            reason=reason,
        )


def champion_checks(scored: Scored, gate: Gate) -> Iterator[Check]:
    """Challenger against champion on the same rows, where the policy asks for it and there is a champion."""
    policy = gate.champion
    if policy is None or scored.champion_version is None:
        return
    name = f"{policy.metric}_vs_champion"
    if scored.champion is None:
        yield Check(
            name=name,
            family="champion",
            outcome="inconclusive",
            reason=f"Version {scored.champion_version} can't be compared with: {scored.champion_problem}.",
        )
        return
    labels, ours, theirs = scored.labels, scored.challenger.scores, scored.champion.scores
    auc = significance.auc_difference(labels, theirs, ours, policy.confidence)
    limit = -policy.margin if policy.policy == "non_inferiority" else 0.0
    outcome = significance.decide(auc, policy.margin, policy.policy)
    yield Check(
        name=name,
        family="champion",
        observed=_finite(auc.value),
        threshold=limit,
        interval=auc.interval,
        p_value=auc.p_value,
        outcome=outcome,
        reason=_comparison_reason(auc, limit, outcome, policy, scored.champion_version),
    )
    for metric, title, losses in (
        ("log_loss", "Log loss", metrics.log_losses),
        ("brier", "Brier score", metrics.squared_errors),
    ):
        difference = significance.mean_difference(
            losses(labels, theirs), losses(labels, ours), policy.confidence
        )
        yield _loss_check(metric, title, difference)


def _limits(gate: Gate) -> list[_Limit]:
    table = (
        ("auc", "AUC", gate.min_auc, True),
        ("pr_auc", "Area under the precision-recall curve", gate.min_pr_auc, True),
        ("log_loss", "Log loss", gate.max_log_loss, False),
        ("brier", "Brier score", gate.max_brier, False),
        ("calibration_error", "Calibration error", gate.max_calibration_error, False),
    )
    return [_Limit(metric, title, bound, up) for metric, title, bound, up in table if bound is not None]


def _training_checks(scored: Scored, train: DatasetInfo) -> list[Check]:
    return [
        _integrity(
            "training_data",
            train.fingerprint == scored.challenger.info.training_fingerprint,
            "the bundle was trained on this run's training window",
            f"the bundle was trained on data {scored.challenger.info.training_fingerprint[:12]}, but this "
            f"run's training window is {train.fingerprint[:12]}",
        ),
        _integrity(
            "windows_apart",
            train.end <= scored.dataset.start,
            "the test window begins after the training window ends",
            f"the test window begins {scored.dataset.start:%Y-%m-%d %H:%M}, before the training window ends "
            f"({train.end:%Y-%m-%d %H:%M}): its rows may have been trained on",
        ),
    ]


def _unseen_check(scored: Scored) -> Check:
    unseen = scored.challenger.unseen
    total = sum(unseen.values())
    listed = ", ".join(f"{name} ({count:,})" for name, count in sorted(unseen.items()))
    return Check(
        name="unseen_categories",
        family="integrity",
        observed=float(total),
        outcome="warn" if total else "pass",
        reason=f"Values with categories not met in training, scored as missing: {listed}."
        if total
        else "Every category was met in training.",
    )


def _integrity(
    name: str,
    holds: bool,
    good: str,
    bad: str,
    *,
    observed: float | None = None,
    threshold: float | None = None,
    otherwise: Outcome = "fail",
) -> Check:
    sentence = good if holds else bad
    return Check(
        name=name,
        family="integrity",
        observed=observed,
        threshold=threshold,
        outcome="pass" if holds else otherwise,
        reason=sentence[0].upper() + sentence[1:] + ".",
    )


def _loss_check(metric: str, title: str, difference: Estimate) -> Check:
    worse = difference.interval is not None and difference.low > 0
    word = "surely higher than" if worse else "not surely higher than"
    return Check(
        name=f"{metric}_vs_champion",
        family="champion",
        observed=_finite(difference.value),
        interval=difference.interval,
        p_value=difference.p_value,
        outcome="warn" if worse else "pass",
        reason=f"{title} is {word} the champion's (difference {difference.value:+.4f}); reported, not gated.",
    )


def _comparison_reason(
    auc: Estimate, limit: float, outcome: Outcome, policy: ChampionComparison, version: str
) -> str:
    if auc.interval is None:
        return f"AUC against champion version {version} can't be compared on so few rows."
    span = f"{auc.value:+.4f}, {policy.confidence:.0%} interval {auc.low:+.4f} to {auc.high:+.4f}"
    against = f"the allowed {limit:+.4f}" if policy.policy == "non_inferiority" else "zero"
    said = {
        "pass": f"lies wholly above {against}",
        "fail": f"lies wholly below {against}",
        "inconclusive": f"contains {against}, so these rows can't tell: it does not pass",
    }[outcome]
    return f"AUC difference to champion version {version} ({span}) {said}."


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
