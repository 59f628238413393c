"""ROC and precision-recall curves under resampling, from counts of labels per score bin.

Sorting a million rows a thousand times is too slow, so a replicate is made of binned counts: a bin's rows are
taken as evenly mixed. Where there are at most `BINS` distinct scores each is its own bin and nothing is lost.
Otherwise half of the bin edges are quantiles of the positives' scores, half of the negatives' ones, and
replicates are only used for how a curve or area varies around the exact one: that variation is right within
a few per cent of itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airworthy.evaluation.statistics import metrics, significance
from airworthy.evaluation.statistics.metrics import Floats, Labels
from airworthy.evaluation.statistics.resampling import Bootstrap
from airworthy.findings import Curve

BINS = 1000
POINTS = 100
"""Points of a recorded curve."""


@dataclass(frozen=True)
class Binned:
    """Rows sorted into score bins, the highest scores in bin 0."""

    codes: NDArray[np.int32]
    count: int
    tied: bool
    """Whether a bin holds one score only."""

    @classmethod
    def of(cls, labels: Labels, scores: Floats) -> Binned:
        """Bins of a model's scores."""
        levels, inverse = np.unique(-scores, return_inverse=True)
        if len(levels) <= BINS:
            return cls(inverse.astype(np.int32), len(levels), True)
        shares = np.linspace(0, 1, BINS // 2 + 1)[1:-1]
        edges = np.concatenate([np.quantile(scores[labels == label], shares) for label in (0, 1)])
        edges = np.unique(-edges)
        place = np.searchsorted(edges, levels)
        return cls(place[inverse].astype(np.int32), len(edges) + 1, False)

    def counts(self, labels: Labels, boot: Bootstrap) -> Iterator[tuple[Floats, Floats]]:
        """Positives and negatives per bin, [replicates, bins] each, some hundred replicates at a time."""
        cells = boot.codes.astype(np.int64) * self.count + self.codes
        positive = labels == 1
        positives, negatives = (
            np.bincount(cells[mask], minlength=boot.blocks * self.count)
            .reshape(boot.blocks, self.count)
            .astype(np.float32)
            for mask in (positive, ~positive)
        )
        yield from zip(boot.chunked_totals(positives), boot.chunked_totals(negatives), strict=True)

    def average_precisions(self, positives: Floats, negatives: Floats) -> Floats:
        """Average precision of every row of counts, [replicates]; NaN without positives."""
        hits, alarms = np.cumsum(positives, axis=1), np.cumsum(positives + negatives, axis=1)
        if not self.tied:  # the precision half through an evenly mixed bin
            hits, alarms = hits - positives / 2, alarms - (positives + negatives) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(alarms > 0, hits / alarms, 0.0)
            return np.asarray(np.sum(positives * precision, axis=1) / positives.sum(axis=1))


def average_precision_replicates(labels: Labels, scores: Floats, boot: Bootstrap) -> Floats:
    """Average precision of every replicate, [replicates], moved so that they lie about the exact one."""
    binned = Binned.of(labels, scores)
    drawn = [binned.average_precisions(*counts) for counts in binned.counts(labels, boot)]
    everything = (np.bincount(binned.codes[labels == label], minlength=binned.count) for label in (1, 0))
    once = binned.average_precisions(*(part[None, :].astype(float) for part in everything))
    return np.concatenate(drawn) - once[0] + metrics.average_precision(labels, scores)


def banded(labels: Labels, scores: Floats, boot: Bootstrap, level: float) -> tuple[Curve, Curve]:
    """ROC and precision-recall curve with pointwise bands.

    Bands are vertical: at a false positive rate (recall) they say where the true positive rate (precision) of
    other samples of the same population lies. They are symmetric, of standard errors over replicates, and cut
    to 0 to 1. No bands where the blocks are too few.
    """
    fpr, tpr = _roc_points(labels, scores)
    recall, precision = _precision_points(labels, scores)
    if not boot.enough or len(fpr) == 0:
        return Curve(x=_list(fpr), y=_list(tpr)), Curve(x=_list(recall), y=_list(precision))
    roc_spread, precision_spread = _spreads(labels, scores, boot, fpr, recall)
    reach = significance.quantile(level, boot.freedom)
    return _curve(fpr, tpr, reach * roc_spread), _curve(recall, precision, reach * precision_spread)


def _spreads(
    labels: Labels, scores: Floats, boot: Bootstrap, fpr: Floats, recall: Floats
) -> tuple[Floats, Floats]:
    """Standard errors over replicates of the true positive rate at `fpr` and of the precision at `recall`."""
    binned = Binned.of(labels, scores)
    rates, precisions = [], []
    for positives, negatives in binned.counts(labels, boot):
        hits, alarms = np.cumsum(positives, axis=1), np.cumsum(negatives, axis=1)
        for hit, alarm in zip(hits, alarms, strict=True):
            if hit[-1] == 0 or alarm[-1] == 0:
                continue
            rates.append(np.interp(fpr, alarm / alarm[-1], hit / hit[-1]))
            precisions.append(np.interp(recall, hit / hit[-1], hit / np.maximum(hit + alarm, 1)))
    if len(rates) < 2:
        return np.zeros(len(fpr)), np.zeros(len(recall))
    return np.std(rates, axis=0, ddof=1), np.std(precisions, axis=0, ddof=1)


def _roc_points(labels: Labels, scores: Floats) -> tuple[Floats, Floats]:
    """At most `POINTS` points, one per false positive rate (the highest of a vertical stretch)."""
    fpr, tpr, _ = metrics.roc(labels, scores, POINTS)
    last = np.append(np.diff(fpr) > 0, True)[: len(fpr)]
    return fpr[last], tpr[last]


def _precision_points(labels: Labels, scores: Floats) -> tuple[Floats, Floats]:
    """At most `POINTS` points evenly along the recall."""
    precision, recall = metrics.precision_recall(labels, scores)
    if len(recall) == 0:
        return recall, precision
    places = np.unique(np.searchsorted(recall, np.linspace(0, 1, POINTS)).clip(max=len(recall) - 1))
    return recall[places], precision[places]


def _curve(x: Floats, y: Floats, reach: Floats) -> Curve:
    low, high = (np.clip(y + side * reach, 0, 1) for side in (-1, 1))
    return Curve(x=_list(x), y=_list(y), low=_list(low), high=_list(high))


def _list(values: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in np.round(values, 6))
