"""The changes of a registry themselves: each runs while the model's lock is held, and can be repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy.errors import GateError, RegistryError
from airworthy.registry import aliases, artifacts, evidence, reading
from airworthy.registry.history import BACK, Change, now
from airworthy.registry.versions import (
    CHALLENGER,
    CHAMPION,
    PREFIX,
    PROMOTED_BY,
    REPLACED,
    ROLLED_BACK,
    ROLLOUT,
    VERDICT,
    WITHDRAWN,
    Version,
    version_of,
)

if TYPE_CHECKING:
    from airworthy.verdict import RolloutOutcome, Verdict

_VERDICT_DIGEST = f"{VERDICT}_sha256"


def register(
    change: Change,
    *,
    judged: Verdict,
    bundle: Path,
    run_id: str | None,
    new_run: Callable[[], str],
    facts: Mapping[str, str],
    contents: Mapping[str, Path],
) -> str:
    """Make or update the version of a bundle, and the challenger of it; returns its number."""
    client, model = change.client, change.model
    evidence.refuse_barred(client, model, judged.bundle_digest)
    found = reading.by_digest(client, model, judged.bundle_digest)
    if found is not None and CHAMPION in found.aliases:  # what it became champion by stays on record
        return found.version
    # A version's evidence lies in its own run, so that is where an update goes as well.
    run = (found.run_id if found else None) or run_id or new_run()
    tags = {**facts, **artifacts.store_all(client, run, contents)}
    change.hold.require()
    if found is None:
        source = artifacts.store_bundle(client, run, bundle, judged.bundle_digest)
        prefixed = {PREFIX + key: value for key, value in tags.items()}
        entry = client.create_model_version(model, source, run, tags=prefixed, await_creation_for=0)
        found = version_of(entry, ())
    if (
        found.tags.get(_VERDICT_DIGEST) != tags[_VERDICT_DIGEST]
    ):  # a promotion by the earlier verdict is history
        aliases.untag(change, found, PROMOTED_BY, ROLLOUT, f"{ROLLOUT}_sha256")
    aliases.tag(change, found, tags)
    aliases.untag(change, found, WITHDRAWN)
    if CHALLENGER not in found.aliases:
        before = reading.by_alias(client, model, CHALLENGER)
        for check in judged.overridden:
            assert check.override is not None
            said = f"{check.name}, until {check.override.until}: {check.override.reason}"
            change.record("override used", found.version, said, by=check.override.by)
        held = before.version if before else None
        aliases.move(
            change, found, CHALLENGER, "registered", "passed the gate", before=held, by=_run(found, facts)
        )
    return found.version


def promote(
    change: Change,
    candidate: Version,
    *,
    outcome: RolloutOutcome,
    expected: str | None,
    facts: Mapping[str, str],
    contents: Mapping[str, Path],
) -> None:
    """Make a version the champion over the expected one; everything about its evidence was checked."""
    # Before the alias: a crash in between leaves tags that the next attempt writes again.
    tags = {
        REPLACED: expected or "",
        **facts,
        **artifacts.store_all(change.client, candidate.run_id, contents),
    }
    aliases.tag(change, candidate, tags)
    aliases.untag(change, candidate, WITHDRAWN)
    by = _run(candidate, {})
    aliases.move(change, candidate, CHAMPION, "promoted", outcome.reason, before=expected, by=by)
    aliases.settle(change, reading.by_number(change.client, change.model, candidate.version))


def rollback(
    change: Change, reason: str, *, expected_champion: str | None, check: Callable[[Version], None]
) -> Version:
    """Bring the previous champion back; `check` raises when it could not be served."""
    client, model = change.client, change.model
    champion = reading.by_alias(client, model, CHAMPION)
    if champion is None:
        raise RegistryError(f"{model} has no champion, so there is nothing to roll back")
    if expected_champion and champion.version != expected_champion:
        raise GateError(f"{champion} serves by now, not {expected_champion}: nothing was rolled back")
    before = champion.tags.get(REPLACED)
    if not before:
        raise RegistryError(f"{champion} is the first champion: there is none to go back to")
    previous = reading.by_number(client, model, before)
    if ROLLED_BACK in previous.tags:
        raise RegistryError(f"{previous} came before, but was rolled back itself: none to go back to")
    check(previous)
    # The mark after the entry, so that `repair` knows of it, and before the alias, so that none goes unmarked.
    mark = {ROLLED_BACK: json.dumps({"time": now(), "reason": reason})}
    aliases.move(change, previous, CHAMPION, BACK, reason, before=champion.version, mark=(champion, mark))
    aliases.settle(change, previous)
    return reading.by_number(client, model, before)


def withdraw(change: Change, version: str | None, reason: str) -> str | None:
    """Take the alias from the challenger (from this version only, if one is given); None if there was none."""
    current = reading.by_alias(change.client, change.model, CHALLENGER)
    if current is None or (version is not None and current.version != version):
        return None
    if CHAMPION in current.aliases:  # promoted, and the run died before it tidied up
        aliases.settle(change, current)
        return None
    aliases.tag(change, current, {WITHDRAWN: json.dumps({"time": now(), "reason": reason})})
    by, held = _run(current, {}), current.version
    aliases.move(change, current, CHALLENGER, "withdrawn", reason, before=held, by=by, remove=True)
    return current.version


def _run(version: Version, facts: Mapping[str, str]) -> str | None:
    """The pipeline run on whose behalf a version moves; None outside of pipelines."""
    run = facts.get("pipeline_run") or version.tags.get("pipeline_run")
    return f"run {run}" if run else None
