"""Contributions add up, shares carry their sampling error, and planted leaks set off the alarm."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logit

from airworthy.bundle import Scorer
from airworthy.errors import BundleError, DataError
from airworthy.evaluation import explanations
from airworthy.evaluation.arms import Scored
from airworthy.evaluation.explanations import explain
from airworthy.evaluation.leakage import single_feature_aucs
from airworthy.evaluation.sampled import Sampled
from airworthy.findings import Explained
from airworthy.model_spec import Explanations
from airworthy.verdict import Check
from tests.fitted_models import fit, scored, truth, write_rows

ROWS = 3000


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train", planted(4000, seed=1))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, train: Path) -> Scored:
    """Honest models: the champion has fewer trees and no `charter`."""
    folder = tmp_path_factory.mktemp("honest")
    leaks = ("leak", "code", "cancelled", "tail")
    champion = fit(folder / "champion", train, without=(*leaks, "charter"), rounds=5)
    test = write_rows(folder / "test", planted(ROWS, seed=3))
    return scored(test, fit(folder / "challenger", train, without=leaks), champion)


def planted(rows: int, seed: int) -> dict[str, Any]:
    """Honest rows with columns that give the label away, and an id that does not."""
    columns, generator = truth(rows, seed), np.random.default_rng([seed, 1])
    late = columns["late"]
    columns["leak"] = late + generator.normal(0, 0.2, rows)
    columns["code"] = np.where(
        late == 1, generator.choice([1.0, 5.0, 9.0], rows), generator.choice([3.0, 7.0], rows)
    )
    columns["cancelled"] = np.where(late == 1, np.nan, generator.normal(size=rows))
    columns["tail"] = np.array([f"N{i}" for i in generator.integers(0, rows, rows)])
    return columns


def explained(
    scored: Scored, slices: Any = (), seed: int = 0, **policy: Any
) -> tuple[dict[str, Check], Explained]:
    checks, found = explain(scored, Explanations.model_validate(policy), slices, seed)
    return {check.name: check for check in checks}, found


def test_contributions_of_a_row_add_up_to_its_log_odds(both: Scored) -> None:
    scorer = both.challenger.scorer
    matrix = Sampled.of(both, 500, 0).matrix(scorer)
    parts = scorer.contributions(matrix, threads=2)
    assert parts.shape == (500, len(scorer.info.features) + 1)
    assert parts.sum(axis=1) == pytest.approx(logit(scorer.score(matrix)), abs=1e-4)
    assert np.array_equal(parts, scorer.contributions(matrix))
    assert scorer.contributions(matrix[:0]).shape == (0, parts.shape[1])
    with pytest.raises(DataError, match="must be float32"):
        scorer.contributions(matrix.astype(np.float64))


def test_onnx_scores_are_explained_by_the_model_they_were_converted_from(train: Path, tmp_path: Path) -> None:
    bundle = fit(tmp_path / "bundle", train, without=("tail",), convert=True)
    one = scored(train, bundle)
    assert one.challenger.scorer.engine == "onnx"
    assert explained(one)[1].additivity_error < 1e-3


def test_a_bundle_that_is_gone_can_t_explain(train: Path, tmp_path: Path) -> None:
    scorer = Scorer.load(fit(tmp_path / "bundle", train, rounds=2))
    matrix, _ = scorer.encode({f.name: [None] for f in scorer.info.features})
    shutil.rmtree(tmp_path / "bundle")
    with pytest.raises(BundleError, match="load the bundle again"):
        scorer.contributions(matrix)


def test_importance_is_the_share_of_mean_absolute_contributions(both: Scored) -> None:
    checks, found = explained(both, rows=ROWS)
    assert {check.outcome for check in checks.values()} == {"pass"}
    assert set(checks) == {"additivity", "single_feature_auc", "importance_jump"}
    assert found.rows == ROWS
    assert found.additivity_error < 1e-3
    shares = {a.feature: a for a in found.attributions}
    assert sum(a.share.value for a in found.attributions) == pytest.approx(1)
    assert [a.feature for a in found.attributions[:2]] == ["hour", "carrier"]
    scorer = both.challenger.scorer
    size = np.abs(scorer.contributions(Sampled.of(both, ROWS, 0).matrix(scorer))[:, :-1]).mean(axis=0)
    names = [f.name for f in scorer.info.features]
    assert shares["hour"].share.value == pytest.approx(size[names.index("hour")] / size.sum(), rel=1e-4)
    direction = shares["hour"].direction
    assert direction is not None
    assert direction > 0.9
    assert shares["carrier"].direction is None
    assert shares["charter"].champion_share is None
    assert shares["hour"].champion_share is not None


def test_the_stated_sampling_error_covers_the_share_of_all_rows(both: Scored, monkeypatch: Any) -> None:
    monkeypatch.setattr(explanations, "REPLICATES", 200)
    everything = {a.feature: a.share.value for a in explained(both, rows=ROWS)[1].attributions}
    held = total = 0
    for seed in range(20):
        for a in explained(both, rows=150, seed=seed)[1].attributions:
            assert a.share.interval is not None
            held += a.share.interval[0] <= everything[a.feature] <= a.share.interval[1]
            total += 1
    assert held / total > 0.9


def test_rows_of_one_block_make_a_share_less_sure(both: Scored) -> None:
    hours = (
        2 * Sampled.of(both, ROWS, 0).columns["hour"].astype(np.int32) + np.arange(ROWS, dtype=np.int32) % 2
    )
    widths = []
    for one in (both, replace(both, blocks=hours)):
        share = next(a.share for a in explained(one)[1].attributions if a.feature == "hour")
        assert share.interval is not None
        widths.append(share.interval[1] - share.interval[0])
    assert widths[1] > 2 * widths[0]


def test_equal_seeds_give_equal_explanations(both: Scored) -> None:
    assert explained(both, seed=4, rows=200) == explained(both, seed=4, rows=200)
    assert explained(both, seed=4, rows=200) != explained(both, seed=5, rows=200)


def test_a_first_release_is_explained_alone(both: Scored) -> None:
    alone = replace(both, champion=None, champion_version=None, champion_digest=None)
    checks, found = explained(alone, [("everything", np.arange(ROWS))])
    assert "importance_jump" not in checks
    assert found.slices == ()
    assert {a.champion_share for a in found.attributions} == {None}


def test_slices_tell_where_the_scores_differ_from_the_champion_s(both: Scored) -> None:
    hours = Sampled.of(both, ROWS, 0).columns["hour"]
    late, tiny = np.flatnonzero(hours >= 20), np.arange(5)
    found = explained(both, [("late", late), ("all", np.arange(ROWS)), ("tiny", tiny)], rows=ROWS)[1]
    assert [s.where for s in found.slices] == ["all", "late"]
    sizes = [abs(value) for value in found.slices[1].features.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert "charter" not in found.slices[1].features
    assert both.champion is not None
    sample, scorers = Sampled.of(both, ROWS, 0), (both.challenger.scorer, both.champion.scorer)
    means = [s.contributions(sample.matrix(s))[late, 0].mean() for s in scorers]
    assert found.slices[1].features["hour"] == pytest.approx(means[0] - means[1], rel=1e-4)


@pytest.mark.parametrize("leak", ["leak", "code", "cancelled"])
def test_a_planted_leak_sets_off_the_alarm(tmp_path: Path, train: Path, both: Scored, leak: str) -> None:
    others = tuple({"leak", "code", "cancelled", "tail"} - {leak})
    test = write_rows(tmp_path / "test", planted(ROWS, seed=5))
    honest = fit(tmp_path / "honest", train, without=(*others, leak))
    leaking = scored(test, fit(tmp_path / "leaking", train, without=others), honest)
    checks, found = explained(leaking)
    assert checks["single_feature_auc"].outcome == "fail"
    assert checks["single_feature_auc"].reason.startswith(f"The label is told by {leak} alone")
    assert checks["importance_jump"].outcome == "warn"
    assert f"{leak}, which the champion does not have" in checks["importance_jump"].reason
    assert found.attributions[0].feature == leak
    auc = found.attributions[0].auc_alone
    assert auc is not None
    assert auc > 0.98
    warned = explained(leaking, on_leak="warn")[0]
    assert {warned[name].outcome for name in ("single_feature_auc", "importance_jump")} == {"warn"}
    silent = explained(leaking, max_single_feature_auc=None, max_importance_jump=None)[0]
    assert {check.outcome for check in silent.values()} == {"pass"}


def test_a_jump_that_is_not_sure_informs_only(both: Scored) -> None:
    seen = explained(both)[0]["importance_jump"]
    assert seen.observed is not None
    assert seen.interval is not None
    unsure = explained(both, max_importance_jump=seen.observed - 1e-4)[0]["importance_jump"]
    assert unsure.outcome == "inconclusive"
    assert not unsure.stands_in_the_way
    sure = explained(both, max_importance_jump=seen.interval[0] - 1e-4)[0]["importance_jump"]
    assert sure.outcome == "warn"


def test_single_features_tell_as_much_as_they_can_and_ids_nothing(tmp_path: Path, train: Path) -> None:
    test = write_rows(tmp_path / "test", planted(ROWS, seed=6))
    one = scored(test, fit(tmp_path / "bundle", train, rounds=2))
    sample = Sampled.of(one, ROWS, 0)
    found = single_feature_aucs(sample, list(one.challenger.info.features), 0)
    assert found["tail"].value < 0.53
    assert found["distance"].value < 0.55
    assert found["charter"].value < 0.55
    assert 0.7 < found["hour"].value < 0.85
    assert 0.6 < found["carrier"].value < 0.8
    assert min(found[name].value for name in ("leak", "code", "cancelled")) > 0.98
    assert all(0 <= e.low <= e.value <= e.high <= 1 for e in found.values())


def test_too_few_rows_of_a_class_can_t_tell_a_leak(both: Scored) -> None:
    labels = np.zeros(ROWS, dtype=np.int8)
    for positives in (0, 4):
        labels[:positives] = 1
        checks, found = explained(replace(both, labels=labels))
        assert checks["single_feature_auc"].outcome == "inconclusive"
        assert not checks["single_feature_auc"].stands_in_the_way
    assert len(found.attributions) == 4


class _Another(Scorer):
    """Scores by something else than the model that it explains."""

    def score(self, matrix: Any) -> Any:
        return super().score(matrix) * 0.9


def test_an_explanation_of_another_model_is_refused(both: Scored) -> None:
    own = both.challenger.scorer
    other = _Another(own.info, own.engine, own._model, own._folder)
    checks, _ = explained(replace(both, challenger=replace(both.challenger, scorer=other)))
    assert checks["additivity"].outcome == "fail"
    assert "another model" in checks["additivity"].reason
