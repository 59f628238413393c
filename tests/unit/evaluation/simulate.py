"""Champions and challengers whose truth is known, for tests of the gate and for `benchmarks/gate.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airworthy.evaluation import comparison, performance
from airworthy.evaluation.statistics import calibration, metrics
from airworthy.evaluation.statistics.metrics import Floats, Labels
from airworthy.evaluation.statistics.resampling import Bootstrap
from airworthy.evaluation.statistics.significance import Estimate

COSTS = (1.0, 3.0)
"""False alarm, miss."""
TRUTH_ROWS = 500_000


@dataclass(frozen=True)
class World:
    """A population of rows and the two models' view of it.

    The label's log odds are `intercept` + 1.5 x + what its block has in common; each model sees x through its
    own noise and scores by `slope` (1.5 would be overconfident for a noisy view) times what it sees.
    """

    rows: int = 1000
    intercept: float = -1.0
    noise: tuple[float, float] = (0.7, 0.7)
    """Standard deviation of champion's and challenger's noise."""
    alike: float = 0.0
    """Share of the noises' variance that the two models have in common, as a model and its retrained self do."""
    slope: float = 1.1
    grid: int | None = None
    """Scores are rounded to as many values (ties)."""
    blocks: int | None = None
    common: float = 0.0
    """Share of the noises' variance, and standard deviation of the log odds, that the rows of a block share."""


@dataclass(frozen=True)
class Sample:
    """Rows drawn from a world."""

    labels: Labels
    chance: Floats
    """True probability of each row."""
    champion: Floats
    challenger: Floats
    blocks: NDArray[np.int32] | None
    inside: NDArray[np.bool_]
    """Rows of a slice (a fifth)."""

    @property
    def threshold(self) -> float:
        return COSTS[0] / sum(COSTS)


def draw(world: World, seed: int) -> Sample:
    """One sample."""
    generator = np.random.default_rng([seed, 77])
    rows, blocks = world.rows, world.blocks
    member = None if blocks is None else generator.integers(0, blocks, rows).astype(np.int32)

    def noise(share: float) -> Floats:
        alone = generator.normal(size=rows)
        if member is None or blocks is None or share == 0:
            return alone
        return np.sqrt(1 - share) * alone + np.sqrt(share) * generator.normal(size=blocks)[member]

    x, inside = generator.normal(size=rows), generator.uniform(size=rows) < 0.2
    shift = noise(1.0) * world.common if world.common else 0.0
    chance = sigmoid(world.intercept + 1.5 * x + shift)
    labels = (generator.uniform(size=rows) < chance).astype(np.int8)
    shared = np.sqrt(world.alike) * noise(world.common) if world.alike else 0.0
    scores = []
    for spread in world.noise:
        own = np.sqrt(1 - world.alike) * noise(world.common)
        score = sigmoid(world.intercept + world.slope * (x + spread * (own + shared)))
        scores.append(score if world.grid is None else np.round(score * world.grid) / world.grid)
    return Sample(labels, chance, scores[0], scores[1], member, inside)


def sigmoid(odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-odds)))


def costs(sample: Sample, scores: Floats) -> Floats:
    return metrics.costs(sample.labels, scores, sample.threshold, *COSTS)


Interval = Callable[[Sample, Bootstrap, float], Estimate]
Value = Callable[[Sample], float]


@dataclass(frozen=True)
class Statistic:
    """Something measured: its interval on a sample, its value on one so large that it is the truth."""

    interval: Interval
    truth: Value


def _mean(of: Callable[[Sample, Floats], Floats]) -> Statistic:
    return Statistic(
        lambda s, boot, level: performance.mean_estimate(of(s, s.challenger), boot, level),
        lambda s: float(of(s, s.challenger).mean()),
    )


def _difference(of: Callable[[Sample, Floats], Floats]) -> Statistic:
    return Statistic(
        lambda s, boot, level: comparison.mean_difference(
            of(s, s.champion), of(s, s.challenger), boot, level
        ),
        lambda s: float((of(s, s.challenger) - of(s, s.champion)).mean()),
    )


def _slice(sample: Sample, boot: Bootstrap, level: float) -> Estimate:
    rows = np.flatnonzero(sample.inside)
    losses = [metrics.log_losses(sample.labels, s)[rows] for s in (sample.champion, sample.challenger)]
    values = losses[1] - losses[0]
    sums = np.column_stack([boot.block_sums(v, rows) for v in (values, np.ones(len(rows)))])
    totals = boot.totals(sums)
    return boot.interval(float(values.mean()), totals[:, 0] / totals[:, 1], level)


def _calibration_error(sample: Sample) -> float:
    """The true one of the estimator's bins: expected labels instead of labels."""
    found = metrics.calibration(sample.labels, sample.challenger)
    gap = np.bincount(found.codes, weights=sample.challenger - sample.chance) / found.rows
    return float(np.abs(gap) @ found.rows / found.rows.sum())


def _log_losses(sample: Sample, scores: Floats) -> Floats:
    return metrics.log_losses(sample.labels, scores)


def _squared_errors(sample: Sample, scores: Floats) -> Floats:
    return metrics.squared_errors(sample.labels, scores)


def _area_difference(area: Callable[[Labels, Floats], float]) -> Value:
    return lambda s: area(s.labels, s.challenger) - area(s.labels, s.champion)


STATISTICS: dict[str, Statistic] = {
    "AUC": Statistic(
        lambda s, boot, level: performance.auc_estimate(s.labels, s.challenger, boot, level),
        lambda s: metrics.auc(s.labels, s.challenger),
    ),
    "AUC difference": Statistic(
        lambda s, boot, level: comparison.auc_difference(s.labels, s.champion, s.challenger, boot, level),
        _area_difference(metrics.auc),
    ),
    "PR-AUC": Statistic(
        lambda s, boot, level: performance.average_precision_estimate(s.labels, s.challenger, boot, level),
        lambda s: metrics.average_precision(s.labels, s.challenger),
    ),
    "PR-AUC difference": Statistic(
        lambda s, boot, level: comparison.average_precision_difference(
            s.labels, s.champion, s.challenger, boot, level
        ),
        _area_difference(metrics.average_precision),
    ),
    "log loss": _mean(_log_losses),
    "log loss difference": _difference(_log_losses),
    "Brier": _mean(_squared_errors),
    "Brier difference": _difference(_squared_errors),
    "cost": _mean(costs),
    "cost difference": _difference(costs),
    "slice log loss difference": Statistic(
        _slice, lambda s: float((_log_losses(s, s.challenger) - _log_losses(s, s.champion)).mean())
    ),
    "calibration error": Statistic(
        lambda s, boot, level: calibration.calibrate(s.labels, s.challenger, boot, level).error,
        _calibration_error,
    ),
    "calibration slope": Statistic(
        lambda s, boot, level: calibration.calibrate(s.labels, s.challenger, boot, level).slope,
        lambda s: metrics.calibration_line(s.labels, s.challenger)[0],
    ),
    "recall": Statistic(
        lambda s, boot, level: performance.share_estimate(
            s.challenger >= s.threshold, s.labels == 1, boot, level
        ),
        lambda s: float((s.challenger[s.labels == 1] >= s.threshold).mean()),
    ),
    "precision": Statistic(
        lambda s, boot, level: performance.share_estimate(
            s.labels == 1, s.challenger >= s.threshold, boot, level
        ),
        lambda s: float((s.labels[s.challenger >= s.threshold] == 1).mean()),
    ),
}


def truth(world: World, name: str) -> float:
    """Value of a statistic in the whole population: half a million rows, in a tenth as many blocks."""
    return _truth(replace(world, rows=TRUTH_ROWS, blocks=world.blocks and TRUTH_ROWS // 10), name)


@cache
def _truth(population: World, name: str) -> float:
    return STATISTICS[name].truth(_population(population))


@lru_cache(maxsize=2)
def _population(population: World) -> Sample:
    return draw(population, 1)


def coverage(
    world: World, names: list[str], repeats: int, *, replicates: int = 400, blocked: bool = True
) -> dict[str, float]:
    """Share of samples whose 95 % interval holds the truth, by statistic.

    Args:
        world: Where samples come from.
        names: Statistics.
        repeats: Samples.
        replicates: Of the bootstrap.
        blocked: False ignores the world's blocks.
    """
    covered = dict.fromkeys(names, 0)
    for seed in range(repeats):
        sample = draw(world, seed + 1000)
        boot = Bootstrap.plan(world.rows, replicates, seed, sample.blocks if blocked else None)
        for name in names:
            found = STATISTICS[name].interval(sample, boot, 0.95)
            covered[name] += found.low <= truth(world, name) <= found.high
    return {name: count / repeats for name, count in covered.items()}


def scored(sample: Sample, *, champion: Floats | None = None) -> Any:
    """The sample as the evaluation sees it: what `compare` and `measure` read of an `arms.Scored`."""

    def arm(scores: Floats) -> Any:
        return SimpleNamespace(
            scores=scores, digest="0" * 64, info=SimpleNamespace(threshold=sample.threshold)
        )

    return SimpleNamespace(
        labels=sample.labels,
        challenger=arm(sample.challenger),
        champion=arm(sample.champion if champion is None else champion),
        champion_version="4",
        champion_problem=None,
        blocks=sample.blocks,
    )
