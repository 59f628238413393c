"""How far groups of rows differ in what a model decides: the largest gap, and an interval that chance can't
inflate.

A largest gap is never negative, so chance alone makes it larger than the truth, the more so the more and the
smaller the groups. Its interval here is therefore not the bootstrap's percentiles, but made from the gaps
between all pairs of groups (their standard errors are the bootstrap's):

- Lower end: the largest of the pairs' lower ends at a level corrected for the number of pairs (Bonferroni).
  It exceeds the truth only if some pair's does, so at most in (1 - level) / 2 of all cases.
- Upper end: the largest of the pairs' uncorrected upper ends. It falls short of the truth only if that of the
  pair that truly differs most does (intersection-union test, Berger 1982): again at most (1 - level) / 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from airworthy.evaluation.statistics import parts, significance
from airworthy.evaluation.statistics.metrics import Floats, Labels
from airworthy.evaluation.statistics.resampling import MIN_BLOCKS, Bootstrap

MIN_PER_CLASS = 20
"""Fewest positives (negatives) from which a group's true (false) positive rate is compared."""
Rate = Literal["selection_rate", "true_positive_rate", "false_positive_rate", "calibration"]


@dataclass(frozen=True)
class Counts:
    """Sums over the rows of each group, [..., groups]."""

    rows: Floats
    positives: Floats
    flagged: Floats
    hits: Floats
    """Flagged positives."""
    surplus: Floats
    """Of score minus label."""

    @classmethod
    def split(cls, sums: Floats) -> Counts:
        """From an array with the fields one after another, [..., 5 * groups]."""
        return cls(*np.split(sums, 5, axis=-1))

    def rate(self, name: Rate) -> Floats:
        """NaN where a group has no row that the rate is over."""
        above = {
            "selection_rate": self.flagged,
            "true_positive_rate": self.hits,
            "false_positive_rate": self.flagged - self.hits,
            "calibration": self.surplus,
        }[name]
        with np.errstate(invalid="ignore", divide="ignore"):
            return above / self.base(name)

    def base(self, name: Rate) -> Floats:
        """Rows that the rate is over."""
        if name == "true_positive_rate":
            return self.positives
        return self.rows - self.positives if name == "false_positive_rate" else self.rows


@dataclass(frozen=True)
class Gap:
    """The largest gap between any two groups in one rate, or the larger one of several."""

    interval: tuple[float, float]
    p_value: float | None
    """Of the claim that the gap exceeds the limit; None without a limit."""
    groups: NDArray[np.intp]
    """Groups that were compared."""
    lowest: int
    highest: int


@dataclass(frozen=True)
class Groups:
    """What the rows of each group add up to, in all and in every replicate."""

    boot: Bootstrap
    per_block: Counts
    counts: Counts
    replicated: Counts

    @classmethod
    def of(
        cls, labels: Labels, scores: Floats, threshold: float, codes: parts.Codes, count: int, boot: Bootstrap
    ) -> Groups:
        """Sum up; a row with code `count` belongs to no group."""
        sums = block_sums(labels, scores, threshold, codes, count, boot)
        return cls(boot, Counts.split(sums), Counts.split(sums.sum(axis=0)), Counts.split(boot.totals(sums)))

    def comparable(self, rates: Sequence[Rate]) -> NDArray[np.intp]:
        """Groups with enough rows, in enough blocks, for all these rates."""
        fits = [
            (self.counts.base(rate) >= MIN_PER_CLASS)
            & (np.sum(self.per_block.base(rate) > 0, axis=0) >= MIN_BLOCKS)
            for rate in rates
        ]
        return np.flatnonzero(np.all(fits, axis=0))

    def gap(self, rates: Sequence[Rate], limit: float | None, level: float) -> Gap | None:
        """The largest gap between groups in any of the rates; None with fewer than two comparable groups."""
        groups = self.comparable(rates)
        if len(groups) < 2:
            return None
        values = [self.counts.rate(rate)[groups] for rate in rates]
        pairs = np.concatenate([_off_diagonal(v[:, None] - v[None, :]) for v in values])
        errors = np.concatenate([_off_diagonal(self._errors(rate, groups)) for rate in rates])
        freedom = np.concatenate([_off_diagonal(self._freedom(rate, groups)) for rate in rates])
        corrected = 1 - (1 - level) / len(pairs)
        low = float(np.max(pairs - _quantiles(corrected, freedom) * errors))
        high = float(np.max(pairs + _quantiles(level, freedom) * errors))
        p_value = None
        if limit is not None:
            tails = map(significance.upper_tail, (pairs - limit) / errors, freedom)
            p_value = min(1.0, len(pairs) * min(tails))
        widest = max(values, key=np.ptp)
        return Gap(
            interval=(max(0.0, low), min(1.0, high)),
            p_value=p_value,
            groups=groups,
            lowest=int(groups[np.argmin(widest)]),
            highest=int(groups[np.argmax(widest)]),
        )

    def interval(self, rate: Rate, group: int, level: float) -> tuple[float, float] | None:
        """Of one group's rate; None where it has too few rows for it."""
        if group not in self.comparable([rate]):
            return None
        value = float(self.counts.rate(rate)[group])
        found = self.boot.interval(value, self.replicated.rate(rate)[:, group], level).interval
        if found is None or rate == "calibration":
            return found
        return max(0.0, found[0]), min(1.0, found[1])

    def _errors(self, rate: Rate, groups: NDArray[np.intp]) -> Floats:
        """Standard errors of the gaps of all pairs, [groups, groups].

        A rate of exactly 0 or 1 never varies in the bootstrap, but is not known exactly either: no error is
        taken below the binomial one with one row more of each kind.
        """
        spread = np.cov(np.nan_to_num(self.replicated.rate(rate)[:, groups]), rowvar=False)
        spread = spread * self.boot.blocks / max(self.boot.blocks - 1, 1)
        own = np.diag(spread)
        variance = own[:, None] + own[None, :] - 2 * spread
        if rate != "calibration":
            base = self.counts.base(rate)[groups]
            share = (self.counts.rate(rate)[groups] * base + 1) / (base + 2)
            floor = share * (1 - share) / base
            variance = np.maximum(variance, floor[:, None] + floor[None, :])
        return np.asarray(np.sqrt(np.maximum(variance, 1e-12)))

    def _freedom(self, rate: Rate, groups: NDArray[np.intp]) -> Floats:
        """Degrees of freedom of the gaps of all pairs: of the group in fewer blocks."""
        if not self.boot.blocked:
            return np.full((len(groups), len(groups)), np.inf)
        own = parts.effective_freedom(self.per_block.base(rate)[:, groups].T)
        return np.minimum(own[:, None], own[None, :])


def block_sums(
    labels: Labels, scores: Floats, threshold: float, codes: parts.Codes, count: int, boot: Bootstrap
) -> Floats:
    """The fields of `Counts` by block, [blocks, 5 * count]."""
    positive = (labels == 1).astype(float)
    flagged = (scores >= threshold).astype(float)
    cell = codes.astype(np.int64) * boot.blocks + boot.codes
    fields = (np.ones(len(cell)), positive, flagged, positive * flagged, scores - positive)
    sums = [np.bincount(cell, weights=field, minlength=(count + 1) * boot.blocks) for field in fields]
    return np.concatenate([s.reshape(count + 1, boot.blocks)[:count] for s in sums]).T.astype(np.float64)


def _off_diagonal(square: Floats) -> Floats:
    return np.asarray(square[~np.eye(len(square), dtype=bool)])


def _quantiles(level: float, freedom: Floats) -> Floats:
    known, where = np.unique(freedom, return_inverse=True)
    return np.array([significance.quantile(level, float(f)) for f in known])[where]
