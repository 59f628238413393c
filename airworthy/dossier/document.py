"""The dossier as data: every fact it states, in one versioned, frozen document.

Markdown and HTML are drawn from this document alone. A fact that nothing recorded is None or empty, and is
shown as not recorded; nothing is estimated here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from airworthy.encoding import Feature
from airworthy.files import write_whole
from airworthy.findings import Findings, Number
from airworthy.verdict import SmokeRecord, Verdict, read_record

FILE = "dossier.json"
Scalar = str | bool | int | float | None


class Part(BaseModel):
    """A part of the dossier: frozen, finite, complete."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Identity(Part):
    """Which version this is, and where it stands."""

    description: str
    status: str
    """Such as `champion`, `challenger`, `replaced by version 3`, `rolled back`."""
    aliases: tuple[str, ...]
    bundle_digest: str
    registered: str
    """ISO, UTC."""
    run_id: str | None
    pipeline_run: str | None
    service: str | None
    library_version: str | None
    signed: bool | None
    """Whether the bundle carries a signature; None when the bundle could not be read."""


class Statement(Part):
    """What only a person can say, or its absence."""

    field: str
    title: str
    text: str | None
    source: str
    """Where it was stated, such as `card.purpose of the model spec` or `docs/purpose.md`."""
    mandatory: bool


class Window(Part):
    """One window of rows."""

    role: Literal["train", "tune", "test"]
    rows: int | None = None
    positives: int | None = None
    start: str | None = None
    end: str | None = None
    fingerprint: str | None = None
    """SHA-256 of its content."""


class ColumnStatistics(BaseModel):
    """What validation recorded about one column of a window."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    type: str
    count: int
    missing: float
    """Share of rows."""
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    median: float | None = None
    max: float | None = None
    unique: int | None = None
    top: tuple[tuple[str, float], ...] = ()
    histogram: tuple[tuple[float, float, float], ...] = ()
    """(low, high, rows) of each bin."""


class Data(Part):
    """What the model was made from and judged on."""

    as_of: str | None
    """Nothing known later was used."""
    feature_service: str | None
    feature_service_digest: str | None
    entities: str | None
    label: str | None
    label_known_at: str | None
    schema_digest: str | None
    windows: tuple[Window, ...]
    statistics: dict[str, dict[str, ColumnStatistics]] = {}
    """By window and column."""
    remarks: tuple[str, ...] = ()
    """What validation found and let pass."""


class Training(Part):
    """How the model was fitted."""

    trainer: str | None
    device: str | None
    rounds: int | None
    threshold: float | None
    base_rate: float | None
    params: dict[str, Scalar] = {}
    versions: dict[str, str] = {}
    machine: dict[str, str] = {}
    onnx: str | None = None
    metrics: dict[str, float] = {}
    """Final values of the tuning window, as the training run logged them."""
    curves: dict[str, tuple[tuple[int, float], ...]] = {}
    """(round, value), thinned to at most 200 points."""
    reproduced: str | None = None
    """What `airworthy reproduce --attach` found."""


class RolloutFacts(Part):
    """How traffic moved, and what the judge said."""

    decision: str
    reason: str
    service: str
    stable_version: str | None
    traffic: str | None
    fault: str | None
    """A fault injected for demonstration."""
    seconds: float | None
    steps: tuple[int, ...]
    counts: dict[str, dict[str, int]] = {}
    """By arm: requests, failed, rejected, slow."""
    evidence: dict[str, float] = {}
    warnings: tuple[str, ...] = ()


class Event(Part):
    """One recorded step in the life of this version."""

    time: str
    action: str
    version: str
    by: str | None
    reason: str
    alias: str | None = None
    before: str | None = None


class Oversight(Part):
    """Who may intervene, and who did."""

    approval_required: bool | None
    approvers: tuple[str, ...] = ()
    approval: str | None = None
    """The answer in one sentence; None when nobody answered."""
    overrides: tuple[str, ...] = ()
    rollback_command: str
    prediction_log: str | None = None
    """What is written down of each request, and for how long."""


class Limit(Part):
    """Something that the recorded evidence says the model can't do, or that was not shown."""

    kind: Literal["overridden", "failed", "warning", "inconclusive", "not assessed", "weak spot", "scope"]
    name: str
    sentence: str


class Changed(Part):
    """One fact that differs from the champion before."""

    what: str
    before: Scalar
    after: Scalar


class MetricChange(Part):
    """One metric of both models on the same rows."""

    metric: str
    before: float | None
    after: float | None
    difference: Number | None
    margin: float | None


class Changes(Part):
    """What is different from the champion that this version replaced, or was compared with."""

    version: str
    bundle_digest: str | None
    facts: tuple[Changed, ...]
    features_added: tuple[str, ...] = ()
    features_removed: tuple[str, ...] = ()
    features_changed: tuple[str, ...] = ()
    metrics: tuple[MetricChange, ...] = ()
    spec_diff: str | None
    """Unified diff of the spec's text; empty: the same; None: one of them is not recorded."""


class Integrity(Part):
    """One recorded artifact, or one agreement between records, verified."""

    name: str
    kind: Literal["artifact", "agreement"]
    outcome: Literal["verified", "changed", "missing", "not recorded"]
    digest: str | None = None
    """SHA-256 recorded for an artifact."""
    sentence: str

    @property
    def broken(self) -> bool:
        return self.outcome in ("changed", "missing")


class OpenPoint(Part):
    """What is missing from this dossier."""

    field: str
    mandatory: bool
    sentence: str


class Reference(Part):
    """Another version that this dossier speaks of, and that must be kept for as long as this one."""

    role: Literal["replaced champion", "compared champion"]
    version: str


class Dossier(Part):
    """Model card and technical documentation of one version."""

    format: Literal[1] = 1
    model: str
    version: str
    recorded_until: str
    """Time of the latest recorded fact (ISO, UTC)."""
    identity: Identity
    card: tuple[Statement, ...]
    data: Data
    features: tuple[Feature, ...]
    training: Training
    verdict: Verdict | None
    findings: Findings | None
    smoke: SmokeRecord | None
    rollout: RolloutFacts | None
    oversight: Oversight
    limits: tuple[Limit, ...]
    changes: Changes | None
    history: tuple[Event, ...]
    integrity: tuple[Integrity, ...]
    open_points: tuple[OpenPoint, ...]
    references: tuple[Reference, ...]

    @property
    def broken(self) -> tuple[Integrity, ...]:
        """What was tampered with or lost."""
        return tuple(entry for entry in self.integrity if entry.broken)

    @property
    def missing(self) -> tuple[OpenPoint, ...]:
        """The mandatory points that nobody stated."""
        return tuple(point for point in self.open_points if point.mandatory)


def read_dossier(path: Path) -> Dossier:
    """Read a `dossier.json`, or the folder that holds one.

    Raises:
        GateError: There is none, or it can't be read.
    """
    file = path / FILE if path.is_dir() else path
    return read_record(Dossier, file, missing="there is no dossier", odd="not a dossier")


def write_json(dossier: Dossier, path: Path) -> None:
    """Write the machine form, atomically."""
    write_whole(path, dossier.model_dump_json(indent=1) + "\n")


def scalar(value: Any) -> Scalar:
    """A recorded value as the document can hold it."""
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)
