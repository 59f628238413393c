"""What validation says: findings, the result that gathers them, and the JSON that carries both."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from airworthy.errors import DataError
from airworthy.files import write_whole
from airworthy.model_spec import Severity

SEVERITIES: tuple[Severity, ...] = ("block", "warn", "ignore")

OWN_KINDS: Mapping[str, Severity] = {
    "EMPTY_WINDOW": "block",
    "TOO_FEW_ROWS": "block",
    "ROW_COUNT_DIFFERS": "block",
    "MISSING_COLUMN": "block",
    "WRONG_TYPE": "block",
    "DUPLICATE_IDS": "block",
    "MISSING_ID": "block",
    "EVENT_TIME_OUTSIDE_WINDOW": "block",
    "WINDOWS_OVERLAP": "block",
    "INFINITE_VALUES": "block",
    "LABEL_NOT_BINARY": "block",
    "LABEL_ONE_CLASS": "block",
    "LABEL_KNOWN_TOO_EARLY": "block",
    "SKEW": "warn",
    "DRIFT": "warn",
}
"""Kinds of finding that Airworthy makes itself, and their severity by default (`SKEW` and `DRIFT` take theirs
from the spec's sections). Every other kind is a TFDV anomaly type, which blocks by default."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the data.

    Attributes:
        window: `train`, `tune` or `test`.
        feature: Column that it is about; None for the window as a whole.
        kind: A key of `OWN_KINDS`, or a TFDV anomaly type.
        severity: `block` stops the release, `warn` is shown, `ignore` is only recorded.
        expectation: What the schema or the spec asks for.
        observed: What the data has.
        example: A real offending value with its row's id; "" where there is no single one.
        environment: `TRAINING` or `SERVING`: the schema environment that it was found under.
    """

    window: str
    feature: str | None
    kind: str
    severity: Severity
    expectation: str
    observed: str
    example: str = ""
    environment: str = "TRAINING"

    @property
    def sentence(self) -> str:
        """The finding as one line for people."""
        where = f"{self.window} window" if self.feature is None else f"{self.window} window, {self.feature}"
        example = f", for example {self.example}" if self.example else ""
        return f"{where}: expected {self.expectation}, found {self.observed}{example}"


@dataclass(frozen=True)
class ValidationResult:
    """The outcome of `validate`.

    Attributes:
        passed: True when no finding has severity `block`.
        findings: Blocking ones first, then by window and feature.
        metrics: Plain numbers for the Metrics artifact: `rows_<window>`, `findings_<severity>`,
            `skew.<feature>` and `drift.<feature>` (Jensen-Shannon divergence for numbers, L-infinity distance
            for categories), whether over the threshold or not.
    """

    passed: bool
    findings: tuple[Finding, ...]
    metrics: Mapping[str, float]


def conclude(findings: Iterable[Finding], metrics: Mapping[str, float]) -> ValidationResult:
    """Order findings, count them, and decide."""
    windows = ("train", "tune", "test")

    def rank(finding: Finding) -> tuple[int, int, str, str]:
        window = windows.index(finding.window) if finding.window in windows else len(windows)
        return SEVERITIES.index(finding.severity), window, finding.feature or "", finding.kind

    ordered = tuple(sorted(findings, key=rank))
    counts = {f"findings_{s}": float(sum(f.severity == s for f in ordered)) for s in SEVERITIES}
    return ValidationResult(not counts["findings_block"], ordered, {**metrics, **counts})


def write_result(result: ValidationResult, path: Path, *, schema_digest: str) -> None:
    """Write `anomalies.json`, atomically.

    One flat object: `format` (1), `passed`, `schema_digest` (SHA-256 of the schema's text), `findings` (list
    of objects with exactly the fields of `Finding`, all strings or null, plus `sentence`) and `metrics` (name
    to number).
    """
    document = {
        "format": 1,
        "passed": result.passed,
        "schema_digest": schema_digest,
        "findings": [{**asdict(finding), "sentence": finding.sentence} for finding in result.findings],
        "metrics": dict(result.metrics),
    }
    write_whole(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def read_result(path: Path) -> ValidationResult:
    """Read `anomalies.json`.

    Raises:
        DataError: There is none, or it can't be read.
    """
    names = {field.name for field in fields(Finding)}
    try:
        document = json.loads(path.read_text())
        findings = tuple(
            Finding(**{key: value for key, value in entry.items() if key in names})
            for entry in document["findings"]
        )
        return ValidationResult(document["passed"], findings, document["metrics"])
    except FileNotFoundError:
        raise DataError(f"{path}: there is no validation result; validate the data first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a validation result: {error}") from None
