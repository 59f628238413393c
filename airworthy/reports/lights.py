"""A verdict in the order in which people read it: one light per family of checks, what stands in the way first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from airworthy.verdict import Check, Verdict

State = Literal["fail", "inconclusive", "overridden", "warn", "unjudged", "pass", "none"]
STATES: tuple[State, ...] = ("fail", "inconclusive", "overridden", "warn", "unjudged", "pass", "none")
"""Worst first. `inconclusive` stands in the way, `unjudged` only informs."""

WORDS: dict[State, str] = {
    "fail": "failed",
    "inconclusive": "inconclusive",
    "overridden": "overridden",
    "warn": "warning",
    "unjudged": "partly unjudged",
    "pass": "passed",
    "none": "not checked",
}

_TITLES = {
    "integrity": "Integrity of rows and scores",
    "limits": "Absolute limits",
    "champion": "Against the champion",
    "slices": "Slices",
    "fairness": "Fairness",
    "robustness": "Robustness",
    "scenarios": "Scenarios",
    "explanations": "Explanations",
    "budget": "Speed and size",
    "serving": "In the real server",
    "overrides": "Overrides",
}
_ABSENT = {
    "limits": "The spec sets no absolute limit.",
    "champion": "The spec asks for no comparison with the champion.",
    "slices": "The spec names no slices.",
    "fairness": "The spec declares no protected columns, so no groups of people were compared.",
    "robustness": "Missing, unseen and perturbed inputs were not tried.",
    "scenarios": "The spec names no scenarios.",
    "explanations": "Contributions of the features were not looked at.",
}
"""What a reviewer should know was not looked at."""


@dataclass(frozen=True)
class Light:
    """One family of checks at a glance."""

    family: str
    title: str
    state: State
    checks: tuple[Check, ...]
    """Worst first."""
    about: str
    """One sentence: the worst check's reason; or what was not looked at."""

    @property
    def counts(self) -> dict[State, int]:
        """How many checks are in each state, worst state first."""
        states = [state_of(check) for check in self.checks]
        return {state: states.count(state) for state in STATES if state in states}


def state_of(check: Check) -> State:
    """What one check means for the release."""
    if check.override is not None:
        return "overridden"
    if check.outcome == "pass":
        return "pass"
    if check.outcome == "inconclusive":
        return "inconclusive" if check.blocking else "unjudged"
    return "fail" if check.outcome == "fail" and check.blocking else "warn"


def worst_first(checks: Iterable[Check]) -> list[Check]:
    """Checks by what they mean for the release; otherwise in the order they were made in."""
    return sorted(checks, key=lambda check: STATES.index(state_of(check)))


def lights(verdict: Verdict) -> list[Light]:
    """One light per family, in the order of reading; after a finished evaluation also for what was not checked."""
    families = list(dict.fromkeys(check.family for check in verdict.checks))
    known = [family for family in _TITLES if family in families or (verdict.checks and family in _ABSENT)]
    return [_light(verdict, family) for family in [*known, *(f for f in families if f not in _TITLES)]]


def counted(light: Light) -> str:
    """Such as `2 failed, 1 warning, 9 passed`."""

    def words(state: State, count: int) -> str:
        if state == "warn":
            return "warning" if count == 1 else "warnings"
        return "unjudged" if state == "unjudged" else WORDS[state]

    return ", ".join(f"{count} {words(state, count)}" for state, count in light.counts.items())


def family_title(family: str) -> str:
    """A family's name for people."""
    return _TITLES.get(family, family.replace("_", " ").capitalize())


def _light(verdict: Verdict, family: str) -> Light:
    checks = tuple(worst_first(check for check in verdict.checks if check.family == family))
    if checks:
        state, about = state_of(checks[0]), checks[0].reason
        if state == "pass" and len(checks) > 1:
            about = "All checks passed."
    else:
        state, about = "none", _ABSENT[family]
        if family == "champion" and verdict.champion_version is None:
            about = "A first release: there is no champion to compare with."
    return Light(family=family, title=family_title(family), state=state, checks=checks, about=about)
