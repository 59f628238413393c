"""Waiting for a person's answer: what the pipeline does between the evidence and the traffic."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy.errors import GateError, RegistryError
from airworthy.mlflow_store import sqlite_file
from airworthy.registry import approval
from airworthy.registry.approval import Approval
from airworthy.registry.evidence import content_digest, short
from airworthy.registry.versions import CHAMPION, Version
from airworthy.verdict import require_passed

if TYPE_CHECKING:
    from airworthy.registry.registry import Registry

PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0

_log = logging.getLogger(__name__)


def wait_for_approval(
    registry: Registry,
    model: str,
    version: str,
    *,
    run: str,
    verdict: Path,
    bundle: Path,
    dossier: str,
    tell: Callable[[str], None],
    pause: Callable[[float], object] = time.sleep,
) -> Approval:
    """Ask for approval and wait for the answer, the deadline, or another champion; whatever comes first.

    It may be killed and called again for the same run: the question and its deadline are in the registry.

    Args:
        registry: The registry.
        model: Registered model.
        version: The version, registered with this bundle and verdict.
        run: The pipeline run that asks.
        verdict: The gate's verdict.
        bundle: The version's bundle.
        dossier: Where a person finds the version's dossier.
        tell: Gets the lines that a person should see.
        pause: Waits for so many seconds.

    Returns:
        How it ended: `not required`, `approved`, `rejected` or `lapsed`. In the last two cases the version is
        challenger no more.

    Raises:
        GateError: The version is another bundle than this one, or was registered again under another verdict.
        RegistryError: The registry can't be reached at the beginning or at the end.
    """
    judged, found = require_passed(verdict, bundle), registry.version(model, version)
    judgement = content_digest(verdict)
    if found.digest != judged.bundle_digest:
        raise GateError(
            f"{found} is bundle {short(found.digest)}, but the verdict judges {short(judged.bundle_digest)}: "
            "nobody can be asked about that"
        )
    if CHAMPION not in found.aliases and approval.read(found).verdict_sha256 != judgement:
        raise GateError(_superseded(found))
    standing = approval.ask(registry, model, version, run=run)
    if standing.state == "waiting":
        tell(f"the evidence is in the dossier: {dossier} (or: airworthy dossier {model}@{version})")
        tell(
            f"{found} {standing.sentence}: airworthy approve {model}@{version} --reason '…', or "
            f"airworthy reject {model}@{version} --reason '…'"
        )
    if standing.state in ("waiting", "lapsed"):
        standing = _poll(registry, model, version, judged.champion_version, pause)
        if standing.verdict_sha256 != judgement:
            raise GateError(_superseded(found))
    if standing.state != "not required":
        tell(f"{found} {standing.sentence}")
    if standing.state in ("rejected", "lapsed"):
        approval.withdraw_unapproved(registry, model, version, standing)
    return standing


def _poll(
    registry: Registry, model: str, version: str, compared: str | None, pause: Callable[[float], object]
) -> Approval:
    longest = PAUSE_SECONDS if sqlite_file(registry.uri) else LONGEST_PAUSE_SECONDS
    seconds = PAUSE_SECONDS
    while True:
        try:
            standing = approval.read(registry.version(model, version))
            champion = registry.champion(model)
        except RegistryError as error:  # a wait of days outlives an outage
            _log.warning("%s; asking again", error)
        else:
            now = champion.version if champion else None
            if standing.state == "waiting" and now not in (compared, version):
                standing = approval.lapse(
                    registry,
                    model,
                    version,
                    reason=f"version {now or 'none'} is champion by now: evaluate again",
                )
            elif standing.state == "lapsed":
                standing = approval.lapse(registry, model, version)
            if standing.state != "waiting":
                return standing
        pause(seconds)
        seconds = min(seconds * 1.3, longest)


def _superseded(version: Version) -> str:
    return f"{version} was registered again under another verdict: the release that did so asks for approval"
