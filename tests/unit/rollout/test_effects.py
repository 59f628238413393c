"""The always-valid interval of an A/B test."""

from __future__ import annotations

import math

import numpy as np
import pytest

from airworthy.rollout.effects import EffectInterval


def outcomes(
    seed: int, requests: int, stable: float, canary: float, share: float = 0.5, drift: bool = False
) -> list[tuple[float, bool, float]]:
    dice = np.random.default_rng(seed)
    shares = (
        np.where(np.arange(requests) < requests / 2, share, 1 - share) if drift else np.full(requests, share)
    )
    arm = dice.random(requests) < shares
    value = (dice.random(requests) < np.where(arm, canary, stable)).astype(float)
    return list(zip(value.tolist(), arm.tolist(), shares.tolist(), strict=True))


@pytest.mark.parametrize(
    ("stable", "canary", "share", "drift"),
    [(0.2, 0.2, 0.5, False), (0.02, 0.05, 0.1, False), (0.5, 0.4, 0.2, True)],
)
def test_the_truth_is_inside_at_every_look(stable: float, canary: float, share: float, drift: bool) -> None:
    missed = 0
    for seed in range(100):
        effect = EffectInterval(0.05)
        for i, seen in enumerate(outcomes(seed, 600, stable, canary, share, drift), 1):
            effect.observe(*seen)
            if i % 20 == 0:
                low, high = effect.interval
                if not low <= canary - stable <= high:
                    missed += 1
                    break
    assert missed <= 11  # with a true chance of 5 %, more happens once in 250 times


def test_an_effect_that_changes_is_met_on_average() -> None:
    effect = EffectInterval()
    for seen in outcomes(1, 3000, 0.3, 0.3) + outcomes(2, 3000, 0.3, 0.6):
        effect.observe(*seen)
    low, high = effect.interval
    assert low <= 0.15 <= high
    assert high - low < 0.15


def test_it_narrows_almost_as_a_fixed_sample_interval() -> None:
    requests, stable, canary = 4000, 0.2, 0.25
    effect = EffectInterval(0.05)
    for seen in outcomes(3, requests, stable, canary):
        effect.observe(*seen)
    low, high = effect.interval
    fixed = 2 * 1.96 * math.sqrt((stable * (1 - stable) + canary * (1 - canary)) / (requests / 2))
    assert high - low < 2.2 * fixed
    assert effect.estimate == pytest.approx(0.05, abs=0.03)


def test_before_anything_was_seen_it_says_nothing() -> None:
    effect = EffectInterval()
    assert effect.interval == (-1.0, 1.0)
    effect.observe(1.0, True, 1.0)  # a certain draw
    effect.observe(1.0, True, 0.0)
    assert (effect.n, effect.estimate) == (0, 0.0)
    effect.observe(1.0, True, 0.5)
    assert effect.interval == (-1.0, 1.0)


def test_tiny_shares_are_taken() -> None:
    effect = EffectInterval()
    for seen in outcomes(4, 3000, 0.5, 0.5, share=1e-5):
        effect.observe(*seen)
    low, high = effect.interval
    assert -1.0 <= low <= 0.0 <= high <= 1.0


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_outcomes_outside_the_range_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        EffectInterval().observe(value, True, 0.5)
