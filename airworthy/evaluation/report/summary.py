"""The judgement in one sentence, and in a screen of Markdown for the Kubeflow UI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airworthy.evaluation.report.words import exact, span
from airworthy.reports.lights import WORDS, counted, lights, state_of, worst_first
from airworthy.reports.names import metric

if TYPE_CHECKING:
    from airworthy.findings import Findings, Number
    from airworthy.verdict import Check, Verdict

LISTED = 30
"""Most checks that the summary lists; the page has them all."""


def headline(verdict: Verdict) -> str:
    """The judgement in one sentence."""
    if verdict.status == "error":
        return f"The gate could not judge {verdict.model}: {_stop(verdict.error or 'no reason was recorded')}"
    compared = (
        f"compared with champion version {verdict.champion_version}"
        if verdict.champion_version
        else "a first release, judged by absolute limits only"
    )
    if verdict.passed and verdict.overridden:
        people = ", ".join(sorted({c.override.by for c in verdict.overridden if c.override}))
        return (
            f"{verdict.model} passed the gate only because {people} overrode "
            f"{_number(len(verdict.overridden), 'failed check')} ({compared})."
        )
    if verdict.passed:
        return f"{verdict.model} passed the gate ({compared})."
    if not verdict.failures:
        return f"{verdict.model} did not pass the gate ({compared}): no check passed."
    names = list(dict.fromkeys(check.name for check in verdict.failures))
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{verdict.model} did not pass the gate ({compared}): see {', '.join(names[:5])}{rest}."


def markdown(verdict: Verdict, findings: Findings | None) -> str:
    """The summary: judgement, overrides, one line per family, what did not pass, and the metrics."""
    parts = [f"## Evaluation of {_cell(verdict.model)}", "", f"**{_line(headline(verdict))}**", ""]
    parts += [f"**OVERRIDDEN**: {_override(check)}\n" for check in verdict.overridden]
    shown = lights(verdict)
    if shown:
        parts += ["| | checks | |", "|---|---|---|"]
        parts += [
            f"| {WORDS[light.state]} | {_cell(light.title)} | {counted(light) or _cell(light.about)} |"
            for light in shown
        ]
        parts.append("")
    telling = [c for c in worst_first(verdict.checks) if state_of(c) != "pass"]
    if telling:
        parts += ["| outcome | check | why |", "|---|---|---|"]
        parts += [f"| {WORDS[state_of(c)]} | {_name(c)} | {_cell(c.reason)} |" for c in telling[:LISTED]]
        parts.append("")
        if len(telling) > LISTED:
            parts += [f"… and {len(telling) - LISTED} more; the report lists them all.", ""]
    if findings is not None and findings.challenger is not None:
        parts += _metrics(findings)
    return "\n".join(parts)


def _metrics(findings: Findings) -> list[str]:
    assert findings.challenger is not None
    theirs = findings.champion.metrics if findings.champion else {}
    parts = ["| metric | challenger | interval | champion |", "|---|---:|---:|---:|"]
    for name, found in findings.challenger.metrics.items():
        interval = span(found.interval) if found.interval else ""
        parts.append(f"| {metric(name)} | {_value(found)} | {interval} | {_value(theirs.get(name))} |")
    return [*parts, ""]


def _override(check: Check) -> str:
    assert check.override is not None
    said = check.override
    return (
        f"{_line(check.reason)} Let pass by {_line(said.by)} until {said.until}: {_line(_stop(said.reason))}"
    )


def _value(found: Number | None) -> str:
    return "–" if found is None else exact(found.value, found.interval)


def _name(check: Check) -> str:
    return _cell(f"{check.name} ({check.slice})" if check.slice else check.name)


def _cell(text: str) -> str:
    return _line(text).replace("|", "/")


def _line(text: str) -> str:
    """One line that can't turn into a heading, a link or HTML."""
    plain = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\<[`*" else c for c in plain)


def _stop(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
