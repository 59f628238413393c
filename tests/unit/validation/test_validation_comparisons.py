"""Skew between windows, drift against what the champion was accepted with, and the two environments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import validation_windows as flights
from validation_windows import FEATURES, Validated, replaced

from airworthy.errors import DataError
from airworthy.model_spec import Comparison
from airworthy.validation.anomalies import window_anomalies
from airworthy.validation.schema import SERVING, TRAINING, parse_schema, with_comparators
from airworthy.validation.statistics import window_statistics
from airworthy.validation.windows import open_window

Check = Callable[..., Validated]


def warmer(table: pa.Table) -> pa.Table:
    """Forty degrees warmer."""
    return replaced(table, "temp", np.asarray(table["temp"]) + 40)


def mostly_newark(table: pa.Table) -> pa.Table:
    """Nine of ten flights leave Newark."""
    origins = ["EWR" if i % 10 else value for i, value in enumerate(table["origin"].to_pylist())]
    return replaced(table, "origin", origins)


def test_every_feature_is_measured_whether_over_the_limit_or_not(check: Check) -> None:
    first = check()
    metrics = check(accepted=first.statistics / "train.pb").result.metrics
    for feature in (*(f.name for f in FEATURES), "late"):
        assert 0 <= metrics[f"skew.{feature}"] < 0.1
        assert metrics[f"drift.{feature}"] == 0


def test_no_champion_no_drift(check: Check, tmp_path: Path) -> None:
    (tmp_path / "empty.pb").touch()
    for accepted in (None, tmp_path / "missing.pb", tmp_path / "empty.pb"):
        done = check(accepted=accepted)
        assert done.result.passed
        assert not any(name.startswith("drift.") for name in done.result.metrics)
        assert "Not measured: there is no champion yet" in done.report


def test_the_same_data_again_does_not_drift(check: Check) -> None:
    done = check(accepted=check().statistics / "train.pb")
    assert done.result.findings == ()


def test_a_shifted_test_window_is_skew(check: Check) -> None:
    done = check(test=lambda table: mostly_newark(warmer(table)))
    number, category = done.find("SKEW", feature="temp"), done.find("SKEW", feature="origin")
    assert (number.window, number.severity) == ("test", "warn")
    assert number.expectation == "a Jensen-Shannon divergence of at most 0.3 from the training window"
    assert float(number.observed) == pytest.approx(done.result.metrics["skew.temp"], abs=0.001)
    assert category.expectation == "an L-infinity distance of at most 0.3 from the training window"
    assert category.example == "'EWR'"
    assert done.result.metrics["skew.origin"] == pytest.approx(0.6, abs=0.05)
    assert done.result.passed


def test_a_shifted_training_window_drifts_from_the_champions(check: Check) -> None:
    accepted = check().statistics / "train.pb"
    done = check(accepted=accepted, train=warmer, tune=warmer, test=warmer)
    finding = done.find("DRIFT")
    assert (finding.window, finding.feature) == ("train", "temp")
    assert finding.expectation.endswith("from the champion's training data")
    assert "SKEW" not in done.kinds


@pytest.mark.parametrize(("severity", "passed"), [("block", False), ("warn", True), ("ignore", True)])
def test_the_spec_says_how_grave_skew_is(check: Check, severity: str, passed: bool) -> None:
    done = check(test=warmer, policy={"skew": {"severity": severity}})
    assert done.find("SKEW").severity == severity
    assert done.result.passed is passed


def test_the_specs_limit_is_used(check: Check) -> None:
    assert check(test=warmer, policy={"skew": {"numeric_threshold": 0.999}}).result.findings == ()


def test_a_feature_that_the_champion_never_saw_cannot_be_compared(
    check: Check, windows: dict[str, Path], tmp_path: Path
) -> None:
    fewer = flights.changed(windows["train"], tmp_path, lambda table: table.drop(["temp"]))
    accepted = check(datasets={"train": fewer}).statistics / "train.pb"
    finding = check(accepted=accepted).find("DRIFT")
    assert (finding.feature, finding.severity, finding.observed) == (
        "temp",
        "warn",
        "previous data is missing",
    )


def test_comparators_of_the_schema_file_win(schema: str) -> None:
    own = schema.replace(
        'name: "temp"', 'name: "temp" skew_comparator {jensen_shannon_divergence {threshold: 0.9}}'
    )
    features = {
        f.name: f for f in with_comparators(parse_schema(own), skew=Comparison(), drift=Comparison()).feature
    }
    assert features["temp"].skew_comparator.jensen_shannon_divergence.threshold == 0.9
    assert features["temp"].drift_comparator.jensen_shannon_divergence.threshold == 0.3
    assert features["origin"].skew_comparator.infinity_norm.threshold == 0.3
    assert not parse_schema(own).feature[1].skew_comparator.ListFields()


@pytest.mark.parametrize("content", [b"not statistics at all", b"\n\x02*\x00"])
def test_accepted_statistics_that_cannot_be_used_are_refused(
    check: Check, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "train.pb").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.pb: .* so drift can't be measured"):
        check(accepted=tmp_path / "train.pb")


def test_label_is_required_for_training_and_not_for_serving(
    check: Check, windows: dict[str, Path], schema: str, tmp_path: Path
) -> None:
    copy = flights.changed(windows["test"], tmp_path, lambda table: table.drop(["late", "landed"]))
    flights.describe(copy, label=None, label_known_at=None)
    unlabelled = open_window("test", copy)
    statistics = window_statistics(unlabelled)
    assert window_anomalies(unlabelled, statistics, parse_schema(schema), SERVING) == []
    [finding] = window_anomalies(unlabelled, statistics, parse_schema(schema), TRAINING)
    assert (finding.feature, finding.kind) == ("late", "SCHEMA_MISSING_COLUMN")
    assert not check(datasets={"test": copy}).result.passed


def test_schema_that_would_ask_the_server_for_the_label_is_found(check: Check, schema: str) -> None:
    done = check(schema_text=schema.replace('not_in_environment: "SERVING"', ""))
    finding = done.find("SCHEMA_MISSING_COLUMN")
    assert (finding.feature, finding.environment) == ("late", "SERVING")
