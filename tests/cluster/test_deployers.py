"""KServe deployers against an API and a KServe that behave, misbehave, and answer real requests.

Whatever happens, afterwards either the new model serves everyone or the old one does, its spec word for word; and no
user meets a canary before a percent says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from airworthy.errors import RolloutError, ServingError
from airworthy.rollout.deployers.kserve import KServeStore
from airworthy.rollout.deployers.plane import KServePlane
from airworthy.serving.state import Service, rolled_back, rolled_forward
from tests.cluster.double import Cluster
from tests.cluster.worlds import CANARY, NEXT, STABLE, ClusterWorld, Killed, Told

NEVER: Callable[[], bool] = lambda: False  # noqa: E731
STEPS = (10, 50)


@pytest.fixture
def world(cluster: Cluster) -> ClusterWorld:
    return ClusterWorld(cluster)


def back(store: KServeStore) -> None:
    """What a controller or a settlement does: the state, then whatever it takes."""

    def change(current: Service | None) -> Service:
        assert current is not None
        return rolled_back(current, "test") if current.canary else current

    store.update(change)
    store.settled()


def forward(store: KServeStore) -> None:
    def change(current: Service | None) -> Service:
        assert current is not None
        return rolled_forward(current, "test") if current.canary else current

    store.update(change)
    store.settled()


def restored(world: ClusterWorld, spec: dict[str, Any]) -> None:
    world.cluster.wait(lambda: world.serving() == {STABLE.bundle: 100.0}, "the stable model serves everyone")
    assert world.spec() == spec


async def rolled_out(world: ClusterWorld, store: KServeStore, told: Told, requests: int = 40) -> KServePlane:
    """A whole rollout up to 100 %, as the controller does it."""
    plane = world.plane(store, world.begin(store), told)
    assert await plane.start() == ""
    world.move(store, "verifying", 0)
    await plane.shift(0)
    assert await plane.probe("stable") == ""
    assert await plane.probe("canary") == ""
    await plane.gather(requests, NEVER)
    for percent in STEPS:
        world.move(store, "shifting", percent)
        await plane.shift(percent)
        await plane.gather(requests, NEVER)
    world.move(store, "baking", 100)
    await plane.shift(100)
    await plane.gather(requests, NEVER)
    return plane


def test_a_good_canary_gets_everyone_and_nobody_notices(world: ClusterWorld) -> None:
    world.deploy()
    told, store = Told(), world.store()

    async def rollout() -> None:
        await rolled_out(world, store, told)
        world.move(store, "proven", 100)

    with world.cluster.traffic(world.service, rate=400) as users:
        world.run(rollout())
        forward(store)
    assert world.serving() == {CANARY.bundle: 100.0}
    assert not users.failed
    spec = world.spec()
    assert "canary" not in spec
    assert "canaryTrafficPercent" not in spec["predictor"]
    assert spec["predictor"]["model"]["storageUri"] == CANARY.bundle
    evidence = [seen for seen in told.observations if not seen.repeat]
    assert {seen.share for seen in evidence} == {0.0, 0.1, 0.5, 1.0}
    assert all(seen.arm == "stable" for seen in evidence if seen.share == 0.0)
    assert all(seen.arm == "canary" for seen in evidence if seen.share == 1.0)
    assert [seen.index for seen in told.observations] == list(range(len(told.observations)))
    back(store)  # nothing is left to take back
    assert world.serving() == {CANARY.bundle: 100.0}


def test_the_next_rollout_finds_room_after_a_promotion(world: ClusterWorld) -> None:
    world.deploy()
    store = world.store()

    async def rollouts() -> None:
        for canary in (CANARY, NEXT):
            plane = world.plane(store, world.begin(store, canary), Told())
            assert await plane.start() == ""
            world.move(store, "baking", 100)
            await plane.shift(100)
            world.move(store, "proven", 100)
            forward(store)

    world.run(rollouts())
    assert world.serving() == {NEXT.bundle: 100.0}


def test_a_first_release_serves_its_only_model_or_is_stopped(world: ClusterWorld) -> None:
    store = world.store()

    async def first() -> None:
        plane = world.plane(store, world.begin(store), told)
        assert await plane.start() == ""
        world.move(store, "verifying", 100)
        await plane.shift(100)
        assert await plane.probe("canary") == ""
        with world.cluster.traffic(world.service):
            await plane.gather(20, NEVER)

    told = Told()
    world.run(first())
    assert world.serving() == {CANARY.bundle: 100.0}
    assert {(seen.arm, seen.share) for seen in told.observations} == {("canary", 1.0)}
    back(store)
    world.cluster.wait(lambda: world.serving() == {}, "nothing is served")
    told = Told()
    world.run(first())  # a stopped service starts again
    forward(store)
    assert world.serving() == {CANARY.bundle: 100.0}


def test_nobody_meets_a_canary_at_0_percent(world: ClusterWorld) -> None:
    spec = world.deploy()
    store, told = world.store(), Told()

    async def verify() -> None:
        plane = world.plane(store, world.begin(store), told)
        assert await plane.start() == ""
        world.move(store, "verifying", 0)
        await plane.shift(0)
        await plane.shadow(30, NEVER)
        await plane.gather(100, NEVER)

    with world.cluster.traffic(world.service, rate=500) as users:
        world.run(verify())
        back(store)
        restored(world, spec)
    assert set(users.answered()) == {"1"}
    assert not users.failed
    assert len(told.pairs) == 30
    assert all(pair.result == pair.stable_result == "ok" for pair in told.pairs)
    assert all(pair.score == pair.stable_score for pair in told.pairs)


@pytest.mark.parametrize("how", ["never", "crash_loop"])
def test_a_canary_that_does_not_get_ready_is_told_and_taken_back(world: ClusterWorld, how: Any) -> None:
    spec = world.deploy()
    world.cluster.script.unready(CANARY.bundle, how)
    store = world.store()
    with world.cluster.traffic(world.service) as users:
        plane = world.plane(store, world.begin(store), Told())
        problem = world.run(plane.start())
        assert "version 2" in problem
        if how == "crash_loop":
            assert "digest does not match" in problem
        back(store)
        restored(world, spec)
    assert set(users.answered()) == {"1"}
    assert not users.failed


@pytest.mark.parametrize("fault", ["weights_never", "weights_wrong", "gateway_api"])
def test_weights_that_do_not_come_about_end_the_rollout(world: ClusterWorld, fault: str) -> None:
    if fault == "gateway_api" and world.cluster.mode == "knative":
        pytest.skip("Knative mode needs no Gateway API")
    if fault == "gateway_api":
        world.cluster.script.gateway_api = False
    spec = world.deploy()
    store = world.store()

    async def rollout() -> None:
        plane = world.plane(store, world.begin(store), Told())
        assert await plane.start() == ""
        if fault == "weights_never":
            world.cluster.script.weights_never = True
        if fault == "weights_wrong":
            world.cluster.script.weights_wrong = 35
        world.move(store, "shifting", 20)
        await plane.shift(20)

    wanted = "20 % did not come about within 1 s"
    if world.cluster.mode == "standard" and fault != "weights_wrong":
        wanted += r".*this KServe does not split traffic \(0\.20\.x, or enableGatewayApi=false\)"
    with pytest.raises(RolloutError, match=wanted):
        world.run(rollout())
    world.cluster.script.weights_never, world.cluster.script.weights_wrong = False, None
    back(store)
    restored(world, spec)


def test_slow_weights_are_waited_for(world: ClusterWorld) -> None:
    world.deploy()
    world.cluster.script.weights_late = 0.4
    store, told = world.store(), Told()

    async def rollout() -> None:
        plane = world.plane(store, world.begin(store), told)
        assert await plane.start() == ""
        world.move(store, "shifting", 50)
        begun = time.monotonic()
        await plane.shift(50)
        assert time.monotonic() - begun > 0.35
        assert world.cluster.weights(world.service) or world.cluster.predictor(world.service)["traffic"]
        with world.cluster.traffic(world.service):
            await plane.gather(50, NEVER)

    world.run(rollout())
    evidence = [seen for seen in told.observations if not seen.repeat]
    assert {seen.arm for seen in evidence} == {"stable", "canary"}


def test_withdrawing_is_one_write_and_works_at_once(world: ClusterWorld) -> None:
    spec = world.deploy()
    store = world.store()

    async def rollout() -> None:
        plane = await rolled_out(world, store, Told(), requests=10)
        before = len(world.cluster.writes(world.service))
        plane.withdraw()
        assert len(world.cluster.writes(world.service)) == before + 1
        world.cluster.wait(lambda: world.serving() == {STABLE.bundle: 100.0}, "the stable model is back", 0.5)
        plane.withdraw()
        assert len(world.cluster.writes(world.service)) == before + 1

    with world.cluster.traffic(world.service) as users:
        world.run(rollout())
        back(store)
        restored(world, spec)
    assert not users.failed


def test_a_rollback_does_not_wait_for_the_restored_model(cluster: Cluster) -> None:
    world = ClusterWorld(cluster)
    spec = world.deploy()
    store = world.store()

    async def rollout() -> None:
        await rolled_out(world, store, Told(), requests=10)

    with cluster.traffic(world.service) as users:
        world.run(rollout())
        time.sleep(1.0)
        cluster.delays.ready = 1.0  # from here on new pods take so long; those that serve are older
        store.update(lambda state: rolled_back(state, "worse"))  # type: ignore[arg-type]
        at = time.time()
        cluster.wait(
            lambda: world.serving() == {STABLE.bundle: 100.0}, "users have the stable model again", 0.5
        )
        store.settled()
        restored(world, spec)
    assert set(users.answered(since=at + 0.5)) <= {"1"}
    assert not users.failed


def test_somebody_elses_change_of_the_weights_ends_the_rollout(world: ClusterWorld) -> None:
    spec = world.deploy()
    store, told = world.store(), Told()

    async def rollout() -> None:
        plane = world.plane(store, world.begin(store), told)
        assert await plane.start() == ""
        world.move(store, "shifting", 20)
        await plane.shift(20)
        await plane.gather(50, NEVER)
        if world.cluster.mode == "knative":
            world.cluster.interfere(world.service, {"spec": {"predictor": {"canaryTrafficPercent": 80}}})
        else:
            canary = [{**entry, "trafficPercent": 80} for entry in world.spec()["canary"]]
            world.cluster.interfere(world.service, {"spec": {"canary": canary}})
        await plane.gather(10_000, NEVER)

    with (
        world.cluster.traffic(world.service),
        pytest.raises(RolloutError, match="20 % were applied, but users are"),
    ):
        world.run(rollout())
    back(store)
    restored(world, spec)


def test_a_model_that_somebody_else_deploys_is_not_judged_as_the_canary(world: ClusterWorld) -> None:
    spec = world.deploy()
    store = world.store()

    async def rollout() -> None:
        plane = world.plane(store, world.begin(store), Told())
        assert await plane.start() == ""
        world.move(store, "shifting", 20)
        await plane.shift(20)
        other = {"model": {"storageUri": "s3://elsewhere/9"}}
        world.cluster.interfere(world.service, {"spec": {"predictor": other}})
        await plane.gather(10_000, NEVER)

    with world.cluster.traffic(world.service), pytest.raises(RolloutError):
        world.run(rollout())
    with pytest.raises(RolloutError, match=r"changed by somebody else: it names s3://elsewhere/9"):
        world.move(store, "shifting", 50)
    back(store)
    restored(world, spec)


def test_a_deleted_service_ends_the_rollout_and_stays_deleted(world: ClusterWorld) -> None:
    world.deploy()
    store = world.store()

    async def rollout() -> None:
        plane = world.plane(store, world.begin(store), Told())
        assert await plane.start() == ""
        world.cluster.delete(world.service)
        await plane.gather(10, NEVER)

    with pytest.raises((ServingError, RolloutError), match="is gone"):
        world.run(rollout())
    world.cluster.wait(lambda: world.store().read() is None, "its state goes with it")


def test_a_canary_whose_pods_crash_later_ends_the_rollout(world: ClusterWorld) -> None:
    spec = world.deploy()
    store, told = world.store(), Told()

    async def rollout() -> None:
        plane = world.plane(store, world.begin(store), told)
        assert await plane.start() == ""
        world.move(store, "shifting", 50)
        await plane.shift(50)
        await plane.gather(50, NEVER)
        world.cluster.script.crash(CANARY.bundle)
        await plane.gather(3000, lambda: sum(seen.failed for seen in told.observations) >= 10)

    with world.cluster.traffic(world.service):
        if world.cluster.mode == "knative":  # the revision keeps its share: its failures are evidence
            world.run(rollout())
            assert sum(seen.failed for seen in told.observations) >= 10
        else:  # KServe takes an unready canary out of the weights
            with pytest.raises(RolloutError, match="version 2 does not serve any more"):
                world.run(rollout())
        back(store)
        restored(world, spec)


@pytest.mark.parametrize("mode", ["standard"])  # Knative never takes a ready revision back
def test_evidence_is_dropped_while_readiness_flaps(cluster: Cluster) -> None:
    world = ClusterWorld(cluster)
    spec = world.deploy()
    store, told = world.store(), Told()

    async def rollout() -> None:
        plane = world.plane(store, world.begin(store), told)
        assert await plane.start() == ""
        world.move(store, "shifting", 50)
        await plane.shift(50)
        cluster.script.flap(CANARY.bundle, period=0.6)
        await plane.gather(150, NEVER)

    with cluster.traffic(world.service, rate=400):
        world.run(rollout())
    evidence = [seen for seen in told.observations if not seen.repeat]
    canary = sum(seen.arm == "canary" for seen in evidence) / len(evidence)
    assert 0.35 < canary < 0.65
    cluster.script.heal(CANARY.bundle)
    back(store)
    restored(world, spec)


def test_an_api_that_stays_away_ends_the_rollout_and_the_next_process_settles_it(world: ClusterWorld) -> None:
    spec = world.deploy()
    store = world.store()

    async def rollout() -> None:
        plane = world.plane(store, world.begin(store), Told())
        assert await plane.start() == ""
        world.move(store, "shifting", 20)
        await plane.shift(20)
        world.cluster.script.down()
        plane.withdraw()  # tells, but does not fail
        await plane.gather(10, NEVER)

    with pytest.raises(RolloutError, match="the Kubernetes API does not answer"):
        world.run(rollout())
    with pytest.raises(RolloutError, match="the Kubernetes API does not answer"):
        back(store)
    world.cluster.script.up()
    back(world.store())
    restored(world, spec)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(9))
def test_a_rollout_killed_at_any_write_is_settled_by_another_process(
    world: ClusterWorld, write: int, after: bool
) -> None:
    """Writes: state and spec of the begin, of 50 % and of 100 %; then the rollback's own."""
    spec = world.deploy()
    doomed = world.store(write, after=after)

    async def rollout() -> None:
        plane = world.plane(doomed, world.begin(doomed), Told())
        assert await plane.start() == ""
        for percent in (50, 100):
            world.move(doomed, "shifting", percent)
            await plane.shift(percent)
        plane.withdraw()
        back(doomed)

    with world.cluster.traffic(world.service) as users:
        with pytest.raises(Killed):
            world.run(rollout())
        back(world.store())
        restored(world, spec)
    assert not users.failed
    settled = len(world.cluster.writes())
    back(world.store())
    assert len(world.cluster.writes()) == settled


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(2))
def test_a_promotion_killed_at_any_write_is_completed_by_another_process(
    world: ClusterWorld, write: int, after: bool
) -> None:
    world.deploy()
    store = world.store()

    async def rollout() -> None:
        plane = world.plane(store, world.begin(store), Told())
        assert await plane.start() == ""
        world.move(store, "baking", 100)
        await plane.shift(100)
        world.move(store, "proven", 100)

    world.run(rollout())
    world.cluster.wait(lambda: world.serving() == {CANARY.bundle: 100.0}, "the gateway follows")
    with world.cluster.traffic(world.service) as users:
        with pytest.raises(Killed):
            forward(world.store(write, after=after))
        forward(world.store())
    assert world.serving() == {CANARY.bundle: 100.0}
    assert set(users.answered()) == {"2"}
    assert not users.failed


def test_an_earlier_version_can_be_deployed_again_without_a_failed_request(world: ClusterWorld) -> None:
    world.deploy()
    store = world.store()

    async def rollout() -> None:
        plane = world.plane(store, world.begin(store), Told())
        assert await plane.start() == ""
        world.move(store, "baking", 100)
        await plane.shift(100)
        forward(store)

    world.run(rollout())
    with world.cluster.traffic(world.service) as users:
        store.update(lambda state: state.model_copy(update={"stable": STABLE}))  # type: ignore[union-attr]
        store.settled()
    assert world.serving() == {STABLE.bundle: 100.0}
    assert not users.failed


def test_a_rollout_that_takes_over_from_a_dead_one_starts_at_0_percent(world: ClusterWorld) -> None:
    world.deploy()
    store = world.store()

    async def dead() -> None:
        plane = world.plane(store, world.begin(store), Told())
        assert await plane.start() == ""
        world.move(store, "baking", 100)
        await plane.shift(100)

    async def next_one() -> None:
        plane = world.plane(store, world.begin(store, NEXT), Told())
        assert await plane.start() == ""
        world.move(store, "verifying", 0)
        await plane.shift(0)
        assert await plane.probe("canary") == ""

    world.run(dead())
    with world.cluster.traffic(world.service) as users:
        world.run(next_one())
    assert world.serving() == {STABLE.bundle: 100.0}
    assert "3" not in users.answered()
    back(store)


def test_a_whole_rollout_needs_no_more_rights_than_documented(world: ClusterWorld) -> None:
    world.cluster.allow(
        ("serving.kserve.io", "inferenceservices", ("get", "create", "patch")),
        ("", "configmaps", ("get", "create", "update")),
        ("", "pods", ("list",)),
        *(
            [("serving.knative.dev", "revisions", ("get",))]
            if world.cluster.mode == "knative"
            else [("apps", "deployments", ("get",)), ("gateway.networking.k8s.io", "httproutes", ("get",))]
        ),
    )
    world.deploy()
    store = world.store()
    with world.cluster.traffic(world.service):
        world.run(rolled_out(world, store, Told(), requests=5))
        back(store)
    assert world.cluster.api.denied == []
    assert world.cluster.api.warnings == []  # no field that KServe doesn't know
