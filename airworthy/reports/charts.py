"""Small charts as inline SVG: no script, a few kilobytes, coloured by the page's light or dark theme.

A charting library would add megabytes of script to every artifact; these pages are copied into object
stores with every run and open in the Kubeflow UI.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 10, 40
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
    band: tuple[Points, Points] | None = None,
) -> str:
    """A line chart.

    Args:
        title: Caption below the chart.
        series: Up to eight named lines of finite (x, y) points; from the fifth on they are dotted.
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
        band: Lower and upper edge of a shaded area.

    Returns:
        An HTML `figure`; a sentence instead of a chart when there are no points.
    """
    edges = [p for edge in band or () for p in edge]
    points = [p for s in series.values() for p in s] + list(reference) + edges
    if not points:
        return f"<figure><figcaption>{escape(title)}: no data</figcaption></figure>"
    x_range = x_range or (min(p[0] for p in points), max(p[0] for p in points))
    y_range = y_range or (min(p[1] for p in points), max(p[1] for p in points))
    to_x = _scale(x_range, LEFT, WIDTH - RIGHT)
    to_y = _scale(y_range, HEIGHT - BOTTOM, TOP, log=log_y)
    parts = _regions(regions, to_x)
    parts += _axes(x_range, y_range, to_x, to_y, x_label, y_label, log_y)
    if band and band[0]:
        outline = _path([*band[0], *reversed(band[1])], to_x, to_y, False)
        parts.append(f'<path class="f0" style="opacity:.18" d="{outline}Z"/>')
    if reference:
        parts.append(f'<path class="dash" d="{_path(reference, to_x, to_y, False)}"/>')
    for index, (name, line) in enumerate(series.items()):
        parts.append(f'<path class="line s{index % 4}"{_dots(index)} d="{_path(line, to_x, to_y, steps)}"/>')
        if limits and name in limits:
            y = to_y(limits[name])
            parts.append(
                f'<path class="line s{index % 4}" style="{_THIN}" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
            )
    parts += _marks(marks, to_x, TOP + (27 if regions else 11))
    legend = [(name, f"line s{i % 4}", _dots(i)) for i, name in enumerate(series)] if len(series) > 1 else []
    if reference_label:
        legend.append((reference_label, "dash", ""))
    return _figure(title, parts, legend)


def bars(title: str, values: Mapping[str, float], *, unit: str = "", limit: float | None = None) -> str:
    """Horizontal bars from zero, one per name; `limit` draws a dashed line across."""
    if not values:
        return f"<figure><figcaption>{escape(title)}: no data</figcaption></figure>"
    row, label = 20, 150
    height = row * len(values) + 8
    top = max([*values.values(), limit or 0.0, 1e-12])
    scale = (WIDTH - label - 70) / top
    parts = []
    for index, (name, value) in enumerate(values.items()):
        y = 4 + index * row
        parts.append(f'<text x="{label - 6}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect class="f0" x="{label}" y="{y + 2}" width="{max(value, 0) * scale:.1f}" height="{row - 6}"/>'
        )
        parts.append(
            f'<text x="{label + max(value, 0) * scale + 5:.1f}" y="{y + 13}">{tick(value)}{escape(unit)}</text>'
        )
    if limit is not None:
        x = label + limit * scale
        parts.append(f'<line class="dash" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
    return _figure(title, parts, [], height)


def tick(value: float) -> str:
    """A number short enough for an axis."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _dots(index: int) -> str:
    return ' stroke-dasharray="2 3"' if index >= 4 else ""


def _regions(regions: Sequence[tuple[float, float, str]], to_x: Callable[[float], float]) -> list[str]:
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


def _marks(marks: Sequence[tuple[float, str]], to_x: Callable[[float], float], top: int) -> list[str]:
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


def _scale(
    limits: tuple[float, float], first: float, last: float, log: bool = False
) -> Callable[[float], float]:
    low, high = limits
    if log:
        low, high = math.log10(low), math.log10(high)
    span = high - low or 1.0

    def place(value: float) -> float:
        position = math.log10(value) if log else value
        share = min(1.0, max(0.0, (position - low) / span))
        return first + share * (last - first)

    return place


def _axes(
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
    x_label: str,
    y_label: str,
    log_y: bool,
) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}"/>']
    for value in _ticks(*x_range):
        parts.append(
            f'<text x="{to_x(value):.1f}" y="{bottom + 15}" text-anchor="middle">{tick(value)}</text>'
        )
    for value in _decades(*y_range) if log_y else _ticks(*y_range):
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


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    span = high - low
    if span <= 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, (last - first) // 6)
    return [
        10.0**k
        for k in range(first, last + 1, stride)
        if low <= 10.0**k * (1 + 1e-9) and 10.0**k <= high * (1 + 1e-9)
    ]


def _path(points: Points, to_x: Callable[[float], float], to_y: Callable[[float], float], steps: bool) -> str:
    parts: list[str] = []
    for x, y in points:
        px, py = f"{to_x(x):.1f}", f"{to_y(y):.1f}"
        parts.append(f"M{px} {py}" if not parts else f"H{px}V{py}" if steps else f"L{px} {py}")
    return "".join(parts)


def _figure(title: str, parts: list[str], legend: list[tuple[str, str, str]], height: int = HEIGHT) -> str:
    key = "".join(
        f'<span style="white-space:nowrap"><svg width="22" height="10" style="display:inline-block;'
        f'margin:0 4px 0 10px" aria-hidden="true"><path class="{css}"{dots} d="M1 5H21"/></svg>{escape(name)}</span> '
        for name, css, dots in legend
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
        f"<figcaption>{escape(title)}{key}</figcaption></figure>"
    )
