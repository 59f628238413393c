"""The rollout judge, measured: how often it fails a good canary, how soon it stops a bad one.

    python -m benchmarks.judge [--rollouts 2000] [--jobs 2] [--quick]

Beside it, on the same requests, the decision rules of other tools (`benchmarks/rollout_rules.py`). Seeds are fixed.
Tolerances are 0 (`max_latency_increase: 0`, `max_error_increase: 0`), alpha is 0.05, scores only warn.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from airworthy.rollout.judge import Judge
from benchmarks.rollout_rules import GATES, Requests
from tests.unit.rollout.simulate import GOOD, STRICT, World, constant, errors, ramp

HARMFUL: dict[str, World] = {
    "errors 1 % → 5 %": World(ramp(), errors(0.01, 0.05)),
    "errors 1 % → 30 %": World(ramp(), errors(0.01, 0.3)),
    "latency × 1.5": World(ramp(), slower=1.5),
}
"""Bad canaries on the same ramp, for all methods."""


@dataclass(frozen=True)
class Effect:
    """A bad canary at a constant share.

    `targets`: median and 90 % of canary requests, and median of all requests after the warm-up; None: no target.
    """

    world: World
    targets: tuple[float | None, float | None, float | None] = (None, None, None)


def _effect(share: float, most: int, **changes: object) -> World:
    return replace(World(constant(share), requests=most), **changes)  # type: ignore[arg-type]


EFFECTS: dict[str, Effect] = {
    "errors 1 % → 5 %, 10 %": Effect(_effect(0.1, 12000, error=errors(0.01, 0.05)), (100, 260, None)),
    "errors 1 % → 30 %, 10 %": Effect(_effect(0.1, 3000, error=errors(0.01, 0.3)), (10, None, None)),
    "errors 1 % → 2 %, 50 %": Effect(_effect(0.5, 20000, error=errors(0.01, 0.02))),
    "errors 0.1 % → 1.1 %, 50 %": Effect(_effect(0.5, 12000, error=errors(0.001, 0.011))),
    "all fail, 10 %": Effect(_effect(0.1, 3000, error=errors(0.01, 1.0)), (15, 15, None)),
    "latency × 1.2, 10 %": Effect(_effect(0.1, 8000, slower=1.2)),
    "latency × 1.5, 10 %": Effect(_effect(0.1, 6000, slower=1.5), (None, None, 400)),
    "latency × 2, 10 %": Effect(_effect(0.1, 6000, slower=2.0)),
    "latency × 1.5, 50 %": Effect(_effect(0.5, 6000, slower=1.5)),
    "scores + 0.2 sd, 10 % (warns)": Effect(_effect(0.1, 20000, shift=0.2)),
    "scores + 0.5 sd, 10 % (warns)": Effect(_effect(0.1, 8000, shift=0.5), (None, None, 1000)),
    "scores + 0.5 sd, 10 % (fails)": Effect(
        _effect(0.1, 8000, shift=0.5, settings=replace(STRICT, on_score_shift="fail"))
    ),
}


def judged(world: World, seed: int) -> Judge:
    """The judge at the end of a rollout, or where it decided or warned."""
    judge = Judge(world.settings)
    for pair in world.shadow(seed):
        judge.compare(pair)
    for seen in world.observations(seed):
        if judge.observe(seen) or (world.shift and judge.warnings):
            break
    judge.complete()
    return judge


def _by_all(job: tuple[str, int]) -> list[bool]:
    name, seed = job
    world = (GOOD | HARMFUL)[name]
    seen = Requests.of(world.observations(seed))
    return [judged(world, seed).failure is not None, *(gate(seen) is not None for gate in GATES.values())]


def _by_judge(name: str, seed: int) -> tuple[int, int] | None:
    """Canary requests and all requests after the warm-up until it decided or warned; None if it did neither."""
    world = EFFECTS[name].world
    judge = judged(world, seed)
    if not judge.failure and not judge.warnings:
        return None
    canary, stable = judge.counts["canary"].requests, judge.counts["stable"].requests
    return canary, canary + stable - world.settings.warm_up


def upper_bound(failed: int, runs: int) -> float:
    """Upper end of the 95 % Wilson interval."""
    z, p = 1.96, failed / runs
    middle = p + z * z / (2 * runs)
    return (middle + z * math.sqrt(p * (1 - p) / runs + z * z / (4 * runs * runs))) / (1 + z * z / runs)


def by_method(pool: ProcessPoolExecutor, worlds: dict[str, World], rollouts: int) -> Iterator[str]:
    """Rolled back, per scenario and method, as rows of a table."""
    yield "| scenario | ours | " + " | ".join(GATES) + " |"
    yield "|---|" + "---:|" * (len(GATES) + 1)
    for name in worlds:
        found = list(pool.map(_by_all, [(name, seed) for seed in range(rollouts)], chunksize=10))
        ours, *others = (sum(column) for column in zip(*found, strict=True))
        cells = [f"{ours / rollouts:.1%} ({upper_bound(ours, rollouts):.1%})"]
        cells += [f"{count / rollouts:.0%}" for count in others]
        yield f"| {name} | " + " | ".join(cells) + " |"


def power(pool: ProcessPoolExecutor, rollouts: int) -> Iterator[str]:
    """How soon bad canaries are stopped, as a table with the targets."""
    yield "| canary | canary requests: median | 90 % | all requests: median | target | reached |"
    yield "|---|---:|---:|---:|---|---|"
    for name, effect in EFFECTS.items():
        seeds = range(10_000, 10_000 + rollouts)
        ends = list(pool.map(functools.partial(_by_judge, name), seeds, chunksize=5))
        most = (effect.world.requests, effect.world.requests)
        canary = sorted((end or most)[0] for end in ends)
        figures = (
            statistics.median(canary),
            canary[math.ceil(0.9 * rollouts) - 1],
            statistics.median((end or most)[1] for end in ends),
        )
        wanted = [
            f"{what} ≤ {target:.0f}"
            for what, target in zip(("median", "90 %", "all"), effect.targets, strict=True)
            if target is not None
        ]
        reached = all(t is None or f <= t for f, t in zip(figures, effect.targets, strict=True))
        cells = [f"{figure:.0f}" for figure in figures]
        verdict = ("yes" if reached else "NO") if wanted else ""
        yield f"| {name} | " + " | ".join(cells) + f" | {', '.join(wanted)} | {verdict} |"


def lines(rollouts: int, jobs: int) -> Iterator[str]:
    """The results, as Markdown."""
    began = time.perf_counter()
    with ProcessPoolExecutor(jobs) as pool:
        promise = "(95 % upper bound); promised: at most 5 %"
        yield f"**Good canaries rolled back**, of {rollouts:,} rollouts each {promise}.\n"
        yield from by_method(pool, GOOD, rollouts)
        fewer = max(20, rollouts // 4)
        yield f"\n**Bad canaries rolled back** during the ramp, of {fewer:,} rollouts each.\n"
        yield from by_method(pool, HARMFUL, fewer)
        yield f"\n**Requests until a bad canary is stopped**, after the warm-up of 200, of {fewer:,} rollouts each.\n"
        yield from power(pool, fewer)
    yield f"\n{time.perf_counter() - began:.0f} s with {jobs} processes."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="100 rollouts: a look, no proof")
    options = parser.parse_args()
    for line in lines(100 if options.quick else options.rollouts, options.jobs):
        print(line, flush=True)


if __name__ == "__main__":
    main()
