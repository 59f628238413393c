"""An offline store for Feast that finds point-in-time features by ASOF join.

Configured by name: `offline_store: {type: airworthy.feast_store.AsofOfflineStore}`. Same answers as Feast's
DuckDB store, without its intermediate table of every candidate row. Per feature view and entity row: the
latest source row with equal keys and `entity time - ttl <= event time <= entity time` (both inclusive, ttl 0
never expires); among equal event times the latest created one. Rows come back in the order they were given,
none lost, none merged. Times without zone are UTC.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import ibis
import pandas as pd
import polars as pl
import pyarrow as pa
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
    _read_data_source,
    _write_data_source,
)
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from airworthy.asof import asof
from airworthy.errors import DataError

log = logging.getLogger(__name__)

ON_DEMAND_ROWS = 65_536  # on-demand functions see Python lists: this bounds them


class AsofOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Options of the store; those of Feast's DuckDB store."""

    type: str = "airworthy.feast_store.AsofOfflineStore"


class AsofOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB store with another point-in-time join."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Plan a retrieval; the work happens when the job is read.

        `filter_by_created_timestamp` (only rows created by the entity time) can't be said as an ASOF join and
        goes to the inherited method, as do Substrait on-demand views.

        Raises:
            DataError: `entity_df` is not a frame, or lacks a key column.
        """
        if not isinstance(entity_df, pd.DataFrame):
            raise DataError(
                "this offline store takes entity rows as a pandas frame only (no SQL query, no time range)"
            )
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        if filter_by_created_timestamp or any(view.mode == "substrait" for view in on_demand):
            return DuckDBOfflineStore.get_historical_features(
                config,
                feature_views,
                feature_refs,
                entity_df,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp,
            )
        time_column = offline_utils.infer_event_timestamp_from_entity_df(
            dict(zip(entity_df.columns, entity_df.dtypes, strict=True))
        )
        entities = entity_df.assign(**{time_column: pd.to_datetime(entity_df[time_column], utc=True)})

        def retrieve() -> pa.Table:
            table = pa.Table.from_pandas(entities, preserve_index=False)
            at = table.column_names.index(time_column)
            micros = table.column(at).cast(pa.timestamp("us", "UTC"), safe=False)
            table = table.set_column(at, time_column, micros)
            for view in feature_views:
                wanted = _wanted(view, feature_refs, full_feature_names)
                table = join_view(table, time_column, view, wanted, str(config.repo_path))
            for computed in on_demand:
                table = _add_on_demand(table, computed, feature_refs, full_feature_names)
            return table

        metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[c for c in entities.columns if c != time_column],
            min_event_timestamp=entities[time_column].min(),
            max_event_timestamp=entities[time_column].max(),
        )
        return AsofRetrievalJob(retrieve, on_demand, full_feature_names, metadata, str(config.repo_path))


class AsofRetrievalJob(RetrievalJob):
    """A retrieval to be carried out when it is read, on-demand views included."""

    def __init__(
        self,
        retrieve: Callable[[], pa.Table],
        on_demand: Sequence[OnDemandFeatureView],
        full_feature_names: bool,
        metadata: RetrievalMetadata,
        repo_path: str,
    ) -> None:
        super().__init__()
        self._retrieve = retrieve
        self._on_demand = list(on_demand)
        self._full_feature_names = full_feature_names
        self._metadata = metadata
        self._repo_path = repo_path

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._retrieve()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._retrieve().to_pandas()

    @property
    def full_feature_names(self) -> bool:
        """Whether columns are called `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Views that the caller still has to apply: none, the job applies them itself."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata:
        """What was asked for."""
        return self._metadata

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None
    ) -> None:
        """Write the result to a saved dataset."""
        table = ibis.memtable(self._retrieve())
        _write_data_source(table, storage.to_data_source(), self._repo_path, "overwrite", allow_overwrite)


def _wanted(view: FeatureView, feature_refs: Sequence[str], full: bool) -> dict[str, str]:
    """Feature name in the view -> column name in the result."""
    prefix = view.projection.name_to_use()
    base = view.projection.name_alias or view.name
    names = [ref.split(":", 1)[1] for ref in feature_refs if ref.startswith(f"{prefix}:")]
    return {name: f"{base}__{name}" if full else name for name in names}


def join_view(
    table: pa.Table, time_column: str, view: FeatureView, wanted: dict[str, str], repo_path: str
) -> pa.Table:
    """Append one feature view's columns to the entity rows, in their order.

    Args:
        table: Entity rows; `time_column` is in microseconds, UTC.
        time_column: Decision time.
        view: The feature view.
        wanted: Feature in the view -> column name in the result.
        repo_path: What relative source paths are relative to.

    Raises:
        DataError: A key, a feature or the timestamp is missing from the rows or the source.
    """
    started = time.perf_counter()
    source = view.batch_source
    if source is None:
        raise DataError(f"feature view {view.name}: has no batch source to retrieve from")
    keys = view.projection.join_key_map or {e.name: e.name for e in view.entity_columns}
    keys = {k: v for k, v in keys.items() if k != DUMMY_ENTITY_ID}
    missing = [v for v in keys.values() if v not in table.column_names]
    if missing:
        raise DataError(f"feature view {view.name}: the entity rows lack the key {', '.join(missing)}")
    created = source.created_timestamp_column or None
    needed = [*keys, *wanted, source.timestamp_field, *([created] if created else [])]
    features = _scan(source, repo_path)
    names = features.collect_schema().names()
    mapped = {old: new for old, new in source.field_mapping.items() if old in names}
    absent = [c for c in needed if c not in {mapped.get(n, n) for n in names}]
    if absent:
        raise DataError(f"feature view {view.name}: its source {source.name} lacks {', '.join(absent)}")
    left = pl.from_arrow(table.select([time_column, *dict.fromkeys(keys.values())]))
    assert isinstance(left, pl.DataFrame)
    found = asof(
        left.rename({time_column: "__time"}),
        features.rename(mapped).select(*dict.fromkeys(needed)),
        keys=keys,
        features=list(wanted),
        event_time=source.timestamp_field,
        created=created,
        ttl=view.ttl or timedelta(0),
    )
    for name, column in zip(wanted, found.to_arrow().columns, strict=True):
        if pa.types.is_large_string(column.type):
            column = column.cast(pa.string())
        table = table.append_column(wanted[name], column)
    log.info(
        "feature view %s: %d rows x %d features, %.2f s",
        view.name,
        table.num_rows,
        len(wanted),
        time.perf_counter() - started,
    )
    return table


def _scan(source: Any, repo_path: str) -> pl.LazyFrame:
    """Any source that Feast's DuckDB store reads; plain Parquet files directly, the rest through it."""
    if isinstance(source, FileSource) and source.path.endswith(".parquet") and "://" not in source.path:
        return pl.scan_parquet(FileSource.get_uri_for_file_path(repo_path=repo_path, uri=source.path))
    frame = pl.from_arrow(_read_data_source(source, repo_path).to_pyarrow())
    assert isinstance(frame, pl.DataFrame)
    return frame.lazy()


def _add_on_demand(
    table: pa.Table, view: OnDemandFeatureView, feature_refs: Sequence[str], full: bool
) -> pa.Table:
    """Append an on-demand view's requested features.

    The function gets its declared inputs only, in pieces: handing it the whole table costs seconds and
    hundreds of megabytes where it is a Python function.
    """
    started = time.perf_counter()
    prefix = view.projection.name_to_use()
    wanted = [ref.split(":", 1)[1] for ref in feature_refs if ref.startswith(f"{prefix}:")]
    inputs = list(view.get_request_data_schema())
    for source in view.source_feature_view_projections.values():
        base = source.name_alias or source.name
        inputs += [f"{base}__{f.name}" if full else f.name for f in source.features]
    narrow = table.select([c for c in dict.fromkeys(inputs) if c in table.column_names])
    types = {f.name: _arrow_type(f) for f in view.features}
    pieces: dict[str, list[pa.ChunkedArray]] = {name: [] for name in wanted}
    for start in range(0, max(narrow.num_rows, 1), ON_DEMAND_ROWS):
        out = view.transform_arrow(narrow.slice(start, ON_DEMAND_ROWS), full)
        for name in wanted:
            pieces[name].append(out[f"{prefix}__{name}" if full else name].cast(types[name]))
    for name in wanted:
        chunks = [chunk for piece in pieces[name] for chunk in piece.chunks]
        column = pa.chunked_array(chunks, type=types[name])
        table = table.append_column(f"{prefix}__{name}" if full else name, column)
    log.info("on-demand view %s: %d features, %.2f s", view.name, len(wanted), time.perf_counter() - started)
    return table


def _arrow_type(field: Any) -> pa.DataType:
    from feast.types import from_feast_to_pyarrow_type

    return from_feast_to_pyarrow_type(field.dtype)
