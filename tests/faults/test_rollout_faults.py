"""Whatever goes wrong during a rollout, afterwards the old model serves everyone and no process is left."""

from __future__ import annotations

import functools
import json
import multiprocessing
import multiprocessing.context
import shutil
import time
from pathlib import Path

import psutil
import pytest

from airworthy.errors import AirworthyError, BundleError, RolloutError
from airworthy.rollout import settle
from airworthy.rollout.deployers import local
from airworthy.rollout.replay import replay
from airworthy.rollout.report import render
from airworthy.serving.chaos import Fault, Kind
from airworthy.serving.splitter import Splitter
from airworthy.verdict import read_verdict, write_verdict
from tests.processes import started_here
from tests.release_evidence import make_bundle
from tests.unit.rollout.conftest import World, models, world  # noqa: F401 (fixtures)

LONG = "{service: late, steps: [10, 50], requests_per_step: 600, bake_requests: 600, max_latency_increase: 9}"
SHORT = "{service: late, steps: [50], requests_per_step: 40, bake_requests: 60, max_latency_increase: 9}"
SHIELDED = ("crash", "break", "hang")
"""Nobody has seen anything of such an answer yet: stable gives one."""
Controller = multiprocessing.context.ForkProcess


def controller(world: World, record: Path, plan: str = LONG) -> Controller:  # noqa: F811
    """A rollout in a process of its own (forked, so that it starts at once)."""

    def body() -> None:
        try:
            ending: str = world.release(record, plan, server_module="tests.bare_server").decision
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


def kill_server(process: Controller, digest: str) -> None:
    """Kill the server of one bundle."""
    for child in psutil.Process(process.pid).children():
        if digest in child.cmdline():
            child.kill()


def wait_for(world: World, states: set[str], process: Controller, percent: int | None = None) -> bool:  # noqa: F811
    """Wait until the rollout is in one of these states; false if its process ended before."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        state = world.state
        rollout = state.rollout
        wanted = rollout and rollout.state in states and percent in (None, state.traffic_percent)
        if wanted and rollout and rollout.owner_pid == process.pid:
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


@pytest.mark.parametrize("fault", ["errors", "slow", "nan", "garbage", "crash", "hang", "huge", "break"])
def test_a_bad_canary_is_rolled_back_within_few_requests(
    world: World,  # noqa: F811
    tmp_path: Path,
    fault: Kind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient = functools.partial(Splitter, timeout=0.5)  # or `hang` takes a minute
    monkeypatch.setattr(local, "Splitter", impatient)
    # the 40 probes before any traffic are let through, so that users' requests meet the fault
    injected = Fault(fault, share=0.5 if fault not in SHIELDED else 1.0, seconds=0.2, after=45)
    outcome = world.release(tmp_path / "record", fault=injected, server_module="tests.bare_server")
    assert outcome.decision == "FAIL"
    assert outcome.judgement.process in ({"latency"} if fault == "slow" else {"errors", "fast kill"})
    assert outcome.metrics["harm"] <= (0 if fault in SHIELDED else 15)
    assert outcome.metrics["stable_failed"] == 0
    assert_old_serves_alone(world)
    record = replay(tmp_path / "record")
    assert record.agrees
    assert record.start["fault"]["kind"] == fault
    assert "was rolled back" in render(tmp_path / "record")
    assert_gone(started_here())


def test_a_canary_that_dies_at_half_of_the_traffic_harms_nobody(world: World, tmp_path: Path) -> None:  # noqa: F811
    process = controller(world, tmp_path / "record")
    assert wait_for(world, {"shifting"}, process, percent=50)
    kill_server(process, world.new.digest)
    assert ending(process, tmp_path / "record") == "FAIL"
    assert_old_serves_alone(world)
    summary = json.loads((tmp_path / "record" / "rollout.json").read_text())
    assert summary["harm"] == 0
    assert summary["shielded"] > 0


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


def test_a_killed_rollout_is_taken_over_by_the_next(world: World, tmp_path: Path) -> None:  # noqa: F811
    process = controller(world, tmp_path / "killed")
    assert wait_for(world, {"shifting"}, process)
    kill(process)
    assert world.release(tmp_path / "record", SHORT).decision == "PASS"
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


def test_two_that_begin_at_once_one_is_refused(world: World, tmp_path: Path) -> None:  # noqa: F811
    for round_ in range(3):
        records = [tmp_path / f"{round_}{name}" for name in ("a", "b")]
        processes = [controller(world, record, SHORT) for record in records]
        endings = sorted(ending(*pair) for pair in zip(processes, records, strict=True))
        assert endings[0] == "PASS"
        assert "wait until it has ended" in endings[1]
        assert settle("late", champion_digest=world.old.digest, home=world.home).action == "rolled back"


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
    kill_server(process, world.old.digest)
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
