"""Small charts as inline SVG: no script, a few kilobytes, coloured by the page's light or dark theme.

A charting library would add megabytes of script to every artifact; these pages are copied into object
stores with every run and open in the Kubeflow UI. `lines` and `bars` are figures of their own;
`airworthy.reports.forest` draws a plot into the rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import escape

from airworthy.reports.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Points,
    Scale,
    dashes,
    decades,
    figure,
    path,
    scale,
    tick,
    ticks,
)
from airworthy.reports.forest import Row, forest

__all__ = ["Points", "Row", "bars", "forest", "lines", "tick"]

Whisker = tuple[float, float, float]
"""x, lower end, upper end."""
_THIN = "stroke-width:1.2;stroke-dasharray:5 4"


def lines(
    title: str,
    series: Mapping[str, Points],
    *,
    x_label: str = "",
    y_label: str = "",
    reference: Points = (),
    reference_label: str = "",
    log_y: bool = False,
    steps: bool = False,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    limits: Mapping[str, float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    regions: Sequence[tuple[float, float, str]] = (),
    bands: Mapping[str, tuple[Points, Points]] | None = None,
    whiskers: Mapping[str, Sequence[Whisker]] | None = None,
) -> str:
    """A line chart.

    Args:
        title: Caption below the chart.
        series: Up to eight named lines of finite (x, y) points, told apart by colour and dashes.
        x_label: Axis title with unit.
        y_label: Axis title with unit.
        reference: A dashed line, such as a threshold or the diagonal.
        reference_label: What it stands for, named in the legend.
        log_y: Logarithmic y axis (values must be positive).
        steps: Draw as stairs: the value holds until the next point.
        x_range: Axis limits; the data's own by default.
        y_range: Likewise.
        limits: A dashed level of its own for some of the series, by name, in that line's colour.
        marks: Events: (x, label), drawn as vertical lines.
        regions: Stretches of the x axis: (from, to, label), shaded in turn; labels that don't fit are left out.
        bands: Lower and upper edge of a shaded area in that line's colour, by name of the series.
        whiskers: Intervals at single points of a series, by its name; its points are drawn as dots then.

    Returns:
        An HTML `figure`; a sentence instead of a chart when there are no points.
    """
    bands, whiskers = bands or {}, whiskers or {}
    edges = [p for pair in bands.values() for edge in pair for p in edge]
    edges += [(x, end) for found in whiskers.values() for x, low, high in found for end in (low, high)]
    points = [p for s in series.values() for p in s] + list(reference) + edges
    if not points:
        return f"<figure><figcaption>{escape(title)}: no data</figcaption></figure>"
    x_range = x_range or (min(p[0] for p in points), max(p[0] for p in points))
    y_range = y_range or (min(p[1] for p in points), max(p[1] for p in points))
    to_x = scale(x_range, LEFT, WIDTH - RIGHT)
    to_y = scale(y_range, HEIGHT - BOTTOM, TOP, log=log_y)
    parts = _regions(regions, to_x)
    parts += _axes(x_range, y_range, to_x, to_y, x_label, y_label, log_y)
    parts += _bands(series, bands, to_x, to_y)
    if reference:
        parts.append(f'<path class="dash" d="{path(reference, to_x, to_y)}"/>')
    for index, (name, line) in enumerate(series.items()):
        css = f"line s{index % 4}"
        parts.append(f'<path class="{css}"{dashes(index)} d="{path(line, to_x, to_y, steps)}"/>')
        if limits and name in limits:
            level = f"M{LEFT} {to_y(limits[name]):.1f}H{WIDTH - RIGHT}"
            parts.append(f'<path class="{css}" style="{_THIN}" d="{level}"/>')
        if name in whiskers:
            parts += _dots(line, whiskers[name], index % 4, to_x, to_y)
    parts += _marks(marks, to_x, TOP + (27 if regions else 11))
    legend = [(name, f"line s{i % 4}", dashes(i)) for i, name in enumerate(series)] if len(series) > 1 else []
    if reference_label:
        legend.append((reference_label, "dash", ""))
    return figure(title, parts, legend)


def bars(title: str, values: Mapping[str, float], *, unit: str = "", limit: float | None = None) -> str:
    """Horizontal bars from zero, one per name; `limit` draws a dashed line across."""
    if not values:
        return f"<figure><figcaption>{escape(title)}: no data</figcaption></figure>"
    row, label = 20, 150
    height = row * len(values) + 8
    top = max([*values.values(), limit or 0.0, 1e-12])
    factor = (WIDTH - label - 70) / top
    parts = []
    for index, (name, value) in enumerate(values.items()):
        y, length = 4 + index * row, max(value, 0) * factor
        parts.append(f'<text x="{label - 6}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect class="f0" x="{label}" y="{y + 2}" width="{length:.1f}" height="{row - 6}"/>'
            f'<text x="{label + length + 5:.1f}" y="{y + 13}">{tick(value)}{escape(unit)}</text>'
        )
    if limit is not None:
        x = label + limit * factor
        parts.append(f'<line class="dash" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
    return figure(title, parts, [], height)


def _bands(
    series: Mapping[str, Points], bands: Mapping[str, tuple[Points, Points]], to_x: Scale, to_y: Scale
) -> list[str]:
    parts = []
    for index, name in enumerate(series):
        low, high = bands.get(name, ((), ()))
        if low:
            outline = path([*low, *reversed(high)], to_x, to_y)
            parts.append(f'<path class="f{index % 4}" style="opacity:.18" d="{outline}Z"/>')
    return parts


def _dots(points: Points, whiskers: Sequence[Whisker], colour: int, to_x: Scale, to_y: Scale) -> list[str]:
    stems = "".join(f"M{to_x(x):.1f} {to_y(low):.1f}V{to_y(high):.1f}" for x, low, high in whiskers)
    shapes = [f'<path class="line s{colour}" style="stroke-width:1.2" d="{stems}"/>']
    for x, y in points:
        px, py = to_x(x), to_y(y)
        shapes.append(
            f'<circle class="f{colour}" cx="{px:.1f}" cy="{py:.1f}" r="3"/>'
            if colour % 2 == 0
            else f'<rect class="f{colour}" x="{px - 2.7:.1f}" y="{py - 2.7:.1f}" width="5.4" height="5.4"/>'
        )
    return shapes


def _regions(regions: Sequence[tuple[float, float, str]], to_x: Scale) -> list[str]:
    parts = []
    for index, (begin, end, label) in enumerate(regions):
        left, right = to_x(begin), to_x(end)
        if index % 2 == 0:
            size = f'x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{HEIGHT - BOTTOM - TOP}"'
            parts.append(f'<rect style="fill:var(--panel)" {size}/>')
        if right - left > 6.2 * len(label):
            middle = (left + right) / 2
            parts.append(f'<text x="{middle:.1f}" y="{TOP + 13}" text-anchor="middle">{escape(label)}</text>')
    return parts


def _marks(marks: Sequence[tuple[float, str]], to_x: Scale, top: int) -> list[str]:
    parts = []
    for index, (at, label) in enumerate(marks):
        x = to_x(at)
        side, anchor = (-5, "end") if x > WIDTH / 2 else (5, "start")
        parts.append(f'<path style="stroke:var(--fg);fill:none" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text class="label" x="{x + side:.1f}" y="{top + 15 * index}" text-anchor="{anchor}">'
            f"{escape(label)}</text>"
        )
    return parts


def _axes(
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    to_x: Scale,
    to_y: Scale,
    x_label: str,
    y_label: str,
    log_y: bool,
) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}"/>']
    for value in ticks(*x_range):
        parts.append(
            f'<text x="{to_x(value):.1f}" y="{bottom + 15}" text-anchor="middle">{tick(value)}</text>'
        )
    for value in decades(*y_range) if log_y else ticks(*y_range):
        y = to_y(value)
        parts.append(f'<path class="axis" d="M{LEFT - 4} {y:.1f}h4"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{tick(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    half = (TOP + bottom) / 2
    parts.append(
        f'<text transform="translate(12 {half}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    return parts
