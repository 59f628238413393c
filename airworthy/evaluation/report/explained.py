"""What the scores are made of, feature by feature, and what changed since the champion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from airworthy.evaluation.report.words import NOTHING, exact, percent
from airworthy.reports import cell, details, number, section, table
from airworthy.reports.inline import Axis, bar, covering, head

if TYPE_CHECKING:
    from airworthy.findings import Attribution, Explained, Findings
    from airworthy.verdict import Verdict

DRAWN = 25
"""Most features that are drawn; the others are folded."""
_FLAT = 0.1
"""A weaker rank correlation tells no direction."""


def explanations(verdict: Verdict, findings: Findings) -> str:
    """Shares of the features as bars, and where slices differ from the champion."""
    found = findings.explained
    if found is None or not found.attributions:
        return ""
    note = (
        f"Share of all SHAP contributions on {found.rows:,} sampled rows, with interval; contributions add up to "
        f"each score to {number(float(f'{found.additivity_error:.1g}'))} log odds."
    )
    body = _shares(found.attributions[:DRAWN])
    if len(found.attributions) > DRAWN:
        rest = found.attributions[DRAWN:]
        body += details(f"{len(rest)} more features", _shares(rest))
    if found.slices:
        body += details(f"Differences to the champion in {len(found.slices)} slices", _slices(found))
    return section("What the scores are made of", body, note=note, anchor="explanations")


def _shares(found: tuple[Attribution, ...]) -> str:
    compared = any(a.champion_share is not None for a in found)
    marks = [a.champion_share for a in found if a.champion_share is not None]
    whole = covering([0.0, *(a.share.value for a in found), *marks], [a.share.interval for a in found])
    axis = Axis(0.0, whole.high)
    lines = [_line(attribution, axis, compared) for attribution in found]
    titles = ("Share", *(["Champion's"] if compared else []), "With a larger value", "AUC alone")
    heads = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    legend = "Bar: challenger, with interval." + (" Diamond: champion." if compared else "")
    return (
        '<figure class="forest"><div class="scroll" tabindex="0" role="region" aria-label="Shares of the features">'
        f'<table class="plots"><thead><tr><th scope="col">Feature</th><th class="plot">{head(axis)}</th>{heads}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div><figcaption>{legend}</figcaption></figure>"
    )


def _line(found: Attribution, axis: Axis, compared: bool) -> str:
    share = found.share
    ends = "" if share.interval is None else f"{100 * share.interval[0]:.1f} to {100 * share.interval[1]:.1f}"
    cells = [Markup('{} <small class="ci">{}</small>').format(percent(share.value), ends)]
    values: list[object] = [*cells]
    if compared:
        values.append(NOTHING if found.champion_share is None else percent(found.champion_share))
    values += [
        _direction(found.direction),
        NOTHING if found.auc_alone is None else f"{found.auc_alone:.3f}",
    ]
    drawn = bar(axis, share.value, share.interval, found.champion_share)
    return (
        f'<tr><th scope="row">{escape(found.feature)}</th><td class="plot">{drawn}</td>'
        f"{''.join(cell(value) for value in values)}</tr>"
    )


def _direction(value: float | None) -> str:
    if value is None:
        return NOTHING
    if abs(value) < _FLAT:
        return "no clear direction"
    return f"{'↑ higher' if value > 0 else '↓ lower'} ({exact(round(value, 2), None, signed=True)})"


def _slices(found: Explained) -> str:
    rows = [
        (
            part.where,
            ", ".join(f"{name} {exact(value, None, signed=True)}" for name, value in part.features.items()),
        )
        for part in found.slices
    ]
    return table(("Slice", "Mean contribution, challenger minus champion (log odds)"), rows)
