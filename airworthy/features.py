"""From Feast to Parquet: the rows of a model's windows with the features known at their decision time."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airworthy.datasets import DatasetInfo, FeatureColumn, Kind, write_dataset
from airworthy.errors import ConfigError, DataError
from airworthy.feast_repo import get_service, prepare_feature_repo, quiet, service_digest
from airworthy.model_spec import ModelSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureService, FeatureStore

log = logging.getLogger(__name__)

TIME = "event_timestamp"  # what Feast calls the decision time of an entity row
ROW = "airworthy_row"
KINDS: dict[str, Kind] = {
    "Float32": "number",
    "Float64": "number",
    "Int32": "integer",
    "Int64": "integer",
    "String": "category",
    "Bool": "bool",
}

__all__ = ["prepare_feature_repo", "retrieve"]


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
    with quiet():
        store = prepare_feature_repo(feature_repo, home)
        service = get_service(store, spec.features.service)
        features = feature_columns(service)
        digest = service_digest(store, service)
        entities = entity_rows(store, service, spec, windows)
        table = point_in_time(store, service, entities, features, spec)
    infos = {}
    for name, (start, end) in windows.items():
        infos[name] = write_dataset(
            out[name],
            _window(table, spec.features.time, start, end),
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


def feature_columns(service: FeatureService) -> list[FeatureColumn]:
    """The model inputs of a feature service, in its order.

    Raises:
        ConfigError: A feature's type can't be a model input, or two features share a name.
    """
    columns: list[FeatureColumn] = []
    for projection in service.feature_view_projections:
        for field in projection.features:
            kind = KINDS.get(str(field.dtype))
            if kind is None:
                raise ConfigError(
                    f"feature service {service.name}: {projection.name_to_use()}:{field.name} is "
                    f"{field.dtype}; a model takes {', '.join(KINDS)}"
                )
            columns.append(FeatureColumn(name=field.name, kind=kind))
    names = [column.name for column in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"feature service {service.name}: two features are called {', '.join(twice)}; rename one"
        )
    return columns


def entity_rows(
    store: FeatureStore,
    service: FeatureService,
    spec: ModelSpec,
    windows: Mapping[str, tuple[datetime, datetime]],
) -> pa.Table:
    """The rows of the entity table that belong to the windows and whose label was known in time.

    Raises:
        ConfigError: The entity table or one of its columns doesn't exist, or is a feature as well.
        DataError: A window is empty, or the label holds something else than 0, 1 or null.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    source = _entity_source(store, spec)
    needed = _entity_columns(store, service, spec, source)
    first, last = min(s for s, _ in windows.values()), max(e for _, e in windows.values())
    table = _pull(store, source, needed, first, last)
    when, known = _utc(table, spec.features.time), _utc(table, spec.label.known_at)
    table = table.set_column(table.column_names.index(spec.features.time), spec.features.time, when)
    table = table.set_column(table.column_names.index(spec.label.known_at), spec.label.known_at, known)
    table = _check_label(table, spec)
    kept = []
    for name, (start, end) in windows.items():
        window = _window(table, spec.features.time, start, end)
        # a comparison with null is null, which the filter drops: never known, never learnt from
        in_time = pc.less(window[spec.label.known_at], pa.scalar(end, pa.timestamp("us", "UTC")))
        usable = window.filter(pc.and_kleene(in_time, pc.is_valid(window[spec.label.column])))
        if usable.num_rows == 0:
            raise DataError(_empty_window(store, spec, source, name, start, end, window.num_rows))
        log.info("%s: %d rows, %d of them with a label known in time", name, window.num_rows, usable.num_rows)
        kept.append(usable)
    return pa.concat_tables(kept)


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
    keys = _inputs(store, service)[0]
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


def _entity_source(store: FeatureStore, spec: ModelSpec) -> Any:
    sources = {source.name: source for source in store.list_data_sources()}
    if spec.features.entities not in sources:
        known = ", ".join(sorted(sources)) or "none"
        raise ConfigError(
            f"features.entities: the feature repo has no data source {spec.features.entities}; "
            f"it has: {known}"
        )
    return sources[spec.features.entities]


def _entity_columns(store: FeatureStore, service: FeatureService, spec: ModelSpec, source: Any) -> list[str]:
    """Columns to read from the entity table: roles, keys, request data, slices."""
    roles = {
        "features.id": spec.features.id,
        "features.time": spec.features.time,
        "label.column": spec.label.column,
        "label.known_at": spec.label.known_at,
    }
    features = {f.name for f in feature_columns(service)}
    for field, column in roles.items():
        if column in features:
            raise ConfigError(
                f"{field}: {column} is also a feature of {service.name}; a model must not see it"
            )
    wanted = list(roles.items())
    keys, request = _inputs(store, service)
    wanted += [(f"feature service {service.name}", name) for name in (*keys, *request)]
    wanted += [("slices", column) for column in spec.slices if column not in features]
    present = {name for name, _ in source.get_table_column_names_and_types(store.config)}
    for field, column in wanted:
        if column not in present:
            raise ConfigError(
                f"{field}: the entity table {source.name} has no column {column}; it has: "
                f"{', '.join(sorted(present))}"
            )
    taken = sorted(features & {column for _, column in wanted})
    if taken:
        raise ConfigError(
            f"feature service {service.name}: {', '.join(taken)} names a feature and a column of the entity "
            f"table {source.name}; rename the feature"
        )
    return list(dict.fromkeys(column for _, column in wanted))


def _kept(spec: ModelSpec) -> list[str]:
    """Columns of the entity table that go into the dataset, besides keys."""
    return [spec.features.id, spec.features.time, spec.label.column, spec.label.known_at, *spec.slices]


def _inputs(store: FeatureStore, service: FeatureService) -> tuple[list[str], list[str]]:
    """Join keys, and request data, that a feature service needs; each in a stable order."""
    on_demand = {view.name: view for view in store.list_on_demand_feature_views()}
    plain = {view.name: view for view in store.list_feature_views()}
    keys: list[str] = []
    request: list[str] = []
    for projection in service.feature_view_projections:
        needed = [projection]
        if projection.name in on_demand:
            view = on_demand[projection.name]
            request += sorted(view.get_request_data_schema())
            needed = list(view.source_feature_view_projections.values())
        for each in needed:
            if each.name in plain:
                names = [e.name for e in plain[each.name].entity_columns if not e.name.startswith("__")]
                keys += [each.join_key_map.get(name, name) for name in names]
    return list(dict.fromkeys(keys)), [name for name in dict.fromkeys(request) if name not in keys]


def _pull(store: FeatureStore, source: Any, columns: list[str], start: datetime, end: datetime) -> pa.Table:
    """Columns of a data source between two times, through the repo's own offline store, whatever it is.

    A day is added on both sides: DuckDB compares naive times in the session's zone; the exact cut is ours.
    """
    when = source.timestamp_field
    if not when:
        raise ConfigError(f"features.entities: data source {source.name} declares no timestamp_field")
    day = timedelta(days=1)
    job = store._get_provider().offline_store.pull_all_from_table_or_query(
        config=store.config,
        data_source=source,
        join_key_columns=[],
        feature_name_columns=[c for c in columns if c != when],
        timestamp_field=when,
        start_date=start - day,
        end_date=end + day,
    )
    return job.to_arrow()


def _utc(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A time column as microseconds, UTC; naive times are UTC."""
    import pyarrow as pa

    column = table[name]
    if not pa.types.is_timestamp(column.type):
        raise ConfigError(f"{name}: must hold times, but the entity table has {column.type}")
    return column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.timestamp("us", "UTC"))


def _check_label(table: pa.Table, spec: ModelSpec) -> pa.Table:
    """The label as 0, 1 or null (int64)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    name, column = spec.label.column, table[spec.label.column]
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    values = pc.unique(column).to_pylist()
    odd = [v for v in values if not (v is None or v != v or (numeric and v in (0, 1)))]
    if odd:
        raise DataError(f"label.column: {name} must hold 0, 1 or null, but holds {odd[0]!r} as well")
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return table.set_column(table.column_names.index(name), name, column.cast(pa.int64()))


def _window(table: pa.Table, time_column: str, start: datetime, end: datetime) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    when, kind = table[time_column], pa.timestamp("us", "UTC")
    return table.filter(
        pc.and_(pc.greater_equal(when, pa.scalar(start, kind)), pc.less(when, pa.scalar(end, kind)))
    )


def _empty_window(
    store: FeatureStore, spec: ModelSpec, source: Any, name: str, start: datetime, end: datetime, rows: int
) -> str:
    span = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
    if rows:
        return (
            f"the {name} window ({span}) has {rows} rows, but none whose label was known before its end "
            f"(label.known_at: {spec.label.known_at})"
        )
    import pyarrow.compute as pc

    longest = datetime(1700, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
    every = _utc(_pull(store, source, [spec.features.time], *longest), spec.features.time)
    if len(every) == 0:
        return f"the entity table {source.name} is empty"
    first, last = pc.min(every).as_py(), pc.max(every).as_py()
    return (
        f"the {name} window ({span}) has no rows; {source.name} has rows from {first:%Y-%m-%d %H:%M} "
        f"to {last:%Y-%m-%d %H:%M} UTC: choose another as_of or other splits"
    )
