"""Plots that lie in the cells of a table: a mark or a bar with its interval, and the axis in the head.

Positions are percentages, so a plot is as wide as its column, on a laptop and on a phone. The numbers beside
it say the same, so the drawings are hidden from screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import escape

from airworthy.reports.drawing import tick, ticks

Interval = tuple[float, float]

_CLIPPED = 1e-9
SHAPES = ("pass", "warn", "fail", "inconclusive")
"""Outcomes that have a shape of their own; anything else is a hollow square."""


@dataclass(frozen=True)
class Axis:
    """A stretch of numbers as wide as a column."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Place of a value in percent of the width; what lies outside sticks to the edge."""
        share = (value - self.low) / (self.high - self.low or 1.0)
        return round(100.0 * min(1.0, max(0.0, share)), 2)


def covering(values: Sequence[float], intervals: Sequence[Interval | None]) -> Axis:
    """An axis for all values and intervals; but not for the widest few where they would flatten the others."""
    lows = sorted(i[0] for i in intervals if i)
    highs = sorted(i[1] for i in intervals if i)

    def ends(rare: int) -> Interval:
        return (
            min([*values, *lows[rare:]], default=0.0),
            max([*values, *highs[: len(highs) - rare]], default=1.0),
        )

    (low, high), (inner, outer) = ends(0), ends(len(lows) // 10)
    if high - low > 1.6 * (outer - inner):
        low, high = inner, outer
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(low - room, high + room)


def dot(axis: Axis, value: float, interval: Interval | None, kind: str, radius: float = 5.0) -> str:
    """A mark whose shape and colour tell the outcome, on its interval."""
    stem = _stem(axis, interval, 12) if interval else ""
    mark = f'<svg x="{axis.at(value)}%" y="12">{shape(kind, radius)}</svg>'
    return f'<svg class="{_css(kind)}" style="height:24px" aria-hidden="true">{stem}{mark}</svg>'


def bar(axis: Axis, value: float, interval: Interval | None, other: float | None = None) -> str:
    """A bar from zero with its interval; a diamond where the other model's value is."""
    zero, end = axis.at(0.0), axis.at(value)
    left, width = min(zero, end), abs(end - zero)
    parts = f'<rect class="bar" x="{left}%" y="6" width="{width:.2f}%" height="12" rx="1.5"/>'
    parts += _stem(axis, interval, 12) if interval else ""
    if other is not None:
        parts += f'<svg class="other" x="{axis.at(other)}%" y="12"><path d="M0-5.5L5 0L0 5.5L-5 0Z"/></svg>'
    return f'<svg style="height:24px" aria-hidden="true">{parts}</svg>'


def head(axis: Axis | None, sides: tuple[str, str] = ("", "")) -> str:
    """What stands above a column of plots: what its two ends mean, and the axis (None: rows have their own)."""
    parts = [
        f'<text x="0" y="12">{escape(sides[0])}</text>',
        f'<text x="100%" y="12" text-anchor="end">{escape(sides[1])}</text>',
    ]
    if axis is not None:
        for value in ticks(axis.low, axis.high, 4):
            x = axis.at(value)
            anchor = "start" if x < 4 else "end" if x > 96 else "middle"
            parts.append(f'<text x="{x}%" y="28" text-anchor="{anchor}">{tick(value)}</text>')
    height = 18 if axis is None else 33
    return f'<svg style="height:{height}px" aria-hidden="true">{"".join(parts)}</svg>'


def guides(reference: float | None, margin: float | None) -> str:
    """CSS of a cell's background: a line at the reference, a dashed one at the margin, red beyond it."""
    layers = []
    if reference is not None:
        layers.append(_rule(reference, "var(--soft)"))
    if margin is not None:
        layers.append(_rule(margin, "var(--fail)"))
        layers.append(f"linear-gradient(to right,transparent {margin}%,var(--beyond) {margin}%)")
    return f"background:{','.join(layers)}" if layers else ""


def shape(kind: str, radius: float) -> str:
    """A mark around the origin: circle, triangle, diamond, ring or square."""
    r = f"{radius:.1f}"
    if kind == "pass":
        return f'<circle r="{r}"/>'
    if kind == "warn":
        return (
            f'<path d="M0-{radius * 1.25:.1f}L{radius * 1.15:.1f} {radius * 0.8:.1f}H-{radius * 1.15:.1f}Z"/>'
        )
    if kind == "fail":
        d = f"{radius * 1.35:.1f}"
        return f'<path d="M0-{d}L{d} 0L0 {d}L-{d} 0Z"/>'
    if kind == "inconclusive":
        return f'<circle class="hollow" r="{r}"/>'
    side = radius * 0.85
    return f'<rect class="hollow" x="-{side:.1f}" y="-{side:.1f}" width="{2 * side:.1f}" height="{2 * side:.1f}"/>'


def key(kind: str, words: str) -> str:
    """One entry of a legend."""
    drawn = f'<svg class="{_css(kind)}" viewBox="-8 -8 16 16" width="16" height="16">{shape(kind, 5)}</svg>'
    return f'<span class="key">{drawn}{escape(words)}</span>'


def _css(kind: str) -> str:
    return f"mark m-{kind if kind in SHAPES else 'other'}"


def _stem(axis: Axis, interval: Interval, y: int) -> str:
    low, high = axis.at(interval[0]), axis.at(interval[1])
    parts = [f'<line class="stem" x1="{low}%" x2="{high}%" y1="{y}" y2="{y}"/>']
    for place, value, edge, way in ((low, interval[0], axis.low, 1), (high, interval[1], axis.high, -1)):
        beyond = (value - edge) * way < -_CLIPPED * (1 + abs(edge)) and math.isfinite(value)
        drawn = f"M{5 * way}-4L0 0L{5 * way} 4" if beyond else "M0-4V4"
        parts.append(f'<svg x="{place}%" y="{y}"><path class="stem" d="{drawn}"/></svg>')
    return "".join(parts)


def _rule(at: float, colour: str) -> str:
    half = ".6px"
    return (
        f"linear-gradient(to right,transparent calc({at}% - {half}),{colour} calc({at}% - {half}),"
        f"{colour} calc({at}% + {half}),transparent calc({at}% + {half}))"
    )
