"""The charts of a rollout's report."""

from __future__ import annotations

import math
from collections.abc import Iterable

from airworthy.reports import paragraph
from airworthy.reports.charts import Points, lines
from airworthy.rollout.replay import Replay
from airworthy.rollout.timeline import Moment, Timeline
from airworthy.serving.observation import Arm

ARMS: tuple[Arm, ...] = ("stable", "canary")
FLOOR = 1e-3
"""Evidence below this is drawn as this: lost bets all look alike."""


def wealth(found: Replay, timeline: Timeline) -> str:
    """Evidence over requests, with the level that decides and the request that did."""
    if not timeline.requests:
        return paragraph("No request was observed.")
    settings = found.told.judge.settings
    series = {
        name: [(x, max(y, FLOOR)) for x, y in timeline.wealth.series(name)]
        for name in timeline.wealth.points[-1][1]
    }
    certificate = series.pop("certificate")
    against = {name: points for name, points in series.items() if any(y != 1.0 for _, y in points)}
    limits = {name: settings.threshold(name) for name in (*series, "certificate")}
    found_worse = _mark(timeline.decided, found.judgement.process if found.judgement else "decided")
    against_chart = lines(
        "Evidence against the canary; a dashed line is what the line of its colour has to reach",
        against or {"errors": series["errors"]},
        x_label="request",
        y_label="evidence",
        log_y=True,
        y_range=_decades(against.values(), [limits[name] for name in against] or [1.0]),
        limits=limits,
        marks=found_worse,
    )
    below_chart = lines(
        "Evidence that its error rate is below the limit",
        {"certificate": certificate},
        x_label="request",
        y_label="evidence",
        log_y=True,
        y_range=_decades([certificate], [limits["certificate"]]),
        limits=limits,
        marks=found_worse or _mark(timeline.certified, "certified"),
    )
    return side_by_side(against_chart, below_chart)


def percent(timeline: Timeline) -> str:
    """The canary's share over time, with the states behind it."""
    steps = timeline.steps
    share = [(step.begin, float(step.percent)) for step in steps]
    share.append((timeline.seconds, float(steps[-1].percent)))
    regions = [(step.begin, step.end, step.state) for step in steps]
    decided = timeline.decided
    return lines(
        "Canary's share of traffic",
        {"share": share},
        x_label="seconds since the start",
        y_label="%",
        steps=True,
        y_range=(0.0, 115.0),
        x_range=(0.0, max(timeline.seconds, 0.1)),
        regions=regions,
        marks=[(decided.second, "decided")] if decided else (),
    )


def latencies(timeline: Timeline) -> str:
    """Median and 95th percentile of both arms over time."""
    series: dict[str, Points] = {}
    for arm in ARMS:
        for name, q in (("median", 0.5), ("95 %", 0.95)):
            points = timeline.latencies.series(arm, q)
            if points:
                series[f"{arm} {name}"] = points
    return lines(
        "Time of good answers",
        series,
        x_label="seconds since the start",
        y_label="ms",
        y_range=(0.0, max((y for points in series.values() for _, y in points), default=1.0)),
        x_range=(0.0, max(timeline.seconds, 0.1)),
        marks=[(timeline.decided.second, "decided")] if timeline.decided else (),
    )


def effect(found: Replay, timeline: Timeline) -> str:
    """The effect on an outcome and its interval over the number of outcomes."""
    return lines(
        "Effect on the outcome and its interval",
        {"estimate": timeline.effect.series("estimate")},
        x_label="requests with an outcome",
        y_label="canary − stable",
        bands={"estimate": (timeline.effect.series("low"), timeline.effect.series("high"))},
        reference=[(0.0, 0.0), (float(found.told.effect.n), 0.0)],
        reference_label="no effect",
    )


def side_by_side(*charts: str) -> str:
    """Charts in one row, or below each other on a phone."""
    return f'<div class="charts">{"".join(charts)}</div>'


def _mark(moment: Moment | None, label: str) -> list[tuple[float, str]]:
    if moment is None:
        return []
    return [(moment.x, f"{'pair' if moment.pair else 'request'} {moment.index:,}: {label}")]


def _decades(series: Iterable[Points], levels: list[float]) -> tuple[float, float]:
    values = [y for points in series for _, y in points] + [*levels, 1.0]
    low, high = max(min(values), FLOOR), min(max(values), 1e3 * max(levels))
    return 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high) + 0.1)
