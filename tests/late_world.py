"""A small world with known truth: late flights depend on wind, hour and carrier."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from airworthy import datasets
from airworthy.datasets import FeatureColumn
from airworthy.model_spec import ModelSpec
from airworthy.training import TrainingResult
from airworthy.training import train as fit

SPEC = """
name: late
features: {service: late_v1, entities: flights, id: row_id}
label: {column: late, known_at: known_at}
validation: {schema: late.pbtxt}
trainer:
  {gpu: "off", rounds: 60, early_stopping_rounds: 5, seed: 3, params: {max_depth: 4, learning_rate: 0.3}}
gate: {min_auc: 0.6, threshold: {cost_false_alarm: 1, cost_miss: 3}}
rollout: {service: late}
"""
FEATURES = (
    FeatureColumn(name="wind", kind="number"),
    FeatureColumn(name="hour", kind="integer"),
    FeatureColumn(name="carrier", kind="category"),
    FeatureColumn(name="holiday", kind="bool"),
)
START = datetime(2013, 1, 1, tzinfo=UTC)
CARRIERS = [f"C{i:03d}" for i in range(60)]


@dataclass(frozen=True)
class World:
    """Two windows on disk, and what trains on them."""

    train: Path
    tune: Path
    spec: ModelSpec
    text: str

    def with_trainer(self, **changes: Any) -> World:
        trainer = self.spec.trainer.model_copy(update=changes)
        return replace(self, spec=self.spec.model_copy(update={"trainer": trainer}))


def rows(n: int, seed: int, carriers: list[str] = CARRIERS) -> dict[str, Any]:
    """Columns of `n` rows."""
    rng = np.random.default_rng(seed)
    wind = rng.gamma(2, 5, n)
    hour = rng.integers(5, 24, n)
    code = rng.integers(0, len(carriers), n)
    holiday = rng.random(n) < 0.1
    logit = 0.08 * wind + 0.1 * (hour - 14) + np.where(code % 3 == 0, 1.0, -0.5) + holiday - 1.5
    late = rng.random(n) < 1 / (1 + np.exp(-logit))
    return {
        "row_id": [f"r{i:06d}" for i in range(n)],
        "wind": [None if gone else float(v) for v, gone in zip(wind, rng.random(n) < 0.05, strict=True)],
        "hour": [None if gone else int(v) for v, gone in zip(hour, rng.random(n) < 0.02, strict=True)],
        "carrier": [
            None if gone else carriers[c] for c, gone in zip(code, rng.random(n) < 0.02, strict=True)
        ],
        "holiday": [bool(v) for v in holiday],
        "late": late.astype(np.int64).tolist(),
    }


def write(path: Path, columns: dict[str, Any], first_day: int, days: int, **changes: Any) -> Path:
    """A dataset folder whose rows are spread over its days."""
    n = len(columns["row_id"])
    start = START + timedelta(days=first_day)
    times = [start + timedelta(days=days) * (i / max(n, 1)) for i in range(n)]
    silent = [name for name, values in columns.items() if values and all(v is None for v in values)]
    typed = {name: pa.array(columns[name], pa.string()) for name in silent}
    table = pa.table({**columns, **typed, "event_timestamp": times, "known_at": times})
    options: dict[str, Any] = {
        "name": path.name,
        "features": FEATURES,
        "label": "late",
        "label_known_at": "known_at",
        "id_column": "row_id",
        "time_column": "event_timestamp",
        "start": start,
        "end": start + timedelta(days=days),
        "feature_service": "late_v1",
        "feature_service_digest": "f" * 64,
    }
    datasets.write_dataset(path, table, **(options | changes))
    return path


def run(world: World, out: Path, **options: Any) -> TrainingResult:
    """Train without tracking."""
    return fit(
        world.spec,
        world.text,
        out=out,
        as_of="2013-03-16",
        **({"train": world.train, "tune": world.tune, "tracking": False} | options),
    )
