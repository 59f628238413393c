"""How the model takes odd inputs, and the named cases whose answers people agree on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airworthy.evaluation.report.words import NOTHING, exact, filled
from airworthy.reports import details, section, table
from airworthy.reports.charts import bars
from airworthy.reports.lights import STATES
from airworthy.reports.names import PROBES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airworthy.findings import BehaviourFinding, Findings
    from airworthy.verdict import Verdict

DRAWN = 15
"""Most features in a chart; the table has them all."""


def behaviour(verdict: Verdict, findings: Findings) -> str:
    """What did not pass and the worst probe of each kind; all of them folded."""
    probes = _worst_first([found for found in findings.behaviour if found.kind != "scenario"])
    if not probes:
        return ""
    first = {kind: next((p for p in probes if p.kind == kind), None) for kind in PROBES}
    shown = [p for p in probes if p.outcome != "pass" or p is first[p.kind]]
    charts = _lost("missing", "AUC lost when a feature is missing", probes)
    charts += _lost("unseen", "AUC lost when a category is new", probes)
    body = _table(shown, "Probe")
    if charts:
        body += f'<div class="charts">{charts}</div>'
    if len(shown) < len(probes):
        body += details(f"All {len(probes)} probes", _table(probes, "Probe"))
    note = "What did not pass, and the worst probe of each kind."
    return section("Behaviour on odd inputs", body, note=note, anchor="behaviour")


def scenarios(verdict: Verdict, findings: Findings) -> str:
    """The named cases whose answers people agree on."""
    found = [case for case in findings.behaviour if case.kind == "scenario"]
    return section("Scenarios", _table(_worst_first(found), "Scenario"), anchor="scenarios") if found else ""


def _worst_first(found: Sequence[BehaviourFinding]) -> list[BehaviourFinding]:
    return sorted(found, key=lambda f: (STATES.index(f.outcome), -(f.observed or 0.0)))


def _lost(kind: str, title: str, probes: Sequence[BehaviourFinding]) -> str:
    """Bars by feature, where there are several."""
    found = sorted((p for p in probes if p.kind == kind and p.feature), key=lambda p: -(p.observed or 0.0))
    if len(found) < 2:
        return ""
    values = {p.feature or "": round(p.observed or 0.0, 6) for p in found[:DRAWN]}
    dashed = "" if found[0].limit is None else f"; dashed: the limit {exact(found[0].limit, None)}"
    return bars(title + dashed, values, limit=found[0].limit)


def _table(found: Sequence[BehaviourFinding], title: str) -> str:
    rows = [
        (
            "" if probe.kind == "scenario" else PROBES[probe.kind],
            probe.name,
            probe.feature,
            NOTHING if probe.observed is None else exact(probe.observed, None),
            NOTHING if probe.limit is None else exact(probe.limit, None),
            probe.unit,
            "" if probe.kind == "scenario" else probe.rows,
            probe.example,
        )
        for probe in found
    ]
    headers = ("When", title, "Feature", "Observed", "Limit", "Unit", "Rows", "Example")
    return table(*filled(headers, rows), outcomes=[_outcome(probe) for probe in found])


def _outcome(probe: BehaviourFinding) -> str:
    """What was held to no limit has not passed anything."""
    return "reported" if probe.outcome == "pass" and probe.limit is None and probe.unit else probe.outcome
