"""How sure a number or a difference is: intervals and p-values behind the gate's checks.

All assume independent rows. Levels are two-sided coverages (0.95 for a 95 % interval).

Sources: DeLong, DeLong, Clarke-Pearson 1988 (variance of AUCs on the same rows) in the mid-rank form of
Sun & Xu 2014; Boyd, Eng, Page 2013 (logit interval of the area under the precision-recall curve);
Holm 1979 (multiple comparisons).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from airworthy.evaluation.metrics import Floats, Labels, midranks

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; `p_value` is two-sided against zero, None where that means nothing."""

    value: float
    low: float
    high: float
    p_value: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval, or None when the rows could not give one."""
        return (self.low, self.high) if math.isfinite(self.low) and math.isfinite(self.high) else None


def auc_interval(labels: Labels, scores: Floats, level: float = 0.95) -> Estimate:
    """AUC with DeLong's interval, cut to [0, 1]. Needs two rows of each class for an interval."""
    positive, negative = _placements(labels, scores)
    value, error = _mean_and_error(positive, negative)
    z = _z(level)
    return Estimate(value, max(0.0, value - z * error), min(1.0, value + z * error))


def auc_difference(labels: Labels, champion: Floats, challenger: Floats, level: float = 0.95) -> Estimate:
    """AUC of the challenger minus AUC of the champion on the same rows (paired DeLong test)."""
    (a_pos, a_neg), (b_pos, b_neg) = _placements(labels, champion), _placements(labels, challenger)
    value, error = _mean_and_error(b_pos - a_pos, b_neg - a_neg)
    return _normal(value, error, level)


def mean_difference(champion: Floats, challenger: Floats, level: float = 0.95) -> Estimate:
    """Mean of the challenger's losses minus the champion's, row by row (paired normal interval)."""
    return mean_interval(challenger - champion, level)


def mean_interval(values: Floats, level: float = 0.95) -> Estimate:
    """A mean with its normal interval."""
    if len(values) < 2:
        return Estimate(float(values.mean()) if len(values) else math.nan, math.nan, math.nan)
    return _normal(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), level)


def average_precision_interval(value: float, positives: int, level: float = 0.95) -> Estimate:
    """Logit interval of an average precision, from the number of positives."""
    if not 0 < value < 1 or positives < 2:
        return Estimate(value, math.nan, math.nan)
    centre = math.log(value / (1 - value))
    reach = _z(level) / math.sqrt(positives * value * (1 - value))
    return Estimate(value, *(1 / (1 + math.exp(-(centre + side * reach))) for side in (-1, 1)))


def decide(
    difference: Estimate, margin: float, policy: Literal["non_inferiority", "superiority"]
) -> Literal["pass", "fail", "inconclusive"]:
    """What a difference (challenger minus champion, higher is better) says under a policy.

    Non-inferiority passes when the whole interval lies above `-margin`, fails when it lies wholly below, and
    is inconclusive otherwise. Superiority asks the same of zero.
    """
    limit = -margin if policy == "non_inferiority" else 0.0
    if difference.interval is None:
        return "inconclusive"
    if difference.low > limit:
        return "pass"
    return "fail" if difference.high < limit else "inconclusive"


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that the chance of any false alarm among them stays at the level (Holm)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return [float(value) for value in adjusted]


def _placements(labels: Labels, scores: Floats) -> tuple[Floats, Floats]:
    """Per positive the share of negatives below it, per negative the share of positives above it."""
    positive = labels == 1
    p, n = int(positive.sum()), int((~positive).sum())
    if p == 0 or n == 0:
        return np.empty(0), np.empty(0)
    ranks = midranks(scores)
    return (
        (ranks[positive] - midranks(scores[positive])) / n,
        1 - (ranks[~positive] - midranks(scores[~positive])) / p,
    )


def _mean_and_error(positive: Floats, negative: Floats) -> tuple[float, float]:
    if len(positive) < 2 or len(negative) < 2:
        return (float(positive.mean()) if len(positive) else math.nan), math.nan
    variance = positive.var(ddof=1) / len(positive) + negative.var(ddof=1) / len(negative)
    return float(positive.mean()), math.sqrt(float(variance))


def _normal(value: float, error: float, level: float) -> Estimate:
    if not math.isfinite(error):
        return Estimate(value, math.nan, math.nan)
    reach = _z(level) * error
    if error == 0:  # no variation at all: the two are the same, or differ by a constant
        return Estimate(value, value, value, 1.0 if value == 0 else 0.0)
    return Estimate(value, value - reach, value + reach, math.erfc(abs(value) / error / math.sqrt(2)))


def _z(level: float) -> float:
    return _NORMAL.inv_cdf(0.5 + level / 2)
