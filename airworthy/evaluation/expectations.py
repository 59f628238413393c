"""What the spec declares of single features: what a score must not depend on, and which way it must go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from airworthy.encoding import Feature
from airworthy.errors import ConfigError
from airworthy.evaluation.sampled import (
    Sampled,
    against,
    concluded,
    declared_feature,
    in_parallel,
    require_value,
    share,
    span,
    unmet,
    verdict_words,
)
from airworthy.evaluation.statistics.metrics import Floats
from airworthy.findings import BehaviourFinding
from airworthy.model_spec import Direction, Invariance
from airworthy.verdict import Check

if TYPE_CHECKING:
    from airworthy.bundle import BundleInfo, Scorer
    from airworthy.model_spec import Robustness

_AT_ONCE = 64
"""Values are put in this many at a time, so that memory stays bounded."""


@dataclass(frozen=True)
class Expectation:
    """One declaration, checked against the model's features."""

    name: str
    """Name of its check; no two are alike."""
    rule: Invariance | Direction
    feature: Feature


@dataclass(frozen=True)
class _Answers:
    """What one model did: per row whether it broke the rule, by how much, and the scores to show."""

    broken: np.ndarray[tuple[int], np.dtype[np.bool_]]
    size: Floats
    told: tuple[Floats, Floats]


def declared(policy: Robustness, info: BundleInfo) -> list[Expectation]:
    """The spec's declarations, before anything is scored.

    Raises:
        ConfigError: One is about a feature that the model lacks, or holds a value that the feature can't.
    """
    found: list[Expectation] = []
    for kind, rules in (("invariance", policy.invariance), ("direction", policy.direction)):
        for rule in rules:
            label = f"{kind}_{rule.name or rule.feature}"
            where = f"gate.robustness.{kind}: {label}"
            feature = declared_feature(info, rule.feature, where)
            if isinstance(rule, Invariance):
                for value in rule.values:
                    require_value(feature, value, where)
            else:
                _require_change(rule, feature, where)
            taken = {expectation.name for expectation in found}
            names = (label if n == 1 else f"{label}_{n}" for n in range(1, len(found) + 2))
            found.append(Expectation(next(n for n in names if n not in taken), rule, feature))
    return found


def _require_change(rule: Direction, feature: Feature, where: str) -> None:
    if feature.kind not in ("number", "integer"):
        raise ConfigError(
            f"{where}: {feature.name} is no number, so it can't grow; declare an invariance instead"
        )
    if rule.change == 0:
        raise ConfigError(f"{where}: a change of 0 moves nothing; give the step to add to {feature.name}")
    require_value(feature, rule.change, f"{where}, change")


def hold_to(
    expectation: Expectation,
    sample: Sampled,
    scorer: Scorer,
    scores: Floats,
    champion: Scorer | None,
    level: float,
) -> tuple[Check, BehaviourFinding]:
    """Whether the challenger does as declared, row by row.

    Args:
        expectation: From `declared`.
        sample: Rows to try it on.
        scorer: The challenger.
        scores: Its scores of these rows.
        champion: Told beside it, where it has the feature.
        level: Coverage of the interval.
    """
    rule, feature = expectation.rule, expectation.feature
    if isinstance(rule, Direction):
        kept = sample.present(feature.name)
        sample, scores = sample.take(kept), scores[kept]
    estimate = share(np.empty(0, dtype=bool), sample, level)
    beside, example, what = None, "", ""
    if len(sample):
        ours = _answers(rule, feature, sample, scorer, scores)
        estimate = share(ours.broken, sample, level)
        example, what = _example(rule, feature, sample, ours), _words(rule, feature, ours)
        if champion is not None:
            theirs = _answers(rule, feature, sample, champion, sample.scores(champion))
            beside = float(theirs.broken.mean())
    outcome = against(estimate, rule.max_violations)
    reason = (
        f"In {estimate.value:.2%} of rows {span(estimate, level, beside, '.2%')} {what}; "
        f"{verdict_words(outcome, rule.max_violations, '.2%')}."
        if len(sample)
        else f"The sampled rows hold no value of {feature.name}, so its effect on the score can't be told."
    )
    return concluded(
        "direction" if isinstance(rule, Direction) else "invariance",
        expectation.name,
        feature.name,
        estimate,
        limit=rule.max_violations,
        unit="share of rows",
        rows=len(sample),
        outcome=outcome,
        reason=reason,
        example=example,
    )


def _answers(
    rule: Invariance | Direction, feature: Feature, sample: Sampled, scorer: Scorer, scores: Floats
) -> _Answers:
    if isinstance(rule, Direction):
        values = np.asarray(sample.columns[feature.name], dtype=np.float64) + rule.change
        after = sample.scores(scorer, {feature.name: values})
        wrong = scores - after if rule.expect == "up" else after - scores
        return _Answers(wrong > rule.tolerance, wrong, (scores, after))
    lowest, highest = np.full(len(sample), np.inf), np.full(len(sample), -np.inf)
    for first in range(0, len(rule.values), _AT_ONCE):
        some = rule.values[first : first + _AT_ONCE]
        tried = in_parallel(lambda v: sample.scores(scorer, {feature.name: sample.filled(feature, v)}), some)
        lowest, highest = np.minimum(lowest, np.min(tried, 0)), np.maximum(highest, np.max(tried, 0))
    return _Answers(highest - lowest > rule.tolerance, highest - lowest, (lowest, highest))


def _words(rule: Invariance | Direction, feature: Feature, ours: _Answers) -> str:
    if isinstance(rule, Direction):
        still = float(np.mean(ours.told[0] == ours.told[1]))
        other, way = ("falls", "rise") if rule.expect == "up" else ("rises", "fall")
        return (
            f"the score {other} by over {rule.tolerance:g} when {feature.name} changes by {rule.change:+g}, "
            f"though it should {way} ({still:.1%} of scores don't move at all)"
        )
    new = unmet(feature, rule.values)
    note = f" ({', '.join(new)} was never met in training and counts as missing)" if new else ""
    return (
        f"the score moves by over {rule.tolerance:g} with the value of {feature.name}, on which it should not "
        f"depend; {len(rule.values)} values were put in{note}"
    )


def _example(rule: Invariance | Direction, feature: Feature, sample: Sampled, ours: _Answers) -> str:
    """The row that goes furthest astray."""
    row = int(np.argmax(ours.size))
    before, after = ours.told[0][row], ours.told[1][row]
    if isinstance(rule, Direction):
        value = sample.columns[feature.name][row]
        return f"{sample.ids[row]}: {before:.4f} at {feature.name} {value:g}, {after:.4f} at {value + rule.change:g}"
    return f"{sample.ids[row]}: {before:.4f} to {after:.4f} over the values of {feature.name}"
