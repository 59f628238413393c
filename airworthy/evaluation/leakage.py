"""The alarm for leakage: one feature that tells the label too well alone.

How well a feature can tell is cross-fitted in two halves: the values of one half learn each level's rate of
positives, the other half is ranked by it. So an id with a level of its own for every row tells nothing, as it
should, while a category, or a number in whatever order, that gives the label away is caught.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airworthy.evaluation.sampled import LEVEL, Mask, Sampled, Values, in_parallel, known
from airworthy.evaluation.statistics import metrics, significance
from airworthy.evaluation.statistics.metrics import Floats, Labels
from airworthy.evaluation.statistics.significance import Estimate
from airworthy.verdict import Check, Outcome

if TYPE_CHECKING:
    from airworthy.encoding import Feature
    from airworthy.model_spec import Explanations

Codes = np.ndarray[Any, np.dtype[np.intp]]

ROWS = 20_000
"""Sampled for it; far cheaper a row than contributions."""
MIN_PER_CLASS = 10
"""With fewer rows of a class chance alone can look like a leak."""
BINS = 50
"""Levels that a number is cut into."""
_PRIOR = 2.0
"""Rows that a level's rate is drawn to the overall rate by."""


def single_feature_aucs(
    sample: Sampled, features: Sequence[Feature], seed: int, level: float = LEVEL
) -> dict[str, Estimate]:
    """AUC of each feature alone, from 0.5 (tells nothing) to 1; NaN where the rows are all of one class.

    The best of: a number's order, up or down, missing first or last; its `BINS` levels, or a category's
    values, by cross-fitted rates (missing is a level, too).
    """
    if sample.labels.min(initial=1) == sample.labels.max(initial=0):
        return {feature.name: Estimate(math.nan, math.nan, math.nan) for feature in features}
    boot = sample.plan()
    half = np.random.default_rng([seed, 5]).permutation(len(sample)) % 2

    def alone(feature: Feature) -> Estimate:
        values, there = sample.columns[feature.name], sample.present(feature.name)
        if feature.kind == "category":
            found = [_fitted(sample.labels, _codes(values, there), half)]
        else:
            numbers = np.where(there, values, np.nan).astype(np.float64)
            ranks = [np.where(there, numbers, side) for side in (-np.inf, np.inf)]
            orders = [_ordered(sample.labels, metrics.midranks(r)) for r in ranks]
            found = [_fitted(sample.labels, _levels(numbers, there), half), *orders]
        value, influence = max(found, key=lambda one: one[0])
        return significance.on_log_odds(value, boot.error_of_sum(influence), level, boot.freedom)

    return dict(zip([f.name for f in features], in_parallel(alone, features), strict=True))


def leakage_check(sample: Sampled, aucs: Mapping[str, Estimate], policy: Explanations) -> Check:
    """The alarm over all features: whether any tells the label better alone than an honest one can."""
    limit, positives = policy.max_single_feature_auc, int(sample.labels.sum())
    fewest = min(positives, len(sample) - positives)
    best = max(aucs, key=lambda feature: aucs[feature].value)
    alarmed = sorted(f for f, e in aucs.items() if limit is not None and e.value > limit)
    estimate, outcome = aucs[best], _outcome(fewest, bool(alarmed), policy)
    if outcome == "inconclusive":
        reason = (
            f"How well single features tell the label can't be judged: {fewest} of the {len(sample):,} sampled "
            f"rows are of the rarer class, and at least {MIN_PER_CLASS} are needed."
        )
    elif alarmed:
        reason = (
            f"The label is told by {', '.join(alarmed)} alone with an AUC of up to {estimate.value:.4f}, above "
            f"the limit {limit:g}: what is only known afterwards may be in it, so look where it comes from."
        )
    else:
        end = (
            "no limit is set"
            if limit is None
            else f"the limit {limit:g} is kept, so nothing looks like a leak"
        )
        reason = (
            f"The best single feature, {best}, tells the label with an AUC of {estimate.value:.4f}; {end}."
        )
    return Check(
        name="single_feature_auc",
        family="explanations",
        observed=known(estimate.value),
        threshold=limit,
        interval=estimate.interval,
        rows=len(sample),
        outcome=outcome,
        blocking=outcome != "inconclusive",
        reason=reason,
    )


def _outcome(fewest: int, alarmed: bool, policy: Explanations) -> Outcome:
    if fewest < MIN_PER_CLASS:
        return "inconclusive"
    if not alarmed:
        return "pass"
    return "fail" if policy.on_leak == "block" else "warn"


def _codes(values: Values, there: Mask) -> Codes:
    """A code per category, 0 for missing."""
    texts = np.where(there, values, "").astype(str)
    return np.where(there, np.unique(texts, return_inverse=True)[1] + 1, 0)


def _levels(numbers: Floats, there: Mask) -> Codes:
    """A code per equally filled level of a number, 0 for missing."""
    if not there.any():
        return np.zeros(len(numbers), dtype=np.intp)
    edges = np.unique(np.quantile(numbers[there], np.linspace(0, 1, BINS + 1)[1:-1]))
    return np.where(there, np.searchsorted(edges, numbers) + 1, 0)


def _ordered(labels: Labels, ranks: Floats) -> tuple[float, Floats]:
    """AUC by the order, whichever way round is better, and what each row moves it by."""
    value, influence = significance.auc_influence(labels, ranks)
    return (1 - value, -influence) if value < 0.5 else (value, influence)


def _fitted(labels: Labels, codes: Codes, half: Codes) -> tuple[float, Floats]:
    """AUC by the rates of the other half, the mean of both halves; 0.5 for less than that."""
    value, influence, size = 0.0, np.zeros(len(labels)), int(codes.max(initial=0)) + 1
    for fold in (0, 1):
        fit, held = half != fold, half == fold
        rows = np.bincount(codes[fit], minlength=size)
        hits = np.bincount(codes[fit], weights=labels[fit], minlength=size)
        rates = (hits + _PRIOR * labels.mean()) / (rows + _PRIOR)
        one, moved = significance.auc_influence(labels[held], rates[codes[held]])
        value, influence[held] = value + one / 2, moved / 2
    return max(0.5, value), influence
