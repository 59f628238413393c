"""The dataset convention: a folder of Parquet files (zstd), sorted by event time, described by `dataset.json`.

Works with pyarrow 10 (validation environment) and newer. Readers stream; nothing here loads a whole dataset
unless its name says so.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from airworthy.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

DESCRIPTION = "dataset.json"
ROWS_PER_FILE = 1_000_000
BATCH_ROWS = (
    65_536  # the fingerprint is taken over batches of this many rows: changing it changes fingerprints
)

Kind = Literal["number", "integer", "category", "bool"]


class FeatureColumn(BaseModel):
    """One model input: its name and what kind of value it holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    kind: Kind


class DatasetInfo(BaseModel):
    """What `dataset.json` says.

    `rows` may be 0: whether that is acceptable is the reader's decision (validation refuses it).
    Times are UTC; `fingerprint` is a SHA-256 over the content, independent of file layout and compression.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    name: str
    rows: int
    features: tuple[FeatureColumn, ...]
    label: str | None
    label_known_at: str | None
    id: str
    time: str
    extra: tuple[str, ...] = ()
    start: datetime
    """Start of the window asked for (inclusive)."""
    end: datetime
    """End of the window asked for (exclusive)."""
    feature_service: str
    feature_service_digest: str
    fingerprint: str

    @property
    def feature_names(self) -> list[str]:
        return [f.name for f in self.features]

    @property
    def categories(self) -> list[str]:
        return [f.name for f in self.features if f.kind == "category"]


def fingerprint(batches: Iterable[pa.RecordBatch]) -> str:
    """SHA-256 over names, types and values of equally cut batches (hex).

    Null slots are hashed as a mask and a fixed filler, so that what lies under a null never matters.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    digest = hashlib.sha256()
    for batch in batches:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            digest.update(f"{name}:{column.type}:{len(column)}".encode())
            digest.update(np.packbits(np.asarray(pc.is_null(column))).tobytes())
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                values = pc.fill_null(column, "")
                digest.update(np.asarray(pc.binary_length(values)).astype("<i8").tobytes())
                digest.update("".join(values.to_pylist()).encode())
            elif pa.types.is_boolean(column.type):
                digest.update(np.packbits(np.asarray(pc.fill_null(column, False))).tobytes())
            elif pa.types.is_timestamp(column.type):
                micros = column.cast(pa.timestamp("us", tz=column.type.tz)).cast(pa.int64())
                digest.update(np.asarray(pc.fill_null(micros, 0)).astype("<i8").tobytes())
            else:
                values = np.asarray(pc.fill_null(column, 0))
                digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def write_dataset(
    path: Path,
    table: pa.Table,
    *,
    name: str,
    features: Sequence[FeatureColumn],
    label: str | None,
    label_known_at: str | None,
    id_column: str,
    time_column: str,
    start: datetime,
    end: datetime,
    feature_service: str,
    feature_service_digest: str,
) -> DatasetInfo:
    """Write a table as a dataset folder; an existing one is replaced whole, never half.

    Args:
        path: The folder to create.
        table: All columns; sorted here by time, then id, so that equal content gives an equal fingerprint.
        name: `train`, `tune`, `test`, …
        features: The model inputs, in the model's order.
        label: Label column, or None for rows to score.
        label_known_at: Column that says when the label became known.
        id_column: A column that identifies a row.
        time_column: The decision time (`event_timestamp`).
        start: Start of the window asked for.
        end: End of the window asked for (exclusive).
        feature_service: Name of the Feast feature service.
        feature_service_digest: SHA-256 of its definition.

    Raises:
        DataError: A column named above is missing from the table.
    """
    import pyarrow.parquet as pq

    named = [f.name for f in features] + [c for c in (label, label_known_at, id_column, time_column) if c]
    missing = [c for c in named if c not in table.column_names]
    if missing:
        raise DataError(f"dataset {name}: columns {', '.join(missing)} are missing from the retrieved table")
    table = table.sort_by([(time_column, "ascending"), (id_column, "ascending")]).combine_chunks()
    info = DatasetInfo(
        name=name,
        rows=table.num_rows,
        features=tuple(features),
        label=label,
        label_known_at=label_known_at,
        id=id_column,
        time=time_column,
        extra=tuple(c for c in table.column_names if c not in named),
        start=start,
        end=end,
        feature_service=feature_service,
        feature_service_digest=feature_service_digest,
        fingerprint=fingerprint(table.to_batches(max_chunksize=BATCH_ROWS)),
    )
    temporary = path.with_name(path.name + ".incomplete")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for part, first in enumerate(range(0, max(table.num_rows, 1), ROWS_PER_FILE)):
        pq.write_table(
            table.slice(first, ROWS_PER_FILE),
            temporary / f"part-{part:05d}.parquet",
            compression="zstd",
            row_group_size=BATCH_ROWS,
        )
    (temporary / DESCRIPTION).write_text(info.model_dump_json(indent=2) + "\n")
    shutil.rmtree(path, ignore_errors=True)
    temporary.replace(path)
    return info


def read_info(path: Path) -> DatasetInfo:
    """The description of the dataset in `path`.

    Raises:
        DataError: There is no dataset there, or its description can't be read.
    """
    try:
        return DatasetInfo.model_validate_json((path / DESCRIPTION).read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: no dataset here ({DESCRIPTION} is missing)") from None
    except ValueError as error:
        raise DataError(f"{path / DESCRIPTION}: not a dataset description: {error}") from None


def files(path: Path) -> list[Path]:
    """The Parquet files of a dataset, in order."""
    return sorted(path.glob("part-*.parquet"))


def iter_batches(
    path: Path, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Record batches of at most `batch_rows` rows, in event-time order; `columns` None reads all."""
    import pyarrow.parquet as pq

    for file in files(path):
        yield from pq.ParquetFile(file).iter_batches(
            batch_size=batch_rows, columns=None if columns is None else list(columns)
        )


def read_frame(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The whole dataset (or some columns) as a pandas frame; categories are plain strings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = None if columns is None else list(columns)
    return pa.concat_tables([pq.read_table(file, columns=wanted) for file in files(path)]).to_pandas()


def metadata(info: DatasetInfo) -> dict[str, Any]:
    """The essentials, for the artifact's metadata in the Kubeflow UI."""
    return {
        "rows": info.rows,
        "start": info.start.isoformat(),
        "end": info.end.isoformat(),
        "features": len(info.features),
        "feature_service": info.feature_service,
        "fingerprint": info.fingerprint,
    }
