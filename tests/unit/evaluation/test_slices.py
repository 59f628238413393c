"""Slices: exact numbers, honest error rates, and sentences a reviewer can sign."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from airworthy.evaluation.slices import assess
from airworthy.evaluation.statistics import metrics, parts, significance
from airworthy.evaluation.statistics.metrics import Floats
from airworthy.findings import SliceFinding
from airworthy.model_spec import SlicePolicy
from airworthy.verdict import Check
from tests.unit.evaluation.simulated_slices import Rows, groups, sigmoid, two_models


def judged(
    rows: Rows, columns: tuple[str, ...] = ("part",), **policy: Any
) -> tuple[list[Check], tuple[SliceFinding, ...]]:
    return assess(rows.scored, columns, SlicePolicy(**policy), rows.boot(), 0.95)


def random_parts(rows: int, count: int, seed: int = 0) -> list[str]:
    return [f"p{code:02d}" for code in np.random.default_rng([seed, 9]).integers(0, count, rows)]


def worse_in(rows: int, seed: int, share: float, noise: float, **more: Any) -> Rows:
    """The challenger sees more noise where `part` is `bad` (a share of the rows)."""
    bad = np.random.default_rng([seed, 8]).uniform(size=rows) < share
    found = two_models(rows, seed, noise=(np.where(bad, noise, 0.3), 0.3), **more)
    return replace(found, columns={"part": np.where(bad, "bad", "good")})


@pytest.mark.parametrize("ties", [False, True])
def test_auc_and_means_of_parts_are_those_of_the_parts_alone(ties: bool) -> None:
    rows = two_models(6000, 1)
    scores = np.round(rows.challenger, 1) if ties else rows.challenger
    codes = np.random.default_rng(2).integers(0, 5, 6000).astype(np.int16)  # 4 stands for: in none of them
    losses = metrics.log_losses(rows.labels, scores)
    aucs = parts.aucs(rows.labels, parts.Order.of(scores), codes, 4, None)
    means = parts.means(losses, codes, 4, None)
    for part in range(4):
        inside = codes == part
        alone = significance.auc_interval(rows.labels[inside], scores[inside])
        assert aucs.value[part] == pytest.approx(roc_auc_score(rows.labels[inside], scores[inside]))
        assert aucs.error[part] == pytest.approx(alone.error)
        assert means.value[part] == pytest.approx(losses[inside].mean())
        assert means.error[part] == pytest.approx(losses[inside].std(ddof=1) / np.sqrt(inside.sum()))


def test_blocks_of_one_row_change_almost_nothing() -> None:
    rows = two_models(3000, 3)
    codes = np.random.default_rng(2).integers(0, 3, 3000).astype(np.int16)
    losses = metrics.log_losses(rows.labels, rows.challenger)
    order, alone = parts.Order.of(rows.challenger), np.arange(3000, dtype=np.int32)
    for free, blocked in (
        (parts.means(losses, codes, 3, None), parts.means(losses, codes, 3, alone)),
        (parts.aucs(rows.labels, order, codes, 3, None), parts.aucs(rows.labels, order, codes, 3, alone)),
    ):
        assert blocked.value == pytest.approx(free.value)
        assert blocked.error == pytest.approx(free.error, rel=0.01)
    free_gap = parts.contrast(losses, codes == 0, None, 0.95)
    assert free_gap.value == pytest.approx(losses[codes == 0].mean() - losses[codes != 0].mean())
    assert parts.contrast(losses, codes == 0, alone, 0.95).error == pytest.approx(free_gap.error, rel=0.01)


def test_a_part_in_too_few_blocks_has_no_error() -> None:
    blocks = np.repeat(np.arange(40, dtype=np.int32), 50)
    codes = (blocks < 5).astype(np.int16)
    means = parts.means(np.random.default_rng(0).normal(size=2000), codes, 2, blocks)
    assert np.isfinite(means.error[0])
    assert np.isnan(means.error[1])


def test_crossings_name_the_pairs_that_occur_and_count_missing_values() -> None:
    columns = {"a": groups(["x", "x", "y", None, "y"]), "b": groups(["1", "1", "2", "2", None])}
    cut = parts.partition("a*b", columns)
    assert cut.names[0] == "a = x and b = 1"
    assert set(cut.names[1:]) == {"a = y and b = 2", "a = (missing) and b = 2", "a = y and b = (missing)"}
    assert cut.names[cut.codes[4]] == "a = y and b = (missing)"


def test_only_the_most_frequent_values_are_parts() -> None:
    values = [str(i % 60) for i in range(6000)] + ["often"] * 110
    cut = parts.partition("a", {"a": groups(values)})
    assert (len(cut.names), cut.left_out) == (50, 11)
    assert cut.names[0] == "a = often"
    assert (cut.codes == 50).sum() == 1100


def test_a_slice_that_is_surely_worse_fails_alone_and_can_be_named() -> None:
    checks, findings = judged(worse_in(8000, 1, 0.3, 1.2))
    column, bad = checks
    assert (column.name, column.slice, column.outcome) == ("slice_part", None, "warn")
    assert (bad.name, bad.slice, bad.outcome) == ("slice_part", "part = bad", "fail")
    assert bad.stands_in_the_way
    assert not column.stands_in_the_way
    assert bad.threshold == 0.02
    assert bad.interval is not None
    assert bad.interval[0] > 0.02
    assert bad.p_adjusted is not None
    assert bad.p_value is not None
    assert bad.p_value <= bad.p_adjusted < 0.05
    assert "today's model predicts better" in bad.reason
    assert [s.outcome for s in findings if s.where == "part = bad"] == ["fail"]
    relaxed = judged(worse_in(8000, 1, 0.3, 1.2), on_worse="warn")[0]
    assert [c.outcome for c in relaxed] == ["warn", "warn"]
    tolerant = judged(worse_in(8000, 1, 0.3, 1.2), margin=0.5)[0]
    assert [c.outcome for c in tolerant] == ["pass"]


def test_numbers_of_a_finding_are_those_of_its_rows() -> None:
    rows = worse_in(5000, 2, 0.4, 0.8)
    found = next(s for s in judged(rows)[1] if s.where == "part = bad")
    inside = np.array(rows.columns["part"]) == "bad"
    assert rows.champion is not None
    ours, theirs = (metrics.log_losses(rows.labels, s) for s in (rows.challenger, rows.champion))
    assert (found.rows, found.positives) == (inside.sum(), rows.labels[inside].sum())
    assert found.log_loss is not None
    assert found.log_loss.value == pytest.approx(ours[inside].mean())
    assert found.excess == pytest.approx(ours[inside].mean() - ours[~inside].mean())
    assert found.difference is not None
    assert found.difference.value == pytest.approx((ours - theirs)[inside].mean())


def test_without_a_champion_the_lowest_auc_is_named() -> None:
    (check,), findings = judged(replace(worse_in(3000, 1, 0.3, 1.5), champion=None))
    assert check.outcome == "pass"
    assert "lowest AUC" in check.reason
    assert "part = bad" in check.reason
    assert all(s.difference is None and s.p_adjusted is None for s in findings)


@pytest.mark.parametrize(
    ("policy", "outcome", "in_the_way"),
    [("ignore", "pass", False), ("warn", "warn", False), ("block", "inconclusive", True)],
)
def test_small_slices_are_inconclusive_by_policy(policy: str, outcome: str, in_the_way: bool) -> None:
    rows = replace(two_models(1000, 1), columns={"part": ["small"] * 30 + ["large"] * 970})
    checks, findings = judged(rows, on_inconclusive=policy)
    assert [s.outcome for s in findings] == ["pass", "inconclusive"]
    assert checks[-1].outcome == outcome
    assert any(c.stands_in_the_way for c in checks) == in_the_way
    if policy != "ignore":
        assert "part = small (30)" in checks[-1].reason


def test_a_column_without_any_large_slice_is_inconclusive() -> None:
    rows = replace(two_models(150, 1), columns={"part": ["only"] * 150})
    (check,), _ = judged(rows)
    assert (check.outcome, check.blocking) == ("inconclusive", False)
    assert "not assessed" in check.reason
    assert judged(rows, on_inconclusive="block")[0][0].stands_in_the_way


def test_a_column_that_the_dataset_lacks_is_a_warning() -> None:
    rows = replace(two_models(1000, 1), columns={"part": ["all"] * 1000})
    checks, _ = judged(rows, ("nowhere", "part*nowhere", "part"))
    assert [c.outcome for c in checks] == ["warn", "warn", "pass"]
    assert "nowhere is not in the test dataset" in checks[1].reason


def test_no_columns_no_checks() -> None:
    assert judged(two_models(500, 1), ()) == ([], ())


def test_an_identical_champion_is_nowhere_worse() -> None:
    rows = two_models(4000, 1)
    rows = replace(rows, champion=rows.challenger, columns={"part": random_parts(4000, 8)})
    checks, findings = judged(rows, margin=0.0)
    assert [c.outcome for c in checks] == ["pass"]
    assert all(s.p_adjusted == 1 for s in findings)


@pytest.mark.parametrize("correction", ["holm", "bh"])
def test_forty_unchanged_slices_are_rejected_in_at_most_five_percent(correction: str) -> None:
    """Without any margin, so that the truth lies on the border of what the test rejects."""
    alarms = raw = 0
    for seed in range(200):
        rows = two_models(12_000, seed, columns={"part": random_parts(12_000, 40, seed)})
        checks, findings = judged(rows, margin=0.0, correction=correction)
        alarms += any(c.outcome == "fail" for c in checks)
        raw += any(s.difference is not None and (s.difference.interval or (0, 0))[0] > 0 for s in findings)
    assert alarms <= 0.05 * 200 + 3 * np.sqrt(0.05 * 0.95 * 200)
    assert raw > 0.3 * 200  # what "no slice may look worse" would reject


def test_skewed_losses_raise_few_false_alarms_in_small_slices() -> None:
    """Rare positives and a challenger that always says more: Student's t alone rejects in 19 %."""
    alarms, size = 0, 250

    def differences(rows: int, seed: int) -> Floats:
        draw = np.random.default_rng([seed, 1])
        odds = -2.5 + 1.2 * draw.normal(size=rows)
        labels = (draw.uniform(size=rows) < sigmoid(odds)).astype(np.int8)
        ours, theirs = (sigmoid(odds + shift + 0.3 * draw.normal(size=rows)) for shift in (0.5, 0.0))
        return metrics.log_losses(labels, ours) - metrics.log_losses(labels, theirs)

    truth = float(differences(2_000_000, 0).mean())
    codes = np.repeat(np.arange(40, dtype=np.int16), size)
    for seed in range(1, 301):
        found = parts.means(differences(40 * size, seed), codes, 40, None)
        alarms += min(found.p_above(part, truth) for part in range(40)) * 40 < 0.05
    assert alarms <= 0.12 * 300


def test_a_slice_worse_by_twice_the_margin_is_refused() -> None:
    """Among 40 slices, in one of 8,000 rows; the harm is 0.04 nats where 0.02 are tolerated."""
    refused = 0
    harms = []
    for seed in range(30):
        names = np.array([*["p00"] * 8_000, *random_parts(52_000, 39, seed)])
        names[8_000:] = np.char.replace(names[8_000:], "p00", "p39")
        spread = np.where(names == "p00", 0.74, 0.3)
        rows = two_models(60_000, seed, noise=(spread, 0.3), columns={"part": names})
        checks, findings = judged(rows)
        harms += [s.difference.value for s in findings if s.where == "part = p00" and s.difference]
        refused += any(c.slice == "part = p00" and c.outcome == "fail" for c in checks)
    assert np.mean(harms) == pytest.approx(0.04, abs=0.005)
    assert refused >= 0.8 * 30


def test_rows_that_share_their_errors_raise_no_false_alarms_once_told() -> None:
    """Rows of a block share each model's error: taking them for independent sees differences everywhere."""
    told = untold = 0
    for seed in range(100):
        halves = random_parts(4000, 2, seed)
        rows = two_models(4000, seed, noise=(1.0, 1.0), blocks=40, columns={"part": halves})
        told += any(c.outcome == "fail" for c in judged(rows, margin=0.0)[0])
        untold += any(c.outcome == "fail" for c in judged(replace(rows, blocks=None), margin=0.0)[0])
    assert told <= 0.05 * 100 + 3 * np.sqrt(0.05 * 0.95 * 100)
    assert untold > 10  # twice the level


def test_a_million_rows_take_seconds() -> None:
    rows = two_models(1_000_000, 1)
    names = np.array([f"v{i}" for i in range(10)])
    codes = [np.random.default_rng(i).integers(0, 10, 1_000_000) for i in range(5)]
    scored = replace(rows, columns={f"c{i}": names[c] for i, c in enumerate(codes)}).scored
    boot, begin = rows.boot(), time.process_time()
    _, findings = assess(scored, tuple(f"c{i}" for i in range(5)), SlicePolicy(), boot, 0.95)
    assert len(findings) == 50
    assert time.process_time() - begin < 15


def test_the_auc_of_a_part_whose_positives_share_a_few_blocks_has_no_interval() -> None:
    rows = two_models(4000, 5, blocks=100)
    assert rows.blocks is not None
    codes, order = np.zeros(4000, dtype=np.int16), parts.Order.of(rows.challenger)
    few = np.where(rows.blocks < 4, rows.labels, 0).astype(np.int8)
    known, unknown = (parts.aucs(labels, order, codes, 1, rows.blocks) for labels in (rows.labels, few))
    assert np.isfinite(known.error[0])
    assert np.isfinite(unknown.value[0])
    assert np.isnan(unknown.error[0])
