"""The evaluation gate, measured where the truth is known: coverage, false promotions, false alarms, power.

    python -m benchmarks.gate [--repeats 1000] [--jobs 2] [--quick] [--no-flights]

Simulated champions and challengers (`tests/unit/evaluation/simulate.py`), seeds fixed; then two really trained models
on the flights of the feature repo (`benchmarks/gate_flights.py`). Prints Markdown.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np

from airworthy.evaluation import slices
from airworthy.evaluation.comparison import HIGHER_IS_BETTER, POWERED
from airworthy.evaluation.statistics import metrics, parts, significance
from airworthy.evaluation.statistics.resampling import Bootstrap
from airworthy.evaluation.statistics.significance import Estimate
from airworthy.model_spec import SlicePolicy
from benchmarks import gate_flights
from tests.unit.evaluation.simulate import STATISTICS, World, coverage, draw, truth
from tests.unit.evaluation.simulated_slices import two_models

NAMES = {
    "auc": "AUC difference",
    "pr_auc": "PR-AUC difference",
    "log_loss": "log loss difference",
    "brier": "Brier difference",
    "cost": "cost difference",
}
MARGINS = {"auc": (0.005, 0.01), "pr_auc": (0.01, 0.02), "log_loss": (0.005, 0.01), "brier": (0.002, 0.005)}
MARGINS["cost"] = (0.01, 0.02)
RETRAINED = World(rows=5000, alike=0.8)
RARE = replace(RETRAINED, intercept=-4.4)
COVERED: dict[str, tuple[World, bool]] = {
    "n 1,000": (World(rows=1000), True),
    "n 5,000": (World(rows=5000), True),
    "ties": (World(rows=1000, grid=20), True),
    "3 % positives, n 1,000": (World(rows=1000, intercept=-4.4), True),
    "3 % positives, n 5,000": (World(rows=5000, intercept=-4.4), True),
    "100 blocks of 50, as blocks": (World(rows=5000, blocks=100, common=0.5), True),
    "the same, as rows": (World(rows=5000, blocks=100, common=0.5), False),
    "20 blocks of 250, as blocks": (World(rows=5000, blocks=20, common=0.5), True),
}


def _covered(job: tuple[str, list[str], int]) -> dict[str, float]:
    kind, names, repeats = job
    world, blocked = COVERED[kind]
    return coverage(world, names, repeats, blocked=blocked)


def covered(pool: ProcessPoolExecutor, repeats: int) -> Iterator[str]:
    """Share of 95 % intervals that hold the truth."""
    jobs = [(kind, list(STATISTICS), repeats) for kind in COVERED]
    columns = dict(zip(COVERED, pool.map(_covered, jobs), strict=True))
    yield f"**Coverage** of 95 % intervals, of {repeats:,} samples each.\n"
    yield "| statistic | " + " | ".join(columns) + " |"
    yield "|---|" + "---:|" * len(columns)
    for name in STATISTICS:
        yield f"| {name} | " + " | ".join(f"{column[name]:.1%}" for column in columns.values()) + " |"


def compared(metric: str, world: World, seed: int) -> Estimate:
    """The gain of one sample: the difference with better above zero."""
    sample = draw(world, seed + 50_000)
    e = STATISTICS[NAMES[metric]].interval(sample, Bootstrap.plan(world.rows, 400, seed), 0.95)
    return e if metric in HIGHER_IS_BETTER else replace(e, value=-e.value, low=-e.high, high=-e.low)


def _outcomes(job: tuple[str, World, float, int]) -> tuple[float, float, float]:
    """Shares that look better, pass and fail against a margin (zero: superiority)."""
    metric, world, margin, repeats = job
    gains = [compared(metric, world, seed) for seed in range(repeats)]
    policy = "non_inferiority" if margin else "superiority"
    decided = [significance.decide(gain, margin, policy) for gain in gains]  # type: ignore[arg-type]
    better = sum(gain.value > 0 for gain in gains)
    return better / repeats, decided.count("pass") / repeats, decided.count("fail") / repeats


def equal_models(pool: ProcessPoolExecutor, repeats: int) -> Iterator[str]:
    """Promotions of a challenger that is as good as the champion."""
    yield f"\n**Equal models promoted**, of {repeats:,} samples each; promised: at most 5 % under superiority.\n"
    yield "| primary metric | rows | looks better | promoted under superiority |"
    yield "|---|---:|---:|---:|"
    kinds = [(metric, rows) for metric in NAMES for rows in (1000, 5000)]
    jobs = [(metric, replace(RETRAINED, rows=rows), 0.0, repeats) for metric, rows in kinds]
    for (metric, rows), (better, passed, _) in zip(kinds, pool.map(_outcomes, jobs), strict=True):
        yield f"| `{metric}` | {rows:,} | {better:.0%} | {passed:.1%} |"


@functools.cache
def needed(metric: str, world: World, margin: float) -> int:
    """Rows for which an equal model passes, and one worse by twice the margin surely fails, with 80 %."""
    errors = [compared(metric, world, seed).error or math.nan for seed in range(20)]
    return math.ceil(world.rows * (POWERED * float(np.mean(errors)) / margin) ** 2)


def worse(metric: str, world: World, amount: float) -> World:
    """The same world with a challenger whose noise makes it worse by `amount`."""
    sign = -1 if metric in HIGHER_IS_BETTER else 1
    low, high = world.noise[0], world.noise[0] * 4
    for _ in range(14):
        middle = (low + high) / 2
        harm = sign * truth(replace(world, noise=(world.noise[0], middle)), NAMES[metric])
        low, high = (middle, high) if harm < amount else (low, middle)
    return replace(world, noise=(world.noise[0], low))


def _power(job: tuple[str, float, int]) -> str:
    metric, margin, repeats = job
    rows = needed(metric, RETRAINED, margin)
    # Losses and costs shrink with the positives, and sensible margins with them; areas don't.
    rare = f"{needed(metric, RARE, margin):,}" if metric in HIGHER_IS_BETTER else ""
    world = replace(RETRAINED, rows=rows)
    _, equal, _ = _outcomes((metric, world, margin, repeats))
    _, passed, failed = _outcomes((metric, worse(metric, world, 2 * margin), margin, repeats))
    return f"| `{metric}` | {margin:g} | {rows:,} | {rare} | {equal:.0%} | {1 - passed:.1%} | {failed:.0%} |"


def power(pool: ProcessPoolExecutor, repeats: int) -> Iterator[str]:
    """Rows that a margin asks for, and what the gate does with as many."""
    yield (
        f"\n**Rows that a margin asks for**, a model against its retrained self; what the gate did at 30 % positives "
        f"with as many rows, of {repeats:,} samples each. Promised: worse by twice the margin is refused in 80 %.\n"
    )
    heads = (
        "rows, 30 % positives",
        "rows, 3 %",
        "equal: passes",
        "twice the margin: refused",
        "surely worse",
    )
    yield "| metric | margin | " + " | ".join(heads) + " |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    yield from pool.map(_power, [(metric, m, repeats) for metric, pair in MARGINS.items() for m in pair])


def _sliced(job: tuple[str, int, int | None, int]) -> dict[str, bool]:
    """Who refuses an equal challenger because of some slice."""
    correction, rows, blocks, seed = job
    drawn = np.random.default_rng([seed, 9]).integers(0, 40, rows).astype(str)
    item = two_models(rows, seed, blocks=blocks, columns={"part": drawn})
    policy = SlicePolicy(margin=0.0, correction=correction)  # type: ignore[arg-type]
    checks, findings = slices.assess(item.scored, ["part"], policy, item.boot(), 0.95)
    excess = [f.difference.value for f in findings if f.difference is not None]
    losses = [metrics.log_losses(item.labels, s) for s in (item.champion, item.challenger) if s is not None]
    cut = parts.partition("part", item.scored.columns)
    raw = parts.means(losses[1] - losses[0], cut.codes, 40, None)
    return {
        "ours": any(check.outcome == "fail" for check in checks),
        "uncorrected, p < 0.05": any(raw.p_above(part, 0.0) < 0.05 for part in range(40)),
        "none may look worse": any(value > 0 for value in excess),
    }


def unchanged_slices(pool: ProcessPoolExecutor, repeats: int) -> Iterator[str]:
    """False alarms over 40 slices."""
    yield (
        f"\n**Equal models rejected over 40 unchanged slices** (margin 0), of {repeats:,} samples each; promised: at "
        "most 5 %.\n"
    )
    yield "| rows | correction | ours | uncorrected, p < 0.05 | none may look worse |"
    yield "|---|---|---:|---:|---:|"
    kinds = [("holm", 12_000, None), ("bh", 12_000, None), ("holm", 12_000, 400), ("holm", 60_000, None)]
    for correction, rows, blocks in kinds:
        jobs = [(correction, rows, blocks, seed) for seed in range(repeats)]
        found = list(pool.map(_sliced, jobs, chunksize=10))
        cells = [f"{np.mean([each[rule] for each in found]):.1%}" for rule in found[0]]
        told = f"{rows:,}" + (f" in {blocks} blocks" if blocks else "")
        yield f"| {told} | {correction} | " + " | ".join(cells) + " |"


def lines(repeats: int, jobs: int, flights: bool) -> Iterator[str]:
    """The results, as Markdown."""
    began = time.perf_counter()
    with ProcessPoolExecutor(jobs) as pool:
        yield from covered(pool, repeats)
        yield from equal_models(pool, repeats)
        yield from unchanged_slices(pool, max(20, repeats // 2))
        yield from power(pool, max(20, repeats // 5))
    if flights:
        yield from gate_flights.lines(200 if repeats < 1000 else 1000)
    yield f"\n{time.perf_counter() - began:.0f} s with {jobs} processes."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="60 samples: a look, no proof")
    parser.add_argument("--no-flights", dest="flights", action="store_false", help="simulations only")
    options = parser.parse_args()
    for line in lines(60 if options.quick else options.repeats, options.jobs, options.flights):
        print(line, flush=True)


if __name__ == "__main__":
    main()
