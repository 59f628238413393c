"""What all charts are drawn with: scales, ticks, paths and the frame around a figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import escape

Points = Sequence[tuple[float, float]]
Scale = Callable[[float], float]

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 10, 40
_DASHES = ("", "7 3", "2 3", "9 3 2 3")


def tick(value: float) -> str:
    """A number short enough for an axis."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def dashes(index: int) -> str:
    """The dash pattern of the n-th line, so that colour is not all that tells lines apart."""
    pattern = _DASHES[(index + index // 4) % 4]
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def scale(limits: tuple[float, float], first: float, last: float, log: bool = False) -> Scale:
    """Places values between two pixels; what lies outside the limits sticks to the edge."""
    low, high = limits
    if log:
        low, high = math.log10(low), math.log10(high)
    span = high - low or 1.0

    def place(value: float) -> float:
        position = math.log10(value) if log else value
        share = min(1.0, max(0.0, (position - low) / span))
        return first + share * (last - first)

    return place


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """At most `count` + 1 round numbers between two values."""
    span = high - low
    if span <= 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten between two positive values, at most about six."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, (last - first) // 6)
    return [
        10.0**k
        for k in range(first, last + 1, stride)
        if low <= 10.0**k * (1 + 1e-9) and 10.0**k <= high * (1 + 1e-9)
    ]


def path(points: Points, to_x: Scale, to_y: Scale, steps: bool = False) -> str:
    """A line through points as SVG path data."""
    parts: list[str] = []
    for x, y in points:
        px, py = f"{to_x(x):.1f}", f"{to_y(y):.1f}"
        parts.append(f"M{px} {py}" if not parts else f"H{px}V{py}" if steps else f"L{px} {py}")
    return "".join(parts)


def figure(title: str, parts: list[str], legend: list[tuple[str, str, str]], height: int = HEIGHT) -> str:
    """An HTML figure with its caption and legend of (name, CSS class, further attributes)."""
    key = "".join(
        f'<span style="white-space:nowrap"><svg width="22" height="10" style="display:inline-block;'
        f'margin:0 4px 0 10px" aria-hidden="true"><path class="{css}"{more} d="M1 5H21"/></svg>{escape(name)}</span> '
        for name, css, more in legend
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
        f"<figcaption>{escape(title)}{key}</figcaption></figure>"
    )
