"""The rollout judge, measured: how often it fails a good canary, how soon it stops a bad one.

    python -m benchmarks.judge [--rollouts 2000] [--jobs 2]

Beside it, on the same streams, what other tools do: a threshold on the canary's error rate per interval, and a
z-test on both arms' pooled rates every 100 requests. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

from airworthy.rollout.judge import Judge, Settings
from airworthy.serving.observation import Arm, Observation
from tests.unit.rollout.simulate import Rate, Share, constant, ramp, stream

STRICT = Settings(max_latency_increase=0.0)
REQUESTS = 1500
STEPS = (0.05, 0.25, 0.5)


def one_percent(_: int, __: Arm) -> float:
    return 0.01


def outage(i: int, _: Arm) -> float:
    return 0.5 if 600 <= i < 750 else 0.01


def day(i: int, _: Arm) -> float:
    return 0.02 + 0.018 * math.sin(i / 80)


def worse(rate: float) -> Rate:
    return functools.partial(_worse, rate)


def _worse(rate: float, _: int, arm: Arm) -> float:
    return rate if arm == "canary" else 0.01


GOOD: dict[str, tuple[Share, Rate]] = {
    "constant load, 10 %": (constant(0.1), one_percent),
    "ramp 5/25/50 %": (ramp(STEPS, 500), one_percent),
    "ramp, error rate of the day": (ramp(STEPS, 500), day),
    "ramp, outage of both arms": (ramp(STEPS, 500), outage),
}


def e_process(observations: Iterable[Observation]) -> tuple[int, int] | None:
    """Requests (all, canary) until our judge fails the canary; None if it doesn't."""
    judge = Judge(STRICT)
    for number, seen in enumerate(observations):
        if judge.observe(seen):
            return number + 1, judge.counts["canary"].requests
    return None


def z_test(observations: Iterable[Observation]) -> tuple[int, int] | None:
    """Pooled two-proportion z-test at 5 %, one-sided, every 100 requests."""
    bad, total = {"stable": 0, "canary": 0}, {"stable": 0, "canary": 0}
    for number, seen in enumerate(observations, 1):
        total[seen.arm] += 1
        bad[seen.arm] += seen.failed
        if number % 100 or not all(total.values()):
            continue
        pooled = sum(bad.values()) / sum(total.values())
        spread = math.sqrt(pooled * (1 - pooled) * sum(1 / n for n in total.values()))
        if spread and (bad["canary"] / total["canary"] - bad["stable"] / total["stable"]) / spread > 1.645:
            return number, total["canary"]
    return None


def threshold(observations: Iterable[Observation], limit: float = 0.05) -> tuple[int, int] | None:
    """A gate on the canary's error rate per interval of 100 requests, such as Flagger and Argo Rollouts use."""
    canary = bad = seen_canary = 0
    for number, seen in enumerate(observations, 1):
        if seen.arm == "canary":
            canary, bad, seen_canary = canary + 1, bad + seen.failed, seen_canary + 1
        if number % 100 == 0:
            if canary and bad / canary > limit:
                return number, seen_canary
            canary = bad = 0
    return None


METHODS: dict[str, Callable[[Iterable[Observation]], tuple[int, int] | None]] = {
    "e-process (ours)": e_process,
    "z-test every 100": z_test,
    "5 % threshold per 100": threshold,
}


def _failed_good(job: tuple[str, int]) -> list[bool]:
    name, seed = job
    share, error = GOOD[name]
    seen = list(stream(seed, REQUESTS, share=share, error=error))
    return [method(seen) is not None for method in METHODS.values()]


def _stopped_bad(job: tuple[Rate, float, float, float, int, int]) -> tuple[int, int] | None:
    error, slower, shift, share, requests, seed = job
    return e_process(stream(seed, requests, share=constant(share), error=error, slower=slower, shift=shift))


def upper_bound(failed: int, runs: int) -> float:
    """Upper end of the 95 % Wilson interval."""
    z, p = 1.96, failed / runs
    middle = p + z * z / (2 * runs)
    return (middle + z * math.sqrt(p * (1 - p) / runs + z * z / (4 * runs * runs))) / (1 + z * z / runs)


def lines(rollouts: int, jobs: int) -> Iterator[str]:
    """The results, as Markdown."""
    with ProcessPoolExecutor(jobs) as pool:
        yield f"Good canary failed, of {rollouts:,} rollouts (95 % upper bound); promised: at most 5 %."
        yield "| scenario | " + " | ".join(METHODS) + " |"
        yield "|---|" + "---:|" * len(METHODS)
        for name in GOOD:
            found = list(pool.map(_failed_good, [(name, seed) for seed in range(rollouts)], chunksize=20))
            counts = [sum(row[k] for row in found) for k in range(len(METHODS))]
            cells = [f"{n / rollouts:.1%} ({upper_bound(n, rollouts):.1%})" for n in counts]
            yield f"| {name} | " + " | ".join(cells) + " |"
        runs = max(50, rollouts // 10)
        yield f"\nBad canary stopped after (median and 90 % of {runs} rollouts, after the warm-up of 200)."
        yield "| canary | share | canary requests: median | 90 % | all requests: median |"
        yield "|---|---:|---:|---:|---:|"
        for what, error, slower, shift, share, most in (
            ("errors 1 % → 30 %", worse(0.3), 1.0, 0.0, 0.1, 4000),
            ("errors 1 % → 5 %", worse(0.05), 1.0, 0.0, 0.1, 12000),
            ("latency × 1.5", one_percent, 1.5, 0.0, 0.1, 6000),
            ("latency × 2", one_percent, 2.0, 0.0, 0.1, 6000),
            ("latency × 2", one_percent, 2.0, 0.0, 0.5, 6000),
        ):
            tasks = [(error, slower, shift, share, most, 10_000 + seed) for seed in range(runs)]
            ends = [end or (most + 200, most) for end in pool.map(_stopped_bad, tasks, chunksize=5)]
            canary = sorted(end[1] for end in ends)
            total = statistics.median(end[0] - 200 for end in ends)
            yield (
                f"| {what} | {share:.0%} | {statistics.median(canary):.0f} | {canary[int(0.9 * runs)]} "
                f"| {total:.0f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    for line in lines(options.rollouts, options.jobs):
        print(line, flush=True)


if __name__ == "__main__":
    main()
