"""The order of validation: own checks, statistics, anomalies, comparisons; then one decision."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from airworthy.errors import ConfigError
from airworthy.files import write_whole
from airworthy.model_spec import ModelSpec, Severity, Validation
from airworthy.validation.anomalies import comparisons, window_anomalies
from airworthy.validation.findings import (
    OWN_KINDS,
    Finding,
    ValidationResult,
    conclude,
    write_result,
)
from airworthy.validation.own_checks import check_order, check_window
from airworthy.validation.report import report
from airworthy.validation.schema import SERVING, TRAINING, parse_schema, schema_digest
from airworthy.validation.statistics import read_statistics, window_statistics, write_statistics
from airworthy.validation.tfdv import require_tfdv
from airworthy.validation.windows import open_window

log = logging.getLogger(__name__)

# Own findings say it better than these anomalies of the same column do.
_COVERS = {
    "WRONG_TYPE": {"UNEXPECTED_DATA_TYPE", "SCHEMA_MISSING_COLUMN"},
    "MISSING_COLUMN": {"SCHEMA_MISSING_COLUMN"},
    "LABEL_NOT_BINARY": {
        "BOOL_TYPE_BIG_INT",
        "BOOL_TYPE_SMALL_INT",
        "INT_TYPE_BIG_INT",
        "INT_TYPE_SMALL_INT",
    },
}


def validate(
    spec: ModelSpec,
    schema_text: str,
    *,
    train: Path,
    tune: Path,
    test: Path,
    accepted_statistics: Path | None,
    statistics_out: Path,
    anomalies_out: Path,
    report_out: Path,
) -> ValidationResult:
    """Decide whether three windows are fit to train and judge a model on.

    Runs only where TFDV is installed. All three windows are held against the schema under `TRAINING` (label
    required); the test window also under `SERVING` (features only), as the model server will see it.

    Args:
        spec: The model spec; `spec.validation` is the policy.
        schema_text: TFDV schema (pbtxt).
        train: Dataset folder of the training window.
        tune: Dataset folder of the tuning window.
        test: Dataset folder of the test window.
        accepted_statistics: The champion's training statistics (a `train.pb`); None, missing or empty on a
            first release: drift is then not measured.
        statistics_out: Folder to write: see `statistics.write_statistics`.
        anomalies_out: JSON file to write: see `findings.write_result`.
        report_out: HTML file to write.

    Returns:
        The decision; a failed one is a result, not an error.

    Raises:
        ConfigError: Schema or severities are wrong.
        DataError: A dataset or the accepted statistics can't be read at all.
        MissingCapabilityError: TFDV is not installed here.
    """
    require_tfdv()
    policy = spec.validation
    severities = _severities(policy)
    schema = parse_schema(schema_text, policy.schema_file)
    accepted = read_statistics(accepted_statistics)
    windows = {
        name: open_window(name, path) for name, path in (("train", train), ("tune", tune), ("test", test))
    }

    found = check_order(list(windows.values()))
    for name, window in windows.items():
        found += check_window(window, getattr(policy.min_rows, name))
    statistics = {name: window_statistics(window) for name, window in windows.items() if window.rows}
    for name, content in statistics.items():
        found += window_anomalies(windows[name], content, schema, TRAINING)
    if "test" in statistics:
        found += window_anomalies(windows["test"], statistics["test"], schema, SERVING)
    metrics = {f"rows_{name}": float(window.rows) for name, window in windows.items()}
    if "train" in statistics:
        different, measured = comparisons(
            statistics["train"], schema, policy, test=statistics.get("test"), accepted=accepted
        )
        found += different
        metrics |= measured

    result = conclude(_settled(found, severities), metrics)
    digest = schema_digest(schema_text)
    write_statistics(statistics_out, windows, statistics, digest)
    write_result(result, anomalies_out, schema_digest=digest)
    write_whole(report_out, report(spec, result, windows, statistics))
    log.info(
        "validation %s: %d findings, %d of them blocking",
        "passed" if result.passed else "failed",
        len(result.findings),
        int(result.metrics["findings_block"]),
    )
    return result


def _severities(policy: Validation) -> Mapping[str, Severity]:
    """Severity by kind of finding, or by `KIND.feature` for one feature alone.

    Raises:
        ConfigError: The spec names a kind that doesn't exist, or lets an empty window pass.
    """
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    known = [*OWN_KINDS, *anomalies_pb2.AnomalyInfo.Type.keys()]
    for key, severity in policy.severities.items():
        kind = key.partition(".")[0]
        where = f"validation.severities.{key}"
        if kind not in known:
            close = difflib.get_close_matches(kind, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ", neither Airworthy's nor TFDV's"
            raise ConfigError(f"{where}: {kind} is not a kind of finding{hint}")
        if kind in ("SKEW", "DRIFT"):
            raise ConfigError(f"{where}: set validation.{kind.lower()}.severity instead")
        if kind == "EMPTY_WINDOW" and severity != "block":
            raise ConfigError(
                f"{where}: an empty window always blocks: there is nothing to train or judge on"
            )
    sections: dict[str, Severity] = {"SKEW": policy.skew.severity, "DRIFT": policy.drift.severity}
    return {**OWN_KINDS, **policy.severities, **sections}


def _settled(found: Iterable[Finding], severities: Mapping[str, Severity]) -> list[Finding]:
    """Findings with the policy's severities, each fact once."""
    everything = list(found)
    covered = {(f.window, f.feature, kind) for f in everything for kind in _COVERS.get(f.kind, ())}
    kept: dict[tuple[str, str | None, str], Finding] = {}
    for finding in everything:
        key = (finding.window, finding.feature, finding.kind)
        if key not in covered:
            general = severities.get(finding.kind, "block")
            severity = severities.get(f"{finding.kind}.{finding.feature}", general)
            kept.setdefault(key, dataclasses.replace(finding, severity=severity))
    return list(kept.values())
