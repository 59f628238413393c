"""Whatever goes wrong during a rollout, afterwards the old model serves everyone and no process is left."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import random
import shutil
import time
from pathlib import Path

import psutil
import pytest

from airworthy.errors import AirworthyError, BundleError, RolloutError
from airworthy.rollout import settle
from airworthy.rollout.record import replay
from airworthy.serving.chaos import Fault
from airworthy.verdict import read_verdict, write_verdict
from tests.processes import started_here
from tests.release_evidence import make_bundle
from tests.unit.rollout.conftest import World, models, world  # noqa: F401 (fixtures)

LONG = "{service: late, steps: [10, 50], requests_per_step: 600, bake_requests: 600, max_latency_increase: 9}"
KILLS = 10
Controller = multiprocessing.context.ForkProcess


def controller(world: World, record: Path) -> Controller:  # noqa: F811
    """A rollout in a process of its own (forked, so that it starts at once)."""

    def body() -> None:
        try:
            ending = world.release(record, LONG).decision
        except AirworthyError as error:
            ending = f"{type(error).__name__}: {error}"
        record.with_suffix(".end").write_text(ending)

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    return process


def ending(process: Controller, record: Path) -> str:
    process.join(60)
    return record.with_suffix(".end").read_text()


def kill(process: Controller) -> None:
    process.kill()
    process.join()


def wait_for(world: World, states: set[str], process: Controller, seconds: float = 60) -> bool:  # noqa: F811
    """Wait until the rollout is in one of these states; false if its process ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rollout = world.state.rollout
        if rollout and rollout.owner_pid == process.pid and rollout.state in states:
            return True
        if not process.is_alive():
            return False
        time.sleep(0.01)
    raise AssertionError(f"the rollout did not reach {states}")


def assert_old_serves_alone(world: World) -> None:  # noqa: F811
    state = world.state
    assert state.stable is not None
    assert (state.stable.digest, state.canary, state.traffic_percent) == (world.old.digest, None, 0)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


@pytest.mark.parametrize("fault", ["errors", "slow", "nan", "garbage", "crash"])
def test_a_bad_canary_is_rolled_back_within_few_requests(world: World, tmp_path: Path, fault: str) -> None:  # noqa: F811
    # the 40 probes before any traffic are let through, so that users' requests meet the fault
    injected = Fault(fault, share=0.5 if fault != "crash" else 1.0, seconds=0.2, after=45)  # type: ignore[arg-type]
    outcome = world.release(tmp_path / "record", fault=injected)
    assert outcome.decision == "FAIL"
    assert outcome.judgement.process in ({"latency"} if fault == "slow" else {"errors", "fast kill"})
    assert outcome.metrics["harm"] <= 15
    assert outcome.metrics["stable_failed"] == 0
    assert_old_serves_alone(world)
    record = replay(tmp_path / "record")
    assert record.agrees
    assert record.start["fault"]["kind"] == fault
    assert_gone(started_here())


def test_a_canary_that_answers_nothing_gets_no_traffic(world: World, tmp_path: Path) -> None:  # noqa: F811
    outcome = world.release(tmp_path / "record", fault=Fault("errors", share=1.0))
    assert (outcome.decision, outcome.judgement.process) == ("FAIL", "readiness")
    assert "answered none of 40 probes" in outcome.reason
    assert outcome.metrics["canary_requests"] == 0
    assert_old_serves_alone(world)


def test_a_canary_that_never_gets_ready_gets_no_traffic(world: World, tmp_path: Path) -> None:  # noqa: F811
    digest = make_bundle(tmp_path / "bundle", booster=b"junk")  # digests are right, the model is not one
    judged = read_verdict(world.new.verdict).model_copy(update={"bundle_digest": digest})
    write_verdict(judged, tmp_path / "verdict.json")
    outcome = world.release(
        tmp_path / "record",
        bundle=tmp_path / "bundle",
        verdict=tmp_path / "verdict.json",
        server_module="airworthy.serving.server",
    )
    assert (outcome.decision, outcome.judgement.process) == ("FAIL", "readiness")
    assert "ended before it was ready" in outcome.reason
    assert outcome.metrics["canary_requests"] == 0
    assert_old_serves_alone(world)


def test_a_damaged_copy_in_the_service_is_not_served(world: World, tmp_path: Path) -> None:  # noqa: F811
    kept = world.home / "serving/late/models" / world.new.digest[:16]
    shutil.copytree(world.new.bundle, kept)
    (kept / "model.ubj").write_bytes(b"junk")
    with pytest.raises(BundleError, match="changed since it was written"):
        world.release(tmp_path / "record")
    assert_old_serves_alone(world)


def test_kill_9_at_any_moment_leaves_the_old_model_serving(world: World, tmp_path: Path) -> None:  # noqa: F811
    dice = random.Random(20130801)
    met = set()
    for round_ in range(KILLS):
        aim = ["starting", "verifying", "shifting", "baking"][round_ % 4]
        process = controller(world, tmp_path / f"record{round_}")
        try:
            assert wait_for(world, {aim}, process)
            time.sleep(dice.uniform(0, 0.4))
            children = psutil.Process(process.pid).children(recursive=True)
        finally:
            kill(process)
        rollout = world.state.rollout
        assert rollout is not None
        met.add(rollout.state)
        assert_gone(children)
        result = settle("late", champion_digest=world.old.digest, home=world.home)
        assert result.action == "rolled back"
        assert_old_serves_alone(world)
        assert settle("late", champion_digest=world.old.digest, home=world.home).action == "nothing"
    assert {"shifting", "baking"} <= met


def test_a_killed_rollout_is_taken_over_by_the_next(world: World, tmp_path: Path) -> None:  # noqa: F811
    process = controller(world, tmp_path / "killed")
    assert wait_for(world, {"shifting"}, process)
    kill(process)
    plan = "{service: late, steps: [50], requests_per_step: 40, bake_requests: 60}"
    assert world.release(tmp_path / "record", plan).decision == "PASS"
    assert replay(tmp_path / "killed").judgement is None


def test_two_rollouts_at_once_the_second_is_refused(world: World, tmp_path: Path) -> None:  # noqa: F811
    process = controller(world, tmp_path / "first")
    try:
        assert wait_for(world, {"verifying", "shifting"}, process)
        with pytest.raises(RolloutError, match="wait until it has ended"):
            world.release(tmp_path / "second")
        left = settle("late", champion_digest=world.old.digest, home=world.home)
        assert left.action == "left to its owner"
        assert ending(process, tmp_path / "first") == "PASS"
    finally:
        kill(process)


def test_sigterm_rolls_back_and_stops_the_servers(world: World, tmp_path: Path) -> None:  # noqa: F811
    process = controller(world, tmp_path / "record")
    assert wait_for(world, {"shifting"}, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.terminate()
    assert "the stable model serves everyone" in ending(process, tmp_path / "record")
    assert_gone(children)
    assert_old_serves_alone(world)


def test_a_dead_stable_server_ends_the_rollout(world: World, tmp_path: Path) -> None:  # noqa: F811
    process = controller(world, tmp_path / "record")
    assert wait_for(world, {"shifting"}, process)
    digest = world.old.digest
    for child in psutil.Process(process.pid).children():
        if digest in child.cmdline():
            child.kill()
    assert ending(process, tmp_path / "record").startswith("ServingError")
    assert_old_serves_alone(world)


def test_versions_that_read_different_features_can_be_compared(world: World, tmp_path: Path) -> None:  # noqa: F811
    digest = make_bundle(tmp_path / "bundle", drop=("distance",))
    judged = read_verdict(world.new.verdict).model_copy(update={"bundle_digest": digest})
    write_verdict(judged, tmp_path / "verdict.json")
    outcome = world.release(
        tmp_path / "record",
        "{service: late, steps: [50], requests_per_step: 100, bake_requests: 50, max_latency_increase: 9}",
        bundle=tmp_path / "bundle",
        verdict=tmp_path / "verdict.json",
        server_module="airworthy.serving.server",
    )
    assert outcome.decision == "PASS"
    assert outcome.metrics["stable_rejected"] == outcome.metrics["canary_rejected"] == 0
