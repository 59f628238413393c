"""How numbers are written: as many digits as their interval has to tell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from markupsafe import Markup

from airworthy.reports import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airworthy.findings import Interval, Number

LOWER_IS_BETTER = {"log_loss", "brier", "cost", "expected_cost", "calibration_error"}
NOTHING = "–"


def exact(value: float, interval: Interval | None, *, signed: bool = False) -> str:
    """A value with two digits of its interval's width; four significant digits without one."""
    digits = _digits(interval)
    text = number(abs(value)) if digits is None else f"{abs(value):,.{digits}f}"
    if not any(c in "123456789" for c in text):
        return text  # no sign on what is written as zero
    return f"{'−' if value < 0 else '+' if signed else ''}{text}"


def span(interval: Interval | None, *, signed: bool = False) -> str:
    """An interval in words."""
    if interval is None:
        return NOTHING
    return "\u00a0to\u00a0".join(exact(end, interval, signed=signed) for end in interval)


def measured(found: Number | None, *, signed: bool = False) -> Markup:
    """A value with its interval in small letters below it, for a table's cell."""
    if found is None:
        return Markup("–")
    value = exact(found.value, found.interval, signed=signed)
    if found.interval is None:
        return Markup("{}").format(value)
    return Markup('{} <small class="ci">{}</small>').format(value, span(found.interval, signed=signed))


def probability(value: float | None) -> str:
    """A p-value."""
    if value is None:
        return NOTHING
    return "<\u00a00.001" if value < 0.001 else f"{value:.3f}"


def percent(value: float) -> str:
    """A share."""
    return f"{100 * value:.1f} %"


def filled(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> tuple[list[str], list[list[object]]]:
    """A table without the columns in which no row says anything."""
    kept = [i for i in range(len(headers)) if any(row[i] not in (None, "", NOTHING) for row in rows)]
    return [headers[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _digits(interval: Interval | None) -> int | None:
    if interval is None or not interval[1] > interval[0]:
        return None
    return max(0, min(7, 1 - math.floor(math.log10(interval[1] - interval[0]))))
