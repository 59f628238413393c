"""The bootstrap is seeded, paired, bounded, and its errors are the ones that formulas give."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airworthy.evaluation.statistics import resampling
from airworthy.evaluation.statistics.resampling import GROUPS, MIN_BLOCKS, Bootstrap


def means(boot: Bootstrap, values: np.ndarray) -> np.ndarray:
    sums = np.column_stack([boot.block_sums(values), boot.block_sums(np.ones(len(values)))])
    totals = boot.totals(sums)
    return np.asarray(totals[:, 0] / totals[:, 1])


def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    first, again, other = (Bootstrap.plan(300, 200, seed).weights for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert (first.sum(axis=1) == 300).all()


def test_more_replicates_begin_with_the_same_ones() -> None:
    assert (Bootstrap.plan(50, 1000, 3).weights[:200] == Bootstrap.plan(50, 200, 3).weights).all()


def test_rows_of_a_block_are_drawn_together() -> None:
    blocks = np.repeat([7, 3, 9, 1], 5).astype(np.int32)
    boot = Bootstrap.plan(20, 200, 0, blocks)
    assert (boot.blocks, boot.blocked) == (4, True)
    assert boot.block_sums(np.ones(20)).tolist() == [5, 5, 5, 5]
    assert len({*boot.codes[:5].tolist()}) == 1


@pytest.mark.parametrize("blocked", [False, True])
def test_many_rows_or_blocks_are_dealt_into_a_bounded_number_of_groups(blocked: bool) -> None:
    rows = 40_000
    blocks = np.arange(rows, dtype=np.int32) // 4 if blocked else None
    boot = Bootstrap.plan(rows, 400, 5, blocks)
    assert boot.blocks == GROUPS
    values = np.random.default_rng(5).normal(size=rows)
    assert means(boot, values).std() == pytest.approx(values.std() / math.sqrt(rows), rel=0.1)
    if blocks is not None:
        assert all(len(np.unique(boot.codes[blocks == block])) == 1 for block in range(50))


def test_weights_that_are_too_many_to_keep_give_the_same_totals(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(1).normal(size=(500, 3))
    kept = Bootstrap.plan(500, 600, 1)
    expected = kept.totals(sums)
    monkeypatch.setattr(resampling, "_KEPT", 0)
    fresh = Bootstrap.plan(500, 600, 1)
    assert (fresh.totals(sums) == expected).all()
    assert "weights" not in vars(fresh)


def test_the_error_of_a_mean_is_the_formulas_one_with_and_without_blocks() -> None:
    generator = np.random.default_rng(2)
    blocks = np.repeat(np.arange(200), 10).astype(np.int32)
    values = generator.normal(size=2000) + generator.normal(size=200)[blocks]
    for codes, expected in ((None, values.std() / math.sqrt(2000)), (blocks, math.sqrt(1.1 / 200))):
        boot = Bootstrap.plan(2000, 2000, 0, codes)
        found = boot.interval(float(values.mean()), means(boot, values), 0.95)
        assert found.error == pytest.approx(expected, rel=0.12)
        assert boot.error_of_sum((values - values.mean()) / 2000) == pytest.approx(found.error, rel=0.05)


def test_few_blocks_widen_the_interval_and_too_few_give_none() -> None:
    generator = np.random.default_rng(3)
    for count in (MIN_BLOCKS, MIN_BLOCKS - 1):
        blocks = np.repeat(np.arange(count), 20).astype(np.int32)
        values = generator.normal(size=len(blocks))
        boot = Bootstrap.plan(len(blocks), 400, 0, blocks)
        found = boot.interval(float(values.mean()), means(boot, values), 0.95)
        if count == MIN_BLOCKS:
            assert found.error is not None
            assert (found.high - found.low) / 2 / found.error == pytest.approx(2.093, abs=1e-3)
        else:
            assert found.interval is None
            assert math.isnan(boot.error_of_sum(values))


def test_replicates_that_say_nothing_are_left_out_until_they_are_too_many() -> None:
    boot = Bootstrap.plan(100, 200, 0)
    replicated = np.random.default_rng(0).normal(size=200)
    replicated[:10] = np.nan
    assert boot.interval(0.0, replicated, 0.95).interval is not None
    replicated[:30] = np.nan
    assert boot.interval(0.0, replicated, 0.95).interval is None


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(-3, 3))
def test_differences_are_paired(seed: int, shift: float) -> None:
    """Two values that always differ by the same have a difference without error, however noisy they are."""
    values = np.random.default_rng(seed).normal(size=200) * 50
    boot = Bootstrap.plan(200, 200, seed)
    difference = means(boot, values + shift) - means(boot, values)
    assert difference.std() < 1e-4
