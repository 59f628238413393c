"""Simulated rollouts: streams of observations with known truth, for tests of the judge."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from airworthy.serving.observation import Arm, Observation

Share = Callable[[int], float]
Rate = Callable[[int, Arm], float]


def constant(share: float) -> Share:
    return lambda _: share


def ramp(steps: tuple[float, ...], each: int) -> Share:
    """Shares that stay `each` requests long, the last one for ever."""
    return lambda i: steps[min(i // each, len(steps) - 1)]


def stream(
    seed: int,
    requests: int,
    *,
    share: Share,
    error: Rate = lambda i, arm: 0.01,
    slower: float = 1.0,
    shift: float = 0.0,
    warm_up: int = 200,
) -> Iterator[Observation]:
    """Requests after a stable warm-up; latencies are lognormal, scores uniform (the canary's moved by
    `shift`)."""
    dice = random.Random(seed)
    for i in range(-warm_up, requests):
        now = share(i) if i >= 0 else 0.0
        arm: Arm = "canary" if dice.random() < now else "stable"
        failed = dice.random() < error(max(i, 0), arm)
        seconds = dice.lognormvariate(-6, 0.5) * (slower if arm == "canary" else 1.0)
        score = min(1.0, max(0.0, dice.random() + (shift if arm == "canary" else 0.0)))
        index = i + warm_up
        yield Observation(
            index, float(index), arm, now, "error" if failed else "ok", seconds, None if failed else score
        )
