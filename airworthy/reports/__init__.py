"""Pages for people: self-contained HTML (no script, no network), light and dark, laptop and phone.

`page` wraps a body; `table`, `badge`, `facts` make its parts; `airworthy.reports.charts` draws `lines`, `bars`
and `forest` as small inline SVG; `airworthy.reports.lights` orders a verdict for people. All text is escaped
here, so callers pass plain strings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup, escape

STYLE = (Path(__file__).parent / "style.css").read_text()

_WORDS = {
    "pass": "pass",
    "warn": "warning",
    "fail": "fail",
    "inconclusive": "inconclusive",
    "skipped": "skipped",
    "overridden": "overridden",
}


def page(title: str, body: str, *, subtitle: str = "", outcome: str | None = None, top: str = "") -> str:
    """A whole HTML page.

    Args:
        title: Heading and browser title.
        body: HTML made by this module's functions (not escaped again).
        subtitle: One sentence under the heading.
        outcome: `pass`, `warn`, `fail` or `inconclusive`: shown as a badge beside the heading.
        top: HTML above the heading, for what nobody may overlook.
    """
    mark = f" {badge(outcome)}" if outcome else ""
    lead = f'<p class="lead">{escape(subtitle)}</p>' if subtitle else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>{top}<h1>{escape(title)}{mark}</h1>{lead}\n{body}\n"
        "<footer>Made by Airworthy from recorded facts; this page loads nothing.</footer>"
        "</main></body></html>\n"
    )


def section(title: str, *parts: str, note: str = "", anchor: str = "") -> str:
    """A heading with content under it; `anchor` is where `jump` leads to."""
    lead = f'<p class="note">{escape(note)}</p>' if note else ""
    place = f' id="{escape(anchor)}"' if anchor else ""
    return f"<section{place}><h2>{escape(title)}</h2>{lead}{''.join(parts)}</section>\n"


def paragraph(text: str) -> str:
    """One paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def badge(outcome: str) -> str:
    """A coloured word: `pass`, `warn`, `fail`, `inconclusive`, or any other word in grey."""
    kind = outcome if outcome in _WORDS else "other"
    return f'<span class="badge {kind}">{escape(_WORDS.get(outcome, outcome))}</span>'


def number(value: object) -> str:
    """A value as people read it: four significant digits, thousands separated, an en dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or value.is_integer():
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, outcomes: Sequence[str] | None = None
) -> str:
    """A table that scrolls sideways on narrow screens.

    Args:
        headers: Column titles.
        rows: Cells; numbers are formatted and right-aligned, `Markup` is kept as HTML, the rest is escaped.
        outcomes: One per row; adds a first column of badges and colours the row.
    """
    if not rows:
        return '<p class="note">Nothing to show.</p>'
    titles = ["Outcome", *headers] if outcomes else headers
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in titles)
    lines = []
    for index, row in enumerate(rows):
        outcome = outcomes[index] if outcomes else None
        first = f"<td>{badge(outcome)}</td>" if outcome else ""
        cells = "".join(cell(value) for value in row)
        lines.append(f'<tr class="{escape(outcome or "")}">{first}{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(headers[0])} table">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def facts(pairs: Mapping[str, object]) -> str:
    """Name/value pairs, such as versions and digests."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{value if isinstance(value, Markup) else escape(number(value))}</dd></div>"
        for name, value in pairs.items()
    )
    return f'<dl class="facts">{items}</dl>'


def details(summary: str, content: str, *, anchor: str = "") -> str:
    """Content that unfolds on demand, or when its anchor is jumped to."""
    place = f' id="{escape(anchor)}"' if anchor else ""
    return f"<details{place}><summary>{escape(summary)}</summary>{content}</details>"


def link(text: str, target: str) -> Markup:
    """A link, usable as a table cell."""
    return Markup('<a href="{}">{}</a>').format(target, text)


def jump(text: str, anchor: str) -> Markup:
    """A link to a place on the same page."""
    return Markup('<a href="#{}">{}</a>').format(anchor, text)


def cell(value: object) -> str:
    """One cell of a table: numbers are formatted, `Markup` is kept as HTML, the rest is escaped."""
    if isinstance(value, Markup):
        return f"<td>{value}</td>"
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    css = ' class="n"' if numeric or value is None else ""
    return f"<td{css}>{escape(number(value))}</td>"
