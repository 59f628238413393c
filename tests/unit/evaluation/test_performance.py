"""One model's numbers, curves and calibration, and what the absolute limits make of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from airworthy.evaluation import performance
from airworthy.evaluation.statistics import calibration, curves, metrics
from airworthy.evaluation.statistics.calibration import calibrate
from airworthy.evaluation.statistics.resampling import Bootstrap
from airworthy.findings import ArmFindings
from airworthy.model_spec.gate import Gate, Threshold
from tests.unit.evaluation.simulate import Sample, World, draw, scored, sigmoid

LEVEL = 0.95
GATE = Gate(min_auc=0.6, threshold=Threshold(cost_miss=3))


def measured(sample: Sample, boot: Bootstrap | None = None, gate: Gate = GATE) -> ArmFindings:
    boot = boot or Bootstrap.plan(len(sample.labels), 300, 0, sample.blocks)
    return performance.measure(sample.labels, scored(sample).challenger, "7", gate, boot, LEVEL)


@pytest.mark.parametrize("world", [World(2000), World(2000, grid=25), World(3000, blocks=60, common=0.4)])
def test_every_metric_is_scikit_learns_inside_its_interval(world: World) -> None:
    sample = draw(world, 1)
    found = measured(sample).metrics
    labels, scores, alarm = sample.labels, sample.challenger, sample.challenger >= sample.threshold
    expected = {
        "auc": reference.roc_auc_score(labels, scores),
        "pr_auc": reference.average_precision_score(labels, scores),
        "log_loss": reference.log_loss(labels, np.clip(scores, metrics.CLIP, 1 - metrics.CLIP)),
        "brier": reference.brier_score_loss(labels, scores),
        "precision": reference.precision_score(labels, alarm),
        "recall": reference.recall_score(labels, alarm),
        "cost": float(np.mean(np.where(labels == 1, 3 * ~alarm, alarm))),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-9), name
    for name in (*expected, "calibration_error", "calibration_slope", "calibration_intercept"):
        number = found[name]
        assert number.interval is not None, name
        assert number.interval[0] <= number.value <= number.interval[1], name
        assert number.interval[0] < number.interval[1], name


def test_blocks_widen_what_a_model_is_sure_of() -> None:
    sample = draw(World(rows=6000, blocks=60, common=0.8), 2)
    together = measured(sample).metrics
    alone = measured(sample, Bootstrap.plan(6000, 300, 0)).metrics
    for name in (
        "auc",
        "pr_auc",
        "log_loss",
        "brier",
        "cost",
        "precision",
        "recall",
        "calibration_intercept",
    ):
        assert np.ptp(together[name].interval or ()) > 1.2 * np.ptp(alone[name].interval or ()), name


def test_too_few_blocks_give_numbers_without_intervals() -> None:
    found = measured(draw(World(rows=2000, blocks=5, common=0.4), 3))
    assert {name: n.interval for name, n in found.metrics.items() if n.interval is not None} == {}
    assert found.roc.low == ()
    assert found.reliability.low == ()


def test_curves_are_short_banded_and_keep_their_area() -> None:
    sample = draw(World(rows=20_000), 4)
    found = measured(sample)
    for curve in (found.roc, found.precision_recall):
        assert 20 < len(curve.x) == len(curve.y) == len(curve.low) == len(curve.high) <= 100
        assert all(a < b for a, b in zip(curve.x, curve.x[1:], strict=False))
        assert all(
            0 <= low <= y <= high <= 1 for y, low, high in zip(curve.y, curve.low, curve.high, strict=True)
        )
    assert np.trapezoid(found.roc.y, found.roc.x) == pytest.approx(found.metrics["auc"].value, abs=3e-3)
    area = np.trapezoid(found.precision_recall.y, found.precision_recall.x)
    assert area == pytest.approx(found.metrics["pr_auc"].value, abs=0.02)


def test_bands_hold_the_curves_of_the_population() -> None:
    """Pointwise: 95 % of all points, on average."""
    truth = draw(World(rows=400_000), 0)
    fpr, tpr, _ = metrics.roc(truth.labels, truth.challenger, 100_000)
    inside = []
    for seed in range(20):
        sample = draw(World(rows=1500), seed + 1)
        roc, _ = curves.banded(sample.labels, sample.challenger, Bootstrap.plan(1500, 200, seed), LEVEL)
        points = [(x, lo, hi) for x, lo, hi in zip(roc.x, roc.low, roc.high, strict=True) if 0.02 < x < 0.9]
        x, low, high = np.array(points).T
        at = np.interp(x, fpr, tpr)
        inside.append(np.mean((low <= at) & (at <= high)))
    assert 0.9 <= np.mean(inside) <= 0.99


@pytest.mark.parametrize("positives", [0.3, 0.03])
def test_binning_costs_replicates_of_the_precision_recall_area_next_to_nothing(positives: float) -> None:
    """They vary as replicates computed row by row do."""
    sample = draw(World(rows=20_000, intercept=-1.0 if positives == 0.3 else -4.8), 5)
    boot = Bootstrap.plan(20_000, 200, 0)
    fast = curves.average_precision_replicates(sample.labels, sample.challenger, boot)[:60]
    exact = [
        reference.average_precision_score(sample.labels, sample.challenger, sample_weight=w[boot.codes])
        for w in boot.weights[:60]
    ]
    assert np.std(fast) == pytest.approx(np.std(exact), rel=0.03)
    assert np.std(fast - exact) < 0.08 * np.std(exact)


def test_tied_scores_are_binned_exactly() -> None:
    sample = draw(World(rows=3000, grid=40), 6)
    boot = Bootstrap.plan(3000, 200, 0)
    fast = curves.average_precision_replicates(sample.labels, sample.challenger, boot)[0]
    weight = boot.weights[0]
    exact = reference.average_precision_score(sample.labels, sample.challenger, sample_weight=weight)
    assert fast == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("rows", [500, 5000])
def test_a_perfectly_calibrated_model_gets_no_calibration_error_to_speak_of(rows: int) -> None:
    generator = np.random.default_rng(7)
    estimates, held = [], 0
    for seed in range(40):
        scores = generator.beta(2, 5, rows)
        labels = (generator.uniform(size=rows) < scores).astype(np.int8)
        found = calibrate(labels, scores, Bootstrap.plan(rows, 200, seed), LEVEL)
        estimates.append(found.error.value)
        held += found.error.low == 0
    assert held >= 35
    assert np.mean(estimates) < 0.5 * found.measured


def test_a_miscalibrated_model_is_found_out_and_its_slope_says_how() -> None:
    generator = np.random.default_rng(8)
    odds = generator.normal(size=5000)
    labels = (generator.uniform(size=5000) < sigmoid(odds)).astype(np.int8)
    found = calibrate(labels, sigmoid(2 * odds), Bootstrap.plan(5000, 300, 0), LEVEL)
    assert found.error.low > 0.05
    assert found.slope.low < 0.5 < found.slope.high < 0.6
    assert found.intercept.low < 0 < found.intercept.high
    assert found.measured > found.floor


def test_the_order_of_rows_does_not_move_the_calibration() -> None:
    sample = draw(World(rows=2000, grid=9), 9)
    mixed = np.random.default_rng(0).permutation(2000)
    here = metrics.calibration(sample.labels, sample.challenger)
    there = metrics.calibration(sample.labels[mixed], sample.challenger[mixed])
    assert here.error == pytest.approx(there.error, abs=1e-12)
    assert len(here.rows) <= 10


def test_constant_scores_are_one_bin_and_no_crash() -> None:
    labels = np.tile([0, 1], 50).astype(np.int8)
    found = calibration.calibrate(labels, np.full(100, 0.3), Bootstrap.plan(100, 200, 0), LEVEL)
    assert found.reliability.rows == (100,)
    assert found.error.value == pytest.approx(0.2, abs=0.02)
    assert math.isnan(found.slope.value)


def limits(sample: Sample, **bounds: Any) -> dict[str, Any]:
    gate = Gate(**bounds, threshold=Threshold(cost_miss=3))
    return {c.name: c for c in performance.limit_checks(gate, measured(sample, gate=gate), LEVEL)}


def test_limits_judge_the_estimate_and_record_the_interval() -> None:
    sample = draw(World(rows=2000), 10)
    wide = {"min_auc": 0.5, "min_pr_auc": 0.1, "max_log_loss": 2, "max_brier": 0.9, "max_cost": 2}
    kept = limits(sample, **wide)
    assert [*kept] == ["auc", "pr_auc", "log_loss", "brier", "cost"]
    assert {c.outcome for c in kept.values()} == {"pass"}
    assert all(c.interval[0] < c.observed < c.interval[1] for c in kept.values())
    strict = {"min_auc": 0.99, "min_pr_auc": 0.99, "max_log_loss": 0.01, "max_brier": 0.01, "max_cost": 0.01}
    missed = limits(sample, **strict)
    assert {c.outcome for c in missed.values()} == {"fail"}
    assert "the limit is at most 0.01" in missed["cost"].reason


def test_limits_by_interval_pass_and_fail_only_what_is_sure() -> None:
    sample = draw(World(rows=2000), 10)
    low, high = limits(sample, min_auc=0.5)["auc"].interval
    near = (low + high) / 2
    outcomes = [
        limits(sample, min_auc=bound, limits_by="interval")["auc"].outcome
        for bound in (low - 0.01, near, high + 0.01)
    ]
    assert outcomes == ["pass", "inconclusive", "fail"]
    loss = limits(sample, max_log_loss=2)["log_loss"].observed
    doubtful = limits(sample, max_log_loss=loss, limits_by="interval")["log_loss"]
    assert doubtful.outcome == "inconclusive"
    assert "can't tell" in doubtful.reason


def test_a_limit_on_calibration_in_too_few_blocks_claims_nothing_of_chance() -> None:
    sample = draw(World(rows=2000, blocks=5, common=0.4), 3)
    boot = Bootstrap.plan(2000, 200, 0, sample.blocks)
    gate = Gate(max_calibration_error=0.001)
    (check,) = performance.limit_checks(gate, measured(sample, boot), LEVEL)
    assert check.outcome == "inconclusive"
    assert "too few blocks" in check.reason


def test_a_limit_on_calibration_is_judged_on_what_chance_leaves() -> None:
    sample = draw(World(rows=3000), 11)
    calibrated = replace(sample, challenger=sample.chance)
    assert limits(calibrated, max_calibration_error=0.1)["calibration_error"].outcome == "pass"
    doubtful = limits(calibrated, max_calibration_error=0.002)["calibration_error"]
    assert doubtful.outcome == "inconclusive"
    assert "perfectly calibrated" in doubtful.reason
    off = replace(sample, challenger=sample.chance**3)
    assert limits(off, max_calibration_error=0.02)["calibration_error"].outcome == "fail"


@pytest.mark.parametrize(("hits", "rows"), [(0, 30), (30, 30), (3, 30)])
def test_shares_keep_inside_zero_to_one_even_at_the_ends(hits: int, rows: int) -> None:
    hit = np.arange(rows) < hits
    boot = Bootstrap.plan(rows, 200, 0)
    found = performance.share_estimate(hit, np.ones(rows, dtype=bool), boot, LEVEL)
    assert 0 <= found.low <= hits / rows <= found.high <= 1
    assert found.low < found.high
    assert math.isnan(performance.share_estimate(hit, np.zeros(rows, dtype=bool), boot, LEVEL).value)


def test_a_mean_of_hardly_any_rows_has_no_interval() -> None:
    alone = performance.mean_estimate(np.array([1.0]), Bootstrap.plan(1, 200, 0), LEVEL)
    assert (alone.value, alone.interval) == (1.0, None)
    assert math.isnan(performance.mean_estimate(np.array([]), Bootstrap.plan(0, 200, 0), LEVEL).value)
