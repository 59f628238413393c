"""Metrics agree with scikit-learn wherever scikit-learn has them, ties and extremes included."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.linear_model import LogisticRegression

from airworthy.evaluation.statistics import metrics


@st.composite
def scored(draw: st.DrawFn, both_classes: bool = True) -> tuple[metrics.Labels, metrics.Floats]:
    """Labels and scores; few distinct scores, so that ties are the rule."""
    size = draw(st.integers(2, 60))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)), dtype=np.int8)
    if both_classes:
        labels[0], labels[1] = 0, 1
    grid = draw(st.sampled_from([1, 3, 10, 1000]))
    scores = draw(st.lists(st.integers(0, grid), min_size=size, max_size=size))
    return labels, np.array(scores, dtype=float) / grid


@given(scored())
def test_auc_is_scikit_learns(data: tuple[metrics.Labels, metrics.Floats]) -> None:
    labels, scores = data
    assert metrics.auc(labels, scores) == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-12)


@given(scored())
def test_average_precision_is_scikit_learns(data: tuple[metrics.Labels, metrics.Floats]) -> None:
    labels, scores = data
    expected = reference.average_precision_score(labels, scores)
    assert metrics.average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)


@given(scored())
def test_log_loss_and_brier_are_scikit_learns(data: tuple[metrics.Labels, metrics.Floats]) -> None:
    labels, scores = data
    clipped = np.clip(scores, metrics.CLIP, 1 - metrics.CLIP)
    expected = reference.log_loss(labels, clipped, labels=[0, 1])
    assert metrics.log_losses(labels, scores).mean() == pytest.approx(expected, rel=1e-9)
    brier = reference.brier_score_loss(labels, scores)
    assert metrics.squared_errors(labels, scores).mean() == pytest.approx(brier, abs=1e-12)


@given(scored(), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_confusion_is_scikit_learns(data: tuple[metrics.Labels, metrics.Floats], threshold: float) -> None:
    labels, scores = data
    expected = reference.confusion_matrix(labels, scores >= threshold, labels=[0, 1]).tolist()
    assert metrics.confusion(labels, scores, threshold) == expected


@given(scored())
def test_a_full_roc_curve_has_scikit_learns_points(data: tuple[metrics.Labels, metrics.Floats]) -> None:
    labels, scores = data
    fpr, tpr, thresholds = metrics.roc(labels, scores)
    expected_fpr, expected_tpr, expected = reference.roc_curve(labels, scores, drop_intermediate=False)
    assert np.allclose(fpr, expected_fpr)
    assert np.allclose(tpr, expected_tpr)
    assert np.allclose(thresholds[1:], expected[1:])
    assert np.isfinite(thresholds).all()


def test_a_long_roc_curve_is_thinned_to_a_hundred_points_and_keeps_its_area() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 50_000).astype(np.int8)
    scores = 1 / (1 + np.exp(-(labels + generator.normal(size=50_000) * 1.5)))
    fpr, tpr, thresholds = metrics.roc(labels, scores)
    assert len(fpr) <= 100
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(thresholds) <= 0).all()
    assert (np.diff(fpr) >= 0).all()
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auc(labels, scores), abs=2e-3)


@given(scored(both_classes=False), st.floats(0, 1))
def test_constant_scores_rank_nothing(data: tuple[metrics.Labels, metrics.Floats], score: float) -> None:
    labels, scores = data[0], np.full(len(data[0]), score)
    one_class = labels.min() == labels.max()
    assert math.isnan(metrics.auc(labels, scores)) if one_class else metrics.auc(labels, scores) == 0.5
    assert all(math.isnan(value) for value in metrics.calibration_line(labels, scores))


def test_one_class_has_no_curve_instead_of_a_crash() -> None:
    labels, scores = np.zeros(5, dtype=np.int8), np.linspace(0, 1, 5)
    assert all(len(curve) == 0 for curve in metrics.roc(labels, scores))
    assert math.isnan(metrics.average_precision(labels, scores))


def test_calibration_line_is_the_logistic_regression_on_log_odds() -> None:
    generator = np.random.default_rng(2)
    truth = generator.uniform(0.05, 0.95, 5_000)
    labels = (generator.uniform(size=5_000) < truth).astype(np.int8)
    odds = np.log(truth) - np.log1p(-truth)
    overconfident = 1 / (1 + np.exp(-2 * odds - 0.3))
    slope, intercept = metrics.calibration_line(labels, overconfident)
    x = (2 * odds + 0.3).reshape(-1, 1)
    fit = LogisticRegression(C=np.inf, tol=1e-10).fit(x, labels)
    assert slope == pytest.approx(float(fit.coef_[0, 0]), abs=1e-4)
    assert intercept == pytest.approx(float(fit.intercept_[0]), abs=1e-4)
    assert slope < 0.7


def test_separating_scores_have_no_calibration_line() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1], dtype=np.int8)
    assert all(math.isnan(v) for v in metrics.calibration_line(labels, np.linspace(0.1, 0.9, 6)))


def test_calibration_error_of_a_perfect_model_stays_below_its_floor() -> None:
    generator = np.random.default_rng(3)
    exceeded = 0
    for _ in range(200):
        scores = generator.beta(2, 5, 2_000)
        labels = (generator.uniform(size=2_000) < scores).astype(np.int8)
        found = metrics.calibration(labels, scores)
        exceeded += found.error > found.floor
    assert exceeded <= 20  # 5 % expected


def test_calibration_bins_hold_equally_many_rows() -> None:
    found = metrics.calibration(np.tile([0, 1], 50).astype(np.int8), np.linspace(0, 1, 100) ** 3, bins=10)
    assert found.rows.tolist() == [10] * 10
    assert (np.diff(found.predicted) > 0).all()


def test_decisions_cost_what_false_alarms_and_misses_do() -> None:
    labels, scores = np.array([0, 0, 1, 1], dtype=np.int8), np.array([0.2, 0.5, 0.4, 0.9])
    assert metrics.costs(labels, scores, 0.5, 1, 3).tolist() == [0, 1, 3, 0]
