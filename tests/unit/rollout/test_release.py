"""Rolling out from verdict to record, promotion, settling and replay, with quick servers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from airworthy.errors import ConfigError, GateError, RolloutError
from airworthy.operations import main
from airworthy.rollout import deploy, finish, roll_out, settle
from airworthy.rollout.replay import replay
from airworthy.serving.state import Service, ServiceStore, describe_service
from tests.release_evidence import make_evidence
from tests.unit.rollout.conftest import World, planned


def serving(state: Service | None) -> str | None:
    """Version of the stable model."""
    return state.stable.version if state and state.stable else None


def test_a_good_canary_is_proven_promoted_and_its_record_replays(world: World, tmp_path: Path) -> None:
    record = tmp_path / "record"
    outcome = world.release(record, report_out=tmp_path / "report.html")
    assert outcome.decision == "PASS"
    assert outcome.metrics["canary_requests"] >= 60
    assert outcome.metrics["harm"] == 0

    state = world.state
    assert serving(state) == "1", "the registry decides about the stable model"
    assert state.rollout is not None
    assert (state.rollout.state, state.traffic_percent) == ("proven", 100)

    summary = json.loads((record / "rollout.json").read_text())
    assert summary["decision"] == "PASS"
    assert (summary["bundle_digest"], summary["stable_digest"]) == (world.new.digest, world.old.digest)
    again = replay(record)
    assert again.agrees
    lines = [json.loads(line) for line in (record / "record.jsonl").read_text().splitlines()]
    assert [line["after"] for line in lines if line["kind"] == "state"] == [
        *("verifying", "shifting", "shifting", "baking", "proven")
    ]
    assert main(["replay", str(record)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "not shown to be worse than the stable model" in page
    assert len(page) < 1_000_000

    for _ in range(2):  # promotion may be repeated
        assert "version 2 serves everyone" in finish(
            "late", bundle=world.new.bundle, version="2", home=world.home
        )
    assert serving(world.state) == "2"
    assert world.state.canary is None
    assert settle("late", champion_digest=None, home=world.home).action == "nothing"
    kept = [p.name for p in (world.home / "serving/late/models").iterdir()]
    assert world.new.digest[:16] in kept
    assert describe_service("late", world.home) == "service late: version 2 serves"


def test_a_first_release_is_certified_alone(world: World, tmp_path: Path) -> None:
    home = tmp_path / "fresh"
    outcome = world.release(tmp_path / "record", stable=None, home=home)
    assert outcome.decision == "PASS"
    assert "nothing to compare with" in outcome.reason
    finish("late", bundle=world.new.bundle, version="2", home=home)
    state = ServiceStore(home, "late").read()
    assert serving(state) == "2"


def test_the_rollout_is_locked_by_the_gate(world: World, tmp_path: Path) -> None:
    refused = make_evidence(tmp_path / "refused", rounds=6, outcome="fail")
    with pytest.raises(GateError, match="did not pass"):
        world.release(tmp_path / "record", bundle=refused.bundle, verdict=refused.verdict)
    with pytest.raises(GateError, match="evaluate this bundle"):
        world.release(tmp_path / "record", bundle=world.old.bundle)
    assert world.state.rollout is None


def test_too_little_evidence_is_inconclusive_and_rolls_back(world: World, tmp_path: Path) -> None:
    plan = "{service: late, steps: [50], requests_per_step: 10, bake_requests: 0, max_error_rate: 0.001}"
    outcome = world.release(tmp_path / "record", plan)
    assert outcome.decision == "INCONCLUSIVE"
    assert "don't certify" in outcome.reason
    assert world.state.canary is None
    assert replay(tmp_path / "record").agrees


def test_the_deadline_ends_a_rollout_that_holds(world: World, tmp_path: Path) -> None:
    plan = (
        "{service: late, steps: [50], requests_per_step: 10, bake_requests: 0, max_error_rate: 0.0001, "
        "on_inconclusive: hold, deadline_seconds: 6}"
    )
    outcome = world.release(tmp_path / "record", plan)
    assert (outcome.decision, outcome.judgement.process) == ("INCONCLUSIVE", "deadline")
    assert world.state.canary is None


def test_only_a_proven_bundle_can_be_finished(world: World) -> None:
    with pytest.raises(RolloutError, match="is not proven by a rollout here"):
        finish("late", bundle=world.new.bundle, version="2", home=world.home)
    finish("late", bundle=world.old.bundle, version="1", home=world.home)


def test_settling_follows_the_registry(world: World, tmp_path: Path) -> None:
    plan = "{service: late, steps: [50], requests_per_step: 40, bake_requests: 60}"
    copies = tmp_path / "copy"
    world.release(tmp_path / "record", plan)
    shutil.copytree(world.home, copies)
    back = settle("late", champion_digest=world.old.digest, home=world.home)
    assert back.action == "rolled back"
    assert serving(world.state) == "1"
    assert world.state.canary is None
    with pytest.raises(RolloutError, match="is not proven"):
        finish("late", bundle=world.new.bundle, version="2", home=world.home)
    forward = settle("late", champion_digest=world.new.digest, home=copies)
    assert forward.action == "rolled forward"
    state = ServiceStore(copies, "late").read()
    assert serving(state) == "2"
    other = settle("late", champion_digest=None, home=world.home / "empty")
    assert other.action == "nothing"


def test_a_proven_canary_waits_for_its_promotion(world: World, tmp_path: Path) -> None:
    plan = "{service: late, steps: [50], requests_per_step: 40, bake_requests: 60}"
    world.release(tmp_path / "record", plan, run="mine", registered_champion=lambda: world.old.digest)
    rival = make_evidence(tmp_path / "rival", rounds=7)
    with pytest.raises(RolloutError, match="waits for its promotion"):
        world.release(tmp_path / "record2", plan, bundle=rival.bundle, verdict=rival.verdict, version="3")
    with pytest.raises(RolloutError, match="waits for its promotion"):
        world.release(
            tmp_path / "record3", plan, run="another"
        )  # of the same bundle: trained on the same data
    left = settle("late", champion_digest=None, home=world.home, run="another")
    assert left.action == "left to its owner"
    assert world.state.canary is not None
    assert settle("late", champion_digest=None, home=world.home, run="mine").action == "rolled back"


def test_a_champion_that_changed_meanwhile_stops_a_rollout_before_it_begins(
    world: World, tmp_path: Path
) -> None:
    before = world.state
    with pytest.raises(GateError, match="the verdict is stale"):
        world.release(tmp_path / "record", registered_champion=lambda: "another")
    assert world.state == before


def test_the_alias_moves_only_while_the_canary_is_proven(world: World, tmp_path: Path) -> None:
    moved: list[str] = []

    def refuse() -> None:
        raise GateError("another release was faster")

    arguments = {"bundle": world.new.bundle, "version": "2", "home": world.home}
    with pytest.raises(RolloutError, match="is not proven"):
        finish("late", **arguments, promote=lambda: moved.append("too early"))
    world.release(
        tmp_path / "record", "{service: late, steps: [50], requests_per_step: 40, bake_requests: 60}"
    )
    with pytest.raises(GateError, match="was faster"):
        finish("late", **arguments, promote=refuse)
    assert world.state.rollout is not None
    assert world.state.rollout.state == "proven"
    finish("late", **arguments, promote=lambda: moved.append("now"))
    assert serving(world.state) == "2"
    finish("late", **arguments, promote=lambda: moved.append("again"))
    assert moved == ["now", "again"]


def test_a_service_that_the_registry_knows_nothing_of_is_left_alone(world: World, tmp_path: Path) -> None:
    before = world.state
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        world.release(tmp_path / "record", stable=None, registered_champion=lambda: None)
    assert world.state == before


def test_an_unknown_deployer_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRWORTHY_DEPLOYER", "helm")
    with pytest.raises(ConfigError, match="AIRWORTHY_DEPLOYER is 'helm'"):
        world.release(tmp_path / "record")


def test_a_service_belongs_to_one_model(world: World, tmp_path: Path) -> None:
    other = planned().model_copy(update={"name": "early"})
    with pytest.raises(RolloutError, match="of its own"):
        roll_out(
            other,
            bundle=world.new.bundle,
            version="2",
            verdict=world.new.verdict,
            stable=None,
            traffic=world.traffic,
            home=world.home,
            record_out=tmp_path / "record",
        )


def test_a_damaged_state_file_is_named(world: World) -> None:
    file = world.home / "serving/late/service.json"
    file.write_text('{"format": 9}')
    with pytest.raises(RolloutError, match=r"service\.json can't be understood"):
        settle("late", champion_digest=None, home=world.home)


def test_an_earlier_model_can_be_deployed_again(world: World) -> None:
    deploy("late", model="late", bundle=world.new.bundle, version="2", home=world.home)
    assert serving(world.state) == "2"
