"""The rollout as a page: what traffic the canary got, what was seen, and which evidence decided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from airworthy.reports import details, facts, page, paragraph, section, table
from airworthy.reports.charts import Points, lines
from airworthy.rollout.betting import quantile
from airworthy.rollout.judge import ALPHA_SHARES, Judge, Judgement
from airworthy.rollout.record import Replay
from airworthy.serving.observation import Arm, Observation

_OUTCOMES = {"PASS": "pass", "FAIL": "fail", "INCONCLUSIVE": "inconclusive"}
_QUESTIONS = {
    "errors": "Do requests fail more often on the canary?",
    "latency": "Is the canary slower than tolerated?",
    "limit": "Is the canary's error rate above the limit?",
    "scores": "Are scores distributed differently? (warns only)",
    "certificate": "Is the error rate proven to be below the limit?",
}
POINTS = 250
BANDS = 24


def render(record: Replay, judgement: Judgement) -> str:
    """The page of a finished rollout."""
    start = record.start
    title = f"Rollout of {start['model']} version {start['version']}"
    judge, wealth = _wealth_over_time(record)
    body = section("What happened", paragraph(_headline(record, judgement)), _story(record))
    body += section("Evidence", _evidence(judge), _charts(record, wealth), note=_how_to_read(record))
    body += section("Requests", _counts(record, judge), _latencies(record))
    body += section(
        "Settings",
        facts(
            {
                "Service": start["service"],
                "Rollout": start["rollout"],
                "Canary bundle": start["bundle_digest"][:16],
                "Stable bundle": (start["stable_digest"] or "none")[:16],
                "Traffic": start["traffic"],
                "Alpha of the whole rollout": start["settings"]["alpha"],
                "Error rate limit": start["settings"]["max_error_rate"],
                "Tolerated slowdown": f"{1 + start['settings']['max_latency_increase']:.3g} times",
            }
        ),
    )
    return page(title, body, subtitle=judgement.reason, outcome=_OUTCOMES[judgement.outcome])


def _headline(record: Replay, judgement: Judgement) -> str:
    start = record.start
    compared = (
        f"against version {start['stable_version']}" if start["compared"] else "with nothing to compare with"
    )
    did = {
        "PASS": "it may serve everyone",
        "FAIL": "it was rolled back",
        "INCONCLUSIVE": "it was rolled back, because silence is no evidence",
    }
    text = f"Version {start['version']} was tried {compared}: {did[judgement.outcome]}. {judgement.reason}."
    if judgement.index is not None:
        text += f" Request {judgement.index:,} decided."
    if start["fault"]:
        text += f" A fault was injected for demonstration: {start['fault']['kind']}."
    return text


def _story(record: Replay) -> str:
    began = record.start["at"]
    rows: list[list[object]] = []
    for line in record.lines:
        if line["kind"] == "state":
            what = f"{line['before']} → {line['after']}"
            rows.append([round(line["at"] - began, 2), what, line.get("reason", "")])
        elif line["kind"] == "weight":
            rows.append([round(line["at"] - began, 2), f"canary at {line['percent']} %", ""])
    return table(["second", "transition", "reason"], rows)


def _wealth_over_time(record: Replay) -> tuple[Judge, dict[str, list[tuple[float, float]]]]:
    """Judge the observations again, keeping every process's wealth at up to `POINTS` moments."""
    judge = Judge(record.settings)
    wealth: dict[str, list[tuple[float, float]]] = {name: [] for name in _QUESTIONS}
    stride = max(1, len(record.observations) // POINTS)
    for number, seen in enumerate(record.observations):
        judge.observe(seen)
        if number % stride == 0 or number == len(record.observations) - 1:
            for name, value in judge.evidence.items():
                wealth[name].append((float(number), max(value, 1e-6)))
    return judge, wealth


def _evidence(judge: Judge) -> str:
    rows: list[list[object]] = []
    outcomes = []
    for name, value in judge.evidence.items():
        limit = judge.settings.threshold(name)
        reached = value >= limit
        rows.append([_QUESTIONS[name], value, limit, "yes" if reached else "not shown"])
        if name == "certificate":
            outcomes.append("pass" if reached else "inconclusive")
        else:
            outcomes.append(("warn" if name == "scores" else "fail") if reached else "pass")
    return table(["question", "evidence", "decides at", "answer"], rows, outcomes=outcomes)


def _charts(record: Replay, wealth: dict[str, list[tuple[float, float]]]) -> str:
    if not record.observations:
        return paragraph("No request was observed.")
    settings = record.settings
    last = float(len(record.observations))
    against = {name: wealth[name] for name in ALPHA_SHARES}
    level = 1.0 / (settings.alpha * ALPHA_SHARES["errors"])
    shares: Points = [(float(i), 100 * seen.share) for i, seen in enumerate(record.observations)]
    return (
        lines(
            "Canary's share of traffic", {"share": _thin(shares)}, x_label="request", y_label="%", steps=True
        )
        + lines(
            "Evidence against the canary",
            against,
            x_label="request",
            y_label="wealth",
            log_y=True,
            y_range=_decades(against.values(), level),
            reference=[(0.0, level), (last, level)],
            reference_label="fails (errors)",
        )
        + lines(
            "Evidence that its error rate is below the limit",
            {"certificate": wealth["certificate"]},
            x_label="request",
            y_label="wealth",
            log_y=True,
            y_range=_decades([wealth["certificate"]], 1 / settings.alpha),
            reference=[(0.0, 1 / settings.alpha), (last, 1 / settings.alpha)],
            reference_label="certified",
        )
        + _latency_bands(record.observations)
    )


def _latency_bands(observations: Sequence[Observation]) -> str:
    """Median and 95th percentile per arm over consecutive slices of the rollout."""
    series: dict[str, list[tuple[float, float]]] = {}
    size = max(1, len(observations) // BANDS)
    for first in range(0, len(observations), size):
        part = observations[first : first + size]
        for arm in ("stable", "canary"):
            times = sorted(o.seconds for o in part if o.arm == arm and o.result == "ok" and not o.forced)
            if len(times) >= 5:
                for name, q in (("median", 0.5), ("95 %", 0.95)):
                    series.setdefault(f"{arm} {name}", []).append((float(first), 1e3 * quantile(times, q)))
    ordered = {name: series[name] for name in sorted(series, reverse=True)}
    return lines("Latency", ordered, x_label="request", y_label="ms")


def _counts(record: Replay, judge: Judge) -> str:
    rows: list[list[object]] = []
    for arm, count in judge.counts.items():
        rows.append([arm, count.requests, count.failed, count.rejected, count.slow])
    forced = sum(seen.forced for seen in record.observations)
    note = f"{forced} probes with a forced arm are not evidence and not counted here."
    return table(["arm", "requests", "failed", "refused (4xx)", "slow"], rows) + paragraph(note)


def _latencies(record: Replay) -> str:
    rows: list[list[object]] = []
    arms: tuple[Arm, ...] = ("stable", "canary")
    for arm in arms:
        times = sorted(
            o.seconds for o in record.observations if o.arm == arm and o.result == "ok" and not o.forced
        )
        if times:
            rows.append([arm, *(round(1e3 * quantile(times, q), 3) for q in (0.5, 0.95, 0.99))])
    return details("Latency in milliseconds", table(["arm", "median", "95 %", "99 %"], rows))


def _how_to_read(record: Replay) -> str:
    alpha = record.settings.alpha
    return (
        "Each number is the wealth of a gambler who bets on that answer, starting from 1, in a game that is "
        "fair or worse if the answer is no. Over the whole rollout the chance that a canary no worse than "
        f"the stable model is failed is at most {alpha:.3g}, however often one looks."
    )


def _decades(series: object, level: float) -> tuple[float, float]:
    values = [y for points in series for _, y in points] + [level, 1.0]  # type: ignore[attr-defined]
    low, high = max(min(values), 1e-3), min(max(values), 1e6)
    return 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high) + 0.1)


def _thin(points: Points) -> Points:
    """Only where the value changes, and the ends."""
    if len(points) < 3:
        return points
    changes = [b for a, b in pairwise(points) if a[1] != b[1]]
    return [points[0], *changes, points[-1]]
