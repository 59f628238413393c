"""The data set behind `benchmarks.evaluation`: rows with a known truth, and two models trained on earlier ones."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START = datetime(2025, 1, 1, tzinfo=UTC)
NUMBERS = 15
LEVELS = (2, 3, 5, 8, 16, 24, 30, 40, 60, 100)
"""Values of the categories; c2, c8, c16 and c24 make 50 slices."""
SPEC = """
name: bench
features: {service: bench_v1, entities: bench, id: row_id}
label: {column: late, known_at: known_at}
validation: {schema: bench.pbtxt}
trainer:
  gpu: "off"
  rounds: TREES
  early_stopping_rounds: 50
  seed: SEED
  params: {max_depth: 6, learning_rate: 0.05, subsample: 0.9}
gate:
  min_auc: 0.6
  max_log_loss: 0.7
  champion: {metric: auc, margin: 0.01, guards: {log_loss: 0.02, cost: 0.05}}
  resampling: {replicates: 1000, block: hour}
  threshold: {cost_false_alarm: 1, cost_miss: 3}
  fairness: {columns: [c2], max_selection_rate_difference: 0.2}
slices: [c2, c8, c16, c24]
rollout: {service: bench}
"""
WINDOWS = {"train": (200_000, 0, 60), "tune": (20_000, 60, 10)}
"""Rows, first day, days; the test window follows."""


def make(folder: Path, rows: int, trees: int, seed: int = 0) -> None:
    """Write `train`, `tune`, `test`, `challenger`, `champion` and `spec.yaml` unless they are there.

    Args:
        folder: Where to; a data set found there is taken as it is.
        rows: Of the test window.
        trees: Of each model, at most.
        seed: Of everything.
    """
    if (folder / "spec.yaml").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    windows = {**WINDOWS, "test": (rows, 70, 30)}
    for number, (name, (count, first, days)) in enumerate(windows.items()):
        write(folder / name, count, first, days, seed * 10 + number)
    for name, model_seed in (("champion", 1), ("challenger", 2)):
        text = SPEC.replace("TREES", str(trees)).replace("SEED", str(model_seed))
        (folder / "training.yaml").write_text(text)
        # in a process of its own: what training touches must not slow what is measured
        command = [sys.executable, "-m", "benchmarks.evaluation_data", str(folder), name]
        subprocess.run(command, cwd=ROOT, check=True)
    (folder / "training.yaml").rename(folder / "spec.yaml")


def write(path: Path, rows: int, first_day: int, days: int, seed: int) -> None:
    """One window; a disturbance that all rows of an hour share makes them depend on each other."""
    import numpy as np
    import pyarrow as pa

    from airworthy.datasets import FeatureColumn, write_dataset

    random = np.random.default_rng(seed)
    hours = np.sort(random.integers(0, days * 24, rows))
    odds = 0.3 * random.normal(size=days * 24)[hours] - 1.2
    columns: dict[str, pa.Array] = {}
    for index in range(NUMBERS):
        values = random.normal(size=rows)
        odds += 0.25 * np.sin(values * (1 + index % 3)) / (1 + index / 4)
        missing = random.random(rows) < 0.03
        columns[f"n{index}"] = pa.array(values, mask=missing)
    for levels in LEVELS:
        codes = random.integers(0, levels, rows)
        odds += np.random.default_rng(levels).normal(0, 0.3, levels)[codes]
        unknown = random.random(rows) < (0 if levels in (2, 8, 16, 24) else 0.02)
        names = pa.array([f"v{level:03d}" for level in range(levels)])
        columns[f"c{levels}"] = pa.DictionaryArray.from_arrays(pa.array(codes, mask=unknown), names).cast(
            pa.string()
        )
    late = random.random(rows) < 1 / (1 + np.exp(-odds))
    start = START + timedelta(days=first_day)
    origin = np.datetime64(start.replace(tzinfo=None), "us")
    seconds = (hours * 3600 + random.integers(0, 3600, rows)).astype("timedelta64[s]")
    times = pa.array(origin + seconds, pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))
    table = pa.table(
        {
            **columns,
            "late": pa.array(late.astype(np.int64)),
            "row_id": pa.array(np.arange(rows)).cast(pa.string()),
            "event_timestamp": times,
            "known_at": times,
        }
    )
    write_dataset(
        path,
        table,
        name=path.name,
        features=[
            FeatureColumn(name=name, kind="category" if name.startswith("c") else "number")
            for name in columns
        ],
        label="late",
        label_known_at="known_at",
        id_column="row_id",
        time_column="event_timestamp",
        start=start,
        end=start + timedelta(days=days),
        feature_service="bench_v1",
        feature_service_digest="0" * 64,
    )


def main() -> None:
    """Train one model: `python -m benchmarks.evaluation_data FOLDER NAME`."""
    from airworthy.model_spec import load_spec
    from airworthy.training import train

    folder, name = Path(sys.argv[1]), sys.argv[2]
    text = (folder / "training.yaml").read_text()
    train(
        load_spec(text),
        text,
        train=folder / "train",
        tune=folder / "tune",
        out=folder / name,
        as_of="2025-04-11T00:00:00+00:00",
        tracking=False,
    )


if __name__ == "__main__":
    main()
