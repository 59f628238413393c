"""What a rollout plan can ask for besides steps: a shadow phase, blue-green, an experiment, least times, stickiness."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from airworthy.errors import ConfigError, RolloutError
from airworthy.rollout import settle
from airworthy.rollout.replay import replay
from airworthy.serving.chaos import Fault
from airworthy.serving.observation import Observation
from airworthy.serving.state import LEASE_SECONDS, ServiceStore, new_rollout
from tests.unit.rollout.conftest import World, planned

TOLERANT = "requests_per_step: 60, bake_requests: 70, max_latency_increase: 9"


def summary(record: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((record / "rollout.json").read_text())
    return found


def transitions(record: Path) -> list[str]:
    lines = (json.loads(line) for line in (record / "record.jsonl").read_text().splitlines())
    return [line["after"] for line in lines if line["kind"] == "state"]


def observations(record: Path) -> list[Observation]:
    found: list[Observation] = []
    replay(record, lambda line, seen, told: found.append(seen) if isinstance(seen, Observation) else None)
    return found


def test_a_shadow_phase_compares_both_models_before_any_traffic_moves(world: World, tmp_path: Path) -> None:
    plan = f"{{service: late, steps: [50], shadow_requests: 80, {TOLERANT}}}"
    outcome = world.release(tmp_path / "record", plan)
    assert outcome.decision == "PASS"
    assert transitions(tmp_path / "record") == ["verifying", "shadowing", "shifting", "baking", "proven"]
    found = replay(tmp_path / "record")
    assert found.agrees
    assert found.told.judge.shadow.pairs >= 80
    assert found.told.judge.shadow.canary_only_failures == 0


def test_a_canary_that_fails_in_the_shadow_hurts_nobody(world: World, tmp_path: Path) -> None:
    plan = f"{{service: late, steps: [50], shadow_requests: 300, {TOLERANT}}}"
    outcome = world.release(tmp_path / "record", plan, fault=Fault("errors", share=0.5, after=45))
    assert (outcome.decision, outcome.judgement.process) == ("FAIL", "shadow errors")
    assert outcome.metrics["harm"] == 0
    assert outcome.metrics["canary_requests"] == 0
    assert world.state.canary is None


def test_a_shadow_plan_moves_no_traffic(world: World, tmp_path: Path) -> None:
    outcome = world.release(tmp_path / "record", "{service: late, kind: shadow, shadow_requests: 60}")
    assert (outcome.decision, outcome.judgement.process) == ("INCONCLUSIVE", "plan")
    assert transitions(tmp_path / "record") == ["verifying", "shadowing", "rolled back"]
    assert outcome.metrics["canary_requests"] == 0
    assert world.state.canary is None


def test_blue_green_is_a_plan_without_small_steps(world: World, tmp_path: Path) -> None:
    plan = "{service: late, steps: [0, 100], bake_requests: 80, max_latency_increase: 9}"
    outcome = world.release(tmp_path / "record", plan)
    assert outcome.decision == "PASS"
    shares = {one.share for one in observations(tmp_path / "record") if not one.forced}
    assert shares == {0.0, 1.0}


def test_an_experiment_reports_an_effect_and_promotes_nothing(world: World, tmp_path: Path) -> None:
    plan = "{service: late, kind: ab, experiment: {outcome: cost, requests: 400}, max_latency_increase: 9}"
    outcome = world.release(tmp_path / "record", plan)
    assert (outcome.decision, outcome.judgement.process) == ("INCONCLUSIVE", "plan")
    effect = summary(tmp_path / "record")["effect"]
    assert -1 <= effect["low"] <= effect["estimate"] <= effect["high"] <= 1
    assert effect["n"] >= 400
    assert world.state.canary is None


def test_an_experiment_needs_an_outcome_that_is_known(world: World, tmp_path: Path) -> None:
    plan = "{service: late, kind: ab, experiment: {outcome: bought, requests: 400}}"
    with pytest.raises(ConfigError, match="can only be 'cost'"):
        world.release(tmp_path / "record", plan)
    assert world.state.rollout is None, "nothing was begun"


def test_steps_and_bake_last_their_least_times(world: World, tmp_path: Path) -> None:
    plan = f"{{service: late, steps: [50], step_seconds: 0.8, bake_seconds: 0.6, {TOLERANT}}}"
    assert world.release(tmp_path / "record", plan).decision == "PASS"
    lines = [json.loads(line) for line in (tmp_path / "record" / "record.jsonl").read_text().splitlines()]
    moments = {line["after"]: line["at"] for line in lines if line["kind"] == "state"}
    assert moments["baking"] - moments["shifting"] >= 0.8
    assert moments["proven"] - moments["baking"] >= 0.6


def test_what_arrives_while_weights_settle_compares_nothing(world: World, tmp_path: Path) -> None:
    plan = f"{{service: late, steps: [50], settle_seconds: 0.3, {TOLERANT}}}"
    assert world.release(tmp_path / "record", plan).decision == "PASS"
    seen = observations(tmp_path / "record")
    unsettled = [one for one in seen if one.repeat]
    assert {one.share for one in unsettled} == {0.5, 1.0}
    assert [one for one in seen if one.share == 0.5 and not one.repeat], "once settled, requests are evidence"


def test_a_first_release_can_be_no_experiment(world: World, tmp_path: Path) -> None:
    plan = "{service: other, kind: ab, experiment: {outcome: cost}}"
    with pytest.raises(RolloutError, match="needs a stable model"):
        world.release(tmp_path / "record", plan, stable=None)


def _elsewhere(world: World, lease: float) -> None:
    """Make the present rollout one that a controller on another machine runs."""

    def change(current: Any) -> Any:
        other = new_rollout(600, "run-1").model_copy(
            update={"state": "shifting", "owner_host": "another-pod", "lease_until": lease}
        )
        return current.model_copy(update={"canary": current.stable, "traffic_percent": 50, "rollout": other})

    ServiceStore(world.home, "late").update(change)


def test_a_lease_protects_a_controller_elsewhere_until_it_runs_out(world: World) -> None:
    _elsewhere(world, time.time() + LEASE_SECONDS)
    assert settle("late", champion_digest=None, home=world.home).action == "left to its owner"
    assert settle("late", champion_digest=None, home=world.home, run="run-2").action == "left to its owner"
    _elsewhere(world, time.time() - 1)
    assert settle("late", champion_digest=None, home=world.home, run="run-2").action == "rolled back"


def test_the_run_that_began_a_rollout_need_not_wait_for_its_lease(world: World, tmp_path: Path) -> None:
    _elsewhere(world, time.time() + LEASE_SECONDS)
    assert settle("late", champion_digest=None, home=world.home, run="run-1").action == "rolled back"
    _elsewhere(world, time.time() + LEASE_SECONDS)
    with pytest.raises(RolloutError, match="on another-pod"):
        world.release(tmp_path / "record", run="run-2")
    plan = f"{{service: late, steps: [50], {TOLERANT}}}"
    assert world.release(tmp_path / "record", plan, run="run-1").decision == "PASS"


def test_a_controller_renews_its_lease_and_stops_when_it_was_settled(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr("airworthy.rollout.controller.LEASE_SECONDS", 0.3)
    store = ServiceStore(world.home, "late")
    settled: list[float] = []

    def take_away() -> str | None:
        """Runs under the lock when the rollout begins: a process that settles it two leases later."""
        code = (
            "import sys, time\n"
            "from pathlib import Path\n"
            "from airworthy.serving.state import ServiceStore, rolled_back\n"
            "store = ServiceStore(Path(sys.argv[1]), 'late')\n"
            "while not (state := store.read()).rollout or state.rollout.state != 'shifting': time.sleep(0.01)\n"
            "first = state.rollout.lease_until\n"
            "while store.read().rollout.lease_until == first: time.sleep(0.01)\n"
            "store.update(lambda current: rolled_back(current, 'settled by another'))\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code, str(world.home)], env={**os.environ})
        request.addfinalizer(process.kill)
        settled.append(time.time())
        return world.old.digest

    plan = f"{{service: late, steps: [50], step_seconds: 60, {TOLERANT}}}"
    with pytest.raises(RolloutError, match="settled by another"):
        world.release(tmp_path / "record", plan, registered_champion=take_away)
    assert time.time() - settled[0] < 30
    state = store.read()
    assert state is not None
    assert state.canary is None
    assert state.rollout is not None
    assert state.rollout.owner_host == socket.gethostname()


def test_a_sticky_plan_reaches_the_splitter(world: World, tmp_path: Path) -> None:
    plan = f"{{service: late, steps: [50], sticky_header: X-User, {TOLERANT}}}"
    assert planned(plan).rollout.sticky_header == "X-User"
    assert world.release(tmp_path / "record", plan).decision == "PASS"
