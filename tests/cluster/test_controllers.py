"""The same rollouts with every deployer: `local` on real processes, `knative` and `standard` on a cluster's API.

One controller, one judge, three places: whatever the canary does, the same decision, and the same rest afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from airworthy.errors import RolloutError
from airworthy.rollout import settle
from airworthy.rollout.controller import Controller, Setting
from airworthy.rollout.judge import JUDGE, Judgement
from airworthy.rollout.record import RecordWriter
from airworthy.rollout.replay import replay
from airworthy.rollout.rest import refuse_if_taken
from airworthy.rollout.settings import Settings
from airworthy.serving.chaos import Fault
from airworthy.serving.state import Service, ServiceStore, new_rollout, rolled_back
from airworthy.verdict import read_verdict, write_verdict
from tests.cluster.double import Cluster
from tests.cluster.worlds import CANARY, STABLE, ClusterWorld
from tests.release_evidence import make_bundle
from tests.unit.rollout.conftest import World, models, planned, world  # noqa: F401 (fixtures)

TIMES = "max_latency_increase: 9, settle_seconds: 0.05"
PLAN = f"{{service: late, steps: [20, 50], requests_per_step: 120, bake_requests: 70, {TIMES}}}"


class Place(Protocol):
    """A service somewhere with a stable model, and a canary to be tried."""

    harm: int
    """Failed answers that users got because of the canary, as the controller counts them."""

    def misbehave(self, fault: Fault) -> None:
        """What the canary does to users' requests."""

    def cripple(self) -> None:
        """The canary never gets ready."""

    def roll_out(self, record: Path, plan: str = PLAN) -> Judgement:
        """One rollout with a controller of its own."""

    def change(self, change: Callable[[Service | None], Service]) -> Service:
        """A write by somebody else, as by another process."""

    def settle(self) -> str:
        """What the exit handler of the pipeline does; returns what it did."""

    def assert_old_model_serves(self) -> None:
        """Nobody is answered by the canary, and nothing of it is left."""

    def assert_new_model_serves(self) -> None:
        """Everybody is answered by the canary."""


class Here:
    """Real processes of this machine."""

    def __init__(self, world: World, folder: Path) -> None:  # noqa: F811
        self.harm = 0
        self._world = world
        self._folder = folder
        self._changes: dict[str, Any] = {}

    def misbehave(self, fault: Fault) -> None:
        self._changes["fault"] = fault

    def cripple(self) -> None:
        bundle, verdict = self._folder / "junk", self._folder / "junk.json"
        digest = make_bundle(bundle, booster=b"junk")  # digests are right, the model is not one
        judged = read_verdict(self._world.new.verdict).model_copy(update={"bundle_digest": digest})
        write_verdict(judged, verdict)
        self._changes |= {
            "bundle": bundle,
            "verdict": verdict,
            "server_module": "airworthy.serving.server",
        }

    def roll_out(self, record: Path, plan: str = PLAN) -> Judgement:
        outcome = self._world.release(record, plan, **self._changes)
        self.harm = int(outcome.metrics["harm"])
        return outcome.judgement

    def change(self, change: Callable[[Service | None], Service]) -> Service:
        return ServiceStore(self._world.home, "late").update(change)

    def settle(self) -> str:
        return settle("late", champion_digest=self._world.old.digest, home=self._world.home).action

    def assert_old_model_serves(self) -> None:
        state = self._world.state
        assert state.stable is not None
        assert (state.stable.version, state.canary, state.traffic_percent) == ("1", None, 0)

    def assert_new_model_serves(self) -> None:
        state = self._world.state
        assert state.canary is not None
        assert (state.canary.version, state.traffic_percent) == ("2", 100)


class OnCluster:
    """A real client, a made-up KServe, and users at the gateway all the while."""

    def __init__(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.harm = 0
        self._cluster = cluster
        self._world = ClusterWorld(cluster)
        self._world.deploy()
        self._before = self._world.spec()
        self._store = self._world.store()
        monkeypatch.setattr("airworthy.rollout.rest.open_store", lambda *_, **__: self._world.store())

    def misbehave(self, fault: Fault) -> None:
        rates = {"errors": "error_rate", "nan": "nan_rate", "garbage": "garbage_rate"}
        if fault.kind == "slow":
            self._cluster.script.behave(CANARY.bundle, seconds=fault.seconds)
        elif fault.kind == "crash":
            self._cluster.script.crash(CANARY.bundle, after=fault.after)
        else:
            self._cluster.script.behave(CANARY.bundle, **{rates[fault.kind]: fault.share})

    def cripple(self) -> None:
        self._cluster.script.unready(CANARY.bundle)

    def roll_out(self, record: Path, plan: str = PLAN) -> Judgement:
        parsed = planned(plan).rollout

        def begin(current: Service | None) -> Service:
            assert current is not None
            refuse_if_taken(current, CANARY)
            new = {"canary": CANARY, "rollout": new_rollout(60), "traffic_percent": 0}
            return current.model_copy(update=new)

        self._store.settled()
        state = self._store.update(begin)
        assert state.rollout is not None
        settings = Settings.of(parsed)
        setting = Setting(
            parsed,
            settings,
            self._store,
            state.rollout.id,
            lambda sink: self._world.plane(self._store, state, sink),
            {"judge": JUDGE, "settings": vars(settings), "service": "late"},
        )
        writer = RecordWriter(record)
        controller = Controller(setting, state, writer)
        try:
            with self._cluster.traffic("late", rate=400):
                judgement = asyncio.run(controller.run())
        finally:
            writer.close({})
        self.harm = controller.harm
        return judgement

    def change(self, change: Callable[[Service | None], Service]) -> Service:
        store = self._world.store()
        state = store.update(change)
        store.settled()
        return state

    def settle(self) -> str:
        return settle("late", champion_digest=STABLE.digest, home=Path("unused")).action

    def assert_old_model_serves(self) -> None:
        self._cluster.wait(lambda: self._world.serving() == {STABLE.bundle: 100.0}, "stable serves everyone")
        assert self._world.spec() == self._before

    def assert_new_model_serves(self) -> None:
        assert self._world.serving() == {CANARY.bundle: 100.0}


@pytest.fixture(params=["local", "knative", "standard"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "local":
        return Here(request.getfixturevalue("world"), tmp_path)
    return OnCluster(request.getfixturevalue("make_cluster")(request.param), monkeypatch)


def test_a_good_canary_is_proven_and_its_decision_can_be_recomputed(place: Place, tmp_path: Path) -> None:
    assert place.roll_out(tmp_path / "record").outcome == "PASS"
    place.assert_new_model_serves()
    told = replay(tmp_path / "record")
    assert told.judgement is not None
    assert told.judgement.outcome == "PASS"


@pytest.mark.parametrize("kind", ["errors", "nan", "garbage", "crash"])
def test_a_bad_canary_is_taken_back(place: Place, tmp_path: Path, kind: Any) -> None:
    place.misbehave(Fault(kind, share=1.0 if kind == "crash" else 0.5, after=45))
    judgement = place.roll_out(tmp_path / "record")
    assert judgement.outcome == "FAIL"
    place.assert_old_model_serves()
    assert place.settle() == "nothing"


def test_a_slow_canary_is_taken_back(place: Place, tmp_path: Path) -> None:
    place.misbehave(Fault("slow", share=1.0, seconds=0.15, after=45))
    # many are slow at a time, but a moment's stall is one event: it takes some moments
    plan = PLAN.replace("increase: 9", "increase: 2").replace(
        "requests_per_step: 120", "requests_per_step: 900"
    )
    judgement = place.roll_out(tmp_path / "record", plan)
    assert (judgement.outcome, judgement.process) == ("FAIL", "latency")
    place.assert_old_model_serves()


def test_a_canary_that_never_gets_ready_gets_no_traffic(place: Place, tmp_path: Path) -> None:
    place.cripple()
    judgement = place.roll_out(tmp_path / "record")
    assert (judgement.outcome, judgement.process) == ("FAIL", "readiness")
    assert place.harm == 0
    place.assert_old_model_serves()


def test_a_shadow_phase_comes_before_any_traffic(place: Place, tmp_path: Path) -> None:
    plan = PLAN.replace("steps: [20, 50]", "steps: [50], shadow_requests: 40")
    assert place.roll_out(tmp_path / "record", plan).outcome == "PASS"
    assert replay(tmp_path / "record").told.judge.shadow.pairs >= 40
    place.assert_new_model_serves()


def test_blue_green_ends_with_everyone_on_the_new_model(place: Place, tmp_path: Path) -> None:
    assert place.roll_out(tmp_path / "record", PLAN.replace("[20, 50]", "[0, 100]")).outcome == "PASS"
    place.assert_new_model_serves()


def test_time_that_runs_out_takes_the_canary_back(place: Place, tmp_path: Path) -> None:
    plan = PLAN.replace("steps: [20, 50]", "steps: [20], step_seconds: 60, deadline_seconds: 3")
    judgement = place.roll_out(tmp_path / "record", plan)
    assert (judgement.outcome, judgement.process) == ("INCONCLUSIVE", "deadline")
    place.assert_old_model_serves()


def test_a_controller_that_never_comes_back_is_settled_after_its_lease(place: Place, tmp_path: Path) -> None:
    assert place.roll_out(tmp_path / "record").outcome == "PASS"

    def gone(lease: float) -> Callable[[Service | None], Service]:
        def change(current: Service | None) -> Service:
            assert current is not None
            assert current.rollout is not None
            away = {"state": "shifting", "owner_host": "a-pod-that-is-gone", "lease_until": lease}
            return current.model_copy(
                update={
                    "rollout": current.rollout.model_copy(update={**away, "deadline": time.time() + 60}),
                    "traffic_percent": 50,
                }
            )

        return change

    place.change(gone(time.time() + 60))
    assert place.settle() == "left to its owner"
    with pytest.raises(RolloutError, match="wait until it has ended"):
        place.roll_out(tmp_path / "second")
    place.change(gone(time.time() - 1))
    assert place.settle() == "rolled back"
    place.assert_old_model_serves()
    assert place.settle() == "nothing"


def test_a_controller_whose_rollout_was_settled_stops(place: Place, tmp_path: Path) -> None:
    plan = PLAN.replace("steps: [20, 50]", "steps: [20, 50], step_seconds: 1")

    async def meanwhile() -> None:
        def settled(current: Service | None) -> Service:
            assert current is not None
            if current.rollout is None or current.rollout.state != "shifting":
                raise _NotYet
            return rolled_back(current, "called off by somebody")

        while True:
            await asyncio.sleep(0.05)
            try:
                await asyncio.to_thread(place.change, settled)
                return
            except _NotYet:
                continue

    async def both() -> None:
        watcher = asyncio.create_task(meanwhile())
        with pytest.raises(RolloutError, match="called off by somebody"):
            await asyncio.to_thread(place.roll_out, tmp_path / "record", plan)
        await watcher

    asyncio.run(both())
    place.assert_old_model_serves()


class _NotYet(Exception):
    """The rollout has not got there."""
