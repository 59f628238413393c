"""The judge: what it decides, when, and what it doesn't count."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable

import numpy as np
import pytest

from airworthy.model_spec import Rollout
from airworthy.rollout.comparisons import FAST_KILL
from airworthy.rollout.judge import ALPHA_SHARES, Ending, Judge, Settings, conclude
from airworthy.serving.observation import Arm, Observation, Pair, Result
from tests.unit.rollout.simulate import STRICT, World, constant, errors, polled

LENIENT = Settings(max_latency_increase=0.0, max_error_rate=0.2)


def seen(
    index: int, arm: Arm = "canary", result: Result = "ok", share: float = 0.5, **more: object
) -> Observation:
    score = 0.3 if result == "ok" else None
    return Observation(index, float(index), arm, share, result, 0.001, score, **more)  # type: ignore[arg-type]


def pair(index: int, score: float = 0.3, stable_score: float = 0.3, **results: Result) -> Pair:
    canary, stable = results.get("canary", "ok"), results.get("stable", "ok")
    return Pair(index, float(index), canary, stable, score, stable_score, 0.001, 0.001)


def judged(observations: Iterable[Observation], settings: Settings = LENIENT) -> Judge:
    judge = Judge(settings)
    for observation in observations:
        judge.observe(observation)
    return judge


def until_decided(world: World, seed: int) -> Judge:
    judge = Judge(world.settings)
    for observation in world.observations(seed):
        if judge.observe(observation) or judge.warnings:
            break
    return judge


def failed_by(world: World, seed: int = 3) -> str | None:
    judge = until_decided(world, seed)
    return judge.failure.process if judge.failure else None


# --- how soon (exact figures: benchmarks/judge.py) ------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "most", "requests"), [(0.3, 11, 800), (0.05, 115, 3000)])
def test_failures_are_stopped_soon(rate: float, most: int, requests: int) -> None:
    world = World(constant(0.1), errors(0.01, rate), requests=requests)
    found = [until_decided(world, seed).counts["canary"].requests for seed in range(61)]
    assert statistics.median(found) <= most


def test_slower_answers_are_stopped_soon() -> None:
    world = World(constant(0.1), errors(0.0), slower=1.5, requests=3000)
    found = [until_decided(world, seed) for seed in range(31)]
    assert {judge.failure.process for judge in found if judge.failure} == {"latency"}
    assert statistics.median(sum(c.requests for c in judge.counts.values()) - 200 for judge in found) <= 400


def test_other_scores_warn_soon_and_fail_on_demand() -> None:
    world = World(constant(0.1), errors(0.0), shift=0.5, requests=4000)
    found = [until_decided(world, seed) for seed in range(31)]
    assert statistics.median(sum(c.requests for c in judge.counts.values()) - 200 for judge in found) <= 1000
    warned = [judge for judge in found if judge.warnings]
    assert len(warned) >= 28
    assert all(judge.failure is None for judge in warned)
    strict = dataclasses.replace(world, settings=dataclasses.replace(STRICT, on_score_shift="fail"))
    assert failed_by(strict) == "scores"


def test_a_warning_is_given_once() -> None:
    world = World(constant(0.5), errors(0.0), shift=2.0, requests=1500)
    assert len(judged(world.observations(1), STRICT).warnings) == 1


def test_slack_forgives_what_nobody_notices_and_no_more() -> None:
    def times(canary_ms: float) -> list[Observation]:
        return [
            Observation(k, float(k), arm, 0.0 if k < 200 else 0.5, "ok", ms / 1000, 0.3)
            for k in range(1000)
            for arm in [("canary" if k >= 200 and k % 2 else "stable")]
            for ms in [canary_ms if arm == "canary" else 0.3]
        ]

    strict, slack = LENIENT, dataclasses.replace(LENIENT, latency_slack=0.002)
    assert judged(times(1.5), strict).failure, "five times as slow"
    assert judged(times(1.5), slack).failure is None
    slower = judged(times(4.0), slack).failure
    assert slower is not None
    assert "plus 2 ms" in slower.reason


def test_tolerated_latency_and_errors_are_not_held_against_it() -> None:
    slow = World(constant(0.5), errors(0.0), slower=1.5, requests=2500)
    assert failed_by(slow) == "latency"
    assert failed_by(dataclasses.replace(slow, settings=Settings(max_latency_increase=1.0))) is None
    assert (
        failed_by(dataclasses.replace(slow, slower=4.0, settings=Settings(max_latency_increase=1.0)))
        == "latency"
    )

    failing = World(constant(0.5), errors(0.1, 0.2), requests=2500)
    assert failed_by(failing) == "errors"
    tolerant = dataclasses.replace(STRICT, max_error_increase=1.2)
    assert failed_by(dataclasses.replace(failing, settings=tolerant)) is None
    assert failed_by(dataclasses.replace(failing, error=errors(0.1, 0.5), settings=tolerant)) == "errors"


def test_a_canary_that_breaks_late_is_stopped() -> None:
    def late(i: np.ndarray, canary: np.ndarray) -> np.ndarray:
        return np.where(canary & (i > 20_000), 0.2, 0.01)

    judge = until_decided(World(constant(0.2), late, requests=24_000), seed=5)
    assert judge.failure is not None
    assert judge.failure.index < 20_200 + 700


def test_at_full_traffic_a_canary_that_breaks_late_is_above_the_limit() -> None:
    good = [seen(i, share=1.0) for i in range(2000)]
    bad = [seen(2000 + i, result="error" if i % 3 == 0 else "ok", share=1.0) for i in range(150)]
    judge = judged(good + bad, Settings())
    assert judge.failure is not None
    assert judge.failure.process == "limit"


# --- what is no evidence ---------------------------------------------------------------------------------------------


def test_a_stall_that_delays_several_requests_counts_once() -> None:
    warm = [seen(i, "stable", share=0.0) for i in range(200)]
    judge = judged(warm)
    for i in range(8):  # in flight together: each begins before the first has ended
        judge.observe(Observation(200 + i, 200.0 + i / 100, "canary", 0.1, "ok", 5.0, 0.3))
    assert judge.failure is None


def test_a_shared_outage_is_not_the_canarys_fault() -> None:
    judge = judged([seen(i, "stable", share=0.0) for i in range(60)])
    for i in range(300):
        judge.observe(seen(100 + i, "canary" if i % 2 else "stable", "error"))
    assert judge.failure is None


def test_forced_requests_are_no_evidence() -> None:
    judge = judged([seen(i, result="error", forced=True) for i in range(500)])
    assert judge.failure is None
    assert judge.counts["canary"].requests == 0
    assert judge.evidence["errors"] == 1.0


def test_repeats_are_counted_and_certify_but_compare_nothing() -> None:
    judge = judged([seen(i, "stable", share=0.0) for i in range(200)])
    for i in range(400):
        judge.observe(seen(200 + i, result="ok" if i % 3 else "error", repeat=True))
        judge.observe(Observation(1000 + i, 1000.0 + i, "canary", 0.5, "ok", 9.0, 0.99, repeat=True))
    assert judge.counts["canary"].requests == 800
    assert {name: judge.evidence[name] for name in ("errors", "latency", "scores")} == {
        "errors": 1.0,
        "latency": 1.0,
        "scores": 1.0,
    }
    assert judge.evidence["certificate"] != 1.0


def test_refused_requests_are_compared_but_not_held_against_the_limit() -> None:
    judge = judged([seen(i, "canary" if i % 2 else "stable", "rejected") for i in range(400)])
    assert judge.failure is None
    assert judge.evidence["certificate"] == 1.0
    worse = judged([seen(i, "canary", "rejected") for i in range(9)])
    assert worse.failure is not None
    assert worse.failure.process == "errors"


# --- fast kill -------------------------------------------------------------------------------------------------------


def test_ten_failures_in_a_row_end_it_at_full_traffic() -> None:
    judge = judged(
        [seen(i, "stable", share=0.0) for i in range(60)] + [seen(60 + i, share=1.0) for i in range(500)]
    )
    outcome = [judge.observe(seen(600 + i, result="timeout", share=1.0)) for i in range(FAST_KILL)]
    assert outcome[-1] is not None
    assert {o.process for o in outcome if o} <= {"fast kill", "limit"}


def test_ten_failures_in_a_row_end_it_where_the_draw_says_little() -> None:
    judge = judged([seen(i, "stable", share=0.0) for i in range(60)])
    for i in range(FAST_KILL):
        judge.observe(seen(100 + 2 * i, "stable", share=0.9))
        judge.observe(seen(101 + 2 * i, result="timeout", share=0.9))
    assert judge.failure is not None
    assert judge.failure.process == "fast kill"


def test_no_fast_kill_in_an_outage_that_began_a_moment_ago() -> None:
    judge = judged([seen(i, "stable", share=0.0) for i in range(60)])
    for i in range(FAST_KILL + 2):  # nine of ten requests are the canary's: stable's last 50 still look well
        judge.observe(seen(100 + i, result="error", share=0.95))
        if i == 4:
            judge.observe(seen(200, "stable", "error", share=0.95))
    assert judge.failure is None


def test_a_totally_failing_canary_does_little_harm() -> None:
    for share in (0.05, 0.1, 0.25, 0.5, 1.0):
        world = World(constant(share), errors(0.0, 1.0), requests=3000)
        assert until_decided(world, seed=1).counts["canary"].failed <= FAST_KILL


# --- sums of a poll --------------------------------------------------------------------------------------------------


def test_sums_give_the_same_evidence_as_single_requests() -> None:
    at_once = judged(
        [seen(0, "stable", "error", count=3), dataclasses.replace(seen(1, result="error", count=5), at=0.0)]
    )
    at_once.complete()
    one_by_one = judged(
        [seen(i, "stable", "error") for i in range(3)] + [seen(3 + i, result="error") for i in range(5)]
    )
    assert at_once.evidence["errors"] == pytest.approx(one_by_one.evidence["errors"])
    assert at_once.evidence["certificate"] == pytest.approx(one_by_one.evidence["certificate"])
    assert at_once.counts == one_by_one.counts


def test_a_poll_is_decided_as_a_whole() -> None:
    bad = dataclasses.replace(seen(0, result="error", count=20), at=7.0)
    excuse = dataclasses.replace(seen(1, "stable", "error", count=20), at=7.0)
    judge = Judge(LENIENT)
    assert judge.observe(bad) is None
    assert judge.observe(excuse) is None
    assert judge.complete() is None

    judge = Judge(LENIENT)
    judge.observe(bad)
    assert judge.failure is None
    failure = judge.observe(dataclasses.replace(seen(1, count=2), at=8.0))
    assert failure is not None
    assert failure.index == 0


def test_the_end_of_a_rollout_ends_a_poll() -> None:
    judge = judged([seen(0, result="error", count=20)])
    assert conclude(judge, "completed").outcome == "FAIL"


def test_a_bad_canary_is_stopped_from_sums_too() -> None:
    failing = World(constant(0.2), errors(0.01, 0.3), poll=15.0)
    slow = World(constant(0.2), errors(0.0), slower=2.0, poll=15.0)
    assert failed_by(failing) in ("errors", "fast kill")
    assert failed_by(slow) == "latency"


def test_references_do_not_move_within_a_poll() -> None:
    """All became quicker at once. Stable comes first: were it the new reference, the canary would look slow."""
    quick = World(constant(0.5), errors(0.0), requests=1000, poll=1e9)
    judge = judged(World(requests=0).observations(1), STRICT)
    for o in polled([dataclasses.replace(o, seconds=o.seconds / 3) for o in quick.observations(2)], 1e9):
        if o.share:
            judge.observe(o)
    judge.complete()
    assert judge.failure is None


# --- shadow ----------------------------------------------------------------------------------------------------------

SHADOW = Settings(max_error_rate=0.2, shadow=True, max_flip_rate=0.02)


def test_failures_of_the_canary_alone_fail_it_in_the_shadow() -> None:
    judge = Judge(SHADOW)
    for i in range(30):
        judge.compare(pair(i, canary="error" if i % 2 else "ok"))
    assert judge.failure is not None
    assert judge.failure.process == "shadow errors"
    assert judge.shadow.canary_only_failures == 15


@pytest.mark.parametrize("tolerance", [0.0, 0.5])
def test_failures_of_both_are_nobodys_fault(tolerance: float) -> None:
    judge = Judge(dataclasses.replace(SHADOW, max_error_increase=tolerance))
    for i in range(300):
        judge.compare(pair(i, canary="error", stable="error"))
        judge.compare(pair(i, canary="error" if i % 2 else "ok", stable="ok" if i % 2 else "error"))
    assert judge.failure is None


def test_decisions_that_differ_too_often_fail_it() -> None:
    judge = Judge(SHADOW)
    for i in range(600):
        judge.compare(pair(i, score=0.6 if i % 10 == 0 else 0.31))
    assert judge.failure is not None
    assert judge.failure.process == "flips"
    assert "decisions differ" in judge.failure.reason
    only_reported = Judge(dataclasses.replace(SHADOW, max_flip_rate=None))
    for i in range(600):
        only_reported.compare(pair(i, score=0.6 if i % 10 == 0 else 0.31))
    assert only_reported.failure is None
    assert only_reported.shadow.flip_rate == pytest.approx(0.1)


def test_where_no_flip_is_allowed_the_first_one_decides() -> None:
    judge = Judge(dataclasses.replace(SHADOW, max_flip_rate=0.0))
    for i in range(50):
        judge.compare(pair(i))
    assert judge.failure is None
    assert judge.compare(pair(50, score=0.7)) is not None


def test_the_decision_threshold_is_the_models() -> None:
    judge = Judge(dataclasses.replace(SHADOW, decision_threshold=0.305))
    judge.compare(pair(0, score=0.31, stable_score=0.3))
    assert judge.shadow.flips == 1


def test_shadow_differences_are_summed_up_to_a_bin() -> None:
    judge = Judge(SHADOW)
    differences = np.random.default_rng(1).exponential(0.01, 2000)
    for i, difference in enumerate(differences.tolist()):
        judge.compare(pair(i, score=0.1 + difference, stable_score=0.1))
    shadow = judge.shadow
    assert shadow.pairs == 2000
    assert shadow.difference_max == pytest.approx(differences.max())
    for found, q in ((shadow.difference_p50, 0.5), (shadow.difference_p95, 0.95)):
        assert np.quantile(differences, q) * 0.99 <= found <= np.quantile(differences, q) * 1.13
    assert Judge(SHADOW).shadow.difference_p95 == 0.0


def test_shadow_answers_count_for_the_certificate() -> None:
    judge = Judge(SHADOW)
    for i in range(40):
        judge.compare(pair(i))
    assert judge.certified
    for i in range(40):
        judge.compare(pair(i, canary="error", stable="error"))
    assert not judge.certified


# --- the end ---------------------------------------------------------------------------------------------------------


def test_pass_needs_a_certificate() -> None:
    few, enough = judged([seen(i) for i in range(13)]), judged([seen(i) for i in range(40)])
    assert conclude(few, "completed").outcome == "INCONCLUSIVE"
    assert conclude(enough, "completed").outcome == "PASS"
    strict = Settings(max_error_rate=0.05)
    assert conclude(judged([seen(i) for i in range(58)], strict), "exhausted").outcome == "INCONCLUSIVE"
    assert conclude(judged([seen(i) for i in range(90)], strict), "completed").outcome == "PASS"


def test_pass_needs_the_planned_number_of_requests() -> None:
    settings = dataclasses.replace(LENIENT, min_requests=100)
    few = judged([seen(i) for i in range(99)], settings)
    assert not few.certified
    judgement = conclude(few, "completed")
    assert (judgement.outcome, judgement.process) == ("INCONCLUSIVE", "minimum")
    assert "99 canary requests are fewer than the 100 required" in judgement.reason
    assert conclude(judged([seen(i) for i in range(100)], settings), "completed").outcome == "PASS"


def test_a_long_outage_of_both_arms_does_not_rule_a_pass_out_for_ever() -> None:
    both = [seen(i, "canary" if i % 2 else "stable", "error") for i in range(600)]
    after = [seen(600 + i, "canary" if i % 2 else "stable") for i in range(1200)]
    judge = judged(both + after, Settings(max_latency_increase=0.0))
    assert judge.failure is None
    assert judge.certified


def test_a_pass_claims_no_more_than_was_shown() -> None:
    alone = judged([seen(i) for i in range(60)])
    assert "worse" not in conclude(alone, "completed").reason
    compared = judged([seen(i, "canary" if i % 2 else "stable") for i in range(120)])
    assert conclude(compared, "completed").reason == (
        "0 of 60 canary requests failed, certified below 0.2; not shown to be worse than the stable model"
    )


@pytest.mark.parametrize(
    ("ending", "outcome", "process"),
    [
        ("deadline", "INCONCLUSIVE", "deadline"),
        ("unusable", "FAIL", "readiness"),
        ("observed", "INCONCLUSIVE", "plan"),
        ("interrupted", "INCONCLUSIVE", "controller"),
    ],
)
def test_no_other_end_is_a_pass(ending: Ending, outcome: str, process: str) -> None:
    certain = judged([seen(i) for i in range(500)])
    judgement = conclude(certain, ending)
    assert (judgement.outcome, judgement.process) == (outcome, process)


def test_the_first_failure_stands() -> None:
    judge = judged([seen(i, result="error") for i in range(30)])
    first = judge.failure
    for i in range(1000):
        judge.observe(seen(30 + i))
    assert judge.failure is first
    assert conclude(judge, "completed").outcome == "FAIL"


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_come_from_the_plan() -> None:
    plan = Rollout(
        service="late", alpha=0.1, max_error_rate=0.02, max_latency_increase=0.5, max_error_increase=0.1,
        on_score_shift="fail", shadow_requests=100, max_flip_rate=0.01, min_canary_requests=500,
        latency_slack_ms=5,
    )  # fmt: skip
    assert Settings.of(plan, 0.3) == Settings(
        alpha=0.1, max_error_rate=0.02, max_latency_increase=0.5, min_requests=500, on_score_shift="fail",
        max_flip_rate=0.01, decision_threshold=0.3, max_error_increase=0.1, shadow=True,
        latency_slack=0.005,
    )  # fmt: skip


def test_alpha_is_spent_on_what_can_fail_the_canary() -> None:
    for settings in (Settings(), SHADOW, dataclasses.replace(SHADOW, on_score_shift="fail")):
        assert sum(settings.shares.values()) == pytest.approx(1.0)
    assert set(Settings().shares) == {"errors", "latency", "limit"}
    assert Settings().threshold("errors") == pytest.approx(25)
    assert Settings().threshold("scores") == pytest.approx(20)  # only warns: a level of its own
    assert set(dataclasses.replace(SHADOW, on_score_shift="fail").shares) == set(ALPHA_SHARES)
