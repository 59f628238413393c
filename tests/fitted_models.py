"""Rows with a known truth, models fitted on them, and both as the evaluation sees them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xgboost

from airworthy import datasets
from airworthy.bundle import BundleInfo, write_bundle
from airworthy.encoding import Encoder
from airworthy.evaluation.arms import Scored, score_arms
from airworthy.model_spec import load_spec
from airworthy.training.onnx import to_onnx
from airworthy.training.windows import Window, iter_matrices, learn_features

START = datetime(2013, 6, 1, tzinfo=UTC)
SPEC = """
name: late
features: {service: late_v1, entities: flights, id: flight_id}
label: {column: late, known_at: landed}
validation: {schema: late.pbtxt}
gate: {min_auc: 0.6, resampling: {block: BLOCK}}
rollout: {service: late}
"""
Columns = dict[str, Any]


def truth(rows: int, seed: int = 0) -> Columns:
    """`hour` and `carrier` decide the label, `distance` and `charter` don't; a few distances are missing."""
    generator = np.random.default_rng(seed)
    hour, carrier = generator.integers(5, 23, rows), generator.integers(0, 4, rows)
    distance = np.where(generator.uniform(size=rows) < 0.05, np.nan, generator.normal(1000, 300, rows))
    odds = (hour - 14) / 4 + carrier - 2.2
    return {
        "hour": hour,
        "distance": distance,
        "carrier": np.array(["AA", "B6", "DL", "UA"])[carrier],
        "charter": generator.uniform(size=rows) < 0.3,
        "late": (generator.uniform(size=rows) < 1 / (1 + np.exp(-odds))).astype(np.int64),
    }


def write_rows(path: Path, columns: Columns) -> Path:
    """A dataset of these columns, one row a minute; everything but `late` is a feature."""
    rows = len(columns["late"])
    times = [START + timedelta(minutes=i) for i in range(rows)]
    table = pa.table(
        {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
        | {
            "flight_id": [f"{i:06d}" for i in range(rows)],
            "event_timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
            "landed": pa.array(times, pa.timestamp("us", tz="UTC")),
        }
    )
    datasets.write_dataset(
        path,
        table,
        name=path.name,
        features=[
            datasets.FeatureColumn(name=name, kind=_kind(table.schema.field(name).type))
            for name in columns
            if name != "late"
        ],
        label="late",
        label_known_at="landed",
        id_column="flight_id",
        time_column="event_timestamp",
        start=START,
        end=times[-1] + timedelta(minutes=1),
        feature_service="late_v1",
        feature_service_digest="0" * 64,
    )
    return path


def fit(
    path: Path, rows: Path, *, without: tuple[str, ...] = (), rounds: int = 20, convert: bool = False
) -> Path:
    """A bundle fitted on a dataset, with the ranges and categories of its features; `convert` adds ONNX."""
    info = datasets.read_info(rows)
    window = Window(rows, info, positives=0)
    features = tuple(f for f in learn_features(window) if f.name not in without)
    parts = list(iter_matrices(window, Encoder(features)))
    matrix = xgboost.DMatrix(
        np.concatenate([m for m, _, _ in parts]),
        label=np.concatenate([labels for _, labels, _ in parts]),
        feature_names=[f.name for f in features],
        feature_types=["c" if f.kind == "category" else "float" for f in features],
        enable_categorical=True,
    )
    params = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.3, "seed": 1, "nthread": 1}
    model = xgboost.train(params, matrix, num_boost_round=rounds)
    about = BundleInfo(
        model="late",
        label="late",
        features=features,
        threshold=0.4,
        rounds=rounds,
        base_rate=0.5,
        device="cpu",
        training_fingerprint=info.fingerprint,
        tune_fingerprint="2" * 64,
        feature_service="late_v1",
        feature_service_digest="0" * 64,
        spec_digest="3" * 64,
        as_of="2013-08-01T00:00:00+00:00",
        onnx="not converted in tests",
    )
    onnx = to_onnx(bytes(model.save_raw("json")), len(features)) if convert else None
    write_bundle(path, about, bytes(model.save_raw("ubj")), onnx)
    return path


def scored(test: Path, challenger: Path, champion: Path | None = None, block: str = "row") -> Scored:
    """Both models on a test window."""
    return score_arms(
        load_spec(SPEC.replace("BLOCK", block)), test, challenger, champion, "1" if champion else None
    )


def _kind(kind: pa.DataType) -> datasets.Kind:
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "integer"
    return "number" if pa.types.is_floating(kind) else "category"
