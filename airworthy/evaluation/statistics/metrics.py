"""Metrics of a binary scorer, vectorised: labels are 0/1 arrays, scores are probabilities of class 1.

Everything here is equality-tested against scikit-learn. Inputs are expected to be finite and of one length;
`airworthy.evaluation.arms` makes sure of it before any metric is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int8]

CLIP = 1e-7
"""Scores are kept this far from 0 and 1 in logarithms: a float32 model can't say anything closer."""
CALIBRATION_BINS = 15


def midranks(values: Floats) -> Floats:
    """Ranks from 1, ties sharing the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def auc(labels: Labels, scores: Floats) -> float:
    """Area under the ROC curve, ties counting half (Mann-Whitney); NaN with one class only."""
    positive = labels == 1
    p = int(positive.sum())
    n = len(labels) - p
    if p == 0 or n == 0:
        return math.nan
    return float((midranks(scores)[positive].sum() - p * (p + 1) / 2) / (p * n))


def average_precision(labels: Labels, scores: Floats) -> float:
    """Area under the precision-recall curve as average precision; NaN without positives."""
    precision, recall = precision_recall(labels, scores)
    if len(precision) == 0:
        return math.nan
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def average_precision_centre(labels: Labels, scores: Floats) -> float:
    """Average precision with each positive counted half at its own score; NaN without positives.

    A positive is always among the alarms at its own score, which flatters the area where positives are few
    (0.13 instead of 0.11 with 22 of them); without itself the area errs as far the other way. Intervals are
    centred on the mean of the two.
    """
    hits, alarms, _ = _cumulative(labels, scores)
    if len(hits) == 0 or hits[-1] == 0:
        return math.nan
    others = np.where(alarms > 1, (hits - 1) / np.maximum(alarms - 1, 1), 0.0)
    return float(np.sum(np.diff(hits, prepend=0.0) * (hits / alarms + others)) / 2 / hits[-1])


def precision_recall(labels: Labels, scores: Floats) -> tuple[Floats, Floats]:
    """Precision and recall at every distinct score, highest score first; empty without positives."""
    hits, alarms, _ = _cumulative(labels, scores)
    if len(hits) == 0 or hits[-1] == 0:
        return np.empty(0), np.empty(0)
    return hits / alarms, hits / hits[-1]


def roc(labels: Labels, scores: Floats, points: int = 100) -> tuple[Floats, Floats, Floats]:
    """ROC curve of at most `points` finite points: false positive rate, true positive rate, threshold.

    Begins at (0, 0), ends at (1, 1), thresholds never rise. Points are picked evenly along the curve's
    length, so steep and flat parts are both followed.
    """
    hits, alarms, thresholds = _cumulative(labels, scores)
    if len(hits) == 0 or hits[-1] == 0 or alarms[-1] == hits[-1]:
        return np.empty(0), np.empty(0), np.empty(0)
    tpr = np.concatenate([[0.0], hits / hits[-1]])
    fpr = np.concatenate([[0.0], (alarms - hits) / (alarms[-1] - hits[-1])])
    # Nothing is at or above this first threshold; scikit-learn says infinity, which JSON and KFP can't carry.
    thresholds = np.concatenate([[max(1.0, float(np.nextafter(thresholds[0], np.inf)))], thresholds])
    if len(fpr) > points:
        length = np.cumsum(np.abs(np.diff(fpr, prepend=0.0)) + np.abs(np.diff(tpr, prepend=0.0)))
        keep = np.unique(np.searchsorted(length, np.linspace(0.0, length[-1], points)).clip(max=len(fpr) - 1))
        keep[-1] = len(fpr) - 1
        fpr, tpr, thresholds = fpr[keep], tpr[keep], thresholds[keep]
    return fpr, tpr, thresholds


def log_losses(labels: Labels, scores: Floats) -> Floats:
    """Negative log likelihood of each row, in nats."""
    p = np.clip(scores, CLIP, 1 - CLIP)
    return -np.where(labels == 1, np.log(p), np.log1p(-p))


def log_odds(scores: Floats) -> Floats:
    """Log odds of each score."""
    p = np.clip(scores, CLIP, 1 - CLIP)
    return np.log(p) - np.log1p(-p)


def costs(
    labels: Labels, scores: Floats, threshold: float, cost_false_alarm: float, cost_miss: float
) -> Floats:
    """Cost of each row's decision; an alarm is score >= threshold."""
    alarm = scores >= threshold
    return np.where(labels == 1, np.where(alarm, 0.0, cost_miss), np.where(alarm, cost_false_alarm, 0.0))


def squared_errors(labels: Labels, scores: Floats) -> Floats:
    """Squared error of each row's probability; their mean is the Brier score."""
    return (scores - labels) ** 2


@dataclass(frozen=True)
class Calibration:
    """Reliability over bins of neighbouring scores, equally many rows in each as far as equal scores let them."""

    codes: NDArray[np.intp]
    """Bin of each row."""
    predicted: Floats
    """Mean score per bin."""
    observed: Floats
    """Share of positives per bin."""
    rows: Floats
    error: float
    """Expected calibration error: mean over rows of |predicted - observed|."""
    floor: float
    """95 % point of that error for a perfectly calibrated model on as many rows."""


def calibration(labels: Labels, scores: Floats, bins: int = CALIBRATION_BINS) -> Calibration:
    """Reliability curve and expected calibration error, with the error that chance alone produces.

    The floor: were every score the true probability, a bin's gap is close to normal with variance
    sum(p(1-p))/n², so its absolute value has mean s·sqrt(2/π) and variance s²(1-2/π); bins are independent.
    """
    # Equal scores stay together, so that the order of the rows doesn't matter.
    places = np.linspace(0, len(scores), min(bins, len(scores)) + 1).astype(int)[1:-1]
    edges = np.unique(np.partition(scores, places)[places]) if len(places) else scores[:0]
    used, codes = np.unique(np.searchsorted(edges, scores, side="right"), return_inverse=True)
    rows = np.bincount(codes, minlength=len(used)).astype(float)
    predicted, observed, variance = (
        np.asarray(np.bincount(codes, weights=values) / rows)
        for values in (scores, labels, scores * (1 - scores))
    )
    spread = np.sqrt(variance / rows)
    weight = rows / len(scores)
    mean = float(np.sum(weight * spread)) * math.sqrt(2 / math.pi)
    deviation = math.sqrt(float(np.sum((weight * spread) ** 2)) * (1 - 2 / math.pi))
    error = float(np.sum(weight * np.abs(predicted - observed)))
    return Calibration(codes, predicted, observed, rows, error, mean + 1.645 * deviation)


def calibration_line(labels: Labels, scores: Floats, iterations: int = 25) -> tuple[float, float]:
    """Slope and intercept of the logistic regression of the label on the score's log odds (Cox 1958).

    A slope below 1 means overconfident scores, an intercept above 0 scores that are too low on the whole.
    (1, 0) is perfect; (NaN, NaN) where no finite fit exists (one class, constant or separating scores).
    """
    x = log_odds(scores)
    if labels.min() == labels.max() or np.ptp(x) < 1e-12:
        return math.nan, math.nan
    slope, intercept = 1.0, 0.0
    for _ in range(iterations):  # Newton's method on the concave log likelihood
        fitted = 1 / (1 + np.exp(-np.clip(slope * x + intercept, -40, 40)))
        residual, weight = labels - fitted, fitted * (1 - fitted)
        a, b, c = float(weight @ x**2), float(weight @ x), float(weight.sum())
        determinant = a * c - b * b
        if determinant <= 1e-12 * max(a * c, 1e-300) or abs(slope) > 100:
            return math.nan, math.nan
        g, h = float(residual @ x), float(residual.sum())
        step_slope, step_intercept = (c * g - b * h) / determinant, (a * h - b * g) / determinant
        slope, intercept = slope + step_slope, intercept + step_intercept
        if abs(step_slope) + abs(step_intercept) < 1e-9:
            return slope, intercept
    return math.nan, math.nan


def confusion(labels: Labels, scores: Floats, threshold: float) -> list[list[int]]:
    """[[true neg., false pos.], [false neg., true pos.]]; an alarm is score >= threshold."""
    alarm, positive = scores >= threshold, labels == 1
    tp, fp = int(np.sum(alarm & positive)), int(np.sum(alarm & ~positive))
    fn, tn = int(np.sum(~alarm & positive)), int(np.sum(~alarm & ~positive))
    return [[tn, fp], [fn, tp]]


def _cumulative(labels: Labels, scores: Floats) -> tuple[Floats, Floats, Floats]:
    """True positives, alarms and threshold at every distinct score, highest first."""
    if len(scores) == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    hits = np.cumsum(labels[order] == 1)[ends].astype(float)
    return hits, (ends + 1).astype(float), ordered[ends]
