"""Checks of single values before TFDV sees them: ids, times, infinities, labels.

Each function streams its own few columns. The most that is held is one 64-bit hash per row (ids).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airworthy.validation.findings import Finding
from airworthy.validation.windows import Window, count_true, is_text, readable

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def check_values(window: Window) -> list[Finding]:
    """All value checks for which the window has the columns."""
    checks = (_check_ids, _check_times, _check_infinities, _check_labels, _check_label_times)
    return [finding for check in checks for finding in check(window)]


def utc(moment: datetime) -> datetime:
    """The moment in UTC; one without a zone is in UTC already."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def day(moment: datetime) -> str:
    """A moment for people."""
    return f"{utc(moment):%Y-%m-%d %H:%M} UTC"


def _check_ids(window: Window) -> list[Finding]:
    import numpy as np

    column = window.info.id
    if column not in window.types:
        return []
    nulls, parts = 0, []
    for batch in window.batches(column):
        nulls += batch[column].null_count
        parts.append(_hashes(batch[column]))
    found = []
    if nulls:
        found.append(
            window.finding(
                column, "MISSING_ID", "an id in every row", f"none in {nulls:,} of {window.rows:,} rows"
            )
        )
    ordered = np.sort(np.concatenate(parts))
    repeats = ordered[1:][ordered[1:] == ordered[:-1]]
    example = _first_repeated(window, column, np.unique(repeats)) if len(repeats) else ""
    if example:  # none: only the hashes collided
        observed = f"{len(repeats):,} repetitions"
        found.append(window.finding(column, "DUPLICATE_IDS", "every id only once", observed, example))
    return found


def _hashes(values: pa.Array) -> np.ndarray:
    import pandas as pd

    hashes: np.ndarray = pd.util.hash_array(
        values.drop_null().to_numpy(zero_copy_only=False), categorize=False
    )
    return hashes


def _first_repeated(window: Window, column: str, suspects: np.ndarray) -> str:
    """The first id that really occurs twice among those whose hash does; "" when there is none."""
    import numpy as np

    seen = set()
    for batch in window.batches(column):
        values = batch[column].drop_null()
        for position in np.isin(_hashes(values), suspects).nonzero()[0]:
            value = values[int(position)].as_py()
            if value in seen:
                return repr(value)
            seen.add(value)
    return ""


def _check_times(window: Window) -> list[Finding]:
    import pyarrow.compute as pc
    import pyarrow.types as types

    info = window.info
    column = info.time
    arrow_type = window.types.get(column)
    if arrow_type is None:
        return []
    expectation = f"times from {day(info.start)} to before {day(info.end)}"
    if not types.is_timestamp(arrow_type):
        example = window.first(column, pc.is_valid)
        return [window.finding(column, "WRONG_TYPE", "times", f"type {arrow_type}", example)]

    def outside(values: pa.Array) -> pa.BooleanArray:
        start, end = (_as_scalar(moment, arrow_type) for moment in (info.start, info.end))
        late_or_early = pc.or_(pc.less(values, start), pc.greater_equal(values, end))
        return late_or_early.fill_null(True)

    count = sum(count_true(outside(batch[column])) for batch in window.batches(column))
    if not count:
        return []
    observed = f"other times, or none, in {count:,} of {window.rows:,} rows"
    return [
        window.finding(
            column, "EVENT_TIME_OUTSIDE_WINDOW", expectation, observed, window.first(column, outside)
        )
    ]


def _as_scalar(moment: datetime, arrow_type: pa.DataType) -> pa.Scalar:
    """A moment comparable to a column: timestamps without a zone are UTC."""
    import pyarrow as pa

    moment = utc(moment)
    return pa.scalar(moment if arrow_type.tz else moment.replace(tzinfo=None), type=arrow_type)


def _check_infinities(window: Window) -> list[Finding]:
    """XGBoost refuses infinite values, and a single one ruins mean, histogram and drift of its column."""
    import pyarrow.compute as pc
    import pyarrow.types as types

    names = [f.name for f in window.info.features if f.name in window.types]
    names = [name for name in names if types.is_floating(window.types[name])]
    counts = dict.fromkeys(names, 0)
    for batch in window.batches(*names) if names else ():
        for name in names:
            counts[name] += count_true(pc.is_inf(batch[name]))
    return [
        window.finding(
            name,
            "INFINITE_VALUES",
            "finite numbers",
            f"infinite values in {count:,} of {window.rows:,} rows",
            window.first(name, pc.is_inf),
        )
        for name, count in counts.items()
        if count
    ]


def _check_labels(window: Window) -> list[Finding]:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = window.info.label
    arrow_type = window.types.get(column) if column else None
    if column is None or arrow_type is None:
        return []
    numeric = readable(arrow_type) and not is_text(arrow_type)

    def odd(values: pa.Array) -> pa.BooleanArray:
        if not numeric:
            return values.is_valid()
        numbers = values.cast(pa.float64())
        known = pc.and_(pc.is_valid(numbers), pc.invert(pc.is_nan(numbers)))
        return pc.and_(known, pc.and_(pc.not_equal(numbers, 0.0), pc.not_equal(numbers, 1.0)))

    odd_count, positives, negatives = 0, 0, 0
    for batch in window.batches(column):
        odd_count += count_true(odd(batch[column]))
        if numeric:
            numbers = batch[column].cast(pa.float64())
            positives += count_true(pc.equal(numbers, 1.0))
            negatives += count_true(pc.equal(numbers, 0.0))
    found = []
    if odd_count:
        observed = f"other values in {odd_count:,} of {window.rows:,} rows"
        found.append(
            window.finding(column, "LABEL_NOT_BINARY", "0 or 1, or null", observed, window.first(column, odd))
        )
    if numeric and not (positives and negatives):
        observed = f"{positives:,} rows with 1 and {negatives:,} with 0"
        found.append(window.finding(column, "LABEL_ONE_CLASS", "rows of both classes", observed))
    return found


def _check_label_times(window: Window) -> list[Finding]:
    """A label known before the decision would hardly need predicting: a sign of leaking or mixed-up times."""
    import pyarrow.compute as pc
    import pyarrow.types as types

    known_at, time, info = window.info.label_known_at, window.info.time, window.info
    arrow_type = window.types.get(known_at) if known_at else None
    if known_at is None or arrow_type is None:
        return []
    if not types.is_timestamp(arrow_type):
        example = window.first(known_at, pc.is_valid)
        return [window.finding(known_at, "WRONG_TYPE", "times", f"type {arrow_type}", example)]
    if arrow_type != window.types.get(time):
        return []
    count, example = 0, ""
    for batch in window.batches(known_at, time, *([info.id] if info.id in window.types else [])):
        early = pc.less_equal(batch[known_at], batch[time]).fill_null(False)
        count += count_true(early)
        if count and not example:
            row = int(early.to_numpy(zero_copy_only=False).argmax())
            example = str(batch[known_at][row].as_py())
            example += f" in row {batch[info.id][row].as_py()}" if info.id in batch else ""
    if not count:
        return []
    observed = f"{count:,} labels known no later than it"
    return [
        window.finding(known_at, "LABEL_KNOWN_TOO_EARLY", "times after the decision time", observed, example)
    ]
