"""How the challenger takes inputs that are worse than those of the test window.

On a seeded sample: each feature missing altogether, each category one that training never met, numbers outside
the range of training, small noise, what the spec declares of single features (`expectations`), and what must
hold for every model (`edges`). Limits are opt-in; what has none is reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from airworthy.encoding import Feature
from airworthy.evaluation.comparison import auc_difference
from airworthy.evaluation.edges import edge_checks, foreign
from airworthy.evaluation.expectations import Expectation, declared, hold_to
from airworthy.evaluation.sampled import (
    LEVEL,
    Sampled,
    Values,
    against,
    concluded,
    in_parallel,
    share,
    span,
    verdict_words,
)
from airworthy.evaluation.statistics import metrics, significance
from airworthy.evaluation.statistics.significance import Estimate
from airworthy.findings import BehaviourFinding
from airworthy.verdict import Check

if TYPE_CHECKING:
    from airworthy.bundle import Scorer
    from airworthy.evaluation.arms import Scored
    from airworthy.evaluation.statistics.metrics import Floats
    from airworthy.model_spec import Robustness

Found = tuple[list[Check], list[BehaviourFinding]]


@dataclass(frozen=True)
class _Trial:
    """What all probes start from."""

    sample: Sampled
    scorer: Scorer
    scores: Floats
    champion: Scorer | None
    level: float

    @property
    def numbers(self) -> list[Feature]:
        return [f for f in self.scorer.info.features if f.kind in ("number", "integer")]

    def rival(self, feature: Feature) -> Scorer | None:
        """The champion, where it has this feature, too, and as the same kind."""
        kinds = {f.name: f.kind for f in self.champion.info.features} if self.champion else {}
        return self.champion if kinds.get(feature.name) == feature.kind else None


def probe(
    scored: Scored, policy: Robustness, seed: int = 0, level: float = LEVEL
) -> tuple[list[Check], tuple[BehaviourFinding, ...]]:
    """Probe the challenger.

    Args:
        scored: The test window; rows are sampled from it, so that cost does not grow with it.
        policy: `gate.robustness` of the spec.
        seed: Equal seeds give equal findings.
        level: Coverage of the intervals.

    Returns:
        Checks of the family `robustness`, and what each probe saw.

    Raises:
        ConfigError: The spec declares something of a feature that the challenger lacks, or a value that a
            feature can't hold.
    """
    expectations = declared(policy, scored.challenger.info)
    sample = Sampled.of(scored, policy.rows, seed)
    scorer = scored.challenger.scorer
    rival = scored.champion.scorer if scored.champion else None
    trial = _Trial(sample, scorer, scored.challenger.scores[sample.places], rival, level)
    parts = [
        _missing(trial, policy.max_auc_loss_missing),
        _unseen(trial, policy.max_auc_loss_unseen),
        _out_of_range(trial, policy.max_out_of_range_share),
        _noise(trial, policy.noise, policy.max_score_change, seed),
        *(_expectation(trial, expectation) for expectation in expectations),
        edge_checks(sample, scorer),
    ]
    return [c for checks, _ in parts for c in checks], tuple(f for _, found in parts for f in found)


def _missing(trial: _Trial, limit: float | None) -> Found:
    """AUC lost when a feature is missing altogether."""
    put = dict.fromkeys(trial.scorer.info.features)
    return _auc_lost(trial, _Loss("missing", "missing_feature", "is missing altogether", put, limit))


def _unseen(trial: _Trial, limit: float | None) -> Found:
    """AUC lost when every value of a category is one that training never met."""
    put = {f: foreign(f) for f in trial.scorer.info.features if f.kind == "category"}
    if not put:
        return _nothing("unseen_category", "The model has no categories, so none can be new to it.")
    return _auc_lost(
        trial, _Loss("unseen", "unseen_category", "holds only values never met in training", put, limit)
    )


@dataclass(frozen=True)
class _Loss:
    """What is put into one feature after the other, in every row."""

    kind: Literal["missing", "unseen"]
    name: str
    words: str
    put: Mapping[Feature, str | None]
    limit: float | None

    def scores(self, trial: _Trial, feature: Feature, scorer: Scorer) -> Floats:
        """What a model then says."""
        values = trial.sample.filled(feature, self.put[feature])
        return trial.sample.scores(scorer, {feature.name: values})

    def concluded(
        self, trial: _Trial, feature: Feature, estimate: Estimate, reason: str
    ) -> tuple[Check, BehaviourFinding]:
        return concluded(
            self.kind,
            self.name,
            feature.name,
            estimate,
            limit=self.limit,
            unit="AUC lost",
            rows=len(trial.sample),
            outcome=against(estimate, self.limit),
            reason=reason,
        )


def _auc_lost(trial: _Trial, what: _Loss) -> Found:
    """One check over all features, judged by the worst; its interval allows for their number (Bonferroni)."""
    features, labels, boot = list(what.put), trial.sample.labels, trial.sample.plan()
    level = 1 - (1 - trial.level) / len(features)

    def loss(feature: Feature) -> Estimate:
        after = what.scores(trial, feature, trial.scorer)
        return auc_difference(labels, after, trial.scores, boot, level)

    losses = dict(zip(features, in_parallel(loss, features), strict=True))
    severity = {"pass": 0, "inconclusive": 1, "fail": 2}
    worst = max(features, key=lambda f: (severity[against(losses[f], what.limit)], losses[f].value))
    estimate, rival, beside = losses[worst], trial.rival(worst), None
    if rival is not None:
        before, after = trial.sample.scores(rival), what.scores(trial, worst, rival)
        beside = metrics.auc(labels, before) - metrics.auc(labels, after)
    reason = (
        f"AUC falls by {estimate.value:.4f} {span(estimate, trial.level, beside)} when {worst.name} {what.words}, "
        f"the most among {len(features)} features, for whose number the interval allows; "
        f"{verdict_words(against(estimate, what.limit), what.limit)}."
    )
    if not math.isfinite(estimate.value):
        reason = f"AUC lost when a feature {what.words} can't be told: the sampled rows are all of one class."
    check, _ = what.concluded(trial, worst, estimate, reason)
    return [check], [what.concluded(trial, f, losses[f], reason)[1] for f in features]


def _out_of_range(trial: _Trial, limit: float | None) -> Found:
    """Share of rows with a number outside the range of training."""
    sample = trial.sample
    outside = {
        f.name: _outside(sample.columns[f.name], f.minimum, f.maximum)
        for f in trial.numbers
        if f.minimum is not None and f.maximum is not None
    }
    if not trial.numbers:
        return _nothing("out_of_range", "The model has no numbers, so none can be out of range.")
    if not outside:
        unknown = Check(
            name="out_of_range",
            family="robustness",
            threshold=limit,
            outcome="inconclusive",
            blocking=limit is not None,
            reason="The bundle does not tell the range of any number in training, so none can be out of it.",
        )
        return [unknown], []
    estimate = share(np.logical_or.reduce(list(outside.values())), sample, trial.level)
    outcome = against(estimate, limit)
    shares = {feature: float(rows.mean()) for feature, rows in outside.items() if rows.any()}
    worst = max(shares, key=lambda feature: shares[feature], default=None)
    most = "" if worst is None else f", most often {worst} ({shares[worst]:.2%})"
    found = concluded(
        "out_of_range",
        "out_of_range",
        None,
        estimate,
        limit=limit,
        unit="share of rows",
        rows=len(sample),
        outcome=outcome,
        reason=f"{estimate.value:.2%} of rows {span(estimate, trial.level, digits='.2%')} hold a number outside the "
        f"range of training{most}; {verdict_words(outcome, limit, '.2%')}.",
    )
    each = [
        found[1].model_copy(update={"feature": f, "observed": value, "limit": None, "outcome": "pass"})
        for f, value in sorted(shares.items(), key=lambda item: -item[1])
    ]
    return [found[0]], [found[1], *each]


def _outside(values: Values, low: float, high: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which values lie outside a range; missing ones don't."""
    numbers = np.asarray(values, dtype=np.float64)
    return (numbers < low) | (numbers > high)


def _noise(trial: _Trial, size: float, limit: float | None, seed: int) -> Found:
    """95th percentile of how far small noise on all numbers at once moves a score."""
    sample = trial.sample
    if not trial.numbers:
        return _nothing("noise", "The model has no numbers, so there is nothing to perturb.")
    moved = _noisy(sample, trial.numbers, size, seed)
    scores = sample.scores(trial.scorer, moved)
    change = np.abs(scores - trial.scores)
    estimate = _upper_quantile(change, 0.95, trial.level)
    outcome = against(estimate, limit)
    threshold = trial.scorer.info.threshold
    flipped = float(np.mean((scores >= threshold) != (trial.scores >= threshold)))
    beside = None
    if trial.champion is not None:
        own = {f.name: moved[f.name] for f in trial.numbers if trial.rival(f)}
        theirs = sample.scores(trial.champion, own) - sample.scores(trial.champion)
        beside = float(np.quantile(np.abs(theirs), 0.95))
    worst = int(np.argmax(change))
    check, finding = concluded(
        "noise",
        "noise",
        None,
        estimate,
        limit=limit,
        unit="95th percentile of score change",
        rows=len(sample),
        outcome=outcome,
        reason=f"Noise of {size:g} standard deviations on every number moves 95% of scores by at most "
        f"{estimate.value:.4f} {span(estimate, trial.level, beside)} and turns {flipped:.2%} of decisions; "
        f"{verdict_words(outcome, limit)}.",
        example=f"{sample.ids[worst]}: {trial.scores[worst]:.4f} becomes {scores[worst]:.4f}",
    )
    return [check], [finding]


def _noisy(sample: Sampled, features: Sequence[Feature], size: float, seed: int) -> dict[str, Values]:
    """The columns with normal noise of `size` standard deviations; whole numbers stay whole."""
    generator = np.random.default_rng([seed, 3])
    moved: dict[str, Values] = {}
    for feature in features:
        values = np.asarray(sample.columns[feature.name], dtype=np.float64)
        there = values[~np.isnan(values)]
        noise = generator.normal(0, size * float(there.std()) if len(there) else 0.0, len(values))
        moved[feature.name] = values + (np.rint(noise) if feature.kind == "integer" else noise)
    return moved


def _upper_quantile(values: Floats, q: float, level: float) -> Estimate:
    """A quantile with its interval from order statistics (binomial, no assumption on the distribution)."""
    ordered, n = np.sort(values), len(values)
    reach = significance.quantile(level) * math.sqrt(n * q * (1 - q))
    low, high = math.floor(n * q - reach), math.ceil(n * q + reach)
    value = float(np.quantile(values, q))
    if low < 0 or high >= n:
        return Estimate(value, math.nan, math.nan)
    return Estimate(value, float(ordered[low]), float(ordered[high]))


def _expectation(trial: _Trial, expectation: Expectation) -> Found:
    rival = trial.rival(expectation.feature)
    check, finding = hold_to(expectation, trial.sample, trial.scorer, trial.scores, rival, trial.level)
    return [check], [finding]


def _nothing(name: str, reason: str) -> Found:
    return [Check(name=name, family="robustness", outcome="pass", reason=reason)], []
