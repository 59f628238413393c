"""The dossier's charts, drawn from recorded findings."""

from __future__ import annotations

from airworthy.findings import Curve, Explained, Findings, Reliability
from airworthy.reports.charts import Row, bars, forest, lines

_SLICES = 24
_FEATURES = 20
UNIT = (0.0, 1.0)


def curves(found: Findings) -> list[str]:
    """ROC, precision-recall and reliability of both models."""
    arms = {"this version": found.challenger, "champion": found.champion}
    kept = {name: arm for name, arm in arms.items() if arm is not None}
    base = found.positives / found.rows if found.rows else 0.0
    roc = {name: _points(arm.roc) for name, arm in kept.items()}
    precision = {name: _points(arm.precision_recall) for name, arm in kept.items()}
    reliable = {name: _bins(arm.reliability) for name, arm in kept.items()}
    top = max([v for line in reliable.values() for point in line for v in point], default=1.0)
    charts = (
        lines("ROC curve", roc, x_label="false positive rate", y_label="true positive rate", x_range=UNIT,
              y_range=UNIT, reference=((0, 0), (1, 1)), reference_label="chance",
              bands={name: _band(arm.roc) for name, arm in kept.items() if arm.roc.low}),
        lines("Precision and recall", precision, x_label="recall", y_label="precision", x_range=UNIT,
              y_range=UNIT, reference=((0, base), (1, base)), reference_label="chance",
              bands={name: _band(arm.precision_recall) for name, arm in kept.items() if arm.precision_recall.low}),
        lines("Reliability", reliable, x_label="score", y_label="share of positives", x_range=(0, top),
              y_range=(0, top), reference=((0, 0), (top, top)), reference_label="perfect"),
    )  # fmt: skip
    return [f'<div class="charts">{"".join(charts)}</div>']


def slices(found: Findings) -> list[str]:
    """Differences to the champion on the slices that could be assessed, worst first."""
    assessed = [s for s in found.slices if s.difference is not None]
    if not assessed:
        return []
    worst = sorted(assessed, key=lambda s: s.difference.value if s.difference else 0.0, reverse=True)[
        :_SLICES
    ]
    largest = max(s.rows for s in worst)
    rows = [
        Row(s.where, s.difference.value, s.difference.interval, s.outcome, (s.rows,), s.rows / largest)
        for s in worst
        if s.difference
    ]
    more = f" ({len(worst)} of {len(assessed)}, worst first)" if len(assessed) > len(worst) else ""
    return [forest(f"Log loss against the champion, by slice{more}", rows, ("Slice", "Rows"))]


def shares(found: Explained) -> list[str]:
    """The features that make up most of the scores."""
    top = {a.feature: 100 * a.share.value for a in found.attributions[:_FEATURES]}
    return [bars("Share of all contributions", top, unit=" %")] if top else []


def _points(curve: Curve) -> list[tuple[float, float]]:
    return list(zip(curve.x, curve.y, strict=True))


def _band(curve: Curve) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    return list(zip(curve.x, curve.low, strict=True)), list(zip(curve.x, curve.high, strict=True))


def _bins(reliability: Reliability) -> list[tuple[float, float]]:
    return list(zip(reliability.predicted, reliability.observed, strict=True))
