"""Synthetic flights: datasets of a few thousand rows, and the faults that tests put into them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airworthy import datasets
from airworthy.datasets import FeatureColumn
from airworthy.model_spec import ModelSpec, load_spec
from airworthy.validation import Finding, ValidationResult

Change = Callable[[pa.Table], pa.Table]

AS_OF = datetime(2013, 9, 1, tzinfo=UTC)
FEATURES = (
    FeatureColumn(name="origin", kind="category"),
    FeatureColumn(name="dest", kind="category"),
    FeatureColumn(name="temp", kind="number"),
    FeatureColumn(name="wind_speed", kind="number"),
    FeatureColumn(name="wind_gust", kind="number"),
    FeatureColumn(name="legs_7d", kind="integer"),
    FeatureColumn(name="weekend", kind="bool"),
)
DESTINATIONS = np.array(["ATL", "BOS", "LAX", "ORD", "SFO"])

SPEC = """
name: flight_delay
features: {service: arr_late_v1, entities: flights, id: flight_id}
label: {column: late, known_at: landed}
splits: {train_days: 60, tune_days: 10, test_days: 20}
validation:
  schema: schemas/flights.pbtxt
  min_rows: {train: 1000, tune: 100, test: 100}
rollout: {service: flight-delay}
"""


def spec(**validation: object) -> ModelSpec:
    """The spec, with fields of its validation section replaced."""
    model = load_spec(SPEC)
    changed = model.validation.model_dump(by_alias=True) | validation
    return ModelSpec.model_validate(model.model_dump(by_alias=True) | {"validation": changed})


def table(rows: int, start: datetime, end: datetime, seed: int) -> pa.Table:
    """Rows with event times spread evenly over a window."""
    rng = np.random.default_rng(seed)
    times = [start + (end - start) * (i / rows) for i in range(rows)]
    gust = rng.normal(25, 5, rows)
    return pa.table(
        {
            "flight_id": [f"UA-{seed}-{i}" for i in range(rows)],
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            "landed": pa.array([t + timedelta(hours=4) for t in times], pa.timestamp("us", "UTC")),
            "late": pa.array(rng.integers(0, 2, rows), pa.int64()),
            "origin": rng.choice(["EWR", "JFK", "LGA"], rows),
            "dest": rng.choice(DESTINATIONS, rows),
            "temp": rng.normal(60, 10, rows),
            "wind_speed": rng.uniform(0, 30, rows),
            "wind_gust": pa.array(gust, mask=rng.random(rows) < 0.8),
            "legs_7d": pa.array(rng.integers(0, 30, rows), pa.int64(), mask=rng.random(rows) < 0.1),
            "weekend": rng.random(rows) < 0.3,
        }
    )


def write(folder: Path, rows: dict[str, int]) -> dict[str, Path]:
    """The three windows as datasets."""
    paths = {}
    for seed, (name, (first, last)) in enumerate(spec().splits.windows().items()):
        start, end = AS_OF + first, AS_OF + last
        paths[name] = folder / name
        datasets.write_dataset(
            paths[name],
            table(rows[name], start, end, seed),
            name=name,
            features=FEATURES,
            label="late",
            label_known_at="landed",
            id_column="flight_id",
            time_column="event_timestamp",
            start=start,
            end=end,
            feature_service="arr_late_v1",
            feature_service_digest="0" * 64,
        )
    return paths


def changed(dataset: Path, folder: Path, change: Change) -> Path:
    """A copy of a dataset whose files were changed behind its description's back (rows are recounted)."""
    copy = folder / f"{dataset.name}-changed"
    shutil.copytree(dataset, copy)
    [file] = datasets.files(copy)
    content = change(pq.read_table(file))
    pq.write_table(content, file, row_group_size=1000)
    describe(copy, rows=content.num_rows)
    return copy


def describe(dataset: Path, **fields: object) -> None:
    """Change fields of a dataset's description."""
    file = dataset / datasets.DESCRIPTION
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def replaced(content: pa.Table, column: str, values: object) -> pa.Table:
    """The table with a column's values replaced."""
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return content.set_column(content.column_names.index(column), column, array)


@dataclass(frozen=True)
class Validated:
    """A validation that was carried out, and the files that it wrote."""

    result: ValidationResult
    folder: Path

    @property
    def statistics(self) -> Path:
        return self.folder / "statistics"

    @property
    def anomalies(self) -> Path:
        return self.folder / "anomalies.json"

    @property
    def report(self) -> str:
        return (self.folder / "report.html").read_text()

    def find(self, kind: str, window: str | None = None, feature: str | None = None) -> Finding:
        """The one finding of a kind."""
        [finding] = [
            f
            for f in self.result.findings
            if f.kind == kind and window in (None, f.window) and feature in (None, f.feature)
        ]
        return finding

    @property
    def kinds(self) -> set[str]:
        return {f.kind for f in self.result.findings}
