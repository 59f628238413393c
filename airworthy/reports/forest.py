"""Forest plots: a table in which each row draws an estimate on its interval, against a reference and a margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import escape

from airworthy.reports import cell
from airworthy.reports.inline import SHAPES, Axis, Interval, covering, dot, guides, head, key

_WORDS = {
    "pass": "pass",
    "warn": "warning",
    "fail": "fail",
    "inconclusive": "inconclusive",
    "other": "reported",
}


@dataclass(frozen=True)
class Row:
    """One row.

    `value` and `interval` place the mark; `cells` are the words and numbers beside it. `weight` (0 to 1) is the
    mark's area as a share of the largest.
    """

    label: str
    value: float
    interval: Interval | None = None
    outcome: str = "other"
    cells: tuple[object, ...] = ()
    weight: float = 0.4
    margin: float | None = None
    """Of this row alone, where rows have their own scales."""


def forest(
    title: str,
    rows: Sequence[Row],
    headers: Sequence[str],
    *,
    sides: tuple[str, str] = ("← better", "worse →"),
    reference: float | None = 0.0,
    reference_label: str = "no difference",
    margin: float | None = None,
    own_scales: bool = False,
) -> str:
    """A forest plot.

    Args:
        title: Caption.
        rows: From top to bottom.
        headers: Titles of the label's column and of the further cells.
        sides: What left and right mean.
        reference: Drawn as a line through all rows; None draws none.
        reference_label: What it stands for.
        margin: The largest tolerated value; what lies beyond is shaded.
        own_scales: Each row has its own scale and margin, with the reference (0) in the middle.

    Returns:
        An HTML `figure` around a table; a sentence when there are no rows.
    """
    if not rows:
        return f"<figure><figcaption>{escape(title)}: nothing to show</figcaption></figure>"
    common = None if own_scales else _axis(rows, reference, margin)
    drawn = "".join(
        _row(row, common or _own(row), reference, row.margin if own_scales else margin) for row in rows
    )
    first, *rest = headers
    titles = "".join(f'<th scope="col">{escape(h)}</th>' for h in rest)
    shaded = margin is not None or any(row.margin is not None for row in rows)
    return (
        f'<figure class="forest"><div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
        f'<table class="plots"><thead><tr><th scope="col">{escape(first)}</th>'
        f'<th class="plot">{head(common, sides)}</th>{titles}</tr></thead><tbody>{drawn}</tbody></table></div>'
        f"<figcaption>{escape(title)}<div>{_legend(rows, reference_label if reference is not None else '', shaded)}"
        "</div></figcaption></figure>"
    )


def _row(row: Row, axis: Axis, reference: float | None, margin: float | None) -> str:
    style = guides(
        None if reference is None else axis.at(reference), None if margin is None else axis.at(margin)
    )
    mark = dot(axis, row.value, row.interval, row.outcome, 2.6 + 4.4 * max(0.0, min(1.0, row.weight)) ** 0.5)
    cells = "".join(cell(value) for value in row.cells)
    return f'<tr><th scope="row">{escape(row.label)}</th><td class="plot" style="{style}">{mark}</td>{cells}</tr>'


def _axis(rows: Sequence[Row], reference: float | None, margin: float | None) -> Axis:
    fixed = [v for v in (reference, margin) if v is not None]
    return covering([*fixed, *(row.value for row in rows)], [row.interval for row in rows])


def _own(row: Row) -> Axis:
    reach = max(abs(v) for v in (row.value, *(row.interval or ()), row.margin or 0.0)) or 1.0
    return Axis(-1.12 * reach, 1.12 * reach)


def _legend(rows: Sequence[Row], reference_label: str, shaded: bool) -> str:
    seen = {row.outcome if row.outcome in SHAPES else "other" for row in rows}
    parts = [key(kind, _WORDS[kind]) for kind in _WORDS if kind in seen]
    if reference_label:
        parts.append(f'<span class="key"><i class="rule"></i>{escape(reference_label)}</span>')
    if shaded:
        parts.append('<span class="key"><i class="beyond"></i>worse than tolerated</span>')
    return " ".join(parts)
