"""Calibration with intervals: reliability curve, expected calibration error, slope and intercept.

The calibration error as usually computed, sum of |mean score - share of positives| over bins, is biased: noise
adds to it, and a perfect model never gets 0. So the interval is found by asking which true errors would make
the measured one plausible: true gaps of some shape are taken times a factor, resampled noise is added, and the
factors are kept under which the measured error lies between the outer quantiles (inversion of a test by
simulation, Davison & Hinkley 1997, sec. 5.4). What the noise adds depends on the shape, which is not known:
most where few bins are off, least where all are off alike. So the lower end takes the measured gaps for the
shape (with noise in them, more uneven than the truth), the upper end even gaps, and the estimate the mean of
both medians. At factor 0 all shapes are the test of a perfectly calibrated model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from airworthy.evaluation.statistics import metrics, significance
from airworthy.evaluation.statistics.metrics import Calibration, Floats, Labels
from airworthy.evaluation.statistics.resampling import Bootstrap
from airworthy.evaluation.statistics.significance import Estimate
from airworthy.findings import Reliability

_FACTORS = np.linspace(0, 2, 101) ** 2


@dataclass(frozen=True)
class Calibrated:
    """How far a model's scores are true probabilities."""

    reliability: Reliability
    error: Estimate
    """Expected calibration error without what chance adds; its interval covers the true one of these bins."""
    measured: float
    """The same as usually computed, chance included."""
    floor: float
    """95 % point of `measured` for a perfectly calibrated model on these rows."""
    slope: Estimate
    """Of the label's log odds on the score's: 1 is perfect, below it scores are overconfident."""
    intercept: Estimate
    """0 is perfect, above it scores are too low on the whole."""


def calibrate(labels: Labels, scores: Floats, boot: Bootstrap, level: float) -> Calibrated:
    """Everything about one model's calibration."""
    found = metrics.calibration(labels, scores)
    gaps = found.predicted - found.observed
    noise = _noise(labels, scores, found, boot)
    slope, intercept = _line(labels, scores, boot, level)
    if noise is None:
        reliability, error, floor = _reliability(found, None), _unknown(found.error), found.floor
    else:
        noise *= significance.quantile(level, boot.freedom) / significance.quantile(level)
        reach = significance.quantile(level) * noise.std(axis=0, ddof=1)
        reliability = _reliability(found, reach)
        weights = found.rows / found.rows.sum()
        error = _inverted(gaps, noise, weights, level)
        floor = float(np.quantile(np.abs(noise) @ weights, 0.95))
    return Calibrated(reliability, error, found.error, floor, slope, intercept)


def _noise(labels: Labels, scores: Floats, found: Calibration, boot: Bootstrap) -> Floats | None:
    """How the bins' gaps move from replicate to replicate, [replicates, bins]; None if blocks are too few."""
    if not boot.enough:
        return None
    cells = boot.codes.astype(np.int64) * len(found.rows) + found.codes
    shape, size = (boot.blocks, len(found.rows)), boot.blocks * len(found.rows)
    gaps = np.bincount(cells, weights=scores - labels, minlength=size).reshape(shape)
    rows = np.bincount(cells, minlength=size).reshape(shape)
    replicated = boot.totals(gaps) / np.maximum(boot.totals(rows), 1)
    spread = replicated - gaps.sum(axis=0) / rows.sum(axis=0)
    return spread * math.sqrt(boot.blocks / (boot.blocks - 1))


def _inverted(gaps: Floats, noise: Floats, weights: Floats, level: float) -> Estimate:
    measured = float(np.abs(gaps) @ weights)
    tail = (1 - level) / 2
    low, first = _plausible(gaps, noise, weights, measured, (1 - tail, 0.5))
    high, second = _plausible(np.full(len(gaps), measured), noise, weights, measured, (tail, 0.5))
    middle = (first + second) / 2
    return Estimate(middle, min(low, middle), max(high, middle))


def _plausible(
    shape: Floats, noise: Floats, weights: Floats, measured: float, points: tuple[float, ...]
) -> list[float]:
    """For each point of the distribution of measured errors the true error under which it is `measured`, if the
    true gaps are in proportion to `shape`."""
    errors = np.stack([np.abs(factor * shape + noise) @ weights for factor in _FACTORS])
    curves = np.maximum.accumulate(np.quantile(errors, points, axis=1), axis=1)
    return [float(np.interp(measured, curve, _FACTORS)) * measured for curve in curves]


def _reliability(found: Calibration, reach: Floats | None) -> Reliability:
    low, high = ((), ()) if reach is None else (found.observed - reach, found.observed + reach)
    return Reliability(
        predicted=tuple(map(float, found.predicted)),
        observed=tuple(map(float, found.observed)),
        low=tuple(float(max(0.0, value)) for value in low),
        high=tuple(float(min(1.0, value)) for value in high),
        rows=tuple(map(int, found.rows)),
    )


def _line(labels: Labels, scores: Floats, boot: Bootstrap, level: float) -> tuple[Estimate, Estimate]:
    """Slope and intercept with errors that hold whether or not the logistic line is the truth (sandwich)."""
    slope, intercept = metrics.calibration_line(labels, scores)
    if not math.isfinite(slope):
        return _unknown(slope), _unknown(intercept)
    x = metrics.log_odds(scores)
    fitted = 1 / (1 + np.exp(-(slope * x + intercept)))
    residual, weight = labels - fitted, fitted * (1 - fitted)
    a, b, c = float(weight @ x**2), float(weight @ x), float(weight.sum())
    determinant = a * c - b * b
    of_slope = residual * (c * x - b) / determinant
    of_intercept = residual * (a - b * x) / determinant
    return tuple(  # type: ignore[return-value]
        significance.from_error(value, boot.error_of_sum(influence), level, boot.freedom)
        for value, influence in ((slope, of_slope), (intercept, of_intercept))
    )


def _unknown(value: float) -> Estimate:
    return Estimate(value, math.nan, math.nan)
