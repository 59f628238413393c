"""The judge's promise, kept in small: a canary that is no worse is failed with a chance of at most alpha.

The full simulation (2,000 rollouts per scenario) is `benchmarks/judge.py`. Seeds are fixed, so these never flicker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from airworthy.rollout.judge import Judge
from airworthy.serving.observation import Observation
from tests.unit.rollout.simulate import GOOD, World

ROLLOUTS = 60
MOST = 9
"""Of 60: with a true chance of 5 %, more than this happens once in 1,000 times."""


def failures(world: World, seen_as: Callable[[Observation], Observation] = lambda seen: seen) -> int:
    failed = 0
    for seed in range(ROLLOUTS):
        judge = Judge(world.settings)
        failed += any(judge.compare(pair) for pair in world.shadow(seed)) or any(
            judge.observe(seen_as(seen)) for seen in world.observations(seed)
        )
    return failed


@pytest.mark.parametrize("scenario", GOOD)
def test_a_canary_that_is_no_worse_is_seldom_failed(scenario: str) -> None:
    assert failures(GOOD[scenario]) <= MOST


def test_the_simulation_notices_a_judge_that_is_told_a_wrong_share() -> None:
    many_events = replace(GOOD["ramp, failing at the limit"], requests=1000)
    assert failures(many_events, lambda seen: replace(seen, share=seen.share * 0.6)) > MOST


def test_the_simulation_notices_a_judge_that_keeps_old_references() -> None:
    """The share of an earlier request: what a gateway that follows late would lead to without a settle time."""
    late: list[float] = []

    def lagging(seen: Observation) -> Observation:
        late.append(seen.share)
        return replace(seen, share=late[-400] if len(late) > 400 and late[-400] <= seen.share else seen.share)

    assert failures(replace(GOOD["ramp, failing at the limit"], requests=1800), lagging) > MOST


def test_the_same_observations_give_the_same_judgement() -> None:
    seen = GOOD["ramp, outage of both arms"].observations(1)
    first, second = (
        Judge(GOOD["ramp, outage of both arms"].settings),
        Judge(GOOD["constant load, 10 %"].settings),
    )
    for observation in seen:
        first.observe(observation)
        second.observe(observation)
    assert first.evidence == second.evidence
