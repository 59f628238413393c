"""Champion against challenger: each policy decides as it says, and every sentence can be signed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from airworthy.evaluation import comparison
from airworthy.evaluation.comparison import compare
from airworthy.evaluation.statistics import metrics
from airworthy.evaluation.statistics.resampling import Bootstrap
from airworthy.findings import Difference
from airworthy.model_spec.gate import ChampionComparison, Gate, Threshold
from airworthy.verdict import Check
from tests.unit.evaluation.simulate import Sample, World, draw, scored

WORLD = World(rows=4000)
BETTER, WORSE = replace(WORLD, noise=(0.9, 0.4)), replace(WORLD, noise=(0.4, 0.9))
METRICS = ("auc", "pr_auc", "log_loss", "brier", "cost")


def judged(
    sample: Sample, *, blocks: bool = False, **policy: Any
) -> tuple[dict[str, Check], dict[str, Difference], float | None]:
    gate = Gate(champion=ChampionComparison(**policy), threshold=Threshold(cost_miss=3))
    boot = Bootstrap.plan(len(sample.labels), 300, 0, sample.blocks if blocks else None)
    checks, differences, worth = compare(scored(sample), gate, boot, 0.95)
    return {c.name: c for c in checks}, {d.metric: d for d in differences}, worth


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("policy", ["superiority", "non_inferiority"])
def test_a_clearly_better_challenger_passes_and_a_clearly_worse_one_fails(metric: str, policy: str) -> None:
    for world, expected in ((BETTER, "pass"), (WORSE, "fail")):
        checks, differences, _ = judged(draw(world, 1), metric=metric, policy=policy, margin=0.002)
        check = checks[f"{metric}_vs_champion"]
        assert check.outcome == expected, check.reason
        assert check.blocking
        better = (differences[metric].difference.value > 0) == differences[metric].higher_is_better
        assert better == (expected == "pass")
        assert check.p_value is not None
        assert (check.p_value < 0.025) == (expected == "pass")


def test_a_model_is_not_inferior_to_itself_and_not_superior_either() -> None:
    sample = draw(WORLD, 2)
    sample = replace(sample, champion=sample.challenger)
    for metric in METRICS:
        name = f"{metric}_vs_champion"
        assert judged(sample, metric=metric, margin=0.001)[0][name].outcome == "pass"
        assert judged(sample, metric=metric, policy="superiority")[0][name].outcome == "inconclusive"


def test_what_the_rows_cannot_tell_is_inconclusive_and_blocks() -> None:
    check = judged(draw(replace(WORLD, rows=400), 3), margin=0.001)[0]["auc_vs_champion"]
    assert check.outcome == "inconclusive"
    assert check.stands_in_the_way
    told = re.search(
        r"can't tell: it does not pass, and to show an equal model takes about ([\d,]+)", check.reason
    )
    assert told is not None
    rows = int(told[1].replace(",", ""))
    assert rows > 50_000
    enough = judged(draw(replace(WORLD, rows=2 * rows), 3), margin=0.001)[0]["auc_vs_champion"]
    assert enough.outcome == "pass"


def test_a_guard_refuses_proven_harm_only() -> None:
    better = judged(draw(BETTER, 4), guards={"log_loss": 0.0})[0]["log_loss_vs_champion"]
    assert better.outcome == "pass"
    worse = judged(draw(WORSE, 4), margin=0.4, guards={"log_loss": 0.001, "cost": 5.0})[0]
    assert worse["auc_vs_champion"].outcome == "pass"
    assert (worse["log_loss_vs_champion"].outcome, worse["log_loss_vs_champion"].blocking) == ("fail", True)
    assert worse["log_loss_vs_champion"].threshold == 0.001
    assert worse["cost_vs_champion"].outcome == "pass"
    doubtful = judged(draw(replace(WORLD, rows=400), 5), margin=0.4, guards={"brier": 0.0})[0]
    assert doubtful["brier_vs_champion"].outcome == "pass"
    assert "no proof of harm" in doubtful["brier_vs_champion"].reason


def test_the_compared_metric_needs_no_guard() -> None:
    with pytest.raises(ValidationError, match="auc is the metric of the comparison itself"):
        ChampionComparison(guards={"auc": 0.01})


def test_what_no_policy_names_only_warns() -> None:
    checks, differences, _ = judged(draw(WORSE, 6), margin=0.4)
    reported = [checks[f"{metric}_vs_champion"] for metric in METRICS[1:]]
    assert {c.outcome for c in reported} == {"warn"}
    assert not any(c.stands_in_the_way for c in reported)
    assert all("reported, not gated" in c.reason for c in reported)
    assert [differences[m].margin for m in METRICS] == [0.4, None, None, None, None]


def test_differences_are_those_of_the_metrics() -> None:
    sample = draw(WORLD, 7)
    found = {name: d.difference.value for name, d in judged(sample)[1].items()}
    for name, of in (("auc", metrics.auc), ("pr_auc", metrics.average_precision)):
        expected = of(sample.labels, sample.challenger) - of(sample.labels, sample.champion)
        assert found[name] == pytest.approx(expected, abs=1e-12)
    paid = []
    for scores in (sample.challenger, sample.champion):
        (_, false_alarms), (misses, _) = metrics.confusion(sample.labels, scores, sample.threshold)
        paid.append((false_alarms + 3 * misses) / len(scores))
    assert found["cost"] == pytest.approx(paid[0] - paid[1], abs=1e-12)


def test_blocks_widen_the_intervals_and_tell_what_the_rows_are_worth() -> None:
    sample = draw(World(rows=6000, blocks=60, common=0.6), 8)
    alone, worth_alone = judged(sample)[0], judged(sample)[2]
    together, _, worth = judged(sample, blocks=True)
    assert worth_alone is None
    assert worth is not None
    assert 60 < worth < 4000
    for name, check in together.items():
        ratio = np.ptp(check.interval or ()) / np.ptp(alone[name].interval or ())
        assert ratio > 1.3, name


def test_too_few_blocks_are_inconclusive_and_say_what_to_do() -> None:
    sample = draw(World(rows=2000, blocks=6, common=0.3), 9)
    checks, _, worth = judged(sample, blocks=True, guards={"brier": 0.1})
    assert {c.outcome for c in checks.values()} == {"inconclusive"}
    assert {name for name, c in checks.items() if c.stands_in_the_way} == {
        "auc_vs_champion",
        "brier_vs_champion",
    }
    assert "there are 6 blocks" in checks["auc_vs_champion"].reason
    assert worth is None


def test_without_a_champion_there_is_nothing_and_without_a_policy_no_check() -> None:
    item = scored(draw(WORLD, 10))
    boot = Bootstrap.plan(WORLD.rows, 200, 0)
    checks, differences, _ = compare(item, Gate(min_auc=0.5), boot, 0.9)
    assert checks == []
    assert len(differences) == 5
    item.champion_version = None
    assert compare(item, Gate(champion=ChampionComparison()), boot, 0.9) == ([], (), None)


def test_a_champion_that_can_not_be_compared_with_is_inconclusive() -> None:
    item = scored(draw(WORLD, 11))
    item.champion, item.champion_problem = None, "the champion predicts cancelled, not late"
    checks, differences, _ = compare(
        item, Gate(champion=ChampionComparison(metric="brier")), Bootstrap.plan(WORLD.rows, 200, 0), 0.95
    )
    assert [(c.name, c.outcome) for c in checks] == [("brier_vs_champion", "inconclusive")]
    assert "predicts cancelled" in checks[0].reason
    assert differences == ()


def test_a_class_in_a_handful_of_blocks_is_no_evidence() -> None:
    """Four blocks hold all positives: as if four were known, however many rows and other blocks there are."""
    sample = draw(World(rows=4000, blocks=100), 12)
    assert sample.blocks is not None
    few = replace(sample, labels=np.where(sample.blocks < 4, sample.labels, 0).astype(np.int8))
    checks, _, _ = judged(few, blocks=True, metric="auc", margin=0.2, guards={"pr_auc": 0.5})
    assert {checks[f"{m}_vs_champion"].outcome for m in ("auc", "pr_auc")} == {"inconclusive"}
    assert "fewer than 20 blocks" in checks["auc_vs_champion"].reason
    assert checks["log_loss_vs_champion"].outcome != "inconclusive"


def test_a_champion_that_can_not_be_compared_with_is_told_even_where_no_policy_asks() -> None:
    item = scored(draw(WORLD, 11))
    item.champion, item.champion_problem = None, "the champion predicts cancelled, not late"
    checks, _, _ = compare(item, Gate(min_auc=0.5), Bootstrap.plan(WORLD.rows, 200, 0), 0.95)
    assert [(c.outcome, c.blocking) for c in checks] == [("warn", False)]
    assert "on slices neither" in checks[0].reason


@pytest.mark.parametrize("world", [BETTER, WORSE, replace(WORLD, rows=300)])
def test_every_reason_is_one_sentence_with_the_numbers_it_judges(world: World) -> None:
    for policy in ("superiority", "non_inferiority"):
        guards = {"log_loss": 0.001, "brier": 0.0}
        for check in judged(draw(world, 12), policy=policy, guards=guards)[0].values():
            assert re.fullmatch(r"[A-Z].*[^.]\.", check.reason)
            assert f"{check.observed:+.4f}" in check.reason
            assert ". " not in check.reason


def test_the_order_of_rows_does_not_matter_to_formulas_and_hardly_to_the_bootstrap() -> None:
    sample = draw(World(rows=3000, grid=30), 13)
    shuffled = np.random.default_rng(0).permutation(3000)
    mixed = replace(
        sample,
        labels=sample.labels[shuffled],
        champion=sample.champion[shuffled],
        challenger=sample.challenger[shuffled],
    )
    here, there = judged(sample)[1], judged(mixed)[1]
    assert here["auc"].difference.interval == pytest.approx(there["auc"].difference.interval, abs=1e-12)
    for name in METRICS[1:]:
        assert here[name].difference.value == pytest.approx(there[name].difference.value, abs=1e-12)
        widths = [np.ptp(d[name].difference.interval or (0, 0)) for d in (here, there)]
        assert widths[0] == pytest.approx(widths[1], rel=0.2)


def test_clustered_delong_is_obuchowskis_formula() -> None:
    sample = draw(World(rows=1500, blocks=50, common=0.5), 14)
    assert sample.blocks is not None
    boot = Bootstrap.plan(1500, 200, 0, sample.blocks)
    found = comparison.auc_difference(sample.labels, sample.champion, sample.challenger, boot, 0.95)
    assert found.error == pytest.approx(obuchowski_error(sample), rel=0.03)


def obuchowski_error(sample: Sample) -> float:
    """Standard error of the AUC difference written out as in Obuchowski 1997, pair by pair."""
    positive, negative = sample.labels == 1, sample.labels == 0
    m, n, blocks = int(positive.sum()), int(negative.sum()), sample.blocks
    assert blocks is not None
    sums = []
    for scores in (sample.champion, sample.challenger):
        pairs = scores[positive][:, None] - scores[negative][None, :]
        wins = (pairs > 0) + 0.5 * (pairs == 0)
        area = wins.mean()
        per_positive = np.bincount(blocks[positive], wins.mean(axis=1) - area, 50)
        per_negative = np.bincount(blocks[negative], wins.mean(axis=0) - area, 50)
        sums.append((per_positive, per_negative))
    p, q = sums[1][0] - sums[0][0], sums[1][1] - sums[0][1]
    i10, i01, i = len(np.unique(blocks[positive])), len(np.unique(blocks[negative])), 50
    variance = i10 / (i10 - 1) / m**2 * (p @ p) + i01 / (i01 - 1) / n**2 * (q @ q)
    return float(np.sqrt(variance + 2 * i / (i - 1) / (m * n) * (p @ q)))
