"""Scenarios: named rows with answers that people agree on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airworthy.errors import ConfigError
from airworthy.evaluation.arms import Scored
from airworthy.evaluation.scenarios import play
from airworthy.findings import BehaviourFinding
from airworthy.model_spec import Scenario
from airworthy.verdict import Check
from tests.fitted_models import fit, scored, truth, write_rows

LATE = {"name": "late night", "row": {"hour": 22, "carrier": "UA"}, "min_score": 0.7}
EARLY = {"name": "dawn", "row": {"hour": 5, "carrier": "AA"}, "max_score": 0.2}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """A champion that has no `carrier`; `gate` is missing in most rows."""
    folder = tmp_path_factory.mktemp("models")
    columns = [truth(2000, seed) | {"gate": np.array(["B7", None, None, None] * 500)} for seed in (1, 3)]
    train, test = (write_rows(folder / name, c) for name, c in zip(("train", "test"), columns, strict=True))
    champion = fit(folder / "champion", train, without=("carrier",))
    return scored(test, fit(folder / "challenger", train), champion)


def played(both: Scored, *scenarios: dict[str, Any]) -> tuple[dict[str, Check], list[BehaviourFinding]]:
    checks, findings = play(both, [Scenario.model_validate(s) for s in scenarios])
    return {check.name: check for check in checks}, list(findings)


def test_scenarios_that_hold_pass_with_both_scores_told(both: Scored) -> None:
    checks, findings = played(both, {**LATE, "above": "dawn", "decision": True}, EARLY)
    late, early = checks["scenario_late night"], checks["scenario_dawn"]
    assert (late.outcome, early.outcome) == ("pass", "pass")
    assert late.family == "scenarios"
    assert late.threshold == 0.7
    assert "the champion's 0." in late.reason
    assert "above 'dawn'" in late.reason
    assert [f.kind for f in findings] == ["scenario", "scenario"]
    assert findings[0].observed == late.observed
    assert "hour = 22" in findings[0].example


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"min_score": 0.999}, "at least 0.999 was expected"),
        ({"max_score": 0.1}, "at most 0.1 was expected"),
        ({"decision": False}, "expected to be no"),
    ],
)
def test_an_expectation_that_fails_blocks_or_warns_as_the_scenario_says(
    both: Scored, expected: dict[str, Any], words: str
) -> None:
    scenario = {"name": "late night", "row": LATE["row"]} | expected
    check = played(both, scenario)[0]["scenario_late night"]
    assert check.outcome == "fail"
    assert check.stands_in_the_way
    assert words in check.reason
    assert played(both, {**scenario, "on_failure": "warn"})[0]["scenario_late night"].outcome == "warn"


def test_a_scenario_must_lie_above_another(both: Scored) -> None:
    checks, _ = played(both, LATE, {"name": "dawn", "row": EARLY["row"], "above": "late night"})
    check = checks["scenario_dawn"]
    assert check.outcome == "fail"
    assert check.threshold == checks["scenario_late night"].observed
    assert "more than 'late night'" in check.reason
    twin = {"name": "twin", "row": LATE["row"], "above": "late night"}
    assert played(both, LATE, twin)[0]["scenario_twin"].outcome == "fail"


def test_what_is_not_named_is_typical_or_missing(both: Scored) -> None:
    columns = truth(2000, seed=3)
    values, counts = np.unique(columns["carrier"], return_counts=True)
    typical = {
        "hour": float(np.sort(columns["hour"])[999]),
        "distance": float(np.nanquantile(columns["distance"], 0.5, method="lower")),
        "carrier": str(values[np.argmax(counts)]),
        "charter": False,
        "gate": None,
    }
    scorer = both.challenger.scorer
    names = [f.name for f in scorer.info.features]
    for base, row in (("typical", typical), ("missing", dict.fromkeys(names))):
        expected = scorer.score(scorer.encode({name: [row[name]] for name in names})[0])[0]
        scenario = {"name": "any", "row": {}, "base": base, "min_score": 0}
        assert played(both, scenario)[0]["scenario_any"].observed == pytest.approx(expected)


def test_a_category_never_met_is_told(both: Scored) -> None:
    check = played(both, {"name": "odd", "row": {"carrier": "XX"}, "max_score": 1})[0]["scenario_odd"]
    assert check.outcome == "pass"
    assert "XX was never met in training" in check.reason


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"huor": 3}, "the model has no feature huor; did you mean hour"),
        (
            {"zzzzzz": 3},
            "the model has no feature zzzzzz; its features are hour, distance, carrier, charter, gate",
        ),
        ({"carrier": 3}, "carrier takes text, not 3"),
        ({"hour": "noon"}, "hour takes whole numbers, not 'noon'"),
        ({"charter": 1}, "charter takes true or false, not 1"),
        ({"distance": True}, "distance takes numbers, not True"),
    ],
)
def test_a_row_that_does_not_fit_the_model_is_one_clear_sentence(
    both: Scored, row: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"^gate.scenarios: storm: {words}"):
        played(both, {"name": "storm", "row": row, "min_score": 0})


def test_no_scenarios_read_nothing(both: Scored, tmp_path: Path) -> None:
    assert play(both, []) == ([], ())
