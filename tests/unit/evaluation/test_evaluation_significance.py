"""Intervals cover as often as they claim; the three-way decision is what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airworthy.evaluation import metrics, significance
from airworthy.evaluation.significance import Estimate


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


def test_pr_auc_interval_covers() -> None:
    generator = np.random.default_rng(7)

    def sample(rows: int) -> tuple[metrics.Labels, float]:
        labels, scores, _ = draw(generator, rows, (0.8, 0.8))
        return labels, metrics.average_precision(labels, scores)

    truth = sample(400_000)[1]
    covered = 0
    for _ in range(200):
        labels, value = sample(1500)
        found = significance.average_precision_interval(value, int(labels.sum()))
        covered += found.low <= truth <= found.high
    assert covered >= 180


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
    assert significance.mean_interval(np.array([1.0])).interval is None
    assert math.isnan(significance.mean_interval(np.array([])).value)


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


@given(st.integers(0, 2**32 - 1))
def test_swapping_the_models_turns_the_difference_around(seed: int) -> None:
    labels, first, second = draw(np.random.default_rng(seed), 60, (1, 0.5))
    if 2 <= labels.sum() <= 58:
        there = significance.auc_difference(labels, first, second)
        back = significance.auc_difference(labels, second, first)
        assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
