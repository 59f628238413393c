"""Intervals cover as often as they claim; the three-way decision is what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airworthy.evaluation.statistics import metrics, significance
from airworthy.evaluation.statistics.significance import Estimate


def draw(
    generator: np.random.Generator, rows: int, noise: tuple[float, float]
) -> tuple[metrics.Labels, metrics.Floats, metrics.Floats]:
    """Labels and two models that see the same signal, each through its own noise."""
    labels = (generator.uniform(size=rows) < 0.3).astype(np.int8)
    shared = labels + generator.normal(size=rows)
    first, second = (shared + generator.normal(size=rows) * n for n in noise)
    return labels, first, second


def brute_force_auc(labels: metrics.Labels, scores: metrics.Floats) -> float:
    pairs = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    return float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


def test_delong_difference_is_the_difference_of_aucs_and_its_error_that_of_the_bootstrap() -> None:
    generator = np.random.default_rng(5)
    labels, champion, challenger = draw(generator, 1500, (1.0, 0.7))
    found = significance.auc_difference(labels, champion, challenger)
    difference = brute_force_auc(labels, challenger) - brute_force_auc(labels, champion)
    assert found.value == pytest.approx(difference, abs=1e-12)
    draws = []
    for _ in range(400):
        rows = generator.integers(0, len(labels), len(labels))
        draws.append(metrics.auc(labels[rows], challenger[rows]) - metrics.auc(labels[rows], champion[rows]))
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(np.std(draws), rel=0.12)


def test_delong_covers_the_truth_and_rarely_sees_a_difference_where_there_is_none() -> None:
    generator = np.random.default_rng(6)
    seen = sum(
        (significance.auc_difference(*draw(generator, 600, (0.8, 0.8))).p_value or 0) < 0.05
        for _ in range(300)
    )
    assert 3 <= seen <= 29  # 15 expected of 300


def test_identical_models_differ_by_exactly_nothing() -> None:
    labels, scores, _ = draw(np.random.default_rng(8), 200, (1, 1))
    found = significance.auc_difference(labels, scores, scores)
    assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert significance.decide(found, 0.005, "non_inferiority") == "pass"
    assert significance.decide(found, 0.0, "superiority") == "inconclusive"


def test_too_few_rows_give_no_interval() -> None:
    labels = np.array([1, 0, 0], dtype=np.int8)
    found = significance.auc_difference(labels, np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.2, 0.1]))
    assert found.interval is None
    assert significance.decide(found, 0.1, "non_inferiority") == "inconclusive"


@pytest.mark.parametrize(
    ("low", "high", "non_inferiority", "superiority"),
    [
        (0.001, 0.010, "pass", "pass"),
        (-0.004, 0.004, "pass", "inconclusive"),
        (-0.006, 0.004, "inconclusive", "inconclusive"),
        (-0.020, -0.001, "inconclusive", "fail"),
        (-0.020, -0.006, "fail", "fail"),
    ],
)
def test_decisions_follow_the_interval(
    low: float, high: float, non_inferiority: str, superiority: str
) -> None:
    found = Estimate((low + high) / 2, low, high)
    assert significance.decide(found, 0.005, "non_inferiority") == non_inferiority
    assert significance.decide(found, 0.005, "superiority") == superiority


def test_holm_is_the_textbook_example() -> None:
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = significance.holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_bh_is_the_textbook_example() -> None:
    """The fifteen p-values of Benjamini & Hochberg 1995, of which four are discoveries at 5 %."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    adjusted = significance.bh(p)
    assert [value <= 0.05 for value in adjusted] == [True] * 4 + [False] * 11
    assert adjusted[3] == pytest.approx(0.0095 * 15 / 4)
    assert significance.bh([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_corrections_reject_what_their_procedures_reject(p_values: list[float], level: float) -> None:
    """Against the procedures as they are told: step down (Holm), step up (Benjamini & Hochberg)."""
    ordered, m = sorted(p_values), len(p_values)
    down = next((i for i, p in enumerate(ordered) if p > level / (m - i)), m)
    up = max((i + 1 for i, p in enumerate(ordered) if p <= level * (i + 1) / m), default=0)
    for correction, discoveries in (("holm", down), ("bh", up)):
        adjusted = significance.adjust(p_values, correction)  # type: ignore[arg-type]
        near = any(abs(value - level) < 1e-12 for value in adjusted)
        assert near or sum(value <= level for value in adjusted) == discoveries
        assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))


@given(st.floats(-3, 3), st.floats(0.01, 2), st.floats(-3, 3), st.sampled_from([math.inf, 5.0, 30.0]))
def test_one_sided_p_values_agree_with_the_interval(
    value: float, error: float, limit: float, freedom: float
) -> None:
    found = significance.from_error(value, error, 0.95, freedom)
    assert found.p_above(limit) + found.p_below(limit) == pytest.approx(1)
    if abs(found.low - limit) > 1e-9:
        assert (found.p_above(limit) < 0.025) == (found.low > limit)
    if abs(found.high - limit) > 1e-9:
        assert (found.p_below(limit) < 0.025) == (found.high < limit)


def test_without_an_error_nothing_is_proven_and_without_variation_everything() -> None:
    assert Estimate(1.0, math.nan, math.nan).p_above(0) == 1
    assert significance.from_error(0.1, 0.0, 0.95).p_above(0.05) == 0
    assert significance.from_error(0.1, 0.0, 0.95).p_above(0.1) == 1


def test_the_interval_of_an_area_stays_inside_zero_and_one() -> None:
    labels = np.array([0] * 30 + [1] * 5, dtype=np.int8)
    scores = np.concatenate([np.linspace(0, 0.5, 30), [0.45, 0.6, 0.7, 0.8, 0.9]])
    found = significance.auc_interval(labels, scores)
    assert 0 < found.low < found.value < found.high < 1


@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 2, 10]))
def test_areas_are_brute_forces_whatever_the_order_of_the_rows(seed: int, grid: int | None) -> None:
    generator = np.random.default_rng(seed)
    labels, first, second = draw(generator, 50, (1, 0.5))
    if not 2 <= labels.sum() <= 48:
        return
    if grid is not None:
        first, second = np.round(first * grid) / grid, np.round(second * grid) / grid
    mixed = generator.permutation(50)
    found = significance.auc_difference(labels, first, second)
    again = significance.auc_difference(labels[mixed], first[mixed], second[mixed])
    assert found.value == pytest.approx(brute_force_auc(labels, second) - brute_force_auc(labels, first))
    assert (found.low, found.high) == pytest.approx((again.low, again.high))
    value, influence = significance.auc_influence(labels, second)
    assert value == pytest.approx(brute_force_auc(labels, second))
    assert influence.sum() == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_swapping_the_models_turns_the_difference_around(seed: int) -> None:
    labels, first, second = draw(np.random.default_rng(seed), 60, (1, 0.5))
    if 2 <= labels.sum() <= 58:
        there = significance.auc_difference(labels, first, second)
        back = significance.auc_difference(labels, second, first)
        assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
