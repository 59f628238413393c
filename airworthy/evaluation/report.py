"""The evaluation for people: an HTML page and a Markdown summary, both made from the recorded verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from airworthy.evaluation import metrics
from airworthy.reports import details, facts, number, page, paragraph, section, table
from airworthy.reports.charts import lines

if TYPE_CHECKING:
    from airworthy.evaluation.arms import Scored
    from airworthy.evaluation.gate import Measured
    from airworthy.evaluation.metrics import Floats
    from airworthy.evaluation.slices import Slice
    from airworthy.verdict import Verdict

CURVE_POINTS = 200
_TITLES = {
    "auc": "AUC",
    "pr_auc": "Area under the precision-recall curve",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "calibration_error": "Calibration error",
    "calibration_slope": "Calibration slope (1 is perfect)",
    "calibration_intercept": "Calibration intercept (0 is perfect)",
    "precision": "Precision at the threshold",
    "recall": "Recall at the threshold",
    "expected_cost": "Expected cost per row",
    "threshold": "Decision threshold",
}


def headline(verdict: Verdict) -> str:
    """The judgement in one sentence."""
    compared = (
        f"compared with champion version {verdict.champion_version}"
        if verdict.champion_version
        else "a first release, judged by absolute limits only"
    )
    if verdict.status == "error":
        return f"The gate could not judge {verdict.model}: {verdict.error}"
    if verdict.passed:
        return f"{verdict.model} passed the gate ({compared})."
    names = ", ".join(check.name for check in verdict.failures)
    return f"{verdict.model} did not pass the gate ({compared}): see {names}."


def html(
    verdict: Verdict,
    scored: Scored | None,
    measured: Measured | None,
    rival: Measured | None,
    slices: list[Slice],
) -> str:
    """The report; without scores (the gate broke, or scores are not numbers) it has the checks alone."""
    body = _checks(verdict)
    if scored is not None and measured is not None:
        body += section("Challenger and champion", _numbers(measured, rival))
        body += section("Curves", _curves(scored, measured, rival))
        body += section("Decisions at the threshold", _confusion(measured))
    if slices:
        note = "Differences to the champion are corrected for the number of slices; small ones are skipped."
        body += section("Slices", _slices(slices), note=note)
    body += section("Recorded", _recorded(verdict))
    outcome = "pass" if verdict.passed else "fail"
    return page(f"Evaluation of {verdict.model}", body, subtitle=headline(verdict), outcome=outcome)


def markdown(verdict: Verdict, measured: Measured | None, rival: Measured | None) -> str:
    """The summary."""
    parts = [f"## Evaluation of {verdict.model}", "", headline(verdict), ""]
    if verdict.checks:
        parts += ["| outcome | check | reason |", "|---|---|---|"]
        parts += [f"| {c.outcome} | {c.name} | {c.reason.replace('|', '/')} |" for c in verdict.checks]
        parts.append("")
    if measured is not None:
        parts += ["| metric | challenger | champion |", "|---|---:|---:|"]
        for name, title in _TITLES.items():
            theirs = rival.values.get(name) if rival else None
            parts.append(f"| {title} | {number(measured.values.get(name))} | {number(theirs)} |")
        parts.append("")
    return "\n".join(parts)


def _checks(verdict: Verdict) -> str:
    rows = [(c.name, c.family, c.observed, c.threshold, _span(c.interval), c.reason) for c in verdict.checks]
    content = (
        table(
            ("Check", "Family", "Observed", "Limit", "Interval", "Why"),
            rows,
            outcomes=[c.outcome for c in verdict.checks],
        )
        if rows
        else paragraph(verdict.error or "No check was made.")
    )
    return section("Checks", content)


def _numbers(measured: Measured, rival: Measured | None) -> str:
    rows = []
    for name, title in _TITLES.items():
        theirs = rival.values.get(name) if rival else None
        rows.append((title, measured.values.get(name), _span(measured.intervals.get(name)), theirs))
    return table(("Metric", "Challenger", "95 % interval", "Champion"), rows)


def _curves(scored: Scored, measured: Measured, rival: Measured | None) -> str:
    named = {"challenger": (scored.challenger.scores, measured)}
    if scored.champion is not None and rival is not None:
        named["champion"] = (scored.champion.scores, rival)
    labels = scored.labels
    roc = {name: _points(*metrics.roc(labels, s)[:2]) for name, (s, _) in named.items()}
    precision = {name: _points(*metrics.precision_recall(labels, s)[::-1]) for name, (s, _) in named.items()}
    reliability = {
        name: _points(m.calibration.predicted, m.calibration.observed) for name, (_, m) in named.items()
    }
    unit = (0.0, 1.0)
    top = max(max(p) for line in reliability.values() for p in line)
    base = float(labels.mean())
    charts = [
        lines("ROC curve", roc, x_label="false positive rate", y_label="true positive rate",
              reference=((0, 0), (1, 1)), reference_label="chance", x_range=unit, y_range=unit),
        lines("Precision and recall", precision, x_label="recall", y_label="precision",
              reference=((0, base), (1, base)), reference_label="chance", x_range=unit, y_range=unit),
        lines("Reliability, equally filled bins", reliability, x_label="score", y_label="share of positives",
              reference=((0, 0), (top, top)), reference_label="perfect", x_range=(0, top), y_range=(0, top)),
    ]  # fmt: skip
    return f'<div class="charts">{"".join(charts)}</div>'


def _confusion(measured: Measured) -> str:
    (tn, fp), (fn, tp) = measured.confusion
    rows = [("Label 0", tn, fp), ("Label 1", fn, tp)]
    return table(("", f"Score below {measured.values['threshold']:.4g}", "At or above: alarm"), rows)


def _slices(slices: list[Slice]) -> str:
    outcomes = ["skipped" if not s.assessed else "warn" if s.worse else "pass" for s in slices]
    headers = ("Column", "Value", "Rows", "Positives", "AUC", "Log loss", "Champion's", "Corrected p")
    rows = [
        (s.column, s.value, s.rows, s.positives, s.auc, s.log_loss, s.champion_log_loss, s.p_value)
        for s in slices
    ]
    return table(headers, rows, outcomes=outcomes)


def _recorded(verdict: Verdict) -> str:
    content = facts(
        {
            "Challenger bundle": verdict.bundle_digest or None,
            "Champion bundle": verdict.champion_digest,
            "Champion version": verdict.champion_version,
            "Test data": verdict.data_fingerprint or None,
            "Policy": verdict.policy_digest,
        }
    )
    settings = [(name, value) for name, value in verdict.settings.items()]
    return content + details("Settings", table(("Setting", "Value"), settings))


def _span(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _points(x: Floats, y: Floats) -> list[tuple[float, float]]:
    """At most `CURVE_POINTS` of a curve's points, ends kept."""
    if len(x) == 0:
        return []
    picked = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).astype(int))
    return [(float(a), float(b)) for a, b in zip(x[picked], y[picked], strict=True)]
