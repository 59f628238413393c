"""Whole releases in a real registry, with everything a pipeline would keep: what dossiers are written from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from airworthy import datasets, mlflow_store
from airworthy.bundle import BOOSTER, bundle_digest, read_bundle_info, write_bundle
from airworthy.datasets import DatasetInfo
from airworthy.findings import write_findings
from airworthy.model_spec import load_spec, spec_digest
from airworthy.registry import Registry, Version, lineage
from airworthy.training.tracking import training_run
from airworthy.verdict import Check, SmokeRecord, write_verdict
from tests.evaluation_record import recorded
from tests.release_evidence import SPEC_TEXT, flights, make_bundle, write_flights

CARD = """
card:
  owner: Flight operations
  contact: ops@airline.example
  purpose: Warn passengers an hour before departure.
  out_of_scope: |
    Safety decisions of any kind.
    Rating of pilots.
  oversight: The duty manager can stop it at any time.
  limitations: Knows nothing of strikes.
"""
TEXT = SPEC_TEXT + CARD
AS_OF = "2013-08-01T00:00:00+00:00"


@dataclass(frozen=True)
class Release:
    """A registered version, and the files that it was registered with."""

    version: Version
    folder: Path
    client: MlflowClient

    def stored(self, name: str) -> Path:
        """Where the artifact store keeps an evidence, or the bundle."""
        run = self.client.get_run(str(self.version.run_id))
        root = Path(run.info.artifact_uri.removeprefix("file://"))
        if name == "bundle":
            return Path(self.version.source.removeprefix("file://"))
        entry = self.client.get_model_version(self.version.model, self.version.version)
        return root / entry.tags[f"airworthy.{name}"]


def release(
    registry: Registry,
    folder: Path,
    *,
    champion: Version | None = None,
    text: str = TEXT,
    rounds: int = 2,
    overridden: bool = False,
    promote: bool = True,
) -> Release:
    """Register a version with everything a release keeps, and make it champion."""
    train = write_flights(folder / "train", flights(60, seed=rounds))
    tune = write_flights(folder / "tune", flights(30, seed=rounds + 50))
    bundle, digest = _bundle(folder, train, tune, text, rounds)
    _judge(folder, digest, champion, overridden, text)
    _statistics(folder / "statistics", {"train": train, "tune": tune})
    spec = load_spec(text)
    (folder / "spec.yaml").write_text(text)
    version = registry.register(
        spec,
        verdict=folder / "verdict.json",
        bundle=bundle,
        run_id=_train(registry, folder, text, train, tune),
        lineage={**lineage(text, as_of=AS_OF, train=train), "pipeline_run": f"release-{rounds}"},
        evidence={
            "statistics": folder / "statistics",
            "findings": folder / "findings.json",
            "spec": folder / "spec.yaml",
        },
    )
    _smoke(folder / "smoke.json", digest)
    version = registry.attach(version, "smoke", folder / "smoke.json")
    if promote:
        _promote(registry, folder, version, champion)
        version = registry.version(version.model, version.version)
    return Release(version, folder, MlflowClient(tracking_uri=registry.uri))


def _bundle(folder: Path, train: Path, tune: Path, text: str, rounds: int) -> tuple[Path, str]:
    make_bundle(folder / "bundle", train=train, rounds=rounds)
    info = read_bundle_info(folder / "bundle").model_copy(
        update={
            "spec_digest": spec_digest(text),
            "tune_fingerprint": datasets.read_info(tune).fingerprint,
            "as_of": AS_OF,
        }
    )
    write_bundle(folder / "bundle", info, (folder / "bundle" / BOOSTER).read_bytes())
    return folder / "bundle", bundle_digest(folder / "bundle")


def _judge(folder: Path, digest: str, champion: Version | None, overridden: bool, text: str) -> None:
    verdict, findings = recorded(
        champion=champion is not None, slices=20, failing=2 if overridden else 0, overridden=overridden
    )
    verdict = verdict.model_copy(
        update={
            "model": "late",
            "bundle_digest": digest,
            "champion_version": champion.version if champion else None,
            "champion_digest": champion.digest if champion else None,
            "policy_digest": spec_digest(text),
            "status": "passed",
        }
    )
    assert findings.challenger
    mine = findings.challenger.model_copy(update={"digest": digest})
    theirs = (
        findings.champion
        and champion
        and findings.champion.model_copy(update={"digest": champion.digest, "version": champion.version})
    )
    findings = findings.model_copy(update={"model": "late", "challenger": mine, "champion": theirs or None})
    write_verdict(verdict, folder / "verdict.json")
    write_findings(findings, folder / "findings.json")


def _statistics(folder: Path, windows: dict[str, Path]) -> None:
    folder.mkdir()
    number = {"type": "number", "count": 58, "missing": 0.03, "mean": 991.2, "std": 300.0, "min": 12.0,
              "median": 1001.0, "max": 1900.5, "zeros": 0.0, "histogram": [[12.0, 1900.5, 58.0]]}  # fmt: skip
    columns = {
        "distance": number,
        "carrier": {"type": "text", "count": 60, "missing": 0.0, "unique": 4, "top": [["AA", 20.0], ["UA", 15.0]]},
        "late": {"type": "integer", "count": 60, "missing": 0.0, "mean": 0.4, "std": 0.5, "min": 0.0,
                 "median": 0.0, "max": 1.0, "zeros": 0.6},
    }  # fmt: skip
    said = {}
    for name, path in windows.items():
        info = datasets.read_info(path)
        (folder / f"{name}.pb").write_bytes(name.encode())
        said[name] = {
            "rows": info.rows,
            "fingerprint": info.fingerprint,
            "file": f"{name}.pb",
            "sha256": hashlib.sha256(name.encode()).hexdigest(),
            "features": columns,
        }
    document = {"format": 1, "schema_digest": "5" * 64, "windows": said}
    (folder / "statistics.json").write_text(json.dumps(document))


def _train(registry: Registry, folder: Path, text: str, train: Path, tune: Path) -> str:
    """A training run as the trainer logs it; it finds its store by the environment, which tests set."""
    assert mlflow_store.tracking_uri() == registry.uri
    windows: dict[str, DatasetInfo] = {
        "training": datasets.read_info(train),
        "tuning": datasets.read_info(tune),
    }
    info = read_bundle_info(folder / "bundle")
    with training_run("late", AS_OF, text, windows) as run:
        curves = {"train_logloss": [0.6, 0.55, 0.5], "tune_logloss": [0.61, 0.58, 0.56]}
        run.record(info, folder / "bundle", bundle_digest(folder / "bundle"), {"tune_auc": 0.74}, curves)
    return run.run_id


def _smoke(path: Path, digest: str) -> None:
    check = Check(
        name="scores",
        family="budget",
        observed=1e-8,
        threshold=1e-5,
        outcome="pass",
        reason="The server scores alike.",
    )
    record = SmokeRecord(
        model="late",
        bundle_digest=digest,
        passed=True,
        checks=(check,),
        metrics={"p50_ms": 1.4, "p99_ms": 3.0},
    )
    path.write_text(record.model_dump_json())


def _promote(registry: Registry, folder: Path, version: Version, champion: Version | None) -> None:
    record = folder / "record"
    record.mkdir()
    (record / "record.jsonl").write_text("{}\n")
    said = {
        "format": 1,
        "service": "late",
        "decision": "PASS",
        "bundle_digest": version.digest,
        "stable_digest": champion.digest if champion else None,
        "stable_version": champion.version if champion else None,
        "reason": "0 of 548 canary requests failed",
        "plan": {"steps": [10, 50]},
        "traffic": "replayed rows of the test window",
        "fault": None,
        "evidence": {"errors": 1.0, "latency": 0.3},
        "counts": {"stable": {"requests": 752, "failed": 0}, "canary": {"requests": 548, "failed": 0}},
        "warnings": [],
        "seconds": 2.2,
    }
    (record / "rollout.json").write_text(json.dumps(said))
    registry.promote(
        "late",
        version.version,
        verdict=folder / "verdict.json",
        bundle=folder / "bundle",
        rollout=record / "rollout.json",
        evidence={"rollout": record},
        expected_champion=champion.version if champion else None,
    )
