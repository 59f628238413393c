"""Reading the training and tuning windows: what they hold, and batches ready for the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airworthy import datasets
from airworthy.datasets import DatasetInfo, FeatureColumn
from airworthy.encoding import Encoder, Feature, Matrix
from airworthy.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from airworthy.model_spec import ModelSpec

Labels = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Window:
    """One window on disk, checked. Rows and positives are counts."""

    path: Path
    info: DatasetInfo
    positives: int

    @property
    def negatives(self) -> int:
        return self.info.rows - self.positives


@dataclass
class _Column:
    """What the training window shows of one feature so far."""

    values: set[str]
    nullable: bool = False
    minimum: float = math.inf
    maximum: float = -math.inf


def open_windows(spec: ModelSpec, train: Path, tune: Path) -> tuple[Window, Window]:
    """Check both windows, labels included, before anything is fitted.

    Raises:
        DataError: A window is empty, lacks one of the two label values, holds an unknown label, has another
            label or other features than it should, or tuning begins before training ends.
    """
    infos = {path: datasets.read_info(path) for path in (train, tune)}
    for path, info in infos.items():
        if info.rows == 0:
            raise DataError(f"{path}: window {info.name} is empty ({info.start} to {info.end})")
        if info.label != spec.label.column:
            raise DataError(f"{path}: its label is {info.label}, but the model spec says {spec.label.column}")
    if not infos[train].features:
        raise DataError(f"{train}: no features; add some to feature service {spec.features.service}")
    if infos[train].features != infos[tune].features:
        raise DataError(f"{tune}: its features are not those of the training window; retrieve both again")
    if infos[tune].start < infos[train].end:
        raise DataError(
            f"{tune}: begins {infos[tune].start}, before training ends ({infos[train].end}); tuning rows "
            "must be later than training rows"
        )
    first, second = (Window(path, info, _positives(path, info)) for path, info in infos.items())
    return first, second


def learn_features(window: Window) -> tuple[Feature, ...]:
    """What the training window shows of each feature: categories in sorted order, range, missing values.

    Raises:
        DataError: A column's type is not what its kind needs, or it holds infinite values.
    """
    info = window.info
    seen = [_Column(values=set()) for _ in info.features]
    for batch in datasets.iter_batches(window.path, info.feature_names):
        for feature, column, known in zip(info.features, batch.columns, seen, strict=True):
            try:
                _look(feature, column, known)
            except DataError as error:
                raise DataError(f"{window.path}: {error}") from None
    return tuple(_feature(f, known) for f, known in zip(info.features, seen, strict=True))


def iter_matrices(window: Window, encoder: Encoder) -> Iterator[tuple[Matrix, Labels, dict[str, int]]]:
    """Encoded rows, labels (0 or 1) and unseen categories, batch by batch in event-time order.

    Raises:
        DataError: A value can't be encoded.
    """
    names = [f.name for f in encoder.features]
    label = str(window.info.label)
    for batch in datasets.iter_batches(window.path, [*names, label]):
        columns = {name: _values(batch.column(name)) for name in names}
        try:
            matrix, unseen = encoder.encode(columns)
        except DataError as error:
            raise DataError(f"{window.path}: {error}") from None
        yield matrix, _values(batch.column(label)).astype(np.float32), unseen


def _positives(path: Path, info: DatasetInfo) -> int:
    positives = 0
    for batch in datasets.iter_batches(path, [str(info.label)]):
        column = batch.column(0)
        if column.null_count:
            raise DataError(f"{path}: label {info.label} is unknown in {column.null_count} rows; drop them")
        values = _values(column)
        if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
            raise DataError(f"{path}: label {info.label} must be 0/1 or false/true")
        positives += int(values.sum())
    if positives in (0, info.rows):
        raise DataError(
            f"{path}: all {info.rows} rows have label {int(positives > 0)}; a model needs both, so widen the "
            "window"
        )
    return positives


def _values(column: pa.Array) -> np.ndarray[Any, Any]:
    """Numbers (missing as NaN), or objects (text, nullable booleans; missing as None)."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values: np.ndarray[Any, Any] = column.to_numpy(zero_copy_only=False)
    return values


def _look(feature: FeatureColumn, column: pa.Array, known: _Column) -> None:
    import pyarrow as pa

    if feature.kind == "category":
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            raise DataError(f"column {feature.name}: must be text, not {column.type}")
        values = column.unique().to_pylist()
        known.nullable |= None in values
        known.values.update(value for value in values if value is not None)
        return
    numbers = _values(column)
    if numbers.dtype.kind == "O":
        numbers = np.array([np.nan if v is None else v for v in numbers])
    if numbers.dtype.kind not in "biuf":
        raise DataError(f"column {feature.name}: must be of kind {feature.kind}, not {column.type}")
    there = numbers[~np.isnan(numbers)] if numbers.dtype.kind == "f" else numbers
    known.nullable |= len(there) < len(numbers)
    if len(there):
        known.minimum = min(known.minimum, float(there.min()))
        known.maximum = max(known.maximum, float(there.max()))
        if math.isinf(known.minimum) or math.isinf(known.maximum):
            raise DataError(f"column {feature.name}: holds infinite values; use null for unknown")


def _feature(column: FeatureColumn, known: _Column) -> Feature:
    ranged = known.minimum <= known.maximum
    return Feature(
        name=column.name,
        kind=column.kind,
        categories=tuple(sorted(known.values)),
        minimum=known.minimum if ranged else None,
        maximum=known.maximum if ranged else None,
        nullable=known.nullable,
    )
