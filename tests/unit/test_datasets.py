"""The dataset convention: what is written comes back, equal content gives an equal fingerprint."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airworthy import datasets
from airworthy.datasets import DatasetInfo, FeatureColumn, fingerprint
from airworthy.errors import DataError

START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)
FEATURES = [FeatureColumn(name="x", kind="number"), FeatureColumn(name="shop", kind="category")]


def table(rows: int = 5, **columns: Any) -> pa.Table:
    moments = [START + timedelta(hours=(7 * i) % 24) for i in range(rows)]
    content = {
        "id": [f"r{i}" for i in range(rows)],
        "at": pa.array(moments, pa.timestamp("us", "UTC")),
        "x": pa.array([None if i == 2 else i / 3 for i in range(rows)], pa.float64()),
        "shop": pa.array(["A", "B", None, "", "é"][:rows], pa.string()),
        "late": pa.array([i % 2 for i in range(rows)], pa.int64()),
    }
    return pa.table({**content, **columns})


def write(path: Path, content: pa.Table, **options: Any) -> DatasetInfo:
    roles: dict[str, Any] = {
        "name": "train",
        "features": FEATURES,
        "label": "late",
        "label_known_at": None,
        "id_column": "id",
        "time_column": "at",
        "start": START,
        "end": END,
        "feature_service": "s1",
        "feature_service_digest": "d",
    }
    return datasets.write_dataset(path, content, **{**roles, **options})


def test_written_rows_come_back_in_time_order(tmp_path: Path) -> None:
    info = write(tmp_path / "d", table())
    frame = datasets.read_frame(tmp_path / "d")
    assert frame["at"].is_monotonic_increasing
    assert info.rows == len(frame) == 5
    assert datasets.read_info(tmp_path / "d") == info
    assert (info.feature_names, info.categories, info.extra) == (["x", "shop"], ["shop"], ())
    assert list(datasets.read_frame(tmp_path / "d", ["x"]).columns) == ["x"]
    batches = list(datasets.iter_batches(tmp_path / "d", ["id"], batch_rows=2))
    assert [b.num_rows for b in batches] == [2, 2, 1]


def test_an_empty_dataset_can_be_described(tmp_path: Path) -> None:
    info = write(tmp_path / "d", table().slice(0, 0))
    assert info.rows == 0
    assert datasets.read_frame(tmp_path / "d").columns.tolist() == ["id", "at", "x", "shop", "late"]


def test_a_dataset_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "d", table())
    (tmp_path / "d" / "part-00007.parquet").write_bytes(b"left over")
    assert write(tmp_path / "d", table(3)).rows == 3
    assert [f.name for f in datasets.files(tmp_path / "d")] == ["part-00000.parquet"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d"]


def test_layout_does_not_change_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write(tmp_path / "whole", table())
    monkeypatch.setattr(datasets, "ROWS_PER_FILE", 2)
    shuffled = table().take([3, 1, 4, 0, 2])
    parts = write(tmp_path / "parts", shuffled)
    assert len(datasets.files(tmp_path / "parts")) == 3
    assert parts.fingerprint == whole.fingerprint
    again = pa.concat_tables([pq.read_table(f) for f in datasets.files(tmp_path / "parts")])
    assert fingerprint(again.combine_chunks().to_batches(datasets.BATCH_ROWS)) == whole.fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        table(x=pa.array([0.0, 1 / 3, 0.0, 1.0, 4 / 3], pa.float64())),  # a null became 0
        table(shop=pa.array(["A", "B", "", "", "é"], pa.string())),  # a null became an empty text
        table(shop=pa.array(["AB", "", None, "", "é"], pa.string())),  # same letters, other cells
        table(x=pa.array([None if i == 2 else i / 3 for i in range(5)], pa.float32())),  # another type
        table().rename_columns(["id", "at", "x", "store", "late"]),
        table().slice(0, 4),
    ],
)
def test_any_change_of_content_changes_the_fingerprint(changed: pa.Table) -> None:
    assert fingerprint(changed.to_batches()) != fingerprint(table().to_batches())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.integers(-(2**40), 2**40), min_size=1, max_size=20), st.integers(0, 2**40))
def test_what_lies_under_a_null_does_not_matter(values: list[int | None], filler: int) -> None:
    import numpy as np

    mask = np.array([v is None for v in values])
    plain = pa.array([0 if v is None else v for v in values], pa.int64(), mask=mask)
    dirty = pa.array([filler if v is None else v for v in values], pa.int64(), mask=mask)
    a, b = (pa.record_batch([array], names=["v"]) for array in (plain, dirty))
    assert fingerprint([a]) == fingerprint([b])


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dataset train: columns shop are missing"):
        write(tmp_path / "d", table().drop_columns(["shop"]))
    assert not (tmp_path / "d").exists()
    with pytest.raises(DataError, match=r"no dataset here \(dataset.json is missing\)"):
        datasets.read_info(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": 2}')
    with pytest.raises(DataError, match=r"dataset\.json: not a dataset description"):
        datasets.read_info(tmp_path)
