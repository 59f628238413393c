"""The search for weak spots: finds what was planted, and nothing where nothing is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from airworthy.evaluation.arms import score_arms
from airworthy.evaluation.cuts import BINS, VALUES, cut_columns
from airworthy.evaluation.statistics.resampling import Bootstrap
from airworthy.evaluation.weak_spots import ABSOLUTE, COMPARED, search
from airworthy.findings import SliceFinding
from airworthy.model_spec import SlicePolicy, SliceSearch
from airworthy.verdict import Check
from tests.release_evidence import flights, make_bundle, spec, write_flights
from tests.unit.evaluation.simulated_slices import Rows, two_models


def found(
    rows: Rows, columns: tuple[str, ...] = (), seed: int = 0, **policy: Any
) -> tuple[list[Check], tuple[SliceFinding, ...]]:
    return search(rows.scored, columns, SlicePolicy(**policy), rows.boot(seed=seed), 0.95)


def features(rows: int, seed: int = 0) -> dict[str, Any]:
    """Five columns that have nothing to do with label or scores."""
    draw = np.random.default_rng([seed, 7])
    carriers = np.array(["AA", "B6", "DL", "UA"])
    return {
        "delay": np.round(draw.gamma(2, 10, rows), 1),
        "hour": draw.integers(5, 23, rows),
        "holiday": draw.uniform(size=rows) < 0.1,
        "wind": np.where(draw.uniform(size=rows) < 0.1, np.nan, draw.normal(size=rows)),
        "carrier": carriers[draw.integers(0, 4, rows)],
    }


def planted(rows: int, seed: int, *, blind: bool = True) -> Rows:
    """Where carrier UA meets strong wind: labels are coin flips (blind), or the challenger alone is noisy."""
    columns = features(rows, seed)
    spot = (columns["carrier"] == "UA") & (columns["wind"] > 0.6)
    if not blind:
        return two_models(rows, seed, noise=(np.where(spot, 2.0, 0.3), 0.3), columns=columns)
    made = two_models(rows, seed, noise=(0.3, 0.3), columns=columns)
    coins = np.random.default_rng([seed, 6]).integers(0, 2, rows)
    return replace(made, labels=np.where(spot, coins, made.labels).astype(np.int8))


def test_a_planted_spot_is_found_and_confirmed() -> None:
    checks, findings = found(planted(20_000, 1))
    worst = findings[0]
    assert (worst.column, worst.outcome) == (ABSOLUTE, "warn")
    assert "carrier = UA" in worst.where
    assert "wind" in worst.where
    assert worst.p_adjusted is not None
    assert worst.p_adjusted < 1e-6
    assert worst.excess is not None
    assert worst.excess > 0.1
    assert worst.auc is not None
    assert worst.auc.interval is not None
    assert worst.auc.interval[0] < 0.5 < worst.auc.interval[1]
    (check,) = checks
    assert check.outcome == "warn"
    assert not check.stands_in_the_way
    assert worst.where in check.reason
    assert "worse than always answering the share of positives" in check.reason


def test_a_spot_worse_than_the_champion_fails_and_can_be_named() -> None:
    checks, findings = found(planted(20_000, 2, blind=False))
    spot = next(s for s in findings if s.column == COMPARED)
    assert spot.outcome == "fail"
    assert "carrier = UA" in spot.where
    assert spot.difference is not None
    assert spot.difference.interval is not None
    assert spot.difference.interval[0] > 0.02
    failed = next(c for c in checks if c.slice == spot.where)
    assert (failed.name, failed.family) == ("weak_spot", "slices")
    assert failed.stands_in_the_way
    assert "of the half that confirmed it" in failed.reason
    warned, _ = found(planted(20_000, 2, blind=False), on_worse="warn")
    assert not any(c.stands_in_the_way for c in warned)
    assert not [s for s in found(planted(20_000, 2, blind=False), margin=2.0)[1] if s.column == COMPARED]


def test_spots_do_not_tell_the_same_rows_twice() -> None:
    columns = features(20_000, 1)
    columns["same_carrier"] = columns["carrier"]
    columns["wind_in_knots"] = columns["wind"] * 1.94
    _, findings = found(replace(planted(20_000, 1), columns=columns))
    strong = [s for s in findings if s.column == ABSOLUTE and (s.excess or 0) > 0.1]
    assert len(strong) == 2  # what was planted spans two bins of the wind


def test_where_nothing_is_nothing_is_found() -> None:
    """200 data sets where columns have nothing to do with anything: alarms at most at the level."""
    hard = worse = 0
    for seed in range(200):
        rows = two_models(3000, seed, columns=features(3000, seed))
        checks, findings = found(rows, seed=seed, margin=0.0, min_per_class=10)
        hard += any(s.column == ABSOLUTE and (s.p_adjusted or 0.0) < 0.05 for s in findings)
        worse += any(c.outcome == "fail" for c in checks)
    allowed = 0.05 * 200 + 3 * np.sqrt(0.05 * 0.95 * 200)
    assert hard <= allowed
    assert worse <= allowed


def test_rows_of_a_block_stay_in_one_half() -> None:
    """Columns are the blocks' own: a block in both halves would confirm the chance that picked it."""
    alarms = {"told": 0, "untold": 0}
    for seed in range(60):
        rows = two_models(9000, seed, noise=(1.0, 1.0), blocks=90)
        assert rows.blocks is not None
        own = np.random.default_rng([seed, 4]).integers(0, 3, size=(20, 90))
        rows = replace(rows, columns={f"c{i}": own[i][rows.blocks] for i in range(20)})
        for name, told in (("told", rows), ("untold", replace(rows, blocks=None))):
            checks, _ = found(told, seed=seed, margin=0.0, search=SliceSearch(crossings=False))
            alarms[name] += any(c.outcome == "fail" for c in checks)
    assert alarms["told"] <= 0.05 * 60 + 2 * np.sqrt(0.05 * 0.95 * 60)
    assert alarms["untold"] > 20


def test_the_search_can_be_switched_off_and_narrowed() -> None:
    rows = planted(20_000, 1)
    assert found(rows, search=None) == ([], ())
    _, findings = found(rows, search=SliceSearch(features=("hour", "delay")))
    assert all("carrier" not in s.where for s in findings)
    _, singles = found(rows, search=SliceSearch(crossings=False))
    assert singles
    assert all(" and " not in s.where for s in singles)
    checks, _ = found(rows, search=SliceSearch(features=("hour", "nowhere")))
    assert checks[0].outcome == "warn"
    assert "nowhere" in checks[0].reason


def test_too_few_rows_to_search_say_so() -> None:
    (check,), findings = found(two_models(300, 1, columns=features(300)))
    assert (check.outcome, check.blocking, findings) == ("inconclusive", False, ())
    assert "No search" in check.reason


def test_equal_seeds_find_equal_spots() -> None:
    rows = planted(8000, 3)
    assert found(rows) == found(rows)


def test_spots_of_a_real_dataset_are_read_from_its_files(tmp_path: Path) -> None:
    test = write_flights(tmp_path / "test", flights(4000, seed=3))
    make_bundle(tmp_path / "bundle")
    parsed, _ = spec()
    scored = score_arms(parsed, test, tmp_path / "bundle", None, None)
    boot = Bootstrap.plan(4000, 200, 0, scored.blocks)
    checks, findings = search(scored, parsed.slices, parsed.gate.slices, boot, 0.95)
    assert checks[-1].name == "weak_spots"
    assert findings
    assert all(s.where.split(" ")[0] in ("hour", "distance", "carrier") for s in findings)


def test_numbers_are_cut_into_bins_and_categories_into_values() -> None:
    rows = 4000
    draw = np.random.default_rng(0)
    table = pa.table(
        {
            "number": pa.array(np.where(draw.uniform(size=rows) < 0.1, np.nan, draw.normal(size=rows))),
            "few": pa.array(draw.integers(0, 3, rows)),
            "many": pa.array([f"t{i}" for i in draw.integers(0, 50, rows)]),
            "flag": pa.array(draw.uniform(size=rows) < 0.5),
            "constant": pa.array(["same"] * rows),
            "empty": pa.array([None] * rows, pa.float64()),
        }
    )
    half = np.arange(rows) % 2 == 0
    number, few, many, flag = cut_columns(table, table.column_names, half)
    assert len(number.names) == BINS + 1
    assert number.names[0].startswith("number below -1.")
    assert number.names[-2].endswith("or more")
    assert number.names[-1] == "number missing"
    sizes = np.bincount(number.codes[half])
    assert sizes[:BINS] == pytest.approx(np.full(BINS, sizes[:BINS].mean()), rel=0.02)
    assert few.names == ("few = 0", "few = 1", "few = 2")
    assert (few.codes == table.column("few").to_numpy()).all()
    assert len(many.names) == VALUES + 1
    assert many.names[-1] == "many is none of its 20 most frequent values"
    assert set(flag.names) == {"flag = true", "flag = false"}


def test_the_edges_come_from_the_searching_rows_alone() -> None:
    values = np.concatenate([np.arange(100.0), np.arange(1000.0, 1100.0), [np.nan]])
    searching = np.arange(201) < 100
    (cut,) = cut_columns(pa.table({"a": values}), ["a"], searching)
    assert cut.names[-2] == "a 87 or more" or cut.names[-2] == "a 86 or more"
    assert (cut.codes[100:200] == len(cut.names) - 2).all()
    (alone,) = cut_columns(
        pa.table({"a": np.append(np.ones(100), [2.0, np.nan])}), ["a"], np.arange(102) < 100
    )
    assert alone.names == ("a known", "a missing")


def test_a_spot_that_is_hard_but_judged_well_is_no_warning() -> None:
    """Labels are coin flips there and the scores know it: worst by far, and nobody could do better."""
    rows = planted(20_000, 1)
    spot = (np.asarray(rows.columns["carrier"]) == "UA") & (np.asarray(rows.columns["wind"]) > 0.6)
    checks, findings = found(replace(rows, challenger=np.where(spot, 0.5, rows.challenger), champion=None))
    assert any((s.p_adjusted or 0.0) < 1e-6 for s in findings)
    assert [c.outcome for c in checks] == ["pass"]
    assert "scores are worst where" in checks[0].reason


def test_a_crossing_that_barely_improves_on_its_part_is_not_named() -> None:
    columns = features(20_000, 1)
    spot = columns["carrier"] == "UA"
    made = two_models(20_000, 1, noise=(0.3, 0.3), columns=columns)
    coins = np.random.default_rng(6).integers(0, 2, 20_000)
    made = replace(made, labels=np.where(spot, coins, made.labels).astype(np.int8), champion=None)
    strong = [s.where for s in found(made)[1] if (s.p_adjusted or 0.0) < 1e-6]
    assert strong == ["carrier = UA"]
