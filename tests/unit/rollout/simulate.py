"""Simulated rollouts with known truth, for tests of the judge and for `benchmarks/judge.py`.

Streams are drawn with numpy, whole rollouts at a time, from fixed seeds; observations come in order of completion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from airworthy.rollout.settings import Settings
from airworthy.serving.observation import Arm, Observation, Pair

Floats = NDArray[np.float64]
Share = Callable[[Floats], Floats]
"""Number of each request (from 0, after the warm-up) to the canary's share."""
Rate = Callable[[Floats, NDArray[np.bool_]], Floats | float]
"""Numbers and whether each is the canary's, to the probability that it fails."""
Times = Callable[[np.random.Generator, Floats, NDArray[np.bool_]], Floats]
"""Arrival seconds and whether each is the canary's, to the seconds each takes."""

STRICT = Settings(max_latency_increase=0.0)
STEPS = (0.05, 0.25, 0.5, 1.0)


def constant(share: float) -> Share:
    return lambda i: np.full(len(i), share)


def ramp(steps: Sequence[float] = STEPS, each: int = 500) -> Share:
    """Shares that stay `each` requests long, the last one for ever."""
    return lambda i: np.asarray(steps)[np.minimum(i // each, len(steps) - 1).astype(int)]


def errors(stable: float, canary: float | None = None) -> Rate:
    return lambda i, is_canary: np.where(is_canary, stable if canary is None else canary, stable)


def outage(i: Floats, _: NDArray[np.bool_]) -> Floats:
    return np.where((i >= 600) & (i < 750), 0.5, 0.01)


def day(i: Floats, _: NDArray[np.bool_]) -> Floats:
    return 0.02 + 0.018 * np.sin(i / 80)


def plain(dice: np.random.Generator, at: Floats, _: NDArray[np.bool_]) -> Floats:
    return dice.lognormal(-6, 0.5, len(at))


def slow_evenings(dice: np.random.Generator, at: Floats, _: NDArray[np.bool_]) -> Floats:
    return dice.lognormal(-6, 0.5, len(at)) * np.exp(0.7 * np.sin(at / 15))


def heavy(dice: np.random.Generator, at: Floats, _: NDArray[np.bool_]) -> Floats:
    """Lognormal, but one request of ten has a Pareto tail without a variance."""
    tail = 0.005 * (1 + dice.pareto(1.1, len(at)))
    return np.where(dice.random(len(at)) < 0.1, tail, dice.lognormal(-6, 0.5, len(at)))


def shared_stalls(dice: np.random.Generator, at: Floats, _: NDArray[np.bool_]) -> Floats:
    return plain(dice, at, _) + _stalled(dice, at)


def own_stalls(dice: np.random.Generator, at: Floats, canary: NDArray[np.bool_]) -> Floats:
    """Each arm's server stops at times of its own, equally often."""
    return plain(dice, at, canary) + np.where(canary, _stalled(dice, at), _stalled(dice, at))


def _stalled(dice: np.random.Generator, at: Floats, every: float = 1.0, seconds: float = 0.1) -> Floats:
    """How long requests that arrive in a pause wait for its end."""
    starts = np.cumsum(dice.exponential(every, int(3 * at[-1] / every) + 20))
    since = at - np.concatenate([[-1e9], starts])[np.searchsorted(starts, at, side="right")]
    return np.maximum(0.0, seconds - since)


@dataclass(frozen=True)
class World:
    """What is true in a simulated rollout.

    Attributes:
        share: Canary's share per request.
        error: Failure probability per request.
        times: Seconds per request, the same law for both arms.
        slower: The canary's times are multiplied by this.
        shift: The canary's scores are moved by so many standard deviations (of their logit).
        pace: Requests a second, by request number.
        requests: After the warm-up.
        poll: Seconds per poll, if evidence comes as sums; 0: single requests.
        pairs: Shadow pairs that precede it, failing and flipping at the tolerated rates.
        settings: The judge's.
    """

    share: Share = field(default_factory=lambda: constant(0.1))
    error: Rate = field(default_factory=lambda: errors(0.01))
    times: Times = plain
    slower: float = 1.0
    shift: float = 0.0
    pace: Callable[[Floats], Floats] = lambda i: np.full(len(i), 10.0)
    requests: int = 1800
    poll: float = 0.0
    pairs: int = 0
    settings: Settings = STRICT

    def observations(self, seed: int) -> list[Observation]:
        """One rollout, from the stable warm-up on."""
        dice = np.random.default_rng(seed)
        warm_up = self.settings.warm_up
        number = np.arange(-warm_up, self.requests, dtype=float)
        shares = np.where(number < 0, 0.0, self.share(np.maximum(number, 0)))
        at = np.cumsum(dice.exponential(1.0, len(number)) / self.pace(np.maximum(number, 0)))
        canary = dice.random(len(number)) < shares
        bad = dice.random(len(number)) < self.error(np.maximum(number, 0), canary)
        seconds = self.times(dice, at, canary) * np.where(canary, self.slower, 1.0)
        score = 1 / (1 + np.exp(-dice.normal(size=len(number)) - self.shift * canary))
        done = np.argsort(at + seconds, kind="stable")
        columns = (at, canary, shares, bad, seconds, score)
        rows = zip(*(column[done].tolist() for column in columns), strict=True)
        seen = [
            Observation(i, t, "canary" if c else "stable", q, "error" if b else "ok", s, None if b else p)
            for i, (t, c, q, b, s, p) in enumerate(rows)
        ]
        return list(polled(seen, self.poll)) if self.poll else seen

    def shadow(self, seed: int) -> list[Pair]:
        """Pairs whose failures are equally likely on both arms, and flips as likely as tolerated."""
        dice = np.random.default_rng((seed, 1))
        flips = dice.random(self.pairs) < (self.settings.max_flip_rate or 0.0)
        failed = dice.random((self.pairs, 2)) < 0.02
        return [
            Pair(
                i, float(i), "error" if canary else "ok", "error" if stable else "ok",
                None if canary else (0.9 if flip else 0.2), None if stable else 0.21, 0.01, 0.01,
            )
            for i, (flip, (canary, stable)) in enumerate(zip(flips.tolist(), failed.tolist(), strict=True))
        ]  # fmt: skip


def polled(observations: Sequence[Observation], every: float) -> Iterator[Observation]:
    """The same as sums per poll, with latencies in buckets of 30 %: what metrics of a gateway tell."""

    def poll(seen: Observation) -> tuple[float, float]:
        return (math.ceil((seen.at + seen.seconds) / every) * every, seen.share)

    index = 0
    for (at, share), group in groupby(observations, key=poll):
        sums: dict[tuple[Arm, str, float], int] = {}
        for seen in group:
            bucket = 1.3 ** math.ceil(math.log(seen.seconds, 1.3)) if seen.result == "ok" else 0.0
            key = (seen.arm, seen.result, bucket)
            sums[key] = sums.get(key, 0) + 1
        for (arm, result, seconds), count in sorted(sums.items(), reverse=True):
            yield Observation(index, at, arm, share, result, seconds, None, count=count)  # type: ignore[arg-type]
            index += 1


ALL_PROCESSES = replace(STRICT, on_score_shift="fail", max_flip_rate=0.05, shadow=True)
GOOD: dict[str, World] = {
    "constant load, 10 %": World(),
    "ramp 5/25/50/100 %": World(ramp()),
    "ramp, failing at the limit": World(ramp(), errors(0.05)),
    "ramp, load, errors, latency of the day": World(
        ramp(), day, slow_evenings, pace=lambda i: 10 + 8 * np.sin(i / 200)
    ),
    "ramp, outage of both arms": World(ramp(), outage),
    "ramp, outage at 50 %": World(ramp((0.05, 0.5, 1.0)), outage),
    "ramp, heavy-tailed latency": World(ramp(), times=heavy),
    "ramp, stalls of both arms": World(ramp(), times=shared_stalls, pace=lambda i: np.full(len(i), 200.0)),
    "ramp, stalls of each arm": World(ramp(), times=own_stalls, pace=lambda i: np.full(len(i), 200.0)),
    "ramp, sums per poll of 15 s, outage": World(ramp(), outage, poll=15.0),
    "ramp, shadow, all processes": World(ramp(), pairs=400, settings=ALL_PROCESSES),
}
"""Rollouts of canaries that are no worse than stable."""
