"""The point-in-time join: per decision, the latest row that was known and has not expired."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl

ROW = "__row"


def asof(
    entities: pl.DataFrame,
    source: pl.LazyFrame,
    *,
    keys: dict[str, str],
    features: list[str],
    event_time: str,
    created: str | None,
    ttl: timedelta,
) -> pl.DataFrame:
    """The join itself: one row of `features` per entity row, null where nothing was known.

    Args:
        entities: Key columns and `__time` (microseconds).
        source: Rows with keys, features, `event_time` and maybe `created`, in any order.
        keys: Key column in the source -> key column in `entities`.
        features: Columns to return.
        event_time: When a source row became known.
        created: Tie breaker; None: the later row in the source wins.
        ttl: Oldest age that still counts; 0: any.
    """
    right_keys = {name: f"__key{i}" for i, name in enumerate(keys)}
    order = [pl.col(created)] if created else []
    right = (
        source.with_columns(_micros(source, event_time, up=True).alias("__known"))
        .filter(pl.all_horizontal(pl.col(event_time, *keys).is_not_null()))
        .sort("__known", *order, nulls_last=False, maintain_order=True)
        .select("__known", *(pl.col(k).alias(v) for k, v in right_keys.items()), *features)
        .collect()
    )
    left_keys = {name: pl.col(keys[name]).alias(v) for name, v in right_keys.items()}
    left = (
        entities.lazy()
        .select(
            pl.int_range(pl.len()).alias(ROW),
            _micros(entities.lazy(), "__time").alias("__at"),
            *left_keys.values(),
        )
        .drop_nulls()
        .sort("__at", maintain_order=True)
        .collect()
    )
    left, right = _same_types(left, right, list(right_keys.values()))
    found = left.join_asof(
        right,
        left_on="__at",
        right_on="__known",
        by=list(right_keys.values()) or None,
        strategy="backward",
        tolerance=ttl // timedelta(microseconds=1) if ttl else None,
        check_sortedness=False,
    )
    rows = pl.DataFrame({ROW: pl.int_range(entities.height, eager=True)})
    return rows.join(found.select(ROW, *features), on=ROW, how="left", maintain_order="left").select(features)


def _micros(frame: pl.LazyFrame, column: str, up: bool = False) -> pl.Expr:
    """A time column as whole microseconds since 1970, UTC; finer times rounded so that none moves earlier
    in a source (`up`) or later in a decision."""
    kind, expr = frame.collect_schema()[column], pl.col(column)
    if kind == pl.String:
        expr, kind = expr.str.to_datetime(time_unit="us", time_zone="UTC"), pl.Datetime("us", "UTC")
    if isinstance(kind, pl.Datetime) and kind.time_unit == "ns":
        return (expr.cast(pl.Int64) + (999 if up else 0)) // 1000
    return expr.cast(pl.Datetime("us", getattr(kind, "time_zone", None))).cast(pl.Int64)


def _same_types(
    left: pl.DataFrame, right: pl.DataFrame, keys: list[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both frames with keys of one type: 1 (int32), 1 (int64) and 1.0 are the same key."""
    for key in keys:
        a, b = left.schema[key], right.schema[key]
        if a != b:
            if a.is_float() or b.is_float():
                common: Any = pl.Float64
            else:
                common = pl.Int64 if a.is_integer() and b.is_integer() else pl.String
            left, right = (
                left.with_columns(pl.col(key).cast(common)),
                right.with_columns(pl.col(key).cast(common)),
            )
    return left, right
