"""The rows to decide on: cut into windows, with labels that were known in time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airworthy.errors import ConfigError, DataError
from airworthy.features.service import feature_columns, service_inputs
from airworthy.model_spec import ModelSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureService, FeatureStore

log = logging.getLogger(__name__)


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
        rows = in_window(table, spec.features.time, start, end)
        # a comparison with null is null, which the filter drops: never known, never learnt from
        in_time = pc.less(rows[spec.label.known_at], pa.scalar(end, pa.timestamp("us", "UTC")))
        usable = rows.filter(pc.and_kleene(in_time, pc.is_valid(rows[spec.label.column])))
        if usable.num_rows == 0:
            raise DataError(_empty_window(store, spec, source, name, start, end, rows.num_rows))
        log.info("%s: %d rows, %d of them with a label known in time", name, rows.num_rows, usable.num_rows)
        kept.append(usable)
    return pa.concat_tables(kept)


def in_window(table: pa.Table, time_column: str, start: datetime, end: datetime) -> pa.Table:
    """Rows of `table` with `start <= time < end`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    when, kind = table[time_column], pa.timestamp("us", "UTC")
    return table.filter(
        pc.and_(pc.greater_equal(when, pa.scalar(start, kind)), pc.less(when, pa.scalar(end, kind)))
    )


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
    keys, request = service_inputs(store, service)
    wanted += [(f"feature service {service.name}", name) for name in (*keys, *request)]
    wanted += [(field, name) for name, field in spec.evaluation_columns.items() if name not in features]
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
