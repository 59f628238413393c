"""TFDV statistics of a window, streamed batch by batch, and our own readable summary of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airworthy import datasets
from airworthy.errors import DataError
from airworthy.files import write_whole
from airworthy.validation.windows import Window, is_text

if TYPE_CHECKING:
    import pyarrow as pa
    from tensorflow_metadata.proto.v0 import statistics_pb2

SUMMARY = "statistics.json"


def window_statistics(
    window: Window, batch_rows: int = datasets.BATCH_ROWS
) -> statistics_pb2.DatasetFeatureStatisticsList:
    """TFDV statistics of a window's features and label; memory is bounded by one batch.

    Feeds accumulators directly: TFDV's documented in-memory functions take whole frames, and its Beam path is
    five times slower on one machine. The functions used are not public API, hence the pinned version and the
    test for equality with `generate_statistics_from_dataframe`.

    Args:
        window: A window with at least one row.
        batch_rows: Rows per batch.
    """
    import numpy as np
    import tensorflow_data_validation as tfdv
    from tensorflow_data_validation.statistics import stats_impl
    from tfx_bsl.arrow import table_util

    options = tfdv.StatsOptions()
    generators = stats_impl.get_generators(options, in_memory=True)
    numbers = {f.name for f in window.info.features if f.kind == "number"}
    total = None
    for batch in datasets.iter_batches(window.path, window.measured_columns, batch_rows):
        ready = table_util.CanonicalizeRecordBatch(canonical(batch, numbers, window.info.label))
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # absurdly large values: their variance is infinite
            part = stats_impl.generate_partial_statistics_in_memory(ready, options, generators)
            if total is not None:
                pairs = zip(generators, total, part, strict=True)
                part = [generator.merge_accumulators([old, new]) for generator, old, new in pairs]
        total = part
    statistics = stats_impl.extract_statistics_output(total, generators)
    statistics.datasets[0].name = window.name
    return statistics


def canonical(batch: pa.RecordBatch, numbers: Collection[str], label: str | None) -> pa.RecordBatch:
    """The batch as TFDV can take it, with one meaning per value.

    Text is plain strings; booleans are 0 and 1; whole numbers in a `number` column are floats; NaN is
    missing, as it is to XGBoost; so are infinite values, which are findings of their own and would ruin
    every moment.
    The label is a whole number however it is stored (other values than 0 and 1 are findings of their own).

    Args:
        batch: Columns of readable types (`windows.readable`).
        numbers: Columns of kind `number`.
        label: The label's column.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as types

    columns = []
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        if is_text(values.type):
            values = values.cast(pa.string())
        elif types.is_boolean(values.type):
            values = values.cast(pa.int64())
        elif types.is_integer(values.type) and name in numbers:
            values = values.cast(pa.float64())
        if types.is_floating(values.type):
            finite = pc.is_finite(values)
            values = pc.if_else(finite, values, pa.scalar(None, values.type))
            if name == label:
                values = values.cast(pa.int64(), safe=False)
        columns.append(values)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def without(
    statistics: statistics_pb2.DatasetFeatureStatisticsList, column: str
) -> statistics_pb2.DatasetFeatureStatisticsList:
    """A copy without one column: data as it looks where the label is not known."""
    copy = type(statistics)()
    copy.CopyFrom(statistics)
    kept = [f for f in copy.datasets[0].features if feature_name(f) != column]
    del copy.datasets[0].features[:]
    copy.datasets[0].features.extend(kept)
    return copy


def feature_name(feature: Any) -> str:
    """Column name of a feature's statistics."""
    return feature.name or ".".join(feature.path.step)


def read_statistics(path: Path | None) -> statistics_pb2.DatasetFeatureStatisticsList | None:
    """Statistics of an earlier release; None when there is no file or it is empty (a first release).

    Raises:
        DataError: The file holds something else.
    """
    from google.protobuf.message import DecodeError
    from tensorflow_metadata.proto.v0 import statistics_pb2

    if path is None or not path.is_file() or not path.stat().st_size:
        return None
    statistics = statistics_pb2.DatasetFeatureStatisticsList()
    try:
        statistics.ParseFromString(path.read_bytes())
    except DecodeError:
        raise DataError(f"{path}: not TFDV statistics, so drift can't be measured against them") from None
    if not statistics.datasets or not statistics.datasets[0].num_examples:
        raise DataError(
            f"{path}: these TFDV statistics describe no rows, so drift can't be measured against them"
        )
    return statistics


def write_statistics(
    folder: Path,
    windows: Mapping[str, Window],
    statistics: Mapping[str, statistics_pb2.DatasetFeatureStatisticsList],
    schema_digest: str,
) -> None:
    """Write `<window>.pb` (serialized TFDV statistics) and `statistics.json`.

    The JSON says per window: `file` and its `sha256`, the dataset's `fingerprint`, `rows`, and `features` as
    of `summarize`. An empty window has no `.pb` and no features.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"format": 1, "schema_digest": schema_digest, "windows": {}}
    for name, window in windows.items():
        entry: dict[str, Any] = {"rows": window.rows, "fingerprint": window.info.fingerprint, "features": {}}
        if name in statistics:
            content = statistics[name].SerializeToString(deterministic=True)
            temporary = folder / f"{name}.pb.incomplete"
            temporary.write_bytes(content)
            temporary.replace(folder / f"{name}.pb")
            entry["file"] = f"{name}.pb"
            entry["sha256"] = hashlib.sha256(content).hexdigest()
            entry["features"] = summarize(statistics[name])
        summary["windows"][name] = entry
    write_whole(folder / SUMMARY, json.dumps(summary, allow_nan=False) + "\n")


def summarize(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> dict[str, dict[str, Any]]:
    """Readable figures per feature.

    Every feature has `type` (`number`, `integer`, `text`), `count` (values) and `missing` (share of rows, 0
    to 1). Numbers add `mean`, `std`, `min`, `median`, `max`, `zeros` (share of values) and `histogram` (list
    of [low, high, rows], ten equally wide bins), with None for a figure that is not finite; text adds
    `unique` and `top` (list of [value, rows], at most ten).
    """
    from tensorflow_metadata.proto.v0 import statistics_pb2

    kinds = {
        statistics_pb2.FeatureNameStatistics.INT: "integer",
        statistics_pb2.FeatureNameStatistics.FLOAT: "number",
    }
    rows = statistics.datasets[0].num_examples
    found = {}
    for feature in statistics.datasets[0].features:
        numeric = feature.WhichOneof("stats") == "num_stats"
        part = feature.num_stats if numeric else feature.string_stats
        count = int(part.common_stats.num_non_missing)
        entry: dict[str, Any] = {
            "type": kinds.get(feature.type, "text") if numeric else "text",
            "count": count,
        }
        entry["missing"] = 1 - count / rows if rows else 0.0
        if count:
            entry |= _numbers(part) if numeric else _text(part)
        found[feature_name(feature)] = entry
    return found


def _numbers(part: Any) -> dict[str, Any]:
    from tensorflow_metadata.proto.v0 import statistics_pb2

    figures: dict[str, Any] = {
        "mean": part.mean,
        "std": part.std_dev,
        "min": part.min,
        "median": part.median,
        "max": part.max,
        "zeros": part.num_zeros / part.common_stats.num_non_missing,
    }
    figures = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    standard = [h for h in part.histograms if h.type == statistics_pb2.Histogram.STANDARD]
    if standard:
        figures["histogram"] = [[b.low_value, b.high_value, b.sample_count] for b in standard[0].buckets]
    return figures


def _text(part: Any) -> dict[str, Any]:
    return {"unique": int(part.unique), "top": [[v.value, v.frequency] for v in part.top_values][:10]}
