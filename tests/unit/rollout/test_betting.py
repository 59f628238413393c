"""The bets are fair: whatever happened before, no bet is expected to gain while its null hypothesis holds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airworthy.rollout.betting import ArmBet, RateBet, ScoreBet, quantile

shares = st.floats(0.01, 0.99)
rates = st.floats(0.0, 1.0)


histories = st.lists(st.tuples(st.booleans(), shares))


@given(share=shares, worse=rates, ratio=st.floats(1.01, 50), history=histories)
def test_arm_bet_does_not_gain_while_the_canary_is_no_worse(
    share: float, worse: float, ratio: float, history: list[tuple[bool, float]]
) -> None:
    def after(canary: bool) -> float:
        bet = ArmBet([ratio])
        for event in history[:20]:
            bet.event(*event)
        before = bet.wealth
        bet.event(canary, share)
        return bet.wealth / before if before > 0 else 0.0

    probability = share * worse  # that an event is the canary's: at most its share
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
def test_score_bet_is_fair_when_scores_are_distributed_alike(
    history: list[tuple[float, bool, float]], score: float, share: float
) -> None:
    def after(canary: bool) -> float:
        bet = ScoreBet([0.2, 0.5, 0.8])
        for seen in history:
            bet.observe(*seen)
        before = bet.wealth
        bet.observe(score, canary, share)
        return bet.wealth / before

    assert share * after(True) + (1 - share) * after(False) == pytest.approx(1.0)


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
