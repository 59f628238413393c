"""The rollout as a page: what traffic the canary got, what was seen, and which evidence decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airworthy.reports import badge, details, facts, page, paragraph, section, table
from airworthy.rollout import pictures
from airworthy.rollout.judge import Judgement
from airworthy.rollout.pictures import ARMS, FLOOR
from airworthy.rollout.replay import Replay, replay
from airworthy.rollout.timeline import Timeline, seconds_at

BADGES = {"PASS": "pass", "FAIL": "fail", "INCONCLUSIVE": "inconclusive"}
QUESTIONS = {
    "errors": "Do requests fail more often on the canary?",
    "latency": "Is the canary slower than tolerated?",
    "limit": "Is the canary's error rate above the limit?",
    "scores": "Are scores distributed differently?",
    "certificate": "Is the error rate shown to be below the limit?",
    "shadow errors": "Does the canary fail where stable answers, in its shadow?",
    "flips": "Do more decisions differ than allowed?",
}
_SPACE = "\N{NO-BREAK SPACE}"


def render(record: Path) -> str:
    """The page of a rollout, also of one whose controller was killed.

    Args:
        record: The record's folder, or its `record.jsonl`.

    Raises:
        RolloutError: There is no record there, it is damaged, or other rules judged it.
    """
    timeline = Timeline()
    found = replay(record, timeline)
    start, judgement = found.start, found.judgement
    body = section("At a glance", _glance(found, timeline))
    body += section("Why", _evidence(found), pictures.wealth(found, timeline), note=_how_to_read(found))
    charts = pictures.side_by_side(pictures.percent(timeline), pictures.latencies(timeline))
    body += section("What happened", _harm(found, timeline), charts, _steps(timeline), _speed(timeline))
    body += _shadow(found) + _experiment(found, timeline)
    body += section("Settings", _settings(start), _integrity(found))
    outcome = BADGES[judgement.outcome] if judgement else "inconclusive"
    if outcome == "inconclusive" and timeline.end.get("ending") == "observed":
        outcome = "observed"
    title = f"Rollout of {start['model']} version {start['version']}"
    return page(title, body, subtitle=_headline(found, timeline), outcome=outcome)


def _headline(found: Replay, timeline: Timeline) -> str:
    version, judgement = found.start["version"], found.judgement
    if judgement is None:
        return (
            f"Version {version}: the rollout broke off after {_time(timeline.seconds)}; nothing was decided."
        )
    did = {
        "PASS": f"Version {version} may serve everyone",
        "FAIL": f"Version {version} was rolled back",
        "INCONCLUSIVE": f"Version {version} was rolled back for want of evidence",
    }
    if timeline.end.get("ending") == "observed":
        did["INCONCLUSIVE"] = f"Version {version} was tried and taken out again, as planned"
    return f"{did[judgement.outcome]}: {judgement.reason}."


def _glance(found: Replay, timeline: Timeline) -> str:
    start, counts = found.start, found.told.judge.counts
    stable = f"version {start['stable_version']}" if start["compared"] else "none: nothing to compare with"
    pairs: dict[str, object] = {
        "Service": start["service"],
        "Canary": f"version {start['version']}",
        "Stable": stable,
        "Took": _time(timeline.seconds),
        "Requests to stable": counts["stable"].requests,
        "Requests to the canary": counts["canary"].requests,
        "Decided by": _decided_by(found.judgement, timeline),
    }
    text = facts(pairs)
    if start.get("fault"):
        text += paragraph(f"A fault was injected for demonstration: {start['fault']['kind']}.")
    return text + "".join(paragraph(f"{warning}.") for warning in found.told.judge.warnings)


def _decided_by(judgement: Judgement | None, timeline: Timeline) -> str:
    if judgement is None:
        return "nothing"
    moment = timeline.decided or (timeline.certified if judgement.outcome == "PASS" else None)
    if moment is None:
        return judgement.process
    what = "pair" if moment.pair else "request"
    return (
        f"{judgement.process}, at {what} {moment.index:,} after {_time(moment.second)}, with the canary at "
        f"{moment.percent} %"
    )


def _evidence(found: Replay) -> str:
    judge = found.told.judge
    decider = found.judgement.process if found.judgement else ""
    rows: list[list[object]] = []
    outcomes = []
    for name, value in judge.evidence.items():
        limit = judge.settings.threshold(name)
        answer, outcome = ("not shown", "pass")
        if name == "certificate":
            answer, outcome = ("yes", "pass") if judge.certified else ("not shown", "inconclusive")
        elif value >= limit or name == decider:
            answer, outcome = "yes", "warn" if name != decider else "fail"
        rows.append([QUESTIONS.get(name, name), _worth(value), _worth(limit), answer])
        outcomes.append(outcome)
    return table(["question", "evidence", "decides at", "answer"], rows, outcomes=outcomes)


def _worth(evidence: float) -> str:
    """Evidence as people read it: what lies far beyond every threshold is all alike."""
    if evidence > 1e6:
        return "over a million"
    return (
        f"{evidence:,.0f}" if evidence >= 100 else f"{evidence:.2g}" if evidence >= FLOOR else "below 0.001"
    )


def _steps(timeline: Timeline) -> str:
    refused = any(tally.refused for step in timeline.steps for tally in step.arms.values())
    titles = ["at", "state", "canary", "for"]
    for arm in ARMS:
        titles += [f"{arm} requests", "failed", *(["refused"] if refused else [])]
    rows: list[list[object]] = []
    for step in timeline.steps:
        row: list[object] = [
            _time(step.begin),
            step.state,
            f"{step.percent}{_SPACE}%",
            _time(step.end - step.begin),
        ]
        for arm in ARMS:
            tally = step.arms[arm]
            row += [tally.requests, tally.failed, *([tally.refused] if refused else [])]
        rows.append(row)
    notes = "".join(paragraph(f"{_time(second)}: {text}") for second, text in timeline.notes)
    return table(titles, rows) + notes


def _speed(timeline: Timeline) -> str:
    rows: list[list[object]] = []
    for arm in ARMS:
        whole = timeline.latencies.total(arm)
        if whole:
            times = [float(f"{1e3 * seconds_at(whole, q):.3g}") for q in (0.5, 0.95, 0.99)]
            rows.append([arm, whole.total(), *times])
    headers = ["arm", "good answers", "median, ms", "95 %, ms", "99 %, ms"]
    return details("Latency over the whole rollout", table(headers, rows))


def _harm(found: Replay, timeline: Timeline) -> str:
    failed = found.told.judge.counts["canary"].failed
    text = f"{failed:,} requests failed on the canary."
    if "harm" in timeline.end:
        harm, shielded = timeline.end["harm"], timeline.end["shielded"]
        text = (
            f"{harm:,} failed requests of users came from the canary; {shielded:,} more failed there and were "
            "answered by stable."
        )
    rejected = found.told.judge.counts["canary"].rejected
    if rejected:
        text += f" {rejected:,} were refused by the canary (4xx): their senders' fault, or its own."
    if timeline.forced:
        text += f" {timeline.forced:,} probes with a forced arm are no evidence and not counted."
    return paragraph(text)


def _shadow(found: Replay) -> str:
    if not found.told.counts["pairs"]:
        return ""
    shadow = found.told.judge.shadow
    return section(
        "In the shadow",
        facts(
            {
                "Requests that both answered": shadow.pairs,
                "Decisions that differ": f"{shadow.flips:,} ({shadow.flip_rate:.2%})",
                "Failed on the canary only": shadow.canary_only_failures,
                "Failed on stable only": shadow.stable_only_failures,
                "Half of the scores differ by at most": shadow.difference_p50,
                "95 % of the scores differ by at most": shadow.difference_p95,
                "Largest difference": shadow.difference_max,
            }
        ),
        note="Users got the stable model's answer; the canary was asked a copy.",
    )


def _experiment(found: Replay, timeline: Timeline) -> str:
    effect = found.told.effect
    if not effect.n:
        return ""
    low, high = effect.interval
    percent = f"{1 - found.told.judge.settings.alpha:.3g}"
    away = "not told apart from none" if low <= 0 <= high else "an effect is shown"
    text = (
        f"Canary minus stable: {effect.estimate:+.4g}, between {low:+.4g} and {high:+.4g} with confidence "
        f"{percent}, at whatever moment one looks ({effect.n:,} requests): {away}."
    )
    return section("Effect on the outcome", paragraph(text), pictures.effect(found, timeline))


def _settings(start: dict[str, Any]) -> str:
    names = {
        "alpha": "Chance to fail a good canary, at most",
        "max_error_rate": "Error rate limit",
        "max_error_increase": "Tolerated relative excess of errors",
        "max_latency_increase": "Tolerated relative excess of latency",
        "latency_slack": "Tolerated seconds on top of it",
        "warm_up": "Stable answers before scores and latency are compared",
    }
    pairs: dict[str, object] = {
        "Rollout": start["rollout"],
        "Canary bundle": start["bundle_digest"][:16],
        "Stable bundle": (start["stable_digest"] or "none")[:16],
        "Traffic": start["traffic"],
    }
    pairs |= {names.get(key, key.replace("_", " ")): value for key, value in start["settings"].items()}
    return facts(pairs)


def _integrity(found: Replay) -> str:
    if found.agrees:
        return badge("pass") + " The decision was recomputed from the record: it is the same, bit for bit."
    return badge("warn") + paragraph(found.problem)


def _how_to_read(found: Replay) -> str:
    alpha = found.told.judge.settings.alpha
    return (
        "Evidence is the wealth of a gambler who starts with 1 and bets on that answer, in a game that is fair "
        "or worse if the answer is no. Once it reaches its line, the question is decided. Over the whole rollout "
        f"a canary that is no worse than the stable model fails with a chance of at most {alpha:.3g}, however "
        "often one looks."
    )


def _time(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.1f}{_SPACE}h"
    return f"{seconds / 60:.1f}{_SPACE}min" if seconds >= 120 else f"{seconds:.1f}{_SPACE}s"
