"""What a reviewer reads first: overrides, the judgement, one light per family, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from airworthy.evaluation.report.summary import headline
from airworthy.evaluation.report.words import NOTHING, exact, filled, percent, probability, span
from airworthy.reports import details, facts, jump, section, table
from airworthy.reports.lights import WORDS, Light, State, counted, family_title, lights, state_of, worst_first

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airworthy.findings import Findings
    from airworthy.verdict import Check, Verdict

SIGNS: dict[State, str] = {
    "fail": "✕",
    "inconclusive": "?",
    "overridden": "‼",
    "warn": "!",
    "unjudged": "?",
    "pass": "✓",
    "none": "–",
}
SECTIONS = {
    "limits": "metrics",
    "champion": "metrics",
    "slices": "slices",
    "fairness": "fairness",
    "robustness": "behaviour",
    "scenarios": "scenarios",
    "explanations": "explanations",
}
"""Which part of the page shows what a family judges."""
UNFOLDED = 12
"""Most checks that only inform and are shown without unfolding."""


def overrides(verdict: Verdict) -> str:
    """A red band that names every check that a person let pass; empty where nobody did."""
    items = [
        Markup(
            "<li><strong>{}</strong> was let pass by <strong>{}</strong> until <strong>{}</strong>: “{}” "
            '<span class="what">What failed: {}</span></li>'
        ).format(_named(check), check.override.by, check.override.until, check.override.reason, check.reason)
        for check in verdict.overridden
        if check.override is not None
    ]
    if not items:
        return ""
    count = f"{len(items)} failed check{'s' if len(items) > 1 else ''}"
    return (
        f'<div class="alarm" role="alert"><strong class="shout">OVERRIDDEN: {count} let pass by a person</strong>'
        f"<ul>{''.join(items)}</ul></div>"
    )


def banner(verdict: Verdict, findings: Findings | None) -> str:
    """The judgement in one sentence, and what it is about."""
    state = _judgement(verdict)
    word = {"pass": "Passed", "overridden": "Overridden", "fail": "Not passed", "inconclusive": "Not judged"}[
        state
    ]
    told = (
        f'<div class="verdict {state}"><span class="light {state}" aria-hidden="true">{SIGNS[state]}</span>'
        f"<div><strong>{word}</strong><p>{escape(headline(verdict))}</p></div></div>"
    )
    return told + (_about(verdict, findings) if findings is not None else "")


def lights_table(verdict: Verdict, below: str) -> str:
    """One row per family: its light, how many checks, and the sentence that counts.

    Args:
        verdict: The judgement.
        below: The sections that follow; a row leads to its own if it is there, and else to its checks.
    """
    rows = "".join(_light(light, below) for light in lights(verdict))
    return section("At a glance", f'<ul class="lights">{rows}</ul>') if rows else ""


def why(verdict: Verdict) -> str:
    """Everything that did not simply pass, what stands in the way first."""
    telling = [check for check in worst_first(verdict.checks) if state_of(check) != "pass"]
    if not verdict.checks:
        return ""
    if not telling:
        return section("Why", '<p class="note">Every check passed; they are listed below.</p>', anchor="why")
    informing = [check for check in telling if state_of(check) in ("warn", "unjudged")]
    standing = telling[: len(telling) - len(informing)]
    body = _reasons(standing)
    if len(informing) <= UNFOLDED:
        body += _reasons(informing)
    else:
        body += _reasons(informing[:UNFOLDED])
        body += details(f"{len(informing) - UNFOLDED} more that only inform", _reasons(informing[UNFOLDED:]))
    note = (
        "What stands in the way comes first, then what a person overrode, then what only informs."
        if standing
        else "Nothing stands in the way; these only inform."
    )
    return section("Why", body, note=note, anchor="why")


P_VALUES = (
    "p: how likely rows like these would be, were the truth exactly at the limit. A small one is good news where "
    "something has to be proven (the primary comparison), and bad news where harm is looked for (guards, slices)."
)


def all_checks(verdict: Verdict) -> str:
    """Every check with its numbers, folded by family."""
    families: dict[str, list[Check]] = {}
    for check in verdict.checks:
        families.setdefault(check.family, []).append(check)
    parts = [
        details(f"{light.title}: {counted(light)}", _table(light.checks), anchor=f"checks-{light.family}")
        for light in lights(verdict)
        if light.checks
    ]
    return section("All checks", *parts, note=P_VALUES, anchor="checks") if parts else ""


def _judgement(verdict: Verdict) -> State:
    if verdict.status == "error":
        return "inconclusive"
    if not verdict.passed:
        return "fail"
    return "overridden" if verdict.overridden else "pass"


def _about(verdict: Verdict, findings: Findings) -> str:
    share = findings.positives / findings.rows if findings.rows else 0.0
    told: dict[str, object] = {
        "Test window": f"{_moment(findings.start)} to {_moment(findings.end)}",
        "Rows": f"{findings.rows:,}, of which {findings.positives:,} positive ({percent(share)})",
        "Compared with": f"champion version {verdict.champion_version}"
        if verdict.champion_version
        else "nothing",
        "Checks": f"{len(verdict.checks)}, of which {len(verdict.failures)} stand in the way",
    }
    if findings.effective_rows is not None:
        told["Worth, in independent rows"] = (
            f"about {findings.effective_rows:,.0f}: rows of one block resemble each other"
        )
    return facts(told)


def _light(light: Light, below: str) -> str:
    counts = counted(light)
    anchor = SECTIONS.get(light.family, "")
    if f'id="{anchor}"' not in below:
        anchor = f"checks-{light.family}" if light.checks else ""
    title = jump(light.title, anchor) if anchor else escape(light.title)
    return (
        f'<li class="{light.state}"><span class="light {light.state}" aria-hidden="true">{SIGNS[light.state]}</span>'
        f'<span class="name">{title}<span class="state">{escape(WORDS[light.state])}</span></span>'
        f'<span class="counts">{escape(counts)}</span><span class="about">{escape(light.about)}</span></li>'
    )


def _reasons(checks: Sequence[Check]) -> str:
    items = "".join(_reason(check) for check in checks)
    return f'<ul class="why">{items}</ul>' if items else ""


def _reason(check: Check) -> str:
    state = state_of(check)
    numbers = " · ".join(f"{name} {value}" for name, value in _numbers(check) if value != NOTHING)
    return (
        f'<li class="{state}"><span class="light {state}" aria-hidden="true">{SIGNS[state]}</span><div>'
        f'<strong>{escape(_named(check))}</strong> <span class="state">{escape(_word(check, state))}</span>'
        f' <span class="family">{escape(family_title(check.family))}</span>'
        f'<p>{escape(check.reason)}</p><p class="numbers">{escape(numbers)}</p></div></li>'
    )


def _word(check: Check, state: State) -> str:
    if state == "unjudged":
        return "inconclusive, informs only"
    if state == "inconclusive":
        return "inconclusive, stands in the way"
    return "failed, informs only" if check.outcome == "fail" and state == "warn" else WORDS[state]


def _numbers(check: Check) -> list[tuple[str, str]]:
    values = [("observed", check.observed), ("limit", check.threshold)]  # never rounded into each other
    told = [(name, NOTHING if v is None else exact(v, None)) for name, v in values]
    told.append(("interval", span(check.interval)))
    told.append(("p", probability(check.p_value)))
    told.append(("adjusted p", probability(check.p_adjusted)))
    told.append(("rows", NOTHING if check.rows is None else f"{check.rows:,}"))
    return told


def _table(checks: Sequence[Check]) -> str:
    rows = []
    for check in checks:
        name = Markup("<code>{}</code>").format(check.name)
        values = [value for _, value in _numbers(check)]
        rows.append((name, check.slice or "", *values, check.reason))
    outcomes = ["overridden" if check.override else check.outcome for check in checks]
    headers = ("Check", "Slice", "Observed", "Limit", "Interval", "p", "Adjusted p", "Rows", "Why")
    return table(*filled(headers, rows), outcomes=outcomes)


def _named(check: Check) -> str:
    return f"{check.name} · {check.slice}" if check.slice else check.name


def _moment(text: str) -> str:
    """An ISO time without what nobody reads."""
    return text[:16].replace("T", " ") if len(text) >= 16 else text
