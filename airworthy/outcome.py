"""What a release came to, read from the artifacts that its steps recorded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airworthy.verdict import read_verdict

if TYPE_CHECKING:
    from airworthy.local.state import RunResult, TaskRecord

Ending = Literal[
    "released",
    "data refused",
    "gate refused",
    "not approved",
    "rolled back",
    "observed",
    "failed",
    "canceled",
]


@dataclass(frozen=True)
class Outcome:
    """How a release ended.

    `exit_code` is 0 when the challenger became champion, or when the plan asked for no more than evidence (a shadow or
    an A/B test); 3 when evidence said no, 2 when a step refused its
    input, 1 when something broke.
    """

    ending: Ending
    exit_code: int
    headline: str
    reasons: tuple[str, ...] = ()
    version: str | None = None
    compared_with: str | None = None


def task(result: RunResult, name: str) -> TaskRecord | None:
    """The record of a component's task, wherever in the graph it stands; None if it did not run."""
    return next((t for t in result.tasks.values() if t.name == name and t.started is not None), None)


def artifact(result: RunResult, name: str, output: str) -> Path | None:
    """The path of a finished task's artifact; None if there is none."""
    record = task(result, name)
    if record is None or record.state != "SUCCEEDED":
        return None
    found = record.outputs.get("artifacts", {}).get(output, [])
    path = Path(found[0]["uri"]) if found else None
    return path if path and path.exists() else None


def parameter(result: RunResult, name: str, output: str) -> Any:
    """A parameter that a task put out; None if it has not."""
    record = task(result, name)
    return record.outputs.get("parameters", {}).get(output) if record else None


def release_outcome(result: RunResult) -> Outcome:
    """Read how a `release` run ended."""
    if result.state == "CANCELED":
        settled = task(result, "settle-release")
        done = settled is not None and settled.state == "SUCCEEDED"
        rest = "whatever was rolling out has been settled" if done else "it has not been settled: resume it"
        return Outcome("canceled", 130, f"canceled; {rest}")
    verdict_file = artifact(result, "evaluate-model", "verdict")
    verdict = read_verdict(verdict_file) if verdict_file else None
    compared = verdict.champion_version if verdict else None
    if result.state != "SUCCEEDED":
        return _failed(result, compared)
    findings = _blocking(artifact(result, "validate-data", "anomalies"))
    if findings:
        return Outcome("data refused", 3, "the data is not fit to train on", findings)
    if verdict is None:
        return Outcome("failed", 1, "the run ended without a verdict")
    if not verdict.passed:
        reasons = tuple(check.reason for check in verdict.failures)
        return Outcome("gate refused", 3, "the gate refused the challenger", reasons, None, compared)
    version = parameter(result, "register-model", "version")
    if parameter(result, "await-approval", "approved") is False:
        said = (str(parameter(result, "await-approval", "sentence")),)
        return Outcome("not approved", 3, "the challenger was not approved", said, version, compared)
    record = artifact(result, "rollout-canary", "record")
    summary = json.loads((record / "rollout.json").read_text()) if record else {}
    reason = summary.get("reason", "the rollout left no record")
    if summary.get("fault"):
        reason += f" (with an injected fault: {summary['fault']['kind']})"
    if summary.get("process") == "plan":
        return Outcome(
            "observed", 0, "the rollout is over; nothing was to be promoted", (reason,), version, compared
        )
    if summary.get("decision") != "PASS":
        return Outcome("rolled back", 3, "the canary was rolled back", (reason,), version, compared)
    if task(result, "promote-model") is None:
        return Outcome("failed", 1, "the canary passed but was not promoted", (), version, compared)
    return Outcome("released", 0, f"version {version} is champion", (reason,), version, compared)


def _failed(result: RunResult, compared: str | None) -> Outcome:
    blamed = [t for t in result.failures if t.is_leaf] or result.failures
    reasons = tuple(f"{t.display_name}: {t.error}" for t in blamed if t.error)
    if result.error:
        reasons = (result.error, *reasons)
    return Outcome("failed", result.exit_code, "a step failed", reasons, None, compared)


def _blocking(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    findings: list[dict[str, Any]] = json.loads(path.read_text())["findings"]
    return tuple(finding["sentence"] for finding in findings if finding["severity"] == "block")
