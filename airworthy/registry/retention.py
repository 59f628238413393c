"""Deleting old versions: whatever an alias, a dossier, a way back or a rollout refers to stays.

What went live stays reachable: a version keeps the champion that it replaced and the one that it was compared
with, and those keep theirs. So what goes is what never became champion, and branches that were rolled back, once
nothing recent was compared with them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy.errors import BundleError, RegistryError
from airworthy.mlflow_store import store_errors
from airworthy.model_spec import Retention
from airworthy.registry import aliases, approval, artifacts
from airworthy.registry.evidence import short
from airworthy.registry.versions import (
    BARRED,
    COMPARED,
    DELETING,
    PREFIX,
    REPLACED,
    RETENTION,
    ROLLED_BACK,
    Version,
)

if TYPE_CHECKING:
    from airworthy.registry.history import Change
    from airworthy.registry.registry import Registry

DOSSIER, DOSSIER_FILE = "dossier", "dossier.json"
References = Callable[[Version], Collection[str]]


@dataclass(frozen=True)
class Plan:
    """What a policy keeps, and why, and what it deletes, oldest first."""

    policy: Retention
    kept: Mapping[str, str]
    """Why, by version number."""
    doomed: tuple[Version, ...]


@dataclass(frozen=True)
class Pruned:
    """A version that was deleted."""

    version: Version
    freed_bytes: int


def policy_of(versions: Sequence[Version]) -> Retention:
    """The policy that the newest version was registered under; the default where none was recorded."""
    if not versions or RETENTION not in versions[0].tags:
        return Retention()
    return aliases.policy(versions[0], RETENTION, Retention)


def plan(
    versions: Sequence[Version],
    policy: Retention,
    *,
    references: References,
    in_use: Collection[str] = (),
    now: datetime | None = None,
) -> Plan:
    """Decide which versions stay.

    Args:
        versions: All versions of a model, newest first.
        policy: How many, and how young ones, stay whatever they are.
        references: Version numbers that a version refers to.
        in_use: Version numbers that serve or roll out somewhere.
        now: The time; by default the present.
    """
    oldest = (now or datetime.now(UTC)) - timedelta(days=policy.days)
    standing = [version for version in versions if DELETING not in version.tags]
    by_number = {version.version: version for version in standing}
    kept: dict[str, str] = {}
    for place, version in enumerate(standing):
        why = _why(version, place, policy, oldest, in_use)
        if why:
            kept[version.version] = why
    waiting = list(kept)
    while waiting:
        number = waiting.pop()
        for referred in references(by_number[number]):
            if referred in by_number and referred not in kept:
                kept[referred] = f"version {number} refers to it"
                waiting.append(referred)
    doomed = tuple(version for version in reversed(versions) if version.version not in kept)
    return Plan(policy, kept, doomed)


def look_ahead(
    registry: Registry, model: str, policy: Retention | None = None, *, in_use: Collection[str] = ()
) -> Plan:
    """What `prune` would do.

    Args:
        registry: The registry.
        model: Registered model.
        policy: What to keep; by default the policy of the newest version's spec.
        in_use: Version numbers that serve or roll out somewhere.

    Raises:
        RegistryError: There is no such model, or the registry can't be reached.
    """
    return _plan(registry, model, policy, in_use, {})


def sizes(registry: Registry, model: str, found: Plan) -> dict[str, int]:
    """Bytes that deleting each doomed version would free, by version number."""
    doomed = {version.version for version in found.doomed}
    with store_errors(f"measure old versions of {model}"):
        others = [version for version in registry.versions(model) if version.version not in doomed]
        return {
            version.version: sum(artifacts.removable(registry.client, version, others).values())
            for version in found.doomed
        }


def prune(
    registry: Registry, model: str, policy: Retention | None = None, *, in_use: Collection[str] = ()
) -> list[Pruned]:
    """Delete what the policy does not keep, with the files that no other version uses; every deletion is recorded.

    A version that was rolled back leaves its mark on the model, so that its bundle stays barred. A deletion that
    was cut short is completed by the next call. For the arguments see `look_ahead`.

    Raises:
        RegistryError: The registry can't be reached, or another process holds the model.
    """
    known: dict[str, Collection[str]] = {}
    done: list[Pruned] = []
    for doomed in _plan(registry, model, policy, in_use, known).doomed:
        with registry.changing(model, "delete old versions of") as change:
            now = _plan(registry, model, policy, in_use, known)  # the world may have changed since
            if doomed.version in {version.version for version in now.doomed}:
                done.append(Pruned(doomed, _delete(registry, change, doomed)))
    return done


def _plan(
    registry: Registry,
    model: str,
    policy: Retention | None,
    in_use: Collection[str],
    known: dict[str, Collection[str]],
) -> Plan:
    versions = registry.versions(model)
    if not versions and model not in registry.models():
        raise RegistryError(
            f"{model}: there is no such model; there are {', '.join(registry.models()) or 'none'}"
        )

    def references(version: Version) -> Collection[str]:
        digest = registry.evidence(version).get(DOSSIER, "")
        if digest and digest not in known:
            known[digest] = _named_in_dossier(registry, version)
        recorded = {version.tags.get(REPLACED, ""), version.tags.get(COMPARED, "")}
        return (recorded | set(known.get(digest, ()))) - {""}

    return plan(versions, policy or policy_of(versions), references=references, in_use=in_use)


def _named_in_dossier(registry: Registry, version: Version) -> set[str]:
    """Versions that a kept dossier refers to; a damaged one refers to none that the tags don't name."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            folder = registry.fetch_evidence(version, DOSSIER, Path(scratch) / DOSSIER)
            if folder is None or not (folder / DOSSIER_FILE).is_file():
                return set()
            said = json.loads((folder / DOSSIER_FILE).read_text())
            return {str(reference["version"]) for reference in said["references"]}
        except (BundleError, ValueError, KeyError, TypeError):
            return set()


def _why(
    version: Version, place: int, policy: Retention, oldest: datetime, in_use: Collection[str]
) -> str | None:
    if version.aliases:
        return f"alias {', '.join(version.aliases)}"
    if version.version in in_use:
        return "serves or rolls out"
    if approval.read(version).state == "waiting":
        return "waits for approval"
    if place < policy.versions:
        return f"among the newest {policy.versions}"
    if version.created >= oldest:
        return f"younger than {policy.days:g} days"
    return None


def _delete(registry: Registry, change: Change, version: Version) -> int:
    """Delete one version; in an order that can be repeated after a crash. Returns the bytes that are freed."""
    if ROLLED_BACK in version.tags:
        mark = PREFIX + BARRED + version.digest
        change.client.set_registered_model_tag(version.model, mark, version.tags[ROLLED_BACK])
    aliases.tag(change, version, {DELETING: "yes"})
    others = [v for v in registry.versions(version.model) if v.version != version.version]
    paths = artifacts.removable(change.client, version, others)
    freed = sum(paths.values())
    change.hold.require()
    artifacts.remove(change.client, version, paths)
    change.record(
        "deleted", version.version, f"retention; bundle {short(version.digest)}, {freed / 1e6:.1f} MB"
    )
    change.client.delete_model_version(version.model, version.version)
    return freed
