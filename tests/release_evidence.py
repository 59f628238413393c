"""Small flights, real bundles, verdicts and rollout records: what gate and registry tests start from."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import xgboost

from airworthy import datasets
from airworthy.bundle import BundleInfo, Feature, write_bundle
from airworthy.model_spec import ModelSpec, load_spec
from airworthy.verdict import Check, Outcome, Verdict, write_verdict

SPEC_TEXT = """
name: late
features: {service: late_v1, entities: flights, id: flight_id}
label: {column: late, known_at: landed}
validation: {schema: late.pbtxt}
gate:
  min_auc: 0.6
  max_log_loss: 0.68
  champion: {margin: 0.02}
  threshold: {cost_false_alarm: 1, cost_miss: 2}
slices: [carrier]
rollout: {service: late}
"""
CARRIERS = ("AA", "B6", "DL", "UA")
FEATURES = (
    datasets.FeatureColumn(name="hour", kind="integer"),
    datasets.FeatureColumn(name="distance", kind="number"),
    datasets.FeatureColumn(name="carrier", kind="category"),
)
START = datetime(2013, 6, 1, tzinfo=UTC)


def spec(**changes: str) -> tuple[ModelSpec, str]:
    """The spec and its text, with lines replaced (`spec(**{"slices: [carrier]": "slices: [nowhere]"})`)."""
    text = SPEC_TEXT
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return load_spec(text), text


def flights(rows: int, seed: int = 0, start: datetime = START) -> pa.Table:
    """Flights whose chance to be late rises with the hour and depends on the carrier."""
    generator = np.random.default_rng(seed)
    hour = generator.integers(5, 23, rows)
    carrier = generator.integers(0, len(CARRIERS), rows)
    distance = generator.normal(1000, 300, rows)
    odds = (hour - 14) / 4 + carrier - 2.2
    late = generator.uniform(size=rows) < 1 / (1 + np.exp(-odds))
    times = [start + timedelta(minutes=i) for i in range(rows)]
    return pa.table(
        {
            "flight_id": [f"{seed}-{i:06d}" for i in range(rows)],
            "event_timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
            "landed": pa.array([t + timedelta(hours=4) for t in times], pa.timestamp("us", tz="UTC")),
            "late": pa.array(late.astype(np.int64)),
            "hour": pa.array(hour, pa.int64()),
            "distance": pa.array(
                np.where(generator.uniform(size=rows) < 0.05, np.nan, distance), from_pandas=True
            ),
            "carrier": pa.array([CARRIERS[c] for c in carrier]),
        }
    )


def write_flights(
    path: Path,
    table: pa.Table,
    *,
    features: tuple[datasets.FeatureColumn, ...] = FEATURES,
    label: str = "late",
) -> Path:
    """A dataset of them."""
    times = table.column("event_timestamp").to_pylist() or [START]
    datasets.write_dataset(
        path,
        table,
        name=path.name,
        features=features,
        label=label,
        label_known_at="landed",
        id_column="flight_id",
        time_column="event_timestamp",
        start=min(times),
        end=max(times) + timedelta(minutes=1),
        feature_service="late_v1",
        feature_service_digest="0" * 64,
    )
    return path


def make_bundle(
    path: Path,
    *,
    train: Path | None = None,
    rounds: int = 20,
    noise: float = 0.0,
    drop: tuple[str, ...] = (),
    label: str = "late",
    booster: bytes | None = None,
) -> str:
    """A bundle trained on `flights`; `noise` flips that share of labels, so that the model is worse.

    Returns:
        Its digest.
    """
    table = flights(4000, seed=99)
    used = [feature for feature in FEATURES if feature.name not in drop]
    columns = {
        "hour": table.column("hour").to_numpy().astype(float),
        "distance": table.column("distance").to_numpy(zero_copy_only=False),
        "carrier": np.array([float(CARRIERS.index(c)) for c in table.column("carrier").to_pylist()]),
    }
    flip = np.random.default_rng(1).uniform(size=4000) < noise
    labels = np.where(flip, 1 - table.column("late").to_numpy(), table.column("late").to_numpy())
    matrix = xgboost.DMatrix(
        np.column_stack([columns[f.name] for f in used]).astype(np.float32),
        label=labels,
        feature_names=[f.name for f in used],
        feature_types=["c" if f.kind == "category" else "q" for f in used],
        enable_categorical=True,
    )
    params = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.3, "seed": 1, "nthread": 1}
    model = xgboost.train(params, matrix, num_boost_round=rounds)
    info = BundleInfo(
        model="late",
        label=label,
        features=tuple(
            Feature(
                name=f.name, kind=f.kind, categories=CARRIERS if f.kind == "category" else (), nullable=True
            )
            for f in used
        ),
        threshold=0.4,
        rounds=rounds,
        base_rate=float(labels.mean()),
        device="cpu",
        params={"max_depth": 3},
        versions={"xgboost": xgboost.__version__},
        training_fingerprint=datasets.read_info(train).fingerprint if train else "1" * 64,
        tune_fingerprint="2" * 64,
        feature_service="late_v1",
        feature_service_digest="0" * 64,
        spec_digest="3" * 64,
        as_of="2013-08-01T00:00:00+00:00",
        onnx="not converted in tests",
    )
    return write_bundle(path, info, booster or bytes(model.save_raw("ubj")), None)


def new_store(folder: Path) -> str:
    """URI of an empty MLflow store in a folder; tables come from a template, as migrating takes seconds."""
    from airworthy.mlflow_store import ensure_store

    folder.mkdir(parents=True, exist_ok=True)
    for file in _template().iterdir():
        shutil.copy(file, folder / file.name)
    return ensure_store(f"sqlite:///{folder / 'mlflow.db'}")


@functools.cache
def _template() -> Path:
    from airworthy.mlflow_store import ensure_store

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    ensure_store(f"sqlite:///{folder / 'mlflow.db'}")
    return folder


@dataclass(frozen=True)
class Evidence:
    """A bundle with what the registry asks for."""

    bundle: Path
    digest: str
    verdict: Path
    rollout: Path


def make_evidence(
    folder: Path,
    *,
    rounds: int = 3,
    champion: tuple[str, str] | None = None,
    outcome: Outcome = "pass",
    decision: str = "PASS",
    model: str = "late",
) -> Evidence:
    """A bundle with verdict and rollout record; `champion` is the version and digest compared with."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = make_bundle(folder / "bundle", rounds=rounds)
    verdict = Verdict(
        model=model,
        status="passed" if outcome == "pass" else "rejected",
        checks=(Check(name="auc", family="limits", outcome=outcome, reason="AUC is 0.7."),),
        bundle_digest=digest,
        champion_version=champion[0] if champion else None,
        champion_digest=champion[1] if champion else None,
        data_fingerprint="4" * 64,
        policy_digest="3" * 64,
    )
    write_verdict(verdict, folder / "verdict.json")
    record = {
        "format": 1,
        "service": "late",
        "decision": decision,
        "bundle_digest": digest,
        "stable_digest": champion[1] if champion else None,
        "reason": "no evidence against it in 700 requests",
        "requests": 700,
    }
    (folder / "rollout.json").write_text(json.dumps(record))
    return Evidence(folder / "bundle", digest, folder / "verdict.json", folder / "rollout.json")
