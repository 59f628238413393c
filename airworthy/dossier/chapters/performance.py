"""How the model did: the verdict, metrics with intervals, slices, groups, odd inputs, explanations."""

from __future__ import annotations

from collections.abc import Sequence

from airworthy.dossier.annex import points_of
from airworthy.dossier.blocks import Block, Chapter, Facts, Folded, Picture, Table, Text, shown, span
from airworthy.dossier.chapters import charts
from airworthy.dossier.document import Dossier
from airworthy.findings import BehaviourFinding, Findings, SliceFinding
from airworthy.reports.lights import STATES, counted, lights, state_of, worst_first
from airworthy.reports.names import PROBES, metric
from airworthy.verdict import Check, Verdict

BADGES = {"unjudged": "inconclusive", "none": "not checked"}
"""Badges of states that have none of their own."""
_SLICES = 12
ABSENT = "Not recorded with this version."


def judgement(dossier: Dossier) -> Chapter:
    """What the gate said, family by family."""
    verdict = dossier.verdict
    blocks: tuple[Block, ...] = (Text(ABSENT),) if verdict is None else tuple(_judged(verdict))
    return Chapter("verdict", "The gate's verdict", points_of("verdict"), blocks)


def _judged(verdict: Verdict) -> list[Block]:
    compared = (
        f"champion version {verdict.champion_version}"
        if verdict.champion_version
        else "nothing: a first release"
    )
    blocks: list[Block] = [
        Facts(
            {
                "Outcome": verdict.status,
                "Compared with": compared,
                "Checks": len(verdict.checks),
                "Let pass by a person": len(verdict.overridden),
                "Test data (SHA-256)": verdict.data_fingerprint,
                "Policy: the spec (SHA-256)": verdict.policy_digest,
            }
        )
    ]
    found = lights(verdict)
    rows = [(light.title, counted(light) or "–", light.about) for light in found]
    blocks.append(
        Table(
            ("Family", "Checks", "What counts"),
            rows,
            [BADGES.get(light.state, light.state) for light in found],
        )
    )
    ordered = worst_first(verdict.checks)
    every = Table(
        ("Check", "Observed", "Limit", "Interval", "p adjusted", "Rows", "Why"),
        [_row(check) for check in ordered],
        [BADGES.get(state_of(check), state_of(check)) for check in ordered],
    )
    blocks.append(Folded(f"All {len(ordered)} checks", (every,)))
    return blocks


def _row(check: Check) -> tuple[str | float | int | None, ...]:
    p_value = check.p_adjusted if check.p_adjusted is not None else check.p_value
    interval = span(check.interval).strip() or None
    return (_named(check), check.observed, check.threshold, interval, p_value, check.rows, check.reason)


def _named(check: Check) -> str:
    return f"{check.name} ({check.slice})" if check.slice else check.name


def performance(dossier: Dossier) -> Chapter:
    """Metrics of model and champion, differences, slices, groups."""
    found = dossier.findings
    if found is None or found.challenger is None:
        blocks: tuple[Block, ...] = (Text(ABSENT),)
    else:
        blocks = (*_metrics(found, _level(dossier.verdict)), *_slices(found), *_fairness(found))
    return Chapter("performance", "Performance", points_of("performance"), blocks)


def _level(verdict: Verdict | None) -> str:
    level = verdict.settings.get("interval_level") if verdict else None
    return f"{level:.0%} intervals" if isinstance(level, float) else "intervals"


def _metrics(found: Findings, level: str) -> list[Block]:
    assert found.challenger is not None
    mine, theirs = found.challenger, found.champion
    tested = {difference.metric: difference for difference in found.differences}
    rows = []
    for name, value in mine.metrics.items():
        rival = theirs.metrics.get(name) if theirs else None
        change = tested.get(name)
        rows.append((metric(name), shown(value), shown(rival), shown(change.difference if change else None)))
    (tn, fp), (fn, tp) = mine.confusion
    about = (
        f"{found.rows:,} rows from {found.start[:10]} to {found.end[:10]}, {found.positives:,} of them positive. "
        f"In brackets: {level}."
    )
    decisions = (
        f"At the threshold: {tp:,} hits, {fn:,} misses, {fp:,} false alarms, {tn:,} correct rejections."
    )
    headers = ("Metric", "This version", "Champion compared", "Difference")
    return [Text(about), Table(headers, rows), Text(decisions), *(Picture(p) for p in charts.curves(found))]


def _slices(found: Findings) -> list[Block]:
    ordered = sorted(
        (s for s in (*found.slices, *found.weak_spots)),
        key=lambda s: (STATES.index(_outcome(s)), -(s.difference.value if s.difference else s.excess or 0.0)),
    )
    if not ordered:
        return [Text("No slices were looked at.")]
    headers = ("Slice", "Rows", "Positive", "AUC", "Log loss", "Against the champion", "p adjusted")
    rows = [
        (s.where, s.rows, s.positives, shown(s.auc), shown(s.log_loss), shown(s.difference), s.p_adjusted)
        for s in ordered
    ]
    outcomes = [s.outcome for s in ordered]
    note = (
        f"{len(found.slices)} slices by columns that the spec names"
        + (f", {len(found.weak_spots)} weak spots found by search" if found.weak_spots else "")
        + ". Differences are of the mean log loss: above 0, this version does worse than the champion."
    )
    blocks: list[Block] = [Text(note), *(Picture(p) for p in charts.slices(found))]
    blocks.append(Table(headers, rows[:_SLICES], outcomes[:_SLICES]))
    if len(rows) > _SLICES:
        rest = Table(headers, rows[_SLICES:], outcomes[_SLICES:])
        blocks.append(Folded(f"{len(rows) - _SLICES} more slices", (rest,)))
    return blocks


def _outcome(found: SliceFinding | BehaviourFinding) -> str:
    return found.outcome


def _fairness(found: Findings) -> list[Block]:
    if not found.fairness:
        return [Text("The spec declares no protected columns, so no groups of people were compared.")]
    blocks: list[Block] = []
    for part in found.fairness:
        told = "; ".join(
            f"{name.replace('_', ' ')} {shown(value)}" for name, value in part.differences.items()
        )
        blocks.append(
            Text(f"Between the groups of {part.column}, largest differences: {told or 'none could be told'}.")
        )
        rows = [
            (
                g.value,
                g.rows,
                shown(g.selection_rate),
                shown(g.true_positive_rate),
                shown(g.false_positive_rate),
                shown(g.calibration),
            )
            for g in part.groups
        ]
        headers = (
            part.column,
            "Rows",
            "Flagged",
            "True positive rate",
            "False positive rate",
            "Score minus positives",
        )
        blocks.append(Table(headers, rows))
    return blocks


def behaviour(dossier: Dossier) -> Chapter:
    """How the model takes odd inputs, and the scenarios."""
    found = dossier.findings
    if found is None or not found.behaviour:
        blocks: tuple[Block, ...] = (Text(ABSENT),)
    else:
        ordered = sorted(
            found.behaviour,
            key=lambda b: (STATES.index(_outcome(b)), list(PROBES).index(b.kind), -(b.observed or 0.0)),
        )
        worst = {b.kind: b for b in reversed(ordered)}
        first = [b for b in ordered if b.outcome != "pass" or b.kind == "scenario" or b is worst[b.kind]]
        blocks = (Text("What did not pass, the worst probe of each kind, and the scenarios."), _probes(first))
        if len(first) < len(ordered):
            blocks = (*blocks, Folded(f"All {len(ordered)} probes", (_probes(ordered),)))
    return Chapter("behaviour", "Behaviour on odd inputs and scenarios", points_of("behaviour"), blocks)


def _probes(found: Sequence[BehaviourFinding]) -> Table:
    rows = [
        (PROBES[b.kind], b.name, b.feature, b.observed, b.limit, b.unit, b.rows, b.example or None)
        for b in found
    ]
    headers = ("When", "Check", "Feature", "Observed", "Limit", "Unit", "Rows", "Example")
    return Table(headers, rows, [_badge(b) for b in found])


def _badge(probe: BehaviourFinding) -> str:
    """What was held to no limit has not passed anything."""
    return "reported" if probe.outcome == "pass" and probe.limit is None and probe.unit else probe.outcome


def explanations(dossier: Dossier) -> Chapter:
    """What the scores are made of."""
    found = dossier.findings.explained if dossier.findings else None
    if found is None:
        return Chapter(
            "explanations", "What the scores are made of", points_of("performance"), (Text(ABSENT),)
        )
    rows = [
        (a.feature, shown(a.share, 3), shown(a.champion_share, 3), a.direction, a.auc_alone)
        for a in found.attributions
    ]
    headers = ("Feature", "Share of all contributions", "Champion's share", "Direction", "AUC alone")
    note = (
        f"SHAP contributions on {found.rows:,} sampled rows. Direction: rank correlation of the feature's "
        "value with its contribution. They describe the model, not causes in the world; they add up to "
        f"the scores within {found.additivity_error:.0e} log odds."
    )
    blocks: list[Block] = [Text(note), *(Picture(p) for p in charts.shares(found)), Table(headers, rows)]
    if found.slices:
        where = [
            (s.where, ", ".join(f"{name} {value:+.3f}" for name, value in s.features.items()))
            for s in found.slices
        ]
        differences = Table(("Slice", "Mean contribution minus the champion's, log odds"), where)
        blocks.append(
            Folded("Where slices are scored for other reasons than by the champion", (differences,))
        )
    return Chapter("explanations", "What the scores are made of", points_of("performance"), tuple(blocks))
