"""Simulated clusters whose targets are scraped: no false alarms in outages and stalls that hit both arms."""

from __future__ import annotations

import bisect
import math
import random
from collections import Counter
from dataclasses import dataclass

import pytest

from airworthy.rollout.judge import Judge, Settings
from airworthy.rollout.signals.batches import observations
from airworthy.rollout.signals.counters import Scrape, Series, Target
from airworthy.rollout.signals.families import FAMILIES, Family
from airworthy.rollout.signals.watch import Watch
from airworthy.serving.observation import Arm

EDGES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, math.inf)
GATEWAY, PODS = FAMILIES["istio"], FAMILIES["knative-otel"]
INTERVAL = 5.0
RATE = 40.0


@dataclass(frozen=True)
class World:
    """What happens: to both arms in turns of `trouble`, and to the canary always."""

    trouble: bool = False
    slower: float = 1.0
    failing: float = 0.005


def rollout(family: Family, world: World, seed: int, share: float = 0.2, seconds: float = 240.0) -> Judge:
    """One rollout, judged as evidence comes in; two gateways, or two stable pods and one canary pod."""
    generator = random.Random(seed)
    judge = Judge(Settings(max_latency_increase=0.0))
    watch = Watch(0.0, 0 if family.sees_both else 4)
    names = ("a", "b") if family.sees_both else ("a", "b", "canary")
    targets: dict[Target, dict[Series, dict[float, int]]] = {("job", name): {} for name in names}
    due = {target: generator.random() * INTERVAL for target in targets}
    now, polled, trouble_ends, index = 0.0, 0.0, 0.0, 0
    while now < seconds:
        now += generator.expovariate(RATE)
        for target, sums in targets.items():
            if due[target] <= now:
                shown = {series: dict(values) for series, values in sums.items()}
                watch.add({target: [Scrape(due[target], shown)]} if shown else {}, {})
                due[target] += INTERVAL
        if now - polled > 3.0:
            polled = now
            for seen in observations(batch, family, share, index) if (batch := watch.take(now)) else ():
                judge.observe(seen)
                index += 1
            if judge.complete():
                break
        if world.trouble and generator.random() < 1 / (RATE * 30):
            trouble_ends = now + generator.uniform(1, 15)
        arm: Arm = "canary" if generator.random() < share else "stable"
        troubled = now < trouble_ends
        answer = generator.lognormvariate(-5, 0.6) * (20 if troubled else 1)
        failing = 0.5 if troubled else 0.005
        if arm == "canary":
            answer, failing = answer * world.slower, max(failing, world.failing)
        status = "500" if generator.random() < failing else "200"
        place = "canary" if arm == "canary" and not family.sees_both else generator.choice("ab")
        sums = targets["job", place].setdefault(Series(arm, status, True, ()), dict.fromkeys(EDGES, 0))
        for edge in EDGES[bisect.bisect_left(EDGES, answer) :]:
            sums[edge] += 1
    return judge


@pytest.mark.parametrize("family", [GATEWAY, PODS], ids=["gateways", "pods"])
@pytest.mark.parametrize("trouble", [False, True], ids=["calm", "trouble"])
def test_a_canary_that_is_not_worse_is_rarely_failed(family: Family, trouble: bool) -> None:
    judges = [rollout(family, World(trouble), seed) for seed in range(12)]
    failed = [judge.failure for judge in judges if judge.failure]
    assert len(failed) <= 2, failed  # more of 12 at 5 % each: probability 0.02
    assert all(judge.counts["canary"].requests > 1000 for judge in judges if not judge.failure)


@pytest.mark.parametrize("family", [GATEWAY, PODS], ids=["gateways", "pods"])
def test_a_failing_canary_is_found(family: Family) -> None:
    found = Counter(
        judge.failure.process if judge.failure else "none"
        for judge in (rollout(family, World(failing=0.1), seed) for seed in range(6))
    )
    assert found["errors"] == 6


def test_a_slow_canary_is_found_where_gateways_count() -> None:
    judges = [rollout(GATEWAY, World(slower=1.5), seed) for seed in range(4)]
    assert [judge.failure.process if judge.failure else "none" for judge in judges] == ["latency"] * 4


def test_times_that_targets_of_their_own_show_are_not_compared() -> None:
    judge = rollout(PODS, World(slower=3.0), seed=1)
    assert judge.failure is None
    assert judge.evidence["latency"] == 1.0
