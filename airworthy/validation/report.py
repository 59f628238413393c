"""The page that shows what validation found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from airworthy.model_spec import ModelSpec
from airworthy.reports import details, facts, page, section, table
from airworthy.reports.charts import bars
from airworthy.validation.findings import ValidationResult
from airworthy.validation.statistics import summarize
from airworthy.validation.windows import Window

if TYPE_CHECKING:
    from tensorflow_metadata.proto.v0 import statistics_pb2

OUTCOMES = {"block": "fail", "warn": "warn", "ignore": "skipped"}
MOST_BARS = 15
TEXT_SHOWN = 40


def report(
    spec: ModelSpec,
    result: ValidationResult,
    windows: Mapping[str, Window],
    statistics: Mapping[str, statistics_pb2.DatasetFeatureStatisticsList],
) -> str:
    """A self-contained HTML page: findings, skew and drift, statistics of every window."""
    parts = [_findings(result), _comparison(spec, result, "skew"), _comparison(spec, result, "drift")]
    for name, window in windows.items():
        content = summarize(statistics[name]) if name in statistics else {}
        shown = details(f"{len(content)} columns", _statistics(content)) if content else ""
        parts.append(section(f"The {name} window", _about(window), shown))
    blocking = int(result.metrics["findings_block"])
    verdict = (
        "fit to train and judge a model on" if result.passed else f"stopped by {blocking} blocking findings"
    )
    outcome = "fail" if blocking else "warn" if result.metrics["findings_warn"] else "pass"
    return page(
        f"Data validation: {spec.name}", "".join(parts), subtitle=f"The data is {verdict}.", outcome=outcome
    )


def _findings(result: ValidationResult) -> str:
    if not result.findings:
        return section(
            "Findings", note="Nothing is wrong: every check and every expectation of the schema holds."
        )
    rows = [
        (f.window, f.feature or "(the window)", f.expectation, f.observed, f.example, f.kind)
        for f in result.findings
    ]
    headers = ("Window", "Feature", "Expected", "Observed", "Example", "Kind")
    return section("Findings", table(headers, rows, outcomes=[OUTCOMES[f.severity] for f in result.findings]))


def _comparison(spec: ModelSpec, result: ValidationResult, kind: str) -> str:
    titles = {
        "skew": ("Skew", "Test window against training window"),
        "drift": ("Drift", "Training window against the data that the champion was trained on"),
    }
    title, note = titles[kind]
    values = {k.removeprefix(f"{kind}."): v for k, v in result.metrics.items() if k.startswith(f"{kind}.")}
    if not values:
        reason = "there is no champion yet" if kind == "drift" else "a window is empty"
        return section(title, note=f"Not measured: {reason}.")
    top = dict(sorted(values.items(), key=lambda item: -item[1])[:MOST_BARS])
    policy = spec.validation.skew if kind == "skew" else spec.validation.drift
    note += (
        f". Jensen-Shannon divergence for numbers (limit {policy.numeric_threshold:g}), L-infinity distance "
        f"for categories (limit {policy.categorical_threshold:g}) unless the schema sets its own; 0 is "
        f"equal, 1 is disjoint. The {len(top)} largest of {len(values)}."
    )
    return section(title, bars(f"{title} by feature", top, limit=policy.numeric_threshold), note=note)


def _about(window: Window) -> str:
    info = window.info
    return facts(
        {
            "Rows": window.rows,
            "From": f"{info.start:%Y-%m-%d %H:%M}",
            "Before": f"{info.end:%Y-%m-%d %H:%M}",
            "Feature service": info.feature_service,
            "Fingerprint": info.fingerprint[:12],
        }
    )


def _statistics(content: Mapping[str, Mapping[str, Any]]) -> str:
    headers = ("Column", "Type", "Missing %", "Mean", "Std", "Min", "Median", "Max", "Zero %", "Distribution")
    numbers = [
        (
            name,
            f["type"],
            round(100 * f["missing"], 2),
            *(f.get(figure) for figure in ("mean", "std", "min", "median", "max")),
            round(100 * f["zeros"], 2) if "zeros" in f else None,
            _histogram(f.get("histogram", [])),
        )
        for name, f in content.items()
        if f["type"] != "text"
    ]
    texts = [
        (name, round(100 * f["missing"], 2), f.get("unique"), _top(f.get("top", []), f["count"]))
        for name, f in content.items()
        if f["type"] == "text"
    ]
    shown = table(headers, numbers) if numbers else ""
    return shown + (table(("Column", "Missing %", "Distinct", "Most frequent"), texts) if texts else "")


def _top(top: list[list[Any]], count: int) -> str:
    return ", ".join(f"{_short(value)} {rows / count:.1%}" for value, rows in top[:6])


def _short(value: str) -> str:
    return value if len(value) <= TEXT_SHOWN else value[: TEXT_SHOWN - 1] + "…"


def _histogram(bins: list[list[float]]) -> Markup:
    """Equally wide bins as bars of 8 x 24 pixels."""
    highest = max((rows for _, _, rows in bins), default=0)
    if not highest:
        return Markup("")
    rects = Markup("").join(
        Markup(
            '<rect class="f0" x="{}" y="{:.1f}" width="7" height="{:.1f}">'
            "<title>{:.4g} to {:.4g}: {:,.0f}</title></rect>"
        ).format(8 * i, 24 - 24 * rows / highest, 24 * rows / highest, low, high, rows)
        for i, (low, high, rows) in enumerate(bins)
    )
    width = 8 * len(bins)
    return Markup(
        '<svg viewBox="0 0 {0} 24" width="{0}" height="24" role="img" aria-label="histogram">{1}</svg>'
    ).format(width, rects)
