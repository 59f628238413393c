"""Parts of the rows: slices, weak spots that nobody named, and groups of people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from airworthy.evaluation.report.words import NOTHING, exact, measured, percent, probability, span
from airworthy.reports import cell, details, paragraph, section, table
from airworthy.reports.charts import Row, forest
from airworthy.reports.inline import Axis, bar, covering
from airworthy.reports.lights import STATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airworthy.findings import FairnessFinding, Findings, Group, Number, SliceFinding
    from airworthy.verdict import Check, Verdict

DRAWN = 60
"""Most slices in the plot; the table has more."""
LISTED = 500
"""Most slices in a table; more would make the page too large to send."""
_LONGEST = 120
"""Most characters of a slice's name on the page."""
_RATES = (
    ("Flagged", "selection_rate"),
    ("True positive rate", "true_positive_rate"),
    ("False positive rate", "false_positive_rate"),
    ("Score − share of positives", "calibration"),
)
_MEASURES = {
    "selection_rate": "Share that is flagged (demographic parity)",
    "equalized_odds": "True or false positive rate (equalized odds)",
    "calibration": "Score minus share of positives",
}


def slices(verdict: Verdict, findings: Findings) -> str:
    """The declared slices, worst first."""
    if not findings.slices:
        return ""
    assessed = [s for s in findings.slices if s.assessed]
    small = len(findings.slices) - len(assessed)
    body = _forest(assessed, verdict, findings)
    if small:
        body += paragraph(
            f"{small} of {len(findings.slices)} slices have too few rows to judge; the table names them."
        )
    listed = min(LISTED, len(findings.slices))
    which = f"All {listed}" if listed == len(findings.slices) else f"The {listed} most worrying"
    body += details(f"{which} slices in numbers", _table(findings.slices), anchor="slices-table")
    if listed < len(findings.slices):
        body += paragraph(f"All {len(findings.slices):,} slices are in findings.json.")
    return section("Slices", body, anchor="slices")


def weak_spots(verdict: Verdict, findings: Findings) -> str:
    """Where the search found the model at its worst."""
    found = sorted(findings.weak_spots, key=lambda s: -(s.excess or 0.0))
    if not found:
        return ""
    overall = findings.challenger.metrics.get("log_loss") if findings.challenger else None
    most = max(s.rows for s in found)
    compared = [s for s in found if s.column.endswith("champion")]
    body = forest(
        "Hardest parts: log loss with interval; larger marks have more rows.",
        [_hard(s, most) for s in found if s.log_loss is not None and s not in compared],
        ("Where", "Log loss", "Interval", "Rows"),
        sides=("← easier", "harder →"),
        reference=overall.value if overall else None,
        reference_label="all rows",
    )
    if compared:
        body += _differences(
            "Parts that lost most against the champion: difference in log loss", compared, verdict
        )
    note = (
        "Found by search on one half of the rows, confirmed on the other; all figures are of the other half."
    )
    body += details(f"All {len(found)} weak spots in numbers", _table(found))
    return section("Weak spots", body, note=note, anchor="weak-spots")


def fairness(verdict: Verdict, findings: Findings) -> str:
    """Each protected column: its groups' rates as bars, and the largest differences."""
    if not findings.fairness:
        return ""
    checks = [check for check in verdict.checks if check.family == "fairness"]
    body = "".join(_column(found, checks) for found in findings.fairness)
    note = "How much difference is tolerable is for people to say: without a limit in the spec it is only reported."
    return section("Fairness", body, note=note, anchor="fairness")


def _forest(found: Sequence[SliceFinding], verdict: Verdict, findings: Findings) -> str:
    """Against the champion where there is one; else by AUC."""
    if any(s.difference for s in found):
        return _differences("Mean log loss, challenger minus champion", found, verdict)
    most = max((s.rows for s in found), default=1)
    known = sorted((s for s in found if s.auc), key=lambda s: s.auc.value if s.auc else 0.0)[:DRAWN]
    overall = findings.challenger.metrics.get("auc") if findings.challenger else None
    return forest(
        "AUC with interval; larger marks have more rows, lowest first. No champion was compared with.",
        [_auc(s, most) for s in known],
        ("Slice", "AUC", "Interval", "Rows", "Log loss"),
        sides=("← harder", "easier →"),
        reference=overall.value if overall else None,
        reference_label="all rows",
    )


def _differences(title: str, found: Sequence[SliceFinding], verdict: Verdict) -> str:
    compared = sorted((s for s in found if s.difference is not None), key=_rank)
    rest = len(compared) - DRAWN
    left_out = f" The {rest} least worrying are in the table only." if rest > 0 else ""
    most = max((s.rows for s in compared), default=1)
    return forest(
        f"{title}, with interval; larger marks have more rows, worst first.{left_out}",
        [_difference(s, most) for s in compared[:DRAWN]],
        ("Slice", "Difference", "Interval", "Rows", "Adjusted p"),
        sides=("← challenger better", "worse →"),
        margin=_margin(verdict),
    )


def _rank(found: SliceFinding) -> tuple[int, float]:
    """Worst first: by outcome, then by how much worse it surely is."""
    worse = found.difference
    if worse is None:
        return STATES.index(found.outcome), -(found.excess or 0.0)
    return STATES.index(found.outcome), -(worse.interval[0] if worse.interval else worse.value)


def _difference(found: SliceFinding, most: int) -> Row:
    assert found.difference is not None
    value, interval = found.difference.value, found.difference.interval
    return Row(
        label=_named(found),
        value=value,
        interval=interval,
        outcome=found.outcome,
        weight=found.rows / most,
        cells=(
            exact(value, interval, signed=True),
            span(interval, signed=True),
            found.rows,
            probability(found.p_adjusted),
        ),
    )


def _hard(found: SliceFinding, most: int) -> Row:
    assert found.log_loss is not None
    value, interval = found.log_loss.value, found.log_loss.interval
    cells = (exact(value, interval), span(interval), found.rows)
    return Row(_named(found), value, interval, found.outcome, cells, found.rows / most)


def _auc(found: SliceFinding, most: int) -> Row:
    assert found.auc is not None
    value, interval = found.auc.value, found.auc.interval
    cells = (exact(value, interval), span(interval), found.rows, measured(found.log_loss))
    return Row(_named(found), value, interval, found.outcome, cells, found.rows / most)


def _named(found: SliceFinding) -> str:
    return found.where if len(found.where) <= _LONGEST else f"{found.where[:_LONGEST]}…"


def _margin(verdict: Verdict) -> float | None:
    """The margin that slices were held to: of the settings, or as the checks that broke it recorded it."""
    told = verdict.settings.get("slice_margin")
    if isinstance(told, (int, float)) and not isinstance(told, bool):
        return float(told)
    return next(
        (c.threshold for c in verdict.checks if c.family == "slices" and c.slice and c.threshold), None
    )


def _table(found: Sequence[SliceFinding]) -> str:
    headers = (
        "Slice",
        "Rows",
        "Positives",
        "AUC",
        "Log loss",
        "Harder than the rest by",
        "To champion",
        "Adjusted p",
    )
    ranked = sorted(found, key=lambda s: (not s.assessed, _rank(s)))[:LISTED]
    rows = [
        (
            Markup('<span class="long">{}</span>').format(_named(s)),
            s.rows,
            s.positives,
            measured(s.auc),
            measured(s.log_loss),
            NOTHING if s.excess is None else exact(round(s.excess, 4), None, signed=True),
            measured(s.difference, signed=True),
            probability(s.p_adjusted),
        )
        for s in ranked
    ]
    return table(headers, rows, outcomes=[s.outcome if s.assessed else "too few rows" for s in ranked])


def _column(found: FairnessFinding, checks: Sequence[Check]) -> str:
    rows, outcomes = [], []
    for measure, number in found.differences.items():
        check = next((c for c in checks if c.name == f"fairness_{found.column}_{measure}"), None)
        limit = check.threshold if check is not None else None
        words = "no limit set" if limit is None else exact(limit, None)
        rows.append((_MEASURES.get(measure, measure), measured(number), words))
        outcomes.append("reported" if check is None or limit is None else check.outcome)
    body = f"<h3>{escape(found.column)}</h3>{_groups(found.groups)}"
    if found.left_out:
        body += paragraph(f"Too small to compare: {', '.join(found.left_out)}.")
    return body + table(("Largest difference between groups", "Observed", "Limit"), rows, outcomes=outcomes)


def _groups(groups: Sequence[Group]) -> str:
    """A table whose cells are bars: one row per group, one column per rate."""
    shown = [(title, name) for title, name in _RATES if any(getattr(g, name) is not None for g in groups)]
    axes = {name: _bar_axis([getattr(g, name) for g in groups]) for _, name in shown}
    lines = []
    for group in groups:
        cells = "".join(_rate(getattr(group, name), axes[name], name) for _, name in shown)
        lines.append(f"<tr><th scope='row'>{escape(group.value)}</th>{cell(group.rows)}{cells}</tr>")
    head = "".join(f'<th scope="col">{title}</th>' for title, _ in shown)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Rates by group"><table class="plots rates">'
        f'<thead><tr><th scope="col">Group</th><th scope="col">Rows</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _bar_axis(found: Sequence[Number | None]) -> Axis:
    known = [n for n in found if n is not None]
    whole = covering([0.0, *(n.value for n in known)], [n.interval for n in known])
    return Axis(min(whole.low, 0.0) if any(n.value < 0 for n in known) else 0.0, whole.high)


def _rate(found: Number | None, axis: Axis, name: str) -> str:
    if found is None:
        return cell(None)
    text = exact(found.value, found.interval, signed=True) if name == "calibration" else percent(found.value)
    ends = (
        ""
        if found.interval is None
        else span(found.interval, signed=True)
        if name == "calibration"
        else f"{100 * found.interval[0]:.1f} to {100 * found.interval[1]:.1f}"
    )
    drawn = bar(axis, found.value, found.interval)
    return f'<td class="rate">{drawn}{escape(text)} <small class="ci">{escape(ends)}</small></td>'
