"""Data, features, training."""

from __future__ import annotations

from collections.abc import Mapping

from airworthy.dossier.annex import points_of
from airworthy.dossier.blocks import (
    NOT_RECORDED,
    Block,
    Chapter,
    Facts,
    Folded,
    Items,
    Picture,
    Table,
    Text,
    day,
)
from airworthy.dossier.chapters.general import stated
from airworthy.dossier.document import ColumnStatistics, Dossier
from airworthy.reports import number
from airworthy.reports.charts import lines

ROLES = {"train": "training", "tune": "tuning", "test": "test"}
_TOP = 3


def data(dossier: Dossier) -> Chapter:
    """Where the rows come from, and what they look like."""
    about = dossier.data
    facts = Facts(
        {
            "Feature service (Feast)": about.feature_service,
            "Feature definitions (SHA-256)": about.feature_service_digest,
            "Rows decided on": about.entities and f"table {about.entities}",
            "Label": about.label,
            "Label known at": about.label_known_at,
            "Retrieved as of": day(about.as_of),
            "Data schema (SHA-256)": about.schema_digest,
        }
    )
    rows = [
        (
            ROLES[w.role],
            w.rows,
            _share(w.positives, w.rows, dossier, w.role),
            day(w.start),
            day(w.end),
            w.fingerprint,
        )
        for w in about.windows
    ]
    headers = ("Window", "Rows", "Positive", "From", "To (exclusive)", "Content (SHA-256)")
    blocks: list[Block] = [
        facts,
        Text(
            "Features are joined point in time: each row holds what was known at its own decision time, and no label "
            "that became known after the time of retrieval. The model is fitted on the training window; the tuning "
            "window stops it and sets the decision threshold; the gate judged on the test window, which training "
            "never saw."
        ),
        Table(headers, rows),
    ]
    if about.remarks:
        blocks += [Text("Validation let pass:"), Items(about.remarks)]
    for role, columns in about.statistics.items():
        if columns:
            blocks.append(Folded(f"Statistics of the {role} window", (_statistics(columns),)))
    if not about.statistics:
        blocks.append(Text(f"Statistics of the data: {NOT_RECORDED}."))
    return Chapter(
        "data",
        "Data and where it comes from",
        points_of("data"),
        (*blocks, *stated(dossier, ("data_rights",))),
    )


def _share(positives: int | None, rows: int | None, dossier: Dossier, role: str) -> str | None:
    if positives is not None and rows:
        return f"{positives / rows:.1%}"
    measured = dossier.data.statistics.get(role, {}).get(dossier.data.label or "")
    return f"{measured.mean:.1%}" if measured and measured.mean is not None else None


def _statistics(columns: Mapping[str, ColumnStatistics]) -> Table:
    rows = []
    for name, column in columns.items():
        if column.type == "text":
            top = ", ".join(f"{value} {share:.0%}" for value, share in _shares(column))
            spread = f"{column.unique or 0:,} values: {top}" if top else "–"
        else:
            spread = " / ".join(number(v) for v in (column.min, column.median, column.max))
        rows.append((name, column.type, f"{column.missing:.2%}", column.mean, column.std, spread))
    return Table(("Column", "Type", "Missing", "Mean", "Std", "Min / median / max, or most frequent"), rows)


def _shares(column: ColumnStatistics) -> list[tuple[str, float]]:
    return [(value, rows / column.count) for value, rows in column.top[:_TOP]] if column.count else []


def features(dossier: Dossier) -> Chapter:
    """The model's inputs, as training saw them."""
    rows = []
    for feature in dossier.features:
        values = (
            f"{len(feature.categories):,} values"
            if feature.kind == "category"
            else _range(feature.minimum, feature.maximum)
        )
        rows.append((feature.name, feature.kind, values, "yes" if feature.nullable else "no"))
    blocks: tuple[Block, ...] = (
        Table(("Feature", "Kind", "Values in training", "Missing values seen"), rows),
    )
    if not rows:
        blocks = (Text("Not shown: the bundle that describes them is not what was recorded."),)
    return Chapter("features", "Features", points_of("features"), blocks)


def _range(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{number(low)} to {number(high)}"


def training(dossier: Dossier) -> Chapter:
    """How the model was fitted, and on what."""
    made = dossier.training
    facts = Facts(
        {
            "Trainer": made.trainer,
            "Device really used": made.device,
            "Trees kept": made.rounds,
            "Decision threshold": made.threshold,
            "Share of positives in training": made.base_rate,
            "ONNX": made.onnx,
            "CPUs": made.machine.get("cpus"),
            "Platform": made.machine.get("platform"),
            "Made again (airworthy reproduce)": made.reproduced or "not tried, as far as recorded",
        }
    )
    blocks: list[Block] = [facts]
    if made.params:
        blocks.append(Table(("Parameter", "Value"), list(made.params.items())))
    if made.metrics:
        note = "Tuning window, as the training run logged it (kept by MLflow, without a digest)"
        blocks.append(Folded(note, (Table(("Metric", "Value"), list(made.metrics.items())),)))
    if made.curves:
        chart = lines(
            "Learning curves: the metric that stopped training, per round",
            {
                name.replace("_", " ", 1): [(float(x), y) for x, y in points]
                for name, points in made.curves.items()
            },
            x_label="round",
            y_label="metric",
        )
        blocks.append(Picture(chart))
    if made.versions:
        blocks.append(Folded("Versions", (Table(("Software", "Version"), list(made.versions.items())),)))
    return Chapter("training", "Training", points_of("training"), tuple(blocks))
