"""What a model came from: as recorded with a version, and as found when it is made again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from airworthy import __version__
from airworthy.bundle import SUMS, BundleInfo, bundle_digest, read_bundle_info
from airworthy.datasets import read_info
from airworthy.errors import RegistryError
from airworthy.files import write_whole
from airworthy.model_spec import load_spec, spec_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airworthy.registry import Registry, Version

WINDOWS = ("train", "tune", "test")

RECORDED, DATA, BUNDLE = "recorded", "data", "bundle"
"""Folders of a reproduction: what was recorded, the windows retrieved now, the bundle trained now."""
SPEC, MACHINE = "spec.yaml", "machine.json"
_FACTS = "recorded.json"
_VERDICT, _FINDINGS = "verdict.json", "findings.json"


class Window(BaseModel):
    """A dataset. None: not recorded."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rows: int | None
    fingerprint: str | None


class Facts(BaseModel):
    """Where a bundle comes from, and what it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    digest: str
    """Of the bundle."""
    files: dict[str, str]
    """SHA-256 of the bundle's files, by name."""
    info: BundleInfo
    windows: dict[str, Window]
    """By `train`, `tune`, `test`."""
    machine: dict[str, str]
    """`cpus` (threads of the training) and `platform`, where recorded."""
    library: str | None
    """Version of Airworthy."""


class Recorded(Facts):
    """What the registry says about a version."""

    model: str
    version: str
    metrics: dict[str, float]
    """Metrics of the test window that the gate recorded, where it did."""

    def __str__(self) -> str:
        return f"{self.model} version {self.version}"


def recall(registry: Registry, version: Version, out: Path) -> Recorded:
    """Fetch what is recorded with a version: its bundle, the spec's text, and the facts around them.

    Args:
        registry: Where it is registered.
        version: The version.
        out: Folder for `recorded/`: `bundle`, `spec.yaml`, `recorded.json`.

    Raises:
        RegistryError: The registry can't be read, or the spec was not recorded, or is not the one trained with.
        BundleError: Something recorded was changed since.
        ConfigError: This release of Airworthy doesn't take the recorded spec.
    """
    from mlflow import MlflowClient

    folder = out / RECORDED
    bundle = registry.fetch_bundle(version, folder / BUNDLE)
    client = MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)
    info = read_bundle_info(bundle)
    text = _spec_text(registry, client, version, folder / SPEC, info.spec_digest)
    load_spec(text, f"the recorded spec of {version}")
    rows, machine = _training_run(client, version)
    fingerprints = (info.training_fingerprint, info.tune_fingerprint, version.tags.get("test_fingerprint"))
    test_rows, metrics = _judged(registry, version, folder)
    recorded = Recorded(
        model=version.model,
        version=version.version,
        digest=version.digest,
        files=bundle_files(bundle),
        info=info,
        windows={
            name: Window(rows={**rows, "test": test_rows}.get(name), fingerprint=fingerprint)
            for name, fingerprint in zip(WINDOWS, fingerprints, strict=True)
        },
        machine=machine,
        library=version.tags.get("library_version"),
        metrics=metrics,
    )
    write_whole(folder / _FACTS, recorded.model_dump_json(indent=2) + "\n")
    return recorded


def read_recorded(out: Path) -> Recorded:
    """What `recall` wrote."""
    return Recorded.model_validate_json((out / RECORDED / _FACTS).read_text())


def made_now(out: Path) -> Facts:
    """The same facts about what was retrieved and trained into a reproduction's folder.

    Raises:
        BundleError: There is no bundle.
        DataError: A window is missing.
    """
    windows = {name: read_info(out / DATA / name) for name in WINDOWS}
    return Facts(
        digest=bundle_digest(
            out / BUNDLE
        ),  # just made, for comparing only: not signed, so there is nothing to verify
        files=bundle_files(out / BUNDLE),
        info=read_bundle_info(out / BUNDLE),
        windows={
            name: Window(rows=info.rows, fingerprint=info.fingerprint) for name, info in windows.items()
        },
        machine=json.loads((out / MACHINE).read_text()),
        library=__version__,
    )


def bundle_files(bundle: Path) -> dict[str, str]:
    """SHA-256 by name, as a bundle's own list says."""
    lines = (bundle / SUMS).read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def _spec_text(registry: Registry, client: MlflowClient, version: Version, out: Path, digest: str) -> str:
    """The spec kept with the version, or with its training run; its digest must be the bundle's."""
    from airworthy.mlflow_store import store_errors
    from airworthy.registry.artifacts import download

    if registry.fetch_evidence(version, "spec", out) is None:
        with store_errors(f"fetch the spec that {version} was trained with"):
            download(client, f"runs:/{version.run_id}/{SPEC}", out)
    text = out.read_bytes().decode()
    if spec_digest(text) != digest:
        raise RegistryError(
            f"{version}: the spec kept with it is not the one it was trained with (SHA-256 "
            f"{spec_digest(text)[:12]} instead of {digest[:12]}); it was changed, and nothing can be reproduced"
        )
    return text


def _training_run(client: MlflowClient, version: Version) -> tuple[dict[str, int], dict[str, str]]:
    """Rows by window, and the machine; empty where the version has no training run of its own."""
    from airworthy.mlflow_store import store_errors

    with store_errors(f"read the training run of {version}"):
        run = client.get_run(str(version.run_id))
    inputs = run.inputs.dataset_inputs if run.inputs else []
    profiles = {entry.dataset.name: json.loads(entry.dataset.profile or "{}") for entry in inputs}
    rows = {name: int(profile["rows"]) for name, profile in profiles.items() if "rows" in profile}
    tags = {name: run.data.tags.get(f"airworthy.{name}") for name in ("cpus", "platform")}
    return rows, {name: value for name, value in tags.items() if value is not None}


def _judged(registry: Registry, version: Version, folder: Path) -> tuple[int | None, dict[str, float]]:
    """Rows of the test window, and the metrics that the gate recorded."""
    from airworthy.findings import read_findings
    from airworthy.verdict import read_verdict

    findings = registry.fetch_evidence(version, "findings", folder / _FINDINGS)
    if findings is not None:
        found = read_findings(findings)
        measured: Mapping[str, float] = (
            {name: number.value for name, number in found.challenger.metrics.items()}
            if found.challenger
            else {}
        )
        return found.rows, dict(measured)
    verdict = registry.fetch_evidence(version, "verdict", folder / _VERDICT)
    if verdict is None:
        return None, {}
    judged = read_verdict(verdict)
    rows = judged.settings.get("rows")
    limits = {c.name: c.observed for c in judged.checks if c.family == "limits" and c.observed is not None}
    return int(rows) if isinstance(rows, int) else None, limits
