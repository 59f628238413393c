"""Challenger beside champion: differences, all metrics, and the curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airworthy.evaluation.report.words import NOTHING, exact, measured, probability, span
from airworthy.reports import section, table
from airworthy.reports.charts import Row, forest, lines
from airworthy.reports.names import metric

if TYPE_CHECKING:
    from airworthy.findings import ArmFindings, Curve, Difference, Findings, Interval
    from airworthy.reports.charts import Points
    from airworthy.verdict import Verdict

_UNIT = (0.0, 1.0)


def numbers(verdict: Verdict, findings: Findings) -> str:
    """Differences on the same rows as a forest plot, then every metric of both models."""
    if findings.challenger is None:
        return ""
    body = ""
    if findings.differences:
        rows = [_difference(difference, verdict) for difference in findings.differences]
        body += forest(
            f"Challenger minus champion on the same rows, with {_confidence(verdict)}intervals. Each line has its own "
            "scale; worse is to the right.",
            rows,
            ("Metric", "Difference", "Interval", "Better is", "Tolerated loss", "p (no difference)"),
            sides=("← challenger better", "worse →"),
            own_scales=True,
        )
    body += _metrics(findings) + _confusion(findings)
    title = "Challenger and champion" if findings.champion else "Metrics"
    return section(title, body, note=_note(verdict, findings), anchor="metrics")


def curves(verdict: Verdict, findings: Findings) -> str:
    """ROC, precision and recall, and reliability, with bands."""
    if findings.challenger is None:
        return ""
    arms = {"challenger": findings.challenger}
    if findings.champion is not None:
        arms["champion"] = findings.champion
    base = findings.positives / findings.rows if findings.rows else 0.0
    charts = [
        _curve("ROC curve", {name: arm.roc for name, arm in arms.items()},
               "false positive rate", "true positive rate", [(0, 0), (1, 1)]),
        _curve("Precision and recall", {name: arm.precision_recall for name, arm in arms.items()},
               "recall", "precision", [(0, base), (1, base)]),
        _reliability(arms),
        _spread(arms),
    ]  # fmt: skip
    note = "Shaded: pointwise band at the level of the intervals. The closer two lines, the more alike the models."
    return section("Curves", f'<div class="charts">{"".join(charts)}</div>', note=note, anchor="curves")


def _difference(found: Difference, verdict: Verdict) -> Row:
    """One metric, turned so that worse is positive."""
    number = found.difference
    turn = -1.0 if found.higher_is_better else 1.0
    harm: Interval | None = None
    if number.interval is not None:
        ends = sorted(turn * end for end in number.interval)
        harm = (ends[0], ends[1])
    check = next((c for c in verdict.checks if c.name == f"{found.metric}_vs_champion"), None)
    gated = check is not None and (found.margin is not None or check.outcome != "pass")
    return Row(
        label=found.title,
        value=turn * number.value,
        interval=harm,
        outcome=check.outcome if check is not None and gated else "other",
        margin=found.margin,
        cells=(
            exact(number.value, number.interval, signed=True),
            span(number.interval, signed=True),
            "higher" if found.higher_is_better else "lower",
            "only reported" if found.margin is None else exact(found.margin, None),
            probability(number.p_value),
        ),
    )


def _metrics(findings: Findings) -> str:
    assert findings.challenger is not None
    ours, theirs = findings.challenger.metrics, findings.champion.metrics if findings.champion else {}
    rows = []
    for name in dict.fromkeys([*ours, *theirs]):
        row = (metric(name), measured(ours.get(name)))
        rows.append((*row, measured(theirs.get(name))) if findings.champion else row)
    return table(("Metric", "Challenger", *(["Champion"] if findings.champion else [])), rows)


def _confusion(findings: Findings) -> str:
    rows = []
    for name, arm in (("Challenger", findings.challenger), ("Champion", findings.champion)):
        if arm is None:
            continue
        (tn, fp), (fn, tp) = arm.confusion
        threshold = arm.metrics["threshold"].value if "threshold" in arm.metrics else None
        rows.append((name, NOTHING if threshold is None else exact(threshold, None), tp, fp, fn, tn))
    headers = ("Decisions", "Threshold", "Right alarms", "False alarms", "Missed", "Rightly quiet")
    return table(headers, rows)


def _curve(title: str, found: dict[str, Curve], x_label: str, y_label: str, chance: Points) -> str:
    return lines(
        title,
        {name: list(zip(c.x, c.y, strict=True)) for name, c in found.items()},
        x_label=x_label,
        y_label=y_label,
        reference=chance,
        reference_label="chance",
        x_range=_UNIT,
        y_range=_UNIT,
        bands={
            name: (list(zip(c.x, c.low, strict=True)), list(zip(c.x, c.high, strict=True)))
            for name, c in found.items()
            if c.low and c.high
        },
    )


def _reliability(arms: dict[str, ArmFindings]) -> str:
    found = {name: arm.reliability for name, arm in arms.items()}
    top = max((max([*r.predicted, *r.observed, *r.high], default=0.0) for r in found.values()), default=0.0)
    top = min(1.0, top * 1.05) or 1.0
    each = found["challenger"].rows
    share = f", each point about {round(sum(each) / len(each)):,} rows" if each else ""
    return lines(
        f"Reliability in equally filled bins{share}",
        {name: list(zip(r.predicted, r.observed, strict=True)) for name, r in found.items()},
        x_label="score",
        y_label="share of positives",
        reference=[(0, 0), (top, top)],
        reference_label="perfect",
        x_range=(0, top),
        y_range=(0, top),
        whiskers={
            name: list(zip(r.predicted, r.low, r.high, strict=True)) for name, r in found.items() if r.low
        },
    )


def _spread(arms: dict[str, ArmFindings]) -> str:
    """How the scores are distributed, from the equally filled bins."""
    found: dict[str, Points] = {}
    for name, arm in arms.items():
        bins, total, below = arm.reliability, sum(arm.reliability.rows) or 1, 0.0
        points = []
        for score, rows in zip(bins.predicted, bins.rows, strict=True):
            points.append((score, (below + rows / 2) / total))
            below += rows
        found[name] = points
    threshold = arms["challenger"].metrics.get("threshold")
    return lines(
        "Distribution of the scores",
        found,
        x_label="score",
        y_label="share of rows below it",
        x_range=(0.0, max((x for points in found.values() for x, _ in points), default=1.0) or 1.0),
        y_range=_UNIT,
        marks=[(threshold.value, "decision threshold")] if threshold else (),
    )


def _confidence(verdict: Verdict) -> str:
    level = verdict.settings.get("comparison_confidence", verdict.settings.get("interval_level"))
    return f"{level:.0%} " if isinstance(level, float) else ""


def _note(verdict: Verdict, findings: Findings) -> str:
    level = verdict.settings.get("interval_level")
    told = (
        f"Small figures are {level:.0%} intervals."
        if isinstance(level, float)
        else "Small figures are intervals."
    )
    if any(difference.margin is not None for difference in findings.differences):
        told += " A loss is tolerated up to the margin that the spec sets."
    return told
