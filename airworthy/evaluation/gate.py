"""Whether there is anything to judge by, and whether rows and scores can carry a judgement at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airworthy.errors import ConfigError
from airworthy.evaluation.performance import has_limits
from airworthy.verdict import Check, Outcome

if TYPE_CHECKING:
    from airworthy.datasets import DatasetInfo
    from airworthy.evaluation.arms import Scored
    from airworthy.model_spec import Gate

MIN_PER_CLASS = 20
"""Fewest rows of each class in the test window; with fewer no limit means anything."""
LEVEL = 0.95
"""Coverage of the intervals recorded with absolute limits."""


def require_policy(gate: Gate, champion_version: str | None) -> None:
    """Refuse a gate that would judge nothing.

    Raises:
        ConfigError: No limit and no comparison; or a comparison only, and no champion to compare with.
    """
    if has_limits(gate):
        return
    if gate.champion is None:
        raise ConfigError("gate: no limit and no champion comparison, so it judges nothing; set min_auc")
    if champion_version is None:
        raise ConfigError(
            "gate: there is no champion to compare with yet, and no absolute limit to judge a first release "
            "by; set min_auc"
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
