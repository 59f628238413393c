"""How a model takes odd inputs: planted weaknesses are found and measured right, sound models pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from airworthy.bundle import Scorer
from airworthy.encoding import Column, Matrix
from airworthy.errors import ConfigError
from airworthy.evaluation.arms import Scored
from airworthy.evaluation.behaviour import probe
from airworthy.evaluation.edges import edge_checks
from airworthy.evaluation.sampled import Sampled, against
from airworthy.evaluation.scenarios import play
from airworthy.evaluation.statistics.significance import Estimate
from airworthy.findings import BehaviourFinding
from airworthy.model_spec import Robustness, Scenario
from airworthy.verdict import Check
from tests.fitted_models import fit, scored, truth, write_rows

ROWS = 3000


@pytest.fixture(scope="module")
def test_window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "test", truth(ROWS, seed=3))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, test_window: Path) -> Scored:
    """A challenger of all features, and a champion that has no `charter`."""
    folder = tmp_path_factory.mktemp("models")
    train = write_rows(folder / "train", truth(4000, seed=1))
    champion = fit(folder / "champion", train, without=("charter",), rounds=5)
    return scored(test_window, fit(folder / "challenger", train), champion)


def probed(
    both: Scored, seed: int = 0, **policy: Any
) -> tuple[dict[str, Check], tuple[BehaviourFinding, ...]]:
    checks, findings = probe(both, Robustness.model_validate(policy), seed)
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}, findings


def without_champion(both: Scored) -> Scored:
    return replace(both, champion=None, champion_version=None, champion_digest=None)


def test_without_limits_everything_is_reported_and_nothing_fails(both: Scored) -> None:
    checks, findings = probed(both)
    assert {check.outcome for check in checks.values()} == {"pass"}
    assert {check.family for check in checks.values()} == {"robustness"}
    assert "no limit is set" in checks["missing_feature"].reason
    assert {f.kind for f in findings} == {"missing", "unseen", "out_of_range", "noise", "edge"}
    assert [f.feature for f in findings if f.kind == "missing"] == ["hour", "distance", "carrier", "charter"]
    assert [f.feature for f in findings if f.kind == "unseen"] == ["carrier"]


def test_auc_lost_by_a_missing_feature_is_measured_and_held_against_the_limit(both: Scored) -> None:
    checks, findings = probed(both, max_auc_loss_missing=0.5)
    sample, scorer = Sampled.of(both, ROWS, 0), both.challenger.scorer
    hour = [f.name for f in scorer.info.features].index("hour")
    matrix = sample.matrix(scorer)
    matrix[:, hour] = np.nan
    expected = roc_auc_score(sample.labels, sample.scores(scorer)) - roc_auc_score(
        sample.labels, scorer.score(matrix)
    )
    lost = {f.feature: f.observed for f in findings if f.kind == "missing"}
    assert lost["hour"] == pytest.approx(expected)
    assert abs(lost["distance"] or 0) < 0.01
    check = checks["missing_feature"]
    assert check.outcome == "pass"
    assert check.observed == lost["hour"]
    assert check.interval is not None
    assert check.interval[0] < expected < check.interval[1]
    assert "hour" in check.reason
    assert "champion's: 0.1" in check.reason
    assert probed(both, max_auc_loss_missing=0.01)[0]["missing_feature"].outcome == "fail"
    close = probed(both, max_auc_loss_missing=expected - 1e-4)[0]["missing_feature"]
    assert close.outcome == "inconclusive"
    assert "can't tell" in close.reason


def test_a_category_never_met_costs_what_a_missing_one_does(both: Scored) -> None:
    checks, findings = probed(both, max_auc_loss_unseen=0.01)
    lost = {f.kind: f.observed for f in findings if f.feature == "carrier"}
    assert lost["unseen"] == pytest.approx(lost["missing"])
    assert checks["unseen_category"].outcome == "fail"
    assert "never met" in checks["unseen_category"].reason


def test_rows_outside_the_range_of_training_are_counted(both: Scored, tmp_path: Path) -> None:
    columns = truth(ROWS, seed=4)
    columns["hour"][: ROWS // 10] = 40
    columns["distance"][: ROWS // 20] = -5000.0
    columns["distance"][ROWS // 2 :] = np.nan
    shifted = replace(both, path=write_rows(tmp_path / "shifted", columns))
    checks, findings = probed(shifted, max_out_of_range_share=0.2)
    shares = {f.feature: f.observed for f in findings if f.kind == "out_of_range"}
    assert shares["hour"] == pytest.approx(0.1)
    assert shares["distance"] == pytest.approx(0.05, abs=0.002)
    assert shares[None] == pytest.approx(0.1, abs=0.002)
    assert checks["out_of_range"].outcome == "pass"
    assert "most often hour" in checks["out_of_range"].reason
    assert probed(shifted, max_out_of_range_share=0.05)[0]["out_of_range"].outcome == "fail"


def test_a_limit_on_ranges_that_the_bundle_does_not_tell_is_no_pass(both: Scored) -> None:
    scorer = both.challenger.scorer
    unknown = {"minimum": None, "maximum": None}
    features = tuple(f.model_copy(update=unknown) for f in scorer.info.features)
    blind = Scorer(scorer.info.model_copy(update={"features": features}), scorer.engine, scorer._model)
    told = replace(both, challenger=replace(both.challenger, scorer=blind))
    assert not probed(told)[0]["out_of_range"].stands_in_the_way
    assert probed(told, max_out_of_range_share=0.2)[0]["out_of_range"].stands_in_the_way


def test_noise_moves_scores_more_the_larger_it_is(both: Scored) -> None:
    small, large = (probed(both, noise=size)[0]["noise"].observed for size in (0.01, 1.0))
    assert small is not None
    assert large is not None
    assert 0 <= small < large <= 1
    assert probed(both, noise=1.0, max_score_change=0.01)[0]["noise"].outcome == "fail"
    assert probed(both, noise=1.0, max_score_change=0.99)[0]["noise"].outcome == "pass"


def test_what_a_score_must_not_depend_on(both: Scored) -> None:
    rules = [
        {"feature": "charter", "values": [True, False], "tolerance": 0.05},
        {"feature": "carrier", "values": ["AA", "UA"], "tolerance": 0.05},
        {"name": "any carrier", "feature": "carrier", "values": ["AA", "XX", None], "tolerance": 1},
    ]
    checks, findings = probed(both, invariance=rules)
    assert checks["invariance_charter"].outcome == "pass"
    assert "champion" not in checks["invariance_charter"].reason
    broken = checks["invariance_carrier"]
    assert broken.outcome == "fail"
    assert broken.observed is not None
    assert broken.observed > 0.5
    assert broken.threshold == 0.05
    assert "champion" in broken.reason
    assert checks["invariance_any carrier"].outcome == "pass"
    assert "XX was never met in training" in checks["invariance_any carrier"].reason
    example = next(f.example for f in findings if f.name == "invariance_carrier")
    assert " to " in example


def test_which_way_a_score_must_go(both: Scored) -> None:
    rules = [
        {"feature": "hour", "change": 6, "expect": "up", "tolerance": 0.02},
        {"feature": "hour", "change": 6, "expect": "down", "tolerance": 0.02},
        {"feature": "hour", "change": -6, "expect": "down", "tolerance": 0.02},
        {"name": "far", "feature": "distance", "change": 1.5, "expect": "up", "tolerance": 0.05},
    ]
    checks, findings = probed(both, direction=rules)
    assert checks["direction_hour"].outcome == "pass"
    assert checks["direction_hour_2"].outcome == "fail"
    assert checks["direction_hour_3"].outcome == "pass"
    known = int(np.sum(~np.isnan(Sampled.of(both, ROWS, 0).columns["distance"])))
    assert checks["direction_far"].rows == known < ROWS
    assert "hour" in next(f.example for f in findings if f.name == "direction_hour_2")


def test_a_name_from_the_spec_cannot_be_mistaken_for_a_fixed_check(both: Scored) -> None:
    rule = {"name": "noise", "feature": "carrier", "values": ["AA", "UA"]}
    checks, _ = probe(both, Robustness(rows=ROWS, invariance=[rule]))
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert next(c for c in checks if c.name == "invariance_noise").outcome == "fail"


def test_a_direction_without_a_single_value_is_inconclusive(both: Scored, tmp_path: Path) -> None:
    columns = truth(ROWS, seed=4)
    columns["distance"][:] = np.nan
    empty = replace(both, path=write_rows(tmp_path / "empty", columns))
    rule = {"feature": "distance", "change": 1.0, "expect": "up"}
    check = probed(empty, direction=[rule])[0]["direction_distance"]
    assert check.outcome == "inconclusive"
    assert check.observed is None
    assert "no value of distance" in check.reason


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (
            {"invariance": [{"feature": "carier", "values": ["AA", "UA"]}]},
            "invariance_carier: the model has no .* did you mean carrier",
        ),
        ({"invariance": [{"feature": "carrier", "values": ["AA", 3]}]}, "carrier takes text, not 3"),
        ({"invariance": [{"feature": "charter", "values": [True, 0.5]}]}, "charter takes true or false"),
        ({"invariance": [{"feature": "hour", "values": [1, 2.5]}]}, "hour takes whole numbers, not 2.5"),
        ({"invariance": [{"feature": "distance", "values": [1, "x"]}]}, "distance takes numbers, not 'x'"),
        ({"direction": [{"feature": "carrier", "change": 1, "expect": "up"}]}, "carrier is no number"),
        ({"direction": [{"feature": "charter", "change": 1, "expect": "up"}]}, "charter is no number"),
        ({"direction": [{"feature": "hour", "change": 0.5, "expect": "up"}]}, "hour takes whole numbers"),
        ({"direction": [{"feature": "hour", "change": 0, "expect": "up"}]}, "a change of 0 moves nothing"),
    ],
)
def test_a_declaration_that_does_not_fit_the_model_is_one_clear_sentence(
    both: Scored, policy: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^gate.robustness.(invariance|direction): .*{words}"):
        probed(both, **policy)


def test_equal_seeds_give_equal_findings_and_only_the_sample_is_touched(both: Scored) -> None:
    first, again = probed(both, seed=5, rows=200), probed(both, seed=5, rows=200)
    assert first == again
    assert probed(both, seed=6, rows=200) != first
    assert {f.rows for f in first[1] if f.kind == "missing"} == {200}


def test_a_first_release_has_no_champion_to_tell_of(both: Scored) -> None:
    checks, _ = probed(without_champion(both))
    assert not [check for check in checks.values() if "champion" in check.reason]


def test_a_champion_that_took_whole_numbers_is_not_given_others(both: Scored) -> None:
    info = both.challenger.info
    asked = [f.model_copy(update={"kind": "number"}) if f.name == "hour" else f for f in info.features]
    own = both.challenger.scorer
    wider = Scorer(info.model_copy(update={"features": tuple(asked)}), own.engine, own._model, own._folder)
    now = replace(both, challenger=replace(both.challenger, scorer=wider))
    rule = {"feature": "hour", "change": 0.5, "expect": "up"}
    checks, _ = probed(now, direction=[rule], noise=1.0)
    assert checks["direction_hour"].outcome == "pass"
    assert "champion" not in checks["direction_hour"].reason
    assert "champion" in checks["noise"].reason
    played, _ = play(now, [Scenario(name="half", row={"hour": 9.5}, max_score=0.9)])
    assert played[0].outcome == "pass"
    assert "champion" not in played[0].reason


def test_rows_of_one_block_count_for_less(both: Scored) -> None:
    sample = Sampled.of(both, ROWS, 0)
    hours = 2 * np.asarray(sample.columns["hour"], dtype=np.int32) + np.arange(ROWS, dtype=np.int32) % 2
    rule = {"feature": "hour", "change": 6, "expect": "down", "max_violations": 0.5}
    alone = probed(both, direction=[rule])[0]["direction_hour"].interval
    blocked = probed(replace(both, blocks=hours), direction=[rule])[0]["direction_hour"].interval
    assert alone is not None
    assert blocked is not None
    assert blocked[1] - blocked[0] > 2 * (alone[1] - alone[0])


def test_a_limit_is_broken_only_by_the_whole_interval() -> None:
    assert against(Estimate(0.1, 0.05, 0.2), None) == "pass"
    assert against(Estimate(0.1, 0.05, 0.2), 0.15) == "pass"
    assert against(Estimate(0.1, 0.05, 0.2), 0.08) == "inconclusive"
    assert against(Estimate(0.1, 0.05, 0.2), 0.01) == "fail"
    assert against(Estimate(float("nan"), float("nan"), float("nan")), 0.5) == "inconclusive"


class _Careless(Scorer):
    """Takes what it should refuse: infinite numbers and absent columns count as 0."""

    def encode(self, columns: Mapping[str, Column]) -> tuple[Matrix, dict[str, int]]:
        rows = len(next(iter(columns.values())))
        kept = {f.name: columns.get(f.name, np.zeros(rows)) for f in self.info.features}
        kept["carrier"] = columns.get("carrier", np.full(rows, None, dtype=object))
        kept["charter"] = columns.get("charter", np.zeros(rows, dtype=bool))
        tame = {
            n: np.where(np.isinf(np.asarray(v, dtype=float)), 0, v) if n in ("hour", "distance") else v
            for n, v in kept.items()
        }
        return super().encode(tame)


class _Batchy(Scorer):
    """Lets a row's place in the batch, and the batch's size, into the score."""

    def score(self, matrix: Matrix) -> Any:
        return super().score(matrix) * np.linspace(0.9, 1.0, len(matrix))


class _Blank(Scorer):
    """Knows no answer where most is missing or far away."""

    def score(self, matrix: Matrix) -> Any:
        odd = np.isnan(matrix).all(axis=1) | (np.abs(np.nan_to_num(matrix)) > 3000).any(axis=1)
        return np.where(odd, np.nan, super().score(matrix))


class _FirstCategory(Scorer):
    """Scores a category it never met as the first one, as XGBoost itself does, and counts nothing."""

    def encode(self, columns: Mapping[str, Column]) -> tuple[Matrix, dict[str, int]]:
        met = {f.name: set(f.categories) for f in self.info.features if f.kind == "category"}
        tame = {
            n: [v if v is None or v in met[n] else min(met[n]) for v in values] if n in met else values
            for n, values in columns.items()
        }
        return super().encode(tame)


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Scorer, set()),
        (_Careless, {"edge_infinite_refused", "edge_missing_column_refused"}),
        (_Batchy, {"edge_row_order", "edge_single_rows"}),
        (_Blank, {"edge_all_missing", "edge_extreme_values"}),
        (_FirstCategory, {"edge_unseen_is_missing"}),
    ],
)
def test_each_edge_is_held_to(both: Scored, kind: type[Scorer], broken: set[str]) -> None:
    own = both.challenger.scorer
    scorer = kind(own.info, own.engine, own._model, own._folder)
    checks, findings = edge_checks(Sampled.of(both, 300, 0), scorer)
    assert {check.name for check in checks if check.outcome == "fail"} == broken
    assert {f.name for f in findings if f.observed == 1} == broken
    assert all("does not hold" in check.reason for check in checks if check.name in broken)
