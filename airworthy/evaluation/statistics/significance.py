"""How sure a number or a difference is: intervals and p-values behind the gate's checks.

All assume independent rows. Levels are two-sided coverages (0.95 for a 95 % interval).

Sources: DeLong, DeLong, Clarke-Pearson 1988 (variance of AUCs on the same rows) in the mid-rank form of
Sun & Xu 2014; Pepe 2003, sec. 5.2 (log odds of an AUC); Holm 1979, Benjamini & Hochberg 1995 (multiple
comparisons).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np

from airworthy.evaluation.statistics.metrics import Floats, Labels, midranks

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A value with its interval."""

    value: float
    low: float
    high: float
    p_value: float | None = None
    """Two-sided against zero; None where that means nothing."""
    error: float | None = None
    """Standard error; None where the rows could not give one, or the interval does not come from one."""
    freedom: float = math.inf
    """Degrees of freedom behind `error` (Student's t); infinite: normal."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval, or None when the rows could not give one."""
        return (self.low, self.high) if math.isfinite(self.low) and math.isfinite(self.high) else None

    def p_above(self, limit: float) -> float:
        """One-sided p-value of the claim that the truth lies above `limit`; 1 where there is no error."""
        if self.error is None:
            return 1.0
        if self.error == 0:
            return 0.0 if self.value > limit else 1.0
        return upper_tail((self.value - limit) / self.error, self.freedom)

    def p_below(self, limit: float) -> float:
        """One-sided p-value of the claim that the truth lies below `limit`; 1 where there is no error."""
        return replace(self, value=-self.value).p_above(-limit)


def auc_interval(labels: Labels, scores: Floats, level: float = 0.95) -> Estimate:
    """AUC with DeLong's error, on the log odds. Needs two rows of each class for an interval."""
    positive, negative = _placements(labels, scores)
    value, error, freedom = _mean_and_error(positive, negative)
    return on_log_odds(value, error, level, freedom)


def auc_difference(labels: Labels, champion: Floats, challenger: Floats, level: float = 0.95) -> Estimate:
    """AUC of the challenger minus AUC of the champion on the same rows (paired DeLong test)."""
    (a_pos, a_neg), (b_pos, b_neg) = _placements(labels, champion), _placements(labels, challenger)
    value, error, freedom = _mean_and_error(b_pos - a_pos, b_neg - a_neg)
    return from_error(value, error, level, freedom)


def auc_influence(labels: Labels, scores: Floats) -> tuple[float, Floats]:
    """AUC, and what each row moves it by: they add up to zero, and the sum of their squares is DeLong's variance
    but for terms of the order of one row."""
    positive, negative = _placements(labels, scores)
    influence = np.zeros(len(labels))
    if len(positive) == 0:
        return math.nan, influence
    value = float(positive.mean())
    influence[labels == 1] = (positive - value) / len(positive)
    influence[labels != 1] = (negative - value) / len(negative)
    return value, influence


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


def bh(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that the share of false alarms among the alarms stays at the level on average
    (Benjamini & Hochberg; holds for independent and for positively dependent checks)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)[::-1]
    adjusted = np.empty_like(p)
    ranks = np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(len(p) / ranks * p[order]))
    return [float(value) for value in adjusted]


def adjust(p_values: Sequence[float], correction: Literal["holm", "bh"]) -> list[float]:
    """P-values corrected for the number of checks that were made together, in the order given."""
    return holm(p_values) if correction == "holm" else bh(p_values)


def from_error(value: float, error: float, level: float, freedom: float = math.inf) -> Estimate:
    """The interval of a value whose standard error is known (not finite: no interval)."""
    if not math.isfinite(error):
        return Estimate(value, math.nan, math.nan)
    if error == 0:  # no variation at all: the two are the same, or differ by a constant
        return Estimate(value, value, value, 1.0 if value == 0 else 0.0, 0.0, freedom)
    reach = quantile(level, freedom) * error
    p_value = 2 * upper_tail(abs(value) / error, freedom)
    return Estimate(value, value - reach, value + reach, p_value, error, freedom)


def on_log_odds(value: float, error: float, level: float, freedom: float = math.inf) -> Estimate:
    """The interval of a value between 0 and 1, symmetric in its log odds: it stays inside, and covers better
    than a symmetric one near the ends. The error is the value's own."""
    if not math.isfinite(error) or error == 0 or not 0 < value < 1:
        plain = from_error(value, error, level, freedom)
        return replace(plain, p_value=None)
    centre = math.log(value / (1 - value))
    reach = quantile(level, freedom) * error / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-(centre + side * reach))) for side in (-1, 1))
    return Estimate(value, low, high, None, error, freedom)


def quantile(level: float, freedom: float = math.inf) -> float:
    """How many standard errors a two-sided interval of that coverage reaches to either side."""
    if math.isinf(freedom):
        return _NORMAL.inv_cdf(0.5 + level / 2)
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + level / 2))


def upper_tail(statistic: float, freedom: float = math.inf) -> float:
    """Chance that a standard normal (or Student's t) exceeds a value."""
    if math.isinf(freedom):
        return 0.5 * math.erfc(statistic / math.sqrt(2))
    from scipy.special import stdtr

    return float(stdtr(freedom, -statistic))


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


def _mean_and_error(positive: Floats, negative: Floats) -> tuple[float, float, float]:
    """Difference or area, its standard error, and the error's degrees of freedom: few positives make it unsure
    (Satterthwaite's, as in Brunner & Munzel 2000)."""
    if len(positive) < 2 or len(negative) < 2:
        return (float(positive.mean()) if len(positive) else math.nan), math.nan, math.inf
    parts = [float(side.var(ddof=1)) / len(side) for side in (positive, negative)]
    whole = sum(parts)
    known = sum(part**2 / (len(side) - 1) for part, side in zip(parts, (positive, negative), strict=True))
    return float(positive.mean()), math.sqrt(whole), whole**2 / known if known > 0 else math.inf
