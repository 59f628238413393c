"""From Feast to Parquet: the windows of a model as datasets."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy.datasets import DatasetInfo, FeatureColumn, write_dataset
from airworthy.errors import DataError
from airworthy.feast_repo import get_service, prepare_feature_repo, quiet, service_digest
from airworthy.features.entities import entity_rows, in_window
from airworthy.features.service import feature_columns, service_inputs
from airworthy.model_spec import ModelSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureService, FeatureStore

log = logging.getLogger(__name__)

TIME = "event_timestamp"  # what Feast calls the decision time of an entity row
ROW = "airworthy_row"


def retrieve(
    spec: ModelSpec, as_of: datetime, out: Mapping[str, Path], *, feature_repo: Path, home: Path
) -> dict[str, DatasetInfo]:
    """Retrieve the windows of `spec.splits` as datasets.

    The windows follow one another and end at `as_of`. A row belongs to the window of its decision time, and
    only if its label was known before that window's end: what a run at that moment could have learnt from.

    Args:
        spec: The model.
        as_of: End of the last window; UTC where it names no zone.
        out: Folder to write, per window (`train`, `tune`, `test`); a window not named is not written.
        feature_repo: Feast feature repo; prepared and applied here if it isn't yet.
        home: State directory.

    Returns:
        What each dataset's `dataset.json` says.

    Raises:
        ConfigError: Feature repo, feature service or entity table is wrong or doesn't fit the spec.
        DataError: A window has no usable row, or the offline store lost rows.
    """
    as_of = as_of.replace(tzinfo=UTC) if as_of.tzinfo is None else as_of.astimezone(UTC)
    windows = {
        name: (as_of + start, as_of + end)
        for name, (start, end) in spec.splits.windows().items()
        if name in out
    }
    store = prepare_feature_repo(feature_repo, home)
    with quiet():
        service = get_service(store, spec.features.service)
        features = feature_columns(service)
        digest = service_digest(store, service)
        entities = entity_rows(store, service, spec, windows)
        table = point_in_time(store, service, entities, features, spec)
    infos = {}
    for name, (start, end) in windows.items():
        infos[name] = write_dataset(
            out[name],
            in_window(table, spec.features.time, start, end),
            name=name,
            features=features,
            label=spec.label.column,
            label_known_at=spec.label.known_at,
            id_column=spec.features.id,
            time_column=spec.features.time,
            start=start,
            end=end,
            feature_service=service.name,
            feature_service_digest=digest,
        )
        log.info("%s: %d rows, %s to %s", name, infos[name].rows, start.date(), end.date())
    return infos


def point_in_time(
    store: FeatureStore,
    service: FeatureService,
    entities: pa.Table,
    features: list[FeatureColumn],
    spec: ModelSpec,
) -> pa.Table:
    """Entity rows with the features known at their decision time, in the entity rows' order.

    Feast gets keys, request data and the decision time: no label can find its way into a feature.

    Raises:
        DataError: The offline store returned other rows than it was given.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    started = time.perf_counter()
    asked = entities.drop_columns(
        [c for c in (spec.label.column, spec.label.known_at) if c in entities.column_names]
    )
    asked = asked.rename_columns([TIME if c == spec.features.time else c for c in asked.column_names])
    asked = asked.append_column(ROW, pa.array(np.arange(asked.num_rows)))
    job = store.get_historical_features(entity_df=asked.to_pandas(), features=service)
    found = job.to_arrow()
    rows = np.asarray(found[ROW])
    order = np.argsort(rows, kind="stable")
    if not np.array_equal(rows[order], np.arange(asked.num_rows)):
        raise DataError(
            f"the offline store was given {asked.num_rows} rows and returned {len(rows)} "
            f"({len(np.unique(rows))} different ones): use airworthy.feast_store.AsofOfflineStore or duckdb"
        )
    found = found.take(pa.array(order))
    arrow = {"number": pa.float64(), "integer": pa.int64(), "category": pa.string(), "bool": pa.bool_()}
    keys = service_inputs(store, service)[0]
    result = entities.select([c for c in entities.column_names if c in {*_kept(spec), *keys}])
    for feature in features:
        column = found[feature.name].combine_chunks()
        if pa.types.is_floating(column.type):  # NaN and null both say "not known": one of them is enough
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        result = result.append_column(feature.name, column.cast(arrow[feature.kind]))
    log.info(
        "%d rows x %d features retrieved, %.1f s", len(rows), len(features), time.perf_counter() - started
    )
    return result


def _kept(spec: ModelSpec) -> list[str]:
    """Columns of the entity table that go into the dataset, besides keys."""
    return [
        spec.features.id,
        spec.features.time,
        spec.label.column,
        spec.label.known_at,
        *spec.evaluation_columns,
    ]
