"""What must be shown before a version is registered or promoted, and what is written down with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy import __version__
from airworthy.bundle import read_bundle_info
from airworthy.datasets import read_info
from airworthy.errors import GateError
from airworthy.model_spec import spec_digest
from airworthy.registry import reading
from airworthy.registry.versions import (
    APPROVAL_REQUIRED,
    BARRED,
    COMPARED,
    DELETING,
    DIGEST,
    PREFIX,
    RETENTION,
    ROLLED_BACK,
    Version,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airworthy.model_spec import ModelSpec
    from airworthy.verdict import RolloutOutcome, Verdict


def require_promotable(
    candidate: Version, judged: Verdict, outcome: RolloutOutcome, expected: str | None
) -> None:
    """Everything about the evidence that can be known without the registry's lock.

    Raises:
        GateError: Verdict or rollout is about another bundle or champion, or did not pass.
    """
    if judged.model != candidate.model or candidate.digest != judged.bundle_digest:
        raise GateError(
            f"{candidate} is bundle {short(candidate.digest)}, but the verdict judges {judged.model} bundle "
            f"{short(judged.bundle_digest)}"
        )
    if outcome.bundle_digest != candidate.digest:
        raise GateError(
            f"the rollout record is about bundle {short(outcome.bundle_digest)}, but {candidate} is "
            f"{short(candidate.digest)}"
        )
    if outcome.decision != "PASS":
        raise GateError(f"the rollout of {candidate} ended in {outcome.decision}: {outcome.reason}")
    if DELETING in candidate.tags:
        raise GateError(f"{candidate} is being deleted: release again")
    if judged.champion_version != expected:
        raise GateError(
            f"stale: the gate compared with champion version {judged.champion_version or 'none'}, not "
            f"{expected or 'none'}; evaluate again"
        )


def require_expected(
    model: str, champion: Version | None, expected: str | None, outcome: RolloutOutcome
) -> None:
    """The champion is still the one that gate and canary compared with.

    Raises:
        GateError: It changed, so the evidence is stale.
    """
    current = champion.version if champion else None
    if current != expected:
        raise GateError(
            f"stale: the champion of {model} is version {current or 'none'} by now, but the evidence "
            f"compares with {expected or 'none'}; release again"
        )
    digest = champion.digest if champion else None
    if outcome.stable_digest != digest:
        raise GateError(
            f"stale: the canary ran against bundle {short(outcome.stable_digest)}, but the champion of "
            f"{model} is {short(digest)}; roll out again"
        )


def refuse_barred(client: MlflowClient, model: str, digest: str) -> None:
    """Refuse a bundle that was rolled back from production: old evidence passed it once already.

    The mark lies on its version or, when that was deleted, on the model.
    """
    mark = client.get_registered_model(model).tags.get(PREFIX + BARRED + digest)
    what, place = f"bundle {short(digest)}", f"the model's tag {PREFIX}{BARRED}{digest}"
    found = reading.by_digest(client, model, digest)
    if found is not None and ROLLED_BACK in found.tags:
        mark = found.tags[ROLLED_BACK]
        what, place = str(found), f"that version's tag {PREFIX}{ROLLED_BACK}"
    if mark is not None:
        try:
            said = json.loads(mark)
            when = f"{said['time'][:16]} UTC ({said['reason']})"
        except (ValueError, KeyError, TypeError):  # a damaged mark is still one
            when = "once (when and why is not readable any more)"
        raise GateError(
            f"this bundle is {what}, rolled back {when}; train another, or delete {place} to allow it again"
        )


def lineage(spec_text: str, *, as_of: str, train: Path) -> dict[str, str]:
    """Where a model comes from, as tags for its version.

    Args:
        spec_text: The model spec.
        as_of: The time that the data was retrieved as of.
        train: Training dataset.
    """
    info = read_info(train)
    return {
        "as_of": as_of,
        "spec_digest": spec_digest(spec_text),
        "training_rows": str(info.rows),
        "training_start": info.start.isoformat(),
        "training_end": info.end.isoformat(),
    }


def version_tags(spec: ModelSpec, judged: Verdict, bundle: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Tags of a version: facts from bundle and verdict, which win over the caller's `more`."""
    info = read_bundle_info(bundle)
    facts: dict[str, object] = {
        DIGEST: judged.bundle_digest,
        "training_fingerprint": info.training_fingerprint,
        "tune_fingerprint": info.tune_fingerprint,
        "test_fingerprint": judged.data_fingerprint,
        "feature_service": info.feature_service,
        "feature_service_digest": info.feature_service_digest,
        "policy_digest": judged.policy_digest,
        COMPARED: judged.champion_version or "",
        "verdict.status": judged.status,
        "rounds": info.rounds,
        "service": spec.rollout.service,
        "library_version": __version__,
        RETENTION: spec.retention.model_dump_json(),
    }
    if spec.approval.required:
        facts[APPROVAL_REQUIRED] = spec.approval.model_dump_json()
    return {**more, **{key: str(value) for key, value in facts.items()}}


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files and their names."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{content_digest(file)}\n".encode())
    return digest.hexdigest()


def short(digest: str | None) -> str:
    """A digest short enough for a sentence."""
    return (digest or "none")[:12]
