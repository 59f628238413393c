"""Fairness: fairlearn's numbers, intervals that hold what they promise, and outcomes by policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)

from airworthy.evaluation.fairness import assess
from airworthy.evaluation.group_gaps import Gap, Groups
from airworthy.evaluation.statistics.metrics import Floats
from airworthy.evaluation.statistics.resampling import Bootstrap
from airworthy.findings import FairnessFinding
from airworthy.model_spec import Fairness
from airworthy.verdict import Check
from tests.unit.evaluation.simulated_slices import Rows, two_models

GROUPS = np.array(["north", "east", "south", "west"])


def judged(rows: Rows, **policy: Any) -> tuple[dict[str, Check], tuple[FairnessFinding, ...]]:
    policy = {"columns": ("region",), **policy}
    checks, findings = assess(rows.scored, Fairness(**policy), rows.boot(), 0.95)
    return {c.name: c for c in checks}, findings


def people(rows: int, seed: int, shifts: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9)) -> Rows:
    """Groups whose chance differs by so much in log odds."""
    codes = np.random.default_rng([seed, 3]).integers(0, len(shifts), rows)
    made = two_models(rows, seed, intercept=np.array(shifts)[codes] - 1, columns={"region": GROUPS[codes]})
    return replace(made, thresholds=(0.4, 0.35))


def decisions(
    rates: tuple[float, ...],
    sizes: tuple[int, ...],
    seed: int,
    blocks: int | None = None,
    common: float = 0.0,
) -> Rows:
    """Groups flagged at known rates; with blocks, a share of the decisions is the block's."""
    draw = np.random.default_rng([seed, 2])
    codes = np.repeat(np.arange(len(sizes)), sizes)
    chance = np.array(rates)[codes]
    uniform = draw.uniform(size=len(codes))
    member = None
    if blocks is not None:
        member = draw.integers(0, blocks, len(codes)).astype(np.int32)
        shared = draw.uniform(size=(blocks, len(sizes)))[member, codes]
        uniform = np.where(draw.uniform(size=len(codes)) < common, shared, uniform)
    scores: Floats = np.where(uniform < chance, 0.9, 0.1)
    labels = (draw.uniform(size=len(codes)) < 0.3).astype(np.int8)
    return Rows(labels, scores, None, {"region": [f"g{c:02d}" for c in codes]}, member)


def test_point_values_are_fairlearns() -> None:
    rows = people(8000, 1)
    flagged = (rows.challenger >= 0.4).astype(int)
    region = rows.columns["region"]
    checks, (finding,) = judged(rows)
    expected = {
        "selection_rate": demographic_parity_difference(rows.labels, flagged, sensitive_features=region),
        "equalized_odds": equalized_odds_difference(rows.labels, flagged, sensitive_features=region),
    }
    for name, value in expected.items():
        assert finding.differences[name].value == pytest.approx(value)
        assert checks[f"fairness_region_{name}"].observed == pytest.approx(value)
    frame = MetricFrame(
        metrics={"s": selection_rate, "t": true_positive_rate, "f": false_positive_rate},
        y_true=rows.labels,
        y_pred=flagged,
        sensitive_features=region,
    ).by_group
    for group in finding.groups:
        assert group.selection_rate.value == pytest.approx(frame.loc[group.value, "s"])
        assert group.true_positive_rate is not None
        assert group.true_positive_rate.value == pytest.approx(frame.loc[group.value, "t"])
        assert group.false_positive_rate is not None
        assert group.false_positive_rate.value == pytest.approx(frame.loc[group.value, "f"])
        inside = region == group.value
        assert group.calibration.value == pytest.approx((rows.challenger - rows.labels)[inside].mean())
    gaps = [g.calibration.value for g in finding.groups]
    assert finding.differences["calibration"].value == pytest.approx(max(gaps) - min(gaps))


def test_without_limits_the_numbers_are_told_with_the_champions_beside() -> None:
    checks, _ = judged(people(4000, 1))
    assert [c.outcome for c in checks.values()] == ["pass"] * 3
    check = checks["fairness_region_selection_rate"]
    assert "no limit set" in check.reason
    assert "lowest north, highest west" in check.reason
    assert "the champion's groups by" in check.reason
    assert (check.threshold, check.p_value) == (None, None)


def test_a_limit_is_surely_broken_surely_kept_or_not_to_tell() -> None:
    rows = people(8000, 1)
    limits = {"max_selection_rate_difference": 0.05, "max_calibration_difference": 0.3}
    checks, _ = judged(rows, **limits)
    broken, kept = checks["fairness_region_selection_rate"], checks["fairness_region_calibration"]
    assert broken.outcome == "fail"
    assert broken.stands_in_the_way
    assert broken.interval is not None
    assert broken.interval[0] > 0.05
    assert "surely more than the limit 0.05" in broken.reason
    assert (kept.outcome, kept.threshold) == ("pass", 0.3)
    assert "surely within" in kept.reason
    value = broken.observed or 0.0
    for policy, outcome, in_the_way in (
        ("ignore", "inconclusive", False),
        ("warn", "warn", False),
        ("block", "inconclusive", True),
    ):
        near = judged(rows, max_selection_rate_difference=value, on_inconclusive=policy)[0]
        check = near["fairness_region_selection_rate"]
        assert (check.outcome, check.stands_in_the_way) == (outcome, in_the_way)
        assert "can't tell" in check.reason


def test_small_groups_are_left_out_and_listed() -> None:
    rows = decisions((0.2, 0.25, 0.9), (1000, 1000, 40), 1)
    _, (finding,) = judged(rows)
    assert [g.value for g in finding.groups] == ["g00", "g01"]
    assert finding.left_out == ("g02 (40 rows)",)
    assert finding.differences["selection_rate"].value < 0.2


def test_a_sentence_names_a_few_of_many_small_groups() -> None:
    (check,) = judged(decisions((0.2,) * 30, (40,) * 30, 1))[0].values()
    assert "and 25 more" in check.reason
    assert len(check.reason) < 300


@pytest.mark.parametrize("policy", ["ignore", "warn", "block"])
def test_a_single_group_or_a_missing_column_is_inconclusive_by_policy(policy: str) -> None:
    alone = judged(decisions((0.2, 0.3), (1000, 50), 1), on_inconclusive=policy)[0]
    lost = judged(people(1000, 1), columns=("nowhere",), on_inconclusive=policy)[0]
    for checks, words in ((alone, r"g01 (50 rows)"), (lost, "nowhere is not in the test dataset")):
        (check,) = checks.values()
        assert check.outcome == ("warn" if policy == "warn" else "inconclusive")
        assert check.stands_in_the_way == (policy == "block")
        assert words in check.reason


def test_rates_of_classes_with_few_rows_are_not_compared() -> None:
    rows = decisions((0.2, 0.2), (1000, 1000), 1)
    rows = replace(rows, labels=np.where(np.arange(2000) < 1000, rows.labels, 0).astype(np.int8))
    checks, (finding,) = judged(rows)
    assert "fairness_region_equalized_odds" not in checks
    assert finding.groups[1].true_positive_rate is None
    assert finding.groups[1].false_positive_rate is not None


def test_groups_that_are_never_flagged_are_not_known_exactly() -> None:
    _, (finding,) = judged(decisions((0.0, 0.0), (300, 300), 1))
    interval = finding.differences["selection_rate"].interval
    assert interval is not None
    assert 0.005 < interval[1] < 0.05


WORLDS = {
    "two equal groups": ((0.3, 0.3), (600, 600)),
    "ten equal groups": ((0.3,) * 10, (300,) * 10),
    "one group apart": ((0.3,) * 9 + (0.45,), (300,) * 10),
    "rare and unequal": ((0.05, 0.08, 0.05, 0.12), (1500, 400, 300, 400)),
}


def gaps(rates: tuple[float, ...], sizes: tuple[int, ...], repeats: int) -> list[tuple[float, Gap]]:
    """Estimate and interval of the selection rates' largest gap in simulated rows (limit 0.05)."""
    boot = decisions(rates, sizes, 0).boot()  # its weights know nothing of the rows
    codes = np.repeat(np.arange(len(sizes), dtype=np.int16), sizes)
    found = []
    for seed in range(repeats):
        rows = decisions(rates, sizes, seed)
        groups = Groups.of(rows.labels, rows.challenger, 0.5, codes, len(sizes), boot)
        gap = groups.gap(("selection_rate",), 0.05, 0.95)
        assert gap is not None
        found.append((float(np.ptp(groups.counts.rate("selection_rate"))), gap))
    return found


@pytest.mark.parametrize("world", WORLDS)
def test_error_rates_are_as_promised_on_the_border(world: str) -> None:
    """The truth is exactly the limit: neither "surely above" nor "surely within" in more than 2.5 %."""
    rates, sizes = WORLDS[world]
    truth = max(rates) - min(rates)
    found = gaps(rates, sizes, 300)
    allowed = 0.025 * 300 + 3 * np.sqrt(0.025 * 0.975 * 300)
    assert sum(gap.interval[0] > truth for _, gap in found) <= allowed
    assert sum(gap.interval[1] < truth for _, gap in found) <= allowed


def test_equal_groups_keep_a_limit_that_their_estimates_alone_would_break() -> None:
    """The largest of ten groups' differences is well above zero by chance; it fails no model."""
    found = gaps(*WORLDS["ten equal groups"], 100)
    assert np.mean([value for value, _ in found]) > 0.07
    assert sum(gap.interval[0] > 0.05 for _, gap in found) <= 3
    assert all((gap.p_value or 0) < 0.025 for _, gap in found if gap.interval[0] > 0.05)


def test_a_group_far_above_the_limit_is_found() -> None:
    failed = 0
    for seed in range(20):
        rows = decisions((0.3, 0.3, 0.5), (800, 800, 800), seed)
        checks, _ = judged(rows, max_selection_rate_difference=0.1)
        failed += checks["fairness_region_selection_rate"].outcome == "fail"
    assert failed >= 0.8 * 20


def test_blocks_widen_the_interval_where_decisions_are_shared() -> None:
    above = {"told": 0, "untold": 0}
    codes = np.repeat(np.arange(2, dtype=np.int16), 1500)
    alone = Bootstrap.plan(3000, 200, 0)
    for seed in range(100):
        rows = decisions((0.3, 0.3), (1500, 1500), seed, blocks=60, common=0.5)
        for name, told in (("told", rows), ("untold", replace(rows, blocks=None))):
            groups = Groups.of(
                told.labels, told.challenger, 0.5, codes, 2, told.boot() if name == "told" else alone
            )
            gap = groups.gap(("selection_rate",), None, 0.95)
            above[name] += gap is not None and gap.interval[0] > 0
    assert above["told"] <= 0.05 * 100 + 3 * np.sqrt(0.05 * 0.95 * 100)
    assert above["untold"] > 3 * max(above["told"], 5)
