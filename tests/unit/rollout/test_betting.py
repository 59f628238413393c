"""The bets are fair: whatever happened before, no bet is expected to gain while its null hypothesis holds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airworthy.rollout.betting import ArmBet, BinBet, Capital, RateBet, ShiftBet, quantile

shares = st.floats(0.01, 0.99)
rates = st.floats(0.0, 1.0)


histories = st.lists(st.tuples(st.booleans(), shares))


@given(
    share=shares,
    worse=rates,
    ratio=st.floats(1.01, 50),
    tolerance=st.floats(0, 3),
    reserve=st.sampled_from([0.0, 0.3]),
    history=histories,
)
def test_arm_bet_does_not_gain_while_the_canary_is_no_worse(
    share: float,
    worse: float,
    ratio: float,
    tolerance: float,
    reserve: float,
    history: list[tuple[bool, float]],
) -> None:
    def after(canary: bool) -> float:
        bet = ArmBet([ratio], tolerance=tolerance, reserve=reserve)
        for event in history[:20]:
            bet.event(*event)
        before = bet.wealth
        bet.event(canary, share)
        return bet.wealth / before if before > 0 else 0.0

    rate = worse * (1 + tolerance)  # of events on the canary, relative to stable: at most 1 + tolerance
    probability = share * rate / (1 - share + share * rate)
    assert probability * after(True) + (1 - probability) * after(False) <= 1 + 1e-9


@given(share=st.sampled_from([0.0, 1.0]), canary=st.booleans())
def test_certain_draws_are_no_evidence(share: float, canary: bool) -> None:
    bet = ArmBet([2.0, 5.0])
    bet.event(canary, share)
    assert bet.wealth == 1.0


@given(limit=st.floats(0.001, 0.5), rate=rates, alternative=st.floats(0.0, 0.999))
def test_rate_bet_does_not_gain_on_the_null_side_of_the_limit(
    limit: float, rate: float, alternative: float
) -> None:
    null = rate >= limit if alternative < limit else rate <= limit

    def after(failed: bool) -> float:
        bet = RateBet(limit, [alternative])
        bet.observe(failed)
        return bet.wealth

    expected = (rate * after(True) if rate else 0.0) + ((1 - rate) * after(False) if rate < 1 else 0.0)
    if null:
        assert expected <= 1 + 1e-9


@given(
    history=st.lists(st.tuples(st.floats(0, 1), st.booleans(), shares), max_size=50),
    score=st.floats(0, 1),
    share=shares,
)
def test_bin_bet_is_fair_when_values_are_distributed_alike(
    history: list[tuple[float, bool, float]], score: float, share: float
) -> None:
    def after(canary: bool) -> float:
        bet = BinBet([0.2, 0.5, 0.8])
        for seen in history:
            bet.observe(*seen)
            bet.learn()
        before = bet.wealth
        bet.observe(score, canary, share)
        return bet.wealth / before

    assert share * after(True) + (1 - share) * after(False) == pytest.approx(1.0)


@given(share=shares, shift=st.floats(-1.5, 1.5), rank=st.floats(0, 1))
def test_shift_bet_is_fair_when_ranks_are_distributed_alike(share: float, shift: float, rank: float) -> None:
    def after(canary: bool) -> float:
        bet = ShiftBet([shift])
        bet.observe(rank, canary, share)
        return bet.wealth

    assert share * after(True) + (1 - share) * after(False) == pytest.approx(1.0)


@given(
    share=shares,
    shift=st.floats(0.01, 1.5),
    stable=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    sooner=st.lists(st.floats(0, 1), min_size=20, max_size=20),
)
def test_a_positive_shift_does_not_gain_on_a_canary_whose_values_are_smaller(
    share: float, shift: float, stable: list[float], sooner: list[float]
) -> None:
    def after(rank: float, canary: bool) -> float:
        bet = ShiftBet([shift])
        bet.observe(rank, canary, share)
        return bet.wealth

    canary = [rank * part for rank, part in zip(stable, sooner, strict=False)]
    expected = [
        share * after(mine, True) + (1 - share) * after(other, False)
        for mine, other in zip(canary, stable, strict=True)
    ]
    assert sum(expected) / len(expected) <= 1 + 1e-9


@given(st.lists(st.sampled_from(["good", "bad", "renew"]), max_size=40), st.sampled_from([0.0, 0.05, 0.5]))
def test_renewing_is_fair(history: list[str], reserve: float) -> None:
    """Stakes that double or vanish with probability 1/2: the expected wealth over all next steps is today's."""

    def after(last: list[str]) -> float:
        capital = Capital([1.0, 2.0], reserve)
        for what in history + last:
            if what == "renew":
                capital.renew()
            else:
                capital.bet(
                    [math.log(1.5), math.log(1.2)] if what == "good" else [math.log(0.5), math.log(0.8)]
                )
        return capital.wealth

    assert after(["renew"]) == pytest.approx(after([]))
    assert (after(["good"]) + after(["bad"])) / 2 == pytest.approx(after([]))


def test_late_evidence_counts_although_much_was_lost_before() -> None:
    fresh, tired = RateBet(0.05, (0.5,), reserve=0.5), RateBet(0.05, (0.5,))
    for bet in (fresh, tired):
        for answer in range(2000):
            bet.observe(False)
            if answer % 20 == 0:
                bet.renew()
        for _ in range(15):
            bet.observe(True)
    assert tired.wealth < 1
    assert fresh.wealth > 400


@given(st.integers(1, 5000), shares)
def test_many_events_at_once_are_as_many_single_ones(count: int, share: float) -> None:
    once, single = ArmBet([2.0, 5.0]), ArmBet([2.0, 5.0])
    once.event(False, share, count)
    for _ in range(min(count, 200)):
        single.event(False, share)
    if count <= 200:
        assert once.wealth == pytest.approx(single.wealth)
    assert 0.0 <= once.wealth <= 1.0


def test_wealth_stays_finite_under_overwhelming_evidence() -> None:
    bet = ArmBet([1.5, 15.0])
    for _ in range(2000):
        bet.event(True, 0.1)
    assert math.isfinite(bet.wealth)
    assert bet.wealth > 1e100


def test_one_alternative_that_died_does_not_kill_the_others() -> None:
    bet = RateBet(0.05, (0.0, 0.01))
    bet.observe(True)
    for _ in range(300):
        bet.observe(False)
    assert bet.wealth > 20


@given(st.lists(st.floats(0, 10), min_size=1), st.floats(0.01, 1))
def test_quantile_is_a_value_with_that_share_at_or_below(values: list[float], q: float) -> None:
    ordered = sorted(values)
    found = quantile(ordered, q)
    assert sum(v <= found for v in ordered) / len(ordered) >= q - 1e-12
