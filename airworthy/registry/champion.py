"""The champion as a folder: fetched by one step, compared with by the others, without a registry."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from airworthy.bundle import verify_bundle
from airworthy.errors import BundleError, DataError
from airworthy.registry.registry import Registry
from airworthy.registry.versions import STATISTICS

DESCRIPTION = "champion.json"


@dataclass(frozen=True)
class Champion:
    """A champion on disk; all None on a first release."""

    version: str | None
    digest: str | None
    bundle: Path | None
    statistics: Path | None
    """Statistics of the data that it was accepted with; None when none were kept."""


def export_champion(registry: Registry, model: str, out: Path) -> Champion:
    """Write the present champion to `out`: `champion.json` and, if there is one, `bundle/` and `statistics/`.

    Raises:
        RegistryError: The registry can't be reached.
        BundleError: Its stored files are not what was registered.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = registry.champion(model)
    if found is not None:
        registry.fetch_bundle(found, out / "bundle")
        registry.fetch_evidence(found, STATISTICS, out / "statistics")
    said = {
        "model": model,
        "version": found.version if found else None,
        "digest": found.digest if found else None,
    }
    (out / DESCRIPTION).write_text(
        json.dumps(said, indent=2) + "\n"
    )  # last: without it the folder is not read
    return read_champion(out)


def read_champion(path: Path) -> Champion:
    """What `export_champion` wrote, with the bundle verified against the registered digest.

    Raises:
        DataError: It is not such a folder.
        BundleError: The bundle was changed or exchanged since.
    """
    try:
        said = json.loads((path / DESCRIPTION).read_text())
        version, digest = said["version"], said["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path}: not an exported champion ({DESCRIPTION} is missing or damaged)") from None
    if version and verify_bundle(path / "bundle") != digest:
        raise BundleError(f"{path}: holds another bundle than champion version {version}; load it again")
    statistics = path / "statistics"
    return Champion(
        version=version,
        digest=digest,
        bundle=path / "bundle" if version else None,
        statistics=statistics if version and statistics.exists() else None,
    )


def champion_digest(registry: Registry, model: str) -> str | None:
    """SHA-256 of the champion's bundle; None when there is no champion."""
    found = registry.champion(model)
    return found.digest if found else None
