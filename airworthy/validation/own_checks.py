"""Checks made before TFDV sees the data: rows, columns, types, order of the windows.

TFDV lets an empty set pass, knows nothing of ids and times, and raises on column types that it can't read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airworthy import datasets
from airworthy.validation.findings import Finding
from airworthy.validation.value_checks import check_values, day, utc
from airworthy.validation.windows import Window, is_text

if TYPE_CHECKING:
    import pyarrow as pa

EXPECTED_TYPE: dict[datasets.Kind, str] = {
    "number": "numbers",
    "integer": "whole numbers",
    "category": "text",
    "bool": "true or false",
}


def check_window(window: Window, min_rows: int) -> list[Finding]:
    """All own checks of one window.

    Args:
        window: From `open_window`.
        min_rows: Fewest rows that the spec asks for.
    """
    found = [*_check_counts(window, min_rows), *_check_presence(window), *_check_types(window)]
    return found + check_values(window) if window.rows else found


def check_order(windows: Sequence[Window]) -> list[Finding]:
    """Windows must follow one another: a row in two of them would be trained on and judged with."""
    return [
        later.finding(
            None,
            "WINDOWS_OVERLAP",
            f"a start no earlier than the {earlier.name} window's end, {day(earlier.info.end)}",
            f"a start at {day(later.info.start)}",
        )
        for earlier, later in itertools.pairwise(windows)
        if utc(later.info.start) < utc(earlier.info.end)
    ]


def _check_counts(window: Window, min_rows: int) -> list[Finding]:
    at_least = f"at least {min_rows:,} rows"
    span = f"between {day(window.info.start)} and {day(window.info.end)}"
    found = []
    if window.rows == 0:
        found.append(window.finding(None, "EMPTY_WINDOW", at_least, f"no rows {span}"))
    elif window.rows < min_rows:
        found.append(window.finding(None, "TOO_FEW_ROWS", at_least, f"{window.rows:,} rows {span}"))
    if window.rows != window.info.rows:
        expectation = f"{window.info.rows:,} rows, as {datasets.DESCRIPTION} says"
        found.append(
            window.finding(None, "ROW_COUNT_DIFFERS", expectation, f"{window.rows:,} rows in the files")
        )
    return found


def _check_presence(window: Window) -> list[Finding]:
    info = window.info
    optional = [c for c in (info.label, info.label_known_at) if c]
    return [
        window.finding(
            column, "MISSING_COLUMN", f"a column, as {datasets.DESCRIPTION} says", "no such column"
        )
        for column in [*info.feature_names, *optional, info.id, info.time]
        if column not in window.types and column not in window.mixed
    ]


def _check_types(window: Window) -> list[Finding]:
    import pyarrow.compute as pc

    found = [
        window.finding(column, "WRONG_TYPE", "the same type in all files", " and ".join(kinds))
        for column, kinds in window.mixed.items()
    ]
    for feature in window.info.features:
        arrow_type = window.types.get(feature.name)
        if arrow_type is not None and not _fits(arrow_type, feature.kind):
            example = window.first(feature.name, pc.is_valid)
            expectation = EXPECTED_TYPE[feature.kind]
            found.append(
                window.finding(feature.name, "WRONG_TYPE", expectation, f"type {arrow_type}", example)
            )
    return found


def _fits(arrow_type: pa.DataType, kind: datasets.Kind) -> bool:
    import pyarrow.types as types

    if types.is_null(arrow_type):
        return True  # no value, so no wrong one: how many must be there is the schema's business
    if kind == "number":
        return bool(types.is_floating(arrow_type) or types.is_integer(arrow_type))
    if kind == "integer":
        return bool(types.is_integer(arrow_type))
    if kind == "bool":
        return bool(types.is_boolean(arrow_type))
    return is_text(arrow_type)
