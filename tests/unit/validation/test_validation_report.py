"""The files for people and for the next steps: page and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from validation_windows import Validated, replaced

from airworthy.errors import DataError
from airworthy.validation import read_result

Check = Callable[..., Validated]


def broken(table: pa.Table) -> pa.Table:
    """A column gone, and a hostile category."""
    origins = ["<script>alert(1)</script>", *table["origin"].to_pylist()[1:]]
    return replaced(table, "origin", origins).drop(["temp"])


def test_page_shows_what_is_wrong(check: Check) -> None:
    page = check(test=broken).report
    for text in ("Expected", "Observed", "Example", "one of EWR, JFK, LGA", "no such column", "UA-2-0"):
        assert text in page
    assert "stopped by 2 blocking findings" in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_page_shows_statistics_of_every_window(check: Check) -> None:
    page = check(accepted=check().statistics / "train.pb").report
    for text in (
        "The train window",
        "The tune window",
        "The test window",
        "Skew by feature",
        "Drift by feature",
    ):
        assert text in page
    assert page.count('aria-label="histogram"') == 3 * 6
    assert "EWR" in page
    assert "Nothing is wrong" in page


def test_page_is_small_and_loads_nothing(check: Check) -> None:
    page = check(test=broken).report
    assert len(page.encode()) < 1_000_000
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert "@import" not in page


def test_result_survives_the_file(check: Check) -> None:
    done = check(test=broken)
    assert read_result(done.anomalies) == done.result


def test_json_is_flat(check: Check) -> None:
    document = json.loads(check(test=broken).anomalies.read_text())
    assert document["format"] == 1
    assert document["passed"] is False
    for finding in document["findings"]:
        assert set(finding) == {
            "window",
            "feature",
            "kind",
            "severity",
            "expectation",
            "observed",
            "example",
            "environment",
            "sentence",
        }
        assert all(value is None or isinstance(value, str) for value in finding.values())
    assert all(isinstance(value, float) for value in document["metrics"].values())


@pytest.mark.parametrize("content", ["", "[]", '{"passed": true}', '{"findings": [{}], "passed": true}'])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "anomalies.json").write_text(content)
    with pytest.raises(DataError, match="not a validation result"):
        read_result(tmp_path / "anomalies.json")
    with pytest.raises(DataError, match="there is no validation result"):
        read_result(tmp_path / "missing.json")
