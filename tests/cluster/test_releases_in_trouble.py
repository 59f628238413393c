"""Releases on a cluster that begin where something else was left, or while somebody else is at it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from airworthy.errors import ConfigError, RolloutError
from airworthy.rollout import RolloutOutcome, begin, deploy, finish, roll_out, settle
from airworthy.rollout.deployers.kserve import KServeStore, Timing
from airworthy.rollout.deployers.records import Adoption, Records
from airworthy.rollout.release import _cluster_plane
from airworthy.serving.observation import Arm, Observation
from airworthy.serving.state import Service, new_rollout, rolled_back
from tests.cluster.double import Cluster
from tests.cluster.store import CONFIG_MAP
from tests.cluster.worlds import CANARY, TIMING, ClusterWorld
from tests.release_evidence import Evidence
from tests.unit.rollout.conftest import models, planned  # noqa: F401 (fixture)

PLAN = (
    "{service: late, steps: [50], requests_per_step: 100, bake_requests: 70, max_latency_increase: 9, "
    "settle_seconds: 0.05, deadline_seconds: 30}"
)


def stored(version: str) -> str:
    return f"s3://models/{version}"


@dataclass
class Releases:
    """Releases of two real bundles on the double, each with a store of its own as its process would have."""

    cluster: Cluster
    old: Evidence
    new: Evidence
    traffic: Path
    adoption: Adoption | None = None
    world: ClusterWorld = field(init=False)

    def __post_init__(self) -> None:
        self.world = ClusterWorld(self.cluster)

    def store(self, timing: Timing | None = None) -> KServeStore:
        store = self.world.store()
        store.timing = replace(TIMING, ready=timing.ready) if timing else TIMING
        store._storage_uri = stored
        store._records = Records(store.cluster, store.service, store.mode, self.adoption)
        return store

    def plane(self, store: Any, spec: Any, bodies: Any) -> Any:
        return lambda state, sink: self.world.plane(store, state, sink, settle_seconds=0.05)

    def deploy(self, bundle: Evidence | None = None, version: str = "1") -> None:
        evidence = bundle or self.old
        deploy("late", model="late", bundle=evidence.bundle, version=version, home=Path("none"))
        self.cluster.wait(lambda: self.serves(version), "it serves")

    def serves(self, version: str) -> bool:
        return self.cluster.serving("late") == {stored(version): 100.0}

    def roll_out(self, record: Path, plan: str = PLAN, **changes: Any) -> RolloutOutcome:
        arguments: dict[str, Any] = {
            "bundle": self.new.bundle,
            "version": "2",
            "verdict": self.new.verdict,
            "stable": (self.old.bundle, "1"),
            "traffic": self.traffic,
            "home": record,
            "record_out": record,
            **changes,
        }
        with self.cluster.traffic("late", rate=400):
            return roll_out(planned(plan), **arguments)

    @property
    def state(self) -> Service:
        state = self.store().read()
        assert state is not None
        return state


@pytest.fixture
def releases(
    cluster: Cluster,
    models: tuple[Evidence, Evidence, Path],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Releases:
    found = Releases(cluster, *models)
    monkeypatch.setattr("airworthy.rollout.release.open_store", lambda *_, timing, **__: found.store(timing))
    monkeypatch.setattr("airworthy.rollout.rest.open_store", lambda *_, **__: found.store())
    monkeypatch.setattr("airworthy.rollout.release._cluster_plane", found.plane)
    return found


def elsewhere(
    state: str, percent: int, lease: float, run: str = "other"
) -> Callable[[Service | None], Service]:
    """A rollout of CANARY by a controller in another pod."""

    def change(current: Service | None) -> Service:
        assert current is not None
        rollout = new_rollout(60, run).model_copy(
            update={"state": state, "owner_host": "another-pod", "lease_until": time.time() + lease}
        )
        return current.model_copy(update={"canary": CANARY, "traffic_percent": percent, "rollout": rollout})

    return change


def moved(current: Service | None, state: str, percent: int) -> Service:
    assert current is not None
    assert current.rollout is not None
    rollout = current.rollout.model_copy(update={"state": state})
    return current.model_copy(update={"rollout": rollout, "traffic_percent": percent})


def _withdrawn_unwritten(releases: Releases, lease: float) -> None:
    """A controller has taken a canary's share away and not written down yet that, and why, it is rolled back."""
    releases.deploy()
    owner = releases.store()
    owner.update(elsewhere("starting", 0, lease))
    owner.settled()
    state = owner.update(lambda current: moved(current, "shifting", 50))
    owner.settled()
    releases.cluster.wait(lambda: releases.cluster.serving("late").get(CANARY.bundle) == 50.0, "half each")
    assert state.rollout is not None
    owner.withdraw(state.rollout.id)
    releases.cluster.wait(lambda: releases.serves("1"), "nobody meets it")


def test_a_service_that_is_taken_is_refused_at_once(releases: Releases, tmp_path: Path) -> None:
    """Not after having waited for the other's canary, which never gets ready."""
    releases.deploy()
    releases.cluster.script.unready(CANARY.bundle)
    releases.store().update(elsewhere("starting", 0, 60))
    begun = time.monotonic()
    with pytest.raises(RolloutError, match="wait until it has ended"):
        releases.roll_out(tmp_path / "record")
    assert settle("late", champion_digest=None, home=tmp_path, run="mine").action == "left to its owner"
    assert time.monotonic() - begun < TIMING.settled / 2


def test_nobody_gives_back_the_share_that_another_controller_has_just_withdrawn(
    releases: Releases, tmp_path: Path
) -> None:
    _withdrawn_unwritten(releases, lease=60)
    writes = len(releases.cluster.writes("late"))
    settle("late", champion_digest=None, home=tmp_path, run="mine")
    with pytest.raises(RolloutError, match="wait until it has ended"):
        releases.roll_out(tmp_path / "record")
    assert len(releases.cluster.writes("late")) == writes
    assert releases.serves("1")


def test_a_withdrawn_canary_of_a_dead_controller_gets_no_traffic_from_the_next_release(
    releases: Releases, tmp_path: Path
) -> None:
    """Killed between taking the share away and writing down why."""
    _withdrawn_unwritten(releases, lease=-1)
    before = time.time()
    outcome = releases.roll_out(tmp_path / "record", version="3")
    assert outcome.decision == "PASS", outcome.reason
    assert not [one for one in releases.cluster.gateway.log if one.at > before and one.uri == CANARY.bundle]


def test_a_dead_controllers_canary_that_never_got_ready_is_in_nobodys_way(
    releases: Releases, tmp_path: Path
) -> None:
    releases.deploy()
    releases.cluster.script.unready(CANARY.bundle)
    releases.store().update(elsewhere("starting", 0, -1))
    outcome = releases.roll_out(tmp_path / "record", version="3")
    assert outcome.decision == "PASS", outcome.reason


def test_the_lease_begins_when_the_rollout_does(
    releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tidying up after an earlier rollout may take minutes; the new one's lease is not spent on that."""
    releases.deploy()
    settled, begun = KServeStore.settled, []

    def slow(store: KServeStore) -> None:
        settled(store)
        begun.append(time.time())

    def spied(deadline: float, run: str = "") -> Any:
        assert begun, "a lease that begins too early"
        return new_rollout(deadline, run)

    monkeypatch.setattr(KServeStore, "settled", slow)
    monkeypatch.setattr(begin, "new_rollout", spied)
    assert releases.roll_out(tmp_path / "record").decision == "PASS"


def test_a_champion_that_serving_has_not_followed_to_serves_before_the_next_canary_comes(
    releases: Releases, tmp_path: Path
) -> None:
    """Somebody moved the alias back to version 1, and the service still serves version 7."""
    releases.deploy(releases.new, "7")
    outcome = releases.roll_out(tmp_path / "record")
    assert outcome.decision == "PASS", outcome.reason
    assert releases.state.stable is not None
    assert releases.state.stable.version == "1"


def _deleted_but_not_collected(cluster: Cluster) -> None:
    """Kubernetes has not got round yet to delete what the InferenceService owned: its state is still there."""
    kept = cluster.store.get(CONFIG_MAP, cluster.namespace, "late-airworthy")
    cluster.delete("late")
    if "ownerReferences" not in kept["metadata"]:
        return
    cluster.wait(lambda: cluster.store.find(CONFIG_MAP, cluster.namespace, "late-airworthy") is None)
    meta = {"name": "late-airworthy", "namespace": cluster.namespace}
    cluster.store.create(CONFIG_MAP, cluster.namespace, {**kept, "metadata": meta})


def test_a_service_that_was_deleted_is_made_again_by_the_next_release(
    releases: Releases, tmp_path: Path
) -> None:
    releases.deploy()
    _deleted_but_not_collected(releases.cluster)
    outcome = releases.roll_out(tmp_path / "record")
    assert outcome.decision == "PASS", outcome.reason
    assert releases.serves("2")


def test_an_adopted_service_can_be_released_to_as_a_pipeline_does(releases: Releases, tmp_path: Path) -> None:
    releases.cluster.deploy("late", stored("theirs"), replicas=2)
    releases.adoption = Adoption("late")
    outcome = releases.roll_out(tmp_path / "record", stable=None, registered_champion=lambda: None)
    assert outcome.decision == "PASS", outcome.reason
    finish("late", bundle=releases.new.bundle, version="2", home=tmp_path)
    assert releases.serves("2")


def test_a_service_with_somebodys_canary_is_not_adopted(releases: Releases, tmp_path: Path) -> None:
    """Taking it over would promote their unproven canary, or throw it away."""
    cluster = releases.cluster
    cluster.deploy("late", stored("theirs"), replicas=2)
    model = {"modelFormat": {"name": "xgboost"}, "storageUri": stored("their-canary")}
    if cluster.mode == "knative":
        patch: dict[str, Any] = {"predictor": {"model": model, "canaryTrafficPercent": 10}}
    else:
        patch = {
            "canary": [{"trafficPercent": 10, "predictor": {"name": "b", "minReplicas": 1, "model": model}}]
        }
    cluster.interfere("late", {"spec": patch})
    split = {stored("theirs"): 90.0, stored("their-canary"): 10.0}
    cluster.wait(lambda: cluster.serving("late") == split, "their canary has its share")
    releases.adoption = Adoption("late")
    with pytest.raises(RolloutError, match="a canary of its own"):
        releases.roll_out(tmp_path / "record", stable=None, registered_champion=lambda: None)
    with pytest.raises(RolloutError, match="a canary of its own"):
        settle("late", champion_digest=None, home=tmp_path)
    assert cluster.serving("late") == split
    assert not cluster.writes("late")


def test_a_canary_that_is_the_stable_model_is_refused_in_a_sentence(
    releases: Releases, tmp_path: Path
) -> None:
    releases.deploy()
    with pytest.raises(RolloutError, match="is the stable model already"):
        releases.roll_out(
            tmp_path / "record", bundle=releases.old.bundle, verdict=releases.old.verdict, version="1"
        )
    assert releases.state.canary is None
    assert releases.serves("1")


def test_a_promotion_holds_the_service_before_the_alias_moves(releases: Releases, tmp_path: Path) -> None:
    """Its time to be promoted is over: who would take the service now finds it held, or holds it first."""
    releases.deploy()
    assert releases.roll_out(tmp_path / "record", run="mine").decision == "PASS"

    def late(current: Service | None) -> Service:
        assert current is not None
        assert current.rollout is not None
        over = current.rollout.model_copy(update={"deadline": time.time() - 1})
        return current.model_copy(update={"rollout": over})

    releases.store().update(late)
    alias: list[str] = []

    def promote() -> None:
        done = settle("late", champion_digest=releases.old.digest, home=tmp_path, run="another")
        assert done.action == "left to its owner"
        alias.append("2")

    finish("late", bundle=releases.new.bundle, version="2", home=tmp_path, promote=promote)
    assert alias
    assert releases.serves("2")


def test_a_controller_settled_before_its_first_patch_leaves_no_canary_in_the_spec(releases: Releases) -> None:
    """Its state was rolled back when the InferenceService had not changed yet; then it wakes up."""
    releases.deploy()
    zombie, before = releases.store(), releases.world.spec()
    patch = zombie.cluster.patch_inference_service

    def asleep(seen: Any, body: Any) -> None:
        zombie.cluster.patch_inference_service = patch  # type: ignore[method-assign]
        other = releases.store()
        other.update(
            lambda current: (
                rolled_back(current, "its lease ran out") if current else Service(service="", model="")
            )
        )
        other.settled()
        patch(seen, body)

    zombie.cluster.patch_inference_service = asleep  # type: ignore[method-assign, assignment]
    zombie.update(elsewhere("starting", 0, -1))
    releases.cluster.wait(lambda: releases.world.spec()["predictor"]["model"] == before["predictor"]["model"])
    assert not releases.world.spec().get("canary")
    releases.store().settled()
    assert releases.serves("1")


class ManyAnswers:
    """A poll that tells of thousands of requests, as a prediction log does."""

    named_by: Any = "workload"

    def __init__(self) -> None:
        self._told = 0

    async def poll(self, share: float, arms: dict[Arm, str]) -> list[Observation]:
        arm: Arm = "canary" if share else "stable"
        at = time.time()
        return [
            Observation(0, at + i / 1e6, arm, share, "error" if share else "ok", 0.01, None)
            for i in range(3000)
        ]

    async def skip(self) -> None:
        """Nothing was told yet."""


def test_taking_a_canary_out_asks_the_api_once_however_many_requests_failed(
    releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases.deploy()
    monkeypatch.setattr("tests.cluster.worlds.GatewaySignals", lambda cluster: ManyAnswers())
    outcome = releases.roll_out(tmp_path / "record")
    assert outcome.decision == "FAIL"
    assert len(releases.cluster.api.requests) < 1000
    assert releases.serves("1")


def test_a_canary_that_does_not_get_ready_by_the_deadline_is_told_as_that(
    releases: Releases, tmp_path: Path
) -> None:
    releases.deploy()
    releases.cluster.script.unready(stored("2"))
    outcome = releases.roll_out(
        tmp_path / "record", PLAN.replace("deadline_seconds: 30", "deadline_seconds: 2")
    )
    assert (outcome.decision, outcome.judgement.process) == ("FAIL", "readiness")
    assert "version 2" in outcome.reason
    assert releases.serves("1")


def test_settling_a_deleted_service_says_so(releases: Releases, tmp_path: Path) -> None:
    releases.deploy()
    releases.store().update(elsewhere("starting", 0, -1))
    _deleted_but_not_collected(releases.cluster)
    result = settle("late", champion_digest=None, home=tmp_path)
    assert result.action == "rolled back"
    assert "somebody deleted it" in result.sentence


def test_a_sticky_plan_is_refused_where_nothing_is_sticky(releases: Releases) -> None:
    sticky = planned(PLAN.replace("{service", "{sticky_header: X-User, service"))
    with pytest.raises(ConfigError, match="sticky_header is for local rollouts"):
        _cluster_plane(releases.store(), sticky, ())
