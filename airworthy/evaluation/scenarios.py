"""Named cases whose answer people agree on, kept in the spec and played to every model before its release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from airworthy.encoding import Feature
from airworthy.evaluation.sampled import Sampled, declared_feature, known, require_value, unmet
from airworthy.findings import BehaviourFinding
from airworthy.verdict import Check, Outcome

if TYPE_CHECKING:
    from airworthy.bundle import BundleInfo, Scorer
    from airworthy.evaluation.arms import Scored
    from airworthy.model_spec import Scenario

ROWS = 5000
"""Sampled rows that say what is typical."""

Row = dict[str, Any]


@dataclass(frozen=True)
class _Played:
    """One scenario's answers."""

    scenario: Scenario
    score: float
    champion: float | None
    threshold: float
    unmet: list[str]


def play(
    scored: Scored, scenarios: Sequence[Scenario], seed: int = 0
) -> tuple[list[Check], tuple[BehaviourFinding, ...]]:
    """Play the scenarios to the challenger, and for comparison to a champion that takes the same kinds of values.

    Features that a scenario does not name are typical of the test window (median, most frequent value) or
    missing, as it says. What is mostly missing in the window is missing.

    Args:
        scored: The test window with both models.
        scenarios: `gate.scenarios` of the spec.
        seed: Draws the rows that say what is typical.

    Returns:
        One check (family `scenarios`, named `scenario_<name>`) and one finding of each.

    Raises:
        ConfigError: A scenario names a feature that the challenger lacks, or a value that it can't hold.
    """
    if not scenarios:
        return [], ()
    info = scored.challenger.info
    for scenario in scenarios:
        for name, value in scenario.row.items():
            where = f"gate.scenarios: {scenario.name}"
            require_value(declared_feature(info, name, where), value, where)
    rival = scored.champion if scored.champion and _alike(info, scored.champion.info) else None
    arms = [scored.challenger] + ([rival] if rival else [])
    features = {f.name: f for arm in reversed(arms) for f in arm.info.features}
    usual = _usual(scored, features, seed) if any(s.base == "typical" for s in scenarios) else {}
    rows = [{**dict.fromkeys(features), **(usual if s.base == "typical" else {}), **s.row} for s in scenarios]
    answers = [_answers(arm.scorer, rows) for arm in arms]
    played = {
        scenario.name: _Played(
            scenario=scenario,
            score=answers[0][i],
            champion=answers[1][i] if len(arms) > 1 else None,
            threshold=info.threshold,
            unmet=[v for n, value in scenario.row.items() for v in unmet(features[n], [value])],
        )
        for i, scenario in enumerate(scenarios)
    }
    checks = [_check(one, played) for one in played.values()]
    findings = tuple(_finding(check, one) for check, one in zip(checks, played.values(), strict=True))
    return checks, findings


def _alike(ours: BundleInfo, theirs: BundleInfo) -> bool:
    """Whether the features that both models have are of the same kinds, so that both take the same rows."""
    kinds = {f.name: f.kind for f in ours.features}
    return all(kinds.get(f.name, f.kind) == f.kind for f in theirs.features)


def _usual(scored: Scored, features: Mapping[str, Feature], seed: int) -> Row:
    sample = Sampled.of(scored, ROWS, seed)
    return {name: _typical(feature, sample) for name, feature in features.items()}


def _typical(feature: Feature, sample: Sampled) -> str | bool | float | None:
    """Median of numbers (one that occurs), most frequent of the rest (first in order where several are)."""
    there = sample.present(feature.name)
    if 2 * there.sum() <= len(there):
        return None
    values = sample.columns[feature.name][there]
    if feature.kind in ("number", "integer"):
        return float(np.quantile(values.astype(np.float64), 0.5, method="lower"))
    found, counts = np.unique(values.astype(str if feature.kind == "category" else bool), return_counts=True)
    most = found[int(np.argmax(counts))]
    return str(most) if feature.kind == "category" else bool(most)


def _answers(scorer: Scorer, rows: Sequence[Row]) -> list[float]:
    """The model's scores of rows that may hold more than it takes."""
    matrix, _ = scorer.encode({f.name: [row[f.name] for row in rows] for f in scorer.info.features})
    return [float(score) for score in scorer.score(matrix)]


def _check(one: _Played, played: Mapping[str, _Played]) -> Check:
    scenario, broken = one.scenario, _broken(one, played)
    outcome: Outcome = "pass"
    if broken:
        outcome = "fail" if scenario.on_failure == "block" else "warn"
    beside = "" if one.champion is None else f" (the champion's {one.champion:.4f})"
    new = f"; {', '.join(one.unmet)} was never met in training and counts as missing" if one.unmet else ""
    said = f"but {', and '.join(broken)}" if broken else f"as expected: {', '.join(_expected(scenario))}"
    return Check(
        name=f"scenario_{scenario.name}",
        family="scenarios",
        observed=known(one.score),
        threshold=_limit(one, played),
        rows=1,
        outcome=outcome,
        reason=f"Scenario {scenario.name!r} scores {one.score:.4f}{beside}, {said}{new}.",
    )


def _broken(one: _Played, played: Mapping[str, _Played]) -> list[str]:
    """The expectations that do not hold; a score that is no number breaks them all."""
    scenario, score, found = one.scenario, one.score, []
    if scenario.min_score is not None and not score >= scenario.min_score:
        found.append(f"at least {scenario.min_score:g} was expected")
    if scenario.max_score is not None and not score <= scenario.max_score:
        found.append(f"at most {scenario.max_score:g} was expected")
    if scenario.decision is not None and (score >= one.threshold) != scenario.decision:
        found.append(
            f"the decision at threshold {one.threshold:g} was expected to be {_word(scenario.decision)}"
        )
    if scenario.above:
        other = played[scenario.above].score
        if not score > other:
            found.append(f"more than {scenario.above!r} ({other:.4f}) was expected")
    return found


def _expected(scenario: Scenario) -> list[str]:
    said = [
        (scenario.min_score is not None, f"at least {scenario.min_score}"),
        (scenario.max_score is not None, f"at most {scenario.max_score}"),
        (scenario.decision is not None, f"the decision is {_word(bool(scenario.decision))}"),
        (scenario.above is not None, f"above {scenario.above!r}"),
    ]
    return [words for asked, words in said if asked]


def _word(decision: bool) -> str:
    return "yes" if decision else "no"


def _limit(one: _Played, played: Mapping[str, _Played]) -> float | None:
    """The number that the score is held against; the one it breaks, where it breaks one."""
    scenario = one.scenario
    low, high = scenario.min_score, scenario.max_score
    if low is not None and high is not None:
        return high if one.score > high else low
    if low is not None or high is not None:
        return low if low is not None else high
    if scenario.decision is not None:
        return one.threshold
    return known(played[scenario.above].score) if scenario.above else None


def _finding(check: Check, one: _Played) -> BehaviourFinding:
    row = ", ".join(f"{name} = {value}" for name, value in one.scenario.row.items())
    return BehaviourFinding(
        kind="scenario",
        name=one.scenario.name,
        feature=None,
        observed=check.observed,
        limit=check.threshold,
        unit="score",
        rows=1,
        outcome=check.outcome,
        example=f"{row or 'nothing named'}; everything else {one.scenario.base}",
    )
