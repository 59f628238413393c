"""Each fault that data can have, put into a copy of good data: what is found, how it reads, what it stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import validation_windows as flights
from validation_windows import Change, Validated, replaced

from airworthy import datasets

Check = Callable[..., Validated]


def put(column: str, value: object, rows: int = 1) -> Change:
    """Set the first rows of a column."""

    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        return replaced(table, column, pa.array([value] * rows + values[rows:], table[column].type))

    return change


def test_good_data_passes_without_a_finding(check: Check) -> None:
    done = check()
    assert done.result.passed
    assert done.result.findings == ()
    assert done.result.metrics["rows_train"] == 4000
    assert done.result.metrics["findings_block"] == 0


def test_missing_column_blocks(check: Check) -> None:
    done = check(test=lambda table: table.drop(["temp"]))
    finding = done.find("MISSING_COLUMN")
    assert (finding.window, finding.feature, finding.severity) == ("test", "temp", "block")
    assert not done.result.passed
    assert "SCHEMA_MISSING_COLUMN" not in done.kinds  # one fact, one line


def test_feature_that_the_dataset_no_longer_lists_is_missing_by_the_schema(
    check: Check, windows: dict[str, Path], tmp_path: Path
) -> None:
    copy = flights.changed(windows["test"], tmp_path, lambda table: table.drop(["temp"]))
    info = datasets.read_info(copy)
    flights.describe(copy, features=[f.model_dump() for f in info.features if f.name != "temp"])
    finding = check(datasets={"test": copy}).find("SCHEMA_MISSING_COLUMN")
    assert (finding.feature, finding.expectation, finding.observed) == (
        "temp",
        "a column of numbers",
        "no such column",
    )


def test_extra_column_blocks_with_an_example(check: Check) -> None:
    done = check(train=lambda table: table.append_column("gate", pa.array(["B4"] * len(table))))
    finding = done.find("SCHEMA_NEW_COLUMN")
    assert finding.feature == "gate"
    assert finding.example == "'B4' in row UA-0-0"


def test_columns_that_are_no_features_are_not_looked_at(
    check: Check, windows: dict[str, Path], tmp_path: Path
) -> None:
    copy = flights.changed(
        windows["train"], tmp_path, lambda table: table.append_column("gate", pa.array(["B4"] * len(table)))
    )
    flights.describe(copy, extra=["gate"])
    assert check(datasets={"train": copy}).result.findings == ()


def test_new_category_in_a_closed_list_blocks(check: Check) -> None:
    done = check(test=put("origin", "ZZZ", rows=40))
    finding = done.find("ENUM_TYPE_UNEXPECTED_STRING_VALUES")
    assert finding.expectation == "one of EWR, JFK, LGA"
    assert finding.observed == "ZZZ (~2%)"
    assert finding.example == "'ZZZ' in row UA-2-0"
    assert finding.sentence == (
        "test window, origin: expected one of EWR, JFK, LGA, found ZZZ (~2%), for example 'ZZZ' in row UA-2-0"
    )


def test_open_list_lets_its_share_of_new_categories_through(check: Check, schema: str) -> None:
    opened = schema.replace(
        'domain: "dest"', 'domain: "dest" distribution_constraints {min_domain_mass: 0.95}'
    )
    assert check(schema_text=opened, test=put("dest", "XNA", rows=60)).result.findings == ()
    finding = check(schema_text=opened, test=put("dest", "XNA", rows=200)).find(
        "ENUM_TYPE_UNEXPECTED_STRING_VALUES"
    )
    assert finding.expectation.endswith("in at least 95% of rows")


def test_nulls_block_where_every_row_had_a_value(check: Check) -> None:
    done = check(tune=put("temp", None, rows=50))
    finding = done.find("FEATURE_TYPE_LOW_FRACTION_PRESENT")
    assert (finding.expectation, finding.observed) == ("a value in every row", "a value in 450 of 500 rows")
    assert finding.example == "no value in row UA-1-0"


def test_not_a_number_counts_as_missing(check: Check) -> None:
    finding = check(tune=put("temp", float("nan"), rows=50)).find("FEATURE_TYPE_LOW_FRACTION_PRESENT")
    assert finding.observed == "a value in 450 of 500 rows"


def test_column_without_any_value_blocks(check: Check) -> None:
    done = check(train=put("temp", None, rows=4000))
    assert done.find("FEATURE_TYPE_NOT_PRESENT").observed == "a value in 0 of 4,000 rows"


def test_column_that_lost_its_type_with_its_values_is_empty_not_an_accident(check: Check) -> None:
    done = check(train=lambda table: replaced(table, "temp", pa.nulls(len(table))))
    assert done.find("FEATURE_TYPE_NOT_PRESENT", feature="temp").severity == "block"


@pytest.mark.parametrize(
    ("column", "values", "expectation", "observed"),
    [
        ("temp", lambda n: ["hot"] * n, "numbers", "type string"),
        ("legs_7d", lambda n: [0.5] * n, "whole numbers", "type double"),
        ("origin", lambda n: [7] * n, "text", "type int64"),
        ("weekend", lambda n: [1] * n, "true or false", "type int64"),
        ("temp", lambda n: [[1.0]] * n, "numbers", "type list<item: double>"),
    ],
)
def test_wrong_type_blocks_once_and_hides_nothing_else(
    check: Check, column: str, values: Callable[[int], list[object]], expectation: str, observed: str
) -> None:
    def change(table: pa.Table) -> pa.Table:
        return put("dest", "XNA", rows=2000)(replaced(table, column, values(len(table))))

    done = check(test=change)
    finding = done.find("WRONG_TYPE")
    assert (finding.feature, finding.expectation, finding.observed) == (column, expectation, observed)
    assert finding.example.endswith("in row UA-2-0")
    assert "UNEXPECTED_DATA_TYPE" not in done.kinds
    assert done.find("ENUM_TYPE_UNEXPECTED_STRING_VALUES", feature="dest").window == "test"


def test_type_that_the_dataset_declares_but_the_schema_does_not(
    check: Check, windows: dict[str, Path], tmp_path: Path
) -> None:
    copy = flights.changed(
        windows["test"], tmp_path, lambda table: replaced(table, "temp", ["warm"] * len(table))
    )
    features = [f.model_dump() for f in flights.FEATURES]
    features[2]["kind"] = "category"
    flights.describe(copy, features=features)
    finding = check(datasets={"test": copy}).find("UNEXPECTED_DATA_TYPE")
    assert (finding.expectation, finding.observed) == ("numbers", "text")


def test_whole_numbers_in_a_column_of_numbers_are_fine(check: Check) -> None:
    done = check(tune=lambda table: replaced(table, "temp", [60, 61] * 250))
    assert "WRONG_TYPE" not in done.kinds
    assert done.result.passed


def test_files_of_different_types_block(check: Check, windows: dict[str, Path], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    copy = flights.changed(windows["test"], tmp_path, lambda table: table.slice(0, 1000))
    rest = pq.read_table(datasets.files(windows["test"])[0]).slice(1000)
    pq.write_table(replaced(rest, "temp", ["hot"] * 1000).drop(["dest"]), copy / "part-00001.parquet")
    flights.describe(copy, rows=2000)
    done = check(datasets={"test": copy})
    assert done.find("WRONG_TYPE", feature="temp").observed == "type double and type string"
    assert done.find("WRONG_TYPE", feature="dest").observed == "type string and no such column"


def test_empty_window_blocks_and_the_others_are_still_looked_at(check: Check) -> None:
    done = check(test=lambda table: table.slice(0, 0), train=put("origin", "ZZZ"))
    assert done.find("EMPTY_WINDOW").window == "test"
    assert done.find("ENUM_TYPE_UNEXPECTED_STRING_VALUES").window == "train"
    assert not (done.statistics / "test.pb").exists()
    assert not any(name.startswith("skew.") for name in done.result.metrics)
    assert "Not measured: a window is empty" in done.report


def test_too_few_rows_block(check: Check) -> None:
    finding = check(train=lambda table: table.slice(0, 999)).find("TOO_FEW_ROWS")
    assert finding.expectation == "at least 1,000 rows"
    assert finding.observed == "999 rows between 2013-06-03 00:00 UTC and 2013-08-02 00:00 UTC"


def test_row_count_that_differs_from_the_description_blocks(
    check: Check, windows: dict[str, Path], tmp_path: Path
) -> None:
    copy = flights.changed(windows["test"], tmp_path, lambda table: table)
    flights.describe(copy, rows=2001)
    assert check(datasets={"test": copy}).find("ROW_COUNT_DIFFERS").observed == "2,000 rows in the files"


def test_repeated_ids_block(check: Check) -> None:
    finding = check(train=lambda table: pa.concat_tables([table, table.slice(7, 3)])).find("DUPLICATE_IDS")
    assert (finding.feature, finding.observed) == ("flight_id", "3 repetitions")
    assert finding.example == "'UA-0-7'"


def test_missing_ids_block(check: Check) -> None:
    assert (
        check(train=put("flight_id", None, rows=2)).find("MISSING_ID").observed == "none in 2 of 4,000 rows"
    )


def test_event_times_outside_the_window_block(check: Check) -> None:
    late = flights.AS_OF + timedelta(days=1)
    finding = check(test=put("event_timestamp", late)).find("EVENT_TIME_OUTSIDE_WINDOW")
    assert finding.observed == "other times, or none, in 1 of 2,000 rows"
    assert finding.example == "2013-09-02 00:00:00+00:00 in row UA-2-0"


def test_label_known_before_the_decision_blocks(check: Check) -> None:
    early = flights.AS_OF - timedelta(days=300)
    finding = check(train=put("landed", early, rows=3)).find("LABEL_KNOWN_TOO_EARLY")
    assert finding.observed == "3 labels known no later than it"


def test_overlapping_windows_block(check: Check, windows: dict[str, Path], tmp_path: Path) -> None:
    copy = flights.changed(windows["tune"], tmp_path, lambda table: table)
    flights.describe(copy, start="2013-08-01T00:00:00Z")
    assert check(datasets={"tune": copy}).find("WINDOWS_OVERLAP").window == "tune"


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_infinite_values_block(check: Check, value: float) -> None:
    done = check(train=put("wind_gust", value, rows=2))
    finding = done.find("INFINITE_VALUES")
    assert finding.observed == "infinite values in 2 of 4,000 rows"
    assert finding.example == f"{value!r} in row UA-0-0"
    assert np.isfinite(list(done.result.metrics.values())).all()


def test_value_outside_its_range_blocks_or_warns_as_the_spec_says(check: Check, schema: str) -> None:
    ranged = schema.replace('name: "wind_speed"', 'name: "wind_speed" float_domain {min: 0 max: 120}')
    finding = check(schema_text=ranged, train=put("wind_speed", 1048.36)).find("FLOAT_TYPE_BIG_FLOAT")
    assert (finding.expectation, finding.observed) == ("at most 120", "a maximum of 1048.36")
    assert finding.example == "1048.36 in row UA-0-0"
    assert finding.severity == "block"
    low = check(schema_text=ranged, train=put("wind_speed", -1.0)).find("FLOAT_TYPE_SMALL_FLOAT")
    assert (low.expectation, low.example) == ("at least 0", "-1.0 in row UA-0-0")
    lenient = {"severities": {"FLOAT_TYPE_BIG_FLOAT.wind_speed": "warn"}}
    done = check(schema_text=ranged, train=put("wind_speed", 1048.36), policy=lenient)
    assert done.find("FLOAT_TYPE_BIG_FLOAT").severity == "warn"
    assert done.result.passed
    other = {"severities": {"FLOAT_TYPE_BIG_FLOAT.temp": "warn"}}
    assert not check(schema_text=ranged, train=put("wind_speed", 1048.36), policy=other).result.passed


def test_label_of_other_values_blocks(check: Check) -> None:
    done = check(train=put("late", 2, rows=3))
    finding = done.find("LABEL_NOT_BINARY")
    assert (finding.observed, finding.example) == ("other values in 3 of 4,000 rows", "2 in row UA-0-0")
    assert "INT_TYPE_BIG_INT" not in done.kinds


def test_label_of_text_blocks(check: Check) -> None:
    finding = check(train=lambda table: replaced(table, "late", ["yes"] * 4000)).find("LABEL_NOT_BINARY")
    assert finding.example == "'yes' in row UA-0-0"


def test_label_of_one_class_blocks(check: Check) -> None:
    finding = check(test=put("late", 0, rows=2000)).find("LABEL_ONE_CLASS")
    assert finding.observed == "0 rows with 1 and 2,000 with 0"


@pytest.mark.parametrize("arrow_type", [pa.bool_(), pa.float64(), pa.int8()])
def test_label_may_be_stored_in_other_ways(check: Check, arrow_type: pa.DataType) -> None:
    done = check(train=lambda table: replaced(table, "late", table["late"].combine_chunks().cast(arrow_type)))
    assert done.result.findings == ()


def test_text_may_be_stored_in_other_ways(check: Check) -> None:
    def change(table: pa.Table) -> pa.Table:
        coded = replaced(table, "origin", table["origin"].combine_chunks().dictionary_encode())
        return replaced(coded, "dest", coded["dest"].combine_chunks().cast(pa.large_string()))

    assert check(train=change).result.findings == ()


def test_an_ignored_finding_is_recorded_and_stops_nothing(check: Check) -> None:
    policy = {"severities": {"ENUM_TYPE_UNEXPECTED_STRING_VALUES": "ignore"}}
    done = check(test=put("origin", "ZZZ"), policy=policy)
    assert done.find("ENUM_TYPE_UNEXPECTED_STRING_VALUES").severity == "ignore"
    assert done.result.passed
    assert done.result.metrics["findings_ignore"] == 1


def test_several_faults_are_all_told_blocking_ones_first(check: Check) -> None:
    def change(table: pa.Table) -> pa.Table:
        table = replaced(table, "temp", np.asarray(table["temp"]) + 60)
        return put("origin", "ZZZ")(pa.concat_tables([table, table.slice(0, 1)]))

    done = check(test=change)
    assert [f.severity for f in done.result.findings] == ["block", "block", "warn"]
    assert done.kinds == {"DUPLICATE_IDS", "ENUM_TYPE_UNEXPECTED_STRING_VALUES", "SKEW"}


def test_a_flood_of_new_categories_stays_readable(check: Check) -> None:
    done = check(test=lambda table: replaced(table, "dest", [f"X{i:04}" for i in range(len(table))]))
    finding = done.find("ENUM_TYPE_UNEXPECTED_STRING_VALUES")
    assert finding.observed.endswith("…")
    assert len(finding.sentence) < 300


def test_absurdly_large_numbers_are_no_accident(check: Check) -> None:
    done = check(test=put("temp", 1.7e308, rows=1500))
    assert done.find("SKEW").feature == "temp"
    figures = json.loads((done.statistics / "statistics.json").read_text())["windows"]["test"]["features"]
    assert figures["temp"]["mean"] is None
    assert figures["temp"]["max"] == 1.7e308


def test_times_that_are_none_block(check: Check) -> None:
    done = check(train=lambda table: replaced(table, "landed", ["noon"] * len(table)))
    assert done.find("WRONG_TYPE").sentence == (
        "train window, landed: expected times, found type string, for example 'noon' in row UA-0-0"
    )
