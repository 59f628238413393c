"""The verdict: one gate's recorded judgement of one model bundle, and the lock that it puts on what follows.

Made in one place (`airworthy.evaluation`), checked wherever a model moves towards users.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from airworthy.errors import GateError
from airworthy.files import write_whole

Record = TypeVar("Record", bound=BaseModel)
Outcome = Literal["pass", "fail", "warn", "inconclusive"]


class AppliedOverride(BaseModel):
    """A person's decision, in the spec, to let a failed check pass; it counted on the day of the evaluation."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    by: str
    reason: str
    until: date


class Check(BaseModel):
    """One check of the gate.

    `observed`, `threshold` and `interval` carry the check's own unit; None where there is nothing to say.
    `reason` is one plain sentence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: str
    family: str
    slice: str | None = None
    observed: float | None = None
    threshold: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    """Of the check alone; against the threshold where it tests a margin."""
    p_adjusted: float | None = None
    """Corrected for all checks of its family that were tested together."""
    rows: int | None = None
    """Rows that it is about."""
    outcome: Outcome
    blocking: bool = True
    """Whether `fail` or `inconclusive` stands in the way; by policy some only inform."""
    override: AppliedOverride | None = None
    """Set where a person let it pass all the same."""
    reason: str

    @property
    def stands_in_the_way(self) -> bool:
        return self.outcome in ("fail", "inconclusive") and self.blocking and self.override is None


class Verdict(BaseModel):
    """All checks of one model bundle. `passed` needs a check that passed, and none that stands in the way.

    `status` tells a rejected model (`rejected`) from a gate that could not do its work (`error`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    format: Literal[1] = 1
    model: str
    status: Literal["passed", "rejected", "error"]
    checks: tuple[Check, ...]
    bundle_digest: str
    """SHA-256 of the judged bundle (`airworthy.bundle.bundle_digest`)."""
    champion_version: str | None
    """Registry version compared with; None on a first release."""
    champion_digest: str | None = None
    data_fingerprint: str
    policy_digest: str
    settings: dict[str, float | int | str | bool | None] = {}
    error: str | None = None

    @property
    def passed(self) -> bool:
        return self.status == "passed" and not self.failures and any(c.outcome == "pass" for c in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that stand in the way."""
        return tuple(c for c in self.checks if c.stands_in_the_way)

    @property
    def overridden(self) -> tuple[Check, ...]:
        """The checks that failed and were let pass by a person."""
        return tuple(c for c in self.checks if c.override is not None)


def write_verdict(verdict: Verdict, path: Path) -> str:
    """Write atomically; returns the file's SHA-256 (hex)."""
    text = verdict.model_dump_json(indent=2) + "\n"
    write_whole(path, text)
    return hashlib.sha256(text.encode()).hexdigest()


def read_record(kind: type[Record], path: Path, *, missing: str, odd: str) -> Record:
    """Read a JSON record.

    Args:
        kind: What it must be.
        path: The file.
        missing: What to say where there is none.
        odd: What to say where it is something else.

    Raises:
        GateError: It is missing, or can't be read; never a pass by default.
    """
    try:
        return kind.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise GateError(f"{path}: {missing}") from None
    except ValueError as error:
        raise GateError(f"{path}: {odd}: {error}") from None


def read_verdict(path: Path) -> Verdict:
    """Read a verdict.

    Raises:
        GateError: There is none, or it can't be read; never a pass by default.
    """
    return read_record(
        Verdict, path, missing="there is no verdict; run the evaluation gate first", odd="not a verdict"
    )


def require_passed(verdict_file: Path, bundle: Path) -> Verdict:
    """The gate's lock: the verdict passed, and it is about exactly this bundle as it lies on disk.

    Raises:
        GateError: The verdict is missing, did not pass, or judges another bundle; or it passed by an override
            that has expired since.
        BundleError: The bundle's files don't match its own digests.
    """
    from airworthy.bundle import verify_bundle

    verdict = read_verdict(verdict_file)
    digest = verify_bundle(bundle)
    if not verdict.passed:
        reasons = "; ".join(c.reason for c in verdict.failures) or verdict.error or "no check passed"
        raise GateError(f"the gate did not pass {verdict.model}: {reasons}")
    if verdict.bundle_digest != digest:
        raise GateError(
            f"the verdict judges bundle {verdict.bundle_digest[:12]}, but this is {digest[:12]}: "
            "evaluate this bundle before moving it on"
        )
    today = datetime.now(UTC).date()
    for check in verdict.overridden:
        if check.override is not None and today > check.override.until:
            raise GateError(
                f"the gate let {check.name} of {verdict.model} pass by an override of {check.override.by} that "
                f"expired on {check.override.until}: evaluate again"
            )
    return verdict


class SmokeRecord(BaseModel):
    """What the packaged model did in a real server, and whether it kept its budget."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    format: Literal[1] = 1
    model: str
    bundle_digest: str
    """SHA-256 of the bundle that was served."""
    passed: bool
    checks: tuple[Check, ...]
    metrics: dict[str, float]

    @model_validator(mode="after")
    def _passed_is_what_the_checks_say(self) -> SmokeRecord:
        clean = bool(self.checks) and not any(check.stands_in_the_way for check in self.checks)
        if self.passed != clean:
            raise ValueError(f"passed: is {self.passed}, but the checks say {clean}")
        return self


def read_smoke(path: Path) -> SmokeRecord:
    """Read a smoke test's record.

    Raises:
        GateError: There is none, or it can't be read; never a pass by default.
    """
    return read_record(
        SmokeRecord,
        path,
        missing="there is no record of a smoke test; run it first",
        odd="not a record of a smoke test",
    )


def require_smoke(path: Path, digest: str) -> SmokeRecord:
    """The smoke test's lock: it passed, and it was this bundle that was served.

    Args:
        path: The record.
        digest: SHA-256 of the bundle that is to move on.

    Raises:
        GateError: The record is missing, says no, or is about another bundle.
    """
    record = read_smoke(path)
    if record.bundle_digest != digest:
        raise GateError(
            f"the smoke test served bundle {record.bundle_digest[:12]}, but this is {digest[:12]}: smoke-test "
            "this bundle before moving it on"
        )
    if not record.passed:
        reasons = " ".join(check.reason for check in record.checks if check.stands_in_the_way)
        raise GateError(f"the smoke test did not pass {record.model}: {reasons}")
    return record


class RolloutOutcome(BaseModel):
    """What a finished rollout says in its `rollout.json`; further fields of the record are its own affair."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    format: Literal[1] = 1
    service: str
    decision: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    bundle_digest: str
    """SHA-256 of the bundle that was the canary."""
    stable_digest: str | None = None
    """SHA-256 of the bundle it was compared with; None when nothing served before."""
    reason: str


def read_rollout(path: Path) -> RolloutOutcome:
    """Read the outcome of a rollout.

    Raises:
        GateError: There is none, or it can't be read; never a pass by default.
    """
    return read_record(
        RolloutOutcome,
        path,
        missing="there is no rollout record; roll the model out first",
        odd="not a rollout record",
    )
