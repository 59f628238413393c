"""The Knative mapping against a model of KServe and Knative whose parts run in any order.

The model keeps what matters of their sources: KServe computes the Knative Service's traffic from its own last status,
and copies back a status that may be stale; configuration, readiness and route follow in their own time. Schedules are
random, and the process that drives the rollout is replaced at any moment by one that settles it. Whatever the schedule,
users must never meet more of the canary than the state allowed, and settling must end with the stable model alone.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from airworthy.rollout.deployers.api import Cluster
from airworthy.rollout.deployers.inference_service import SOURCE, names_model
from airworthy.rollout.deployers.knative import PERCENT, Knative
from airworthy.rollout.deployers.steps import Seen, Step
from airworthy.serving.state import Deployed, Rollout, Service, rolled_back, rolled_forward

OLDER, STABLE, CANARY = (Deployed(version=v, digest=v * 8, bundle=f"s3://models/{v}") for v in "012")


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        result[key] = merged(result.get(key), value)
        if value is None:
            del result[key]
    return result


@dataclass
class World:
    """One InferenceService. `traffic` is what users meet: percent by revision."""

    random: random.Random
    healthy: bool
    spec: dict[str, Any]
    orderly: bool = True
    """Knative makes the revision before it moves traffic. Where it doesn't, KServe may take the new 0 % for a rollback
    of the stable model and fall back to the revision before: another flaw that has to be noticed."""
    status: dict[str, Any] = field(default_factory=dict)
    wanted: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    revisions: list[dict[str, Any]] = field(default_factory=list)
    ready: set[str] = field(default_factory=set)
    traffic: dict[str, int] = field(default_factory=dict)

    def kserve(self) -> None:
        """Write the Knative Service from spec and own status; then take over its status as it was before."""
        predictor, last = self.spec["predictor"], self.status.get("latestRolledoutRevision")
        percent = predictor.get(PERCENT)
        targets: list[dict[str, Any]] = [{"latestRevision": True, "percent": 100, "tag": "latest"}]
        if percent is not None and last:
            targets[0]["percent"] = percent
            if percent < 100:
                targets.append({"revisionName": last, "percent": 100 - percent, "tag": "prev"})
        template = {"model": predictor["model"], "minReplicas": predictor.get("minReplicas")}
        self.wanted = copy.deepcopy({"template": template, "traffic": targets})
        if self.orderly:
            self.configuration()
        self.propagate()

    def propagate(self) -> None:
        told, mine = self.told, self.status
        mine["latestCreatedRevision"] = told.get("created", "")
        table, ready = told.get("traffic", []), told.get("ready", "")
        for entry in table:
            if entry["revisionName"] != ready or not entry.get("latestRevision"):
                continue
            if mine.get("latestRolledoutRevision", "") != ready:
                if entry["percent"] == 100:
                    mine["previousRolledoutRevision"] = mine.get("latestRolledoutRevision", "")
                    mine["latestRolledoutRevision"] = ready
            elif ready == told.get("created") and entry["percent"] < 100:
                alone = sum(e["percent"] for e in table if e["revisionName"] == ready) == 100
                if alone and mine["previousRolledoutRevision"]:
                    mine["latestRolledoutRevision"] = mine["previousRolledoutRevision"]
        mine["latestReadyRevision"] = ready
        mine["traffic"] = copy.deepcopy(table)

    def configuration(self) -> None:
        template = self.wanted.get("template")
        if template and (not self.revisions or self.revisions[-1]["template"] != template):
            name = f"x-predictor-{len(self.revisions) + 1:05d}"
            self.revisions.append({"name": name, "template": copy.deepcopy(template)})
        if self.revisions:
            self.told["created"] = self.revisions[-1]["name"]

    def readiness(self) -> None:
        waiting = [r for r in self.revisions if r["name"] not in self.ready]
        able = [r for r in waiting if self.healthy or not names_model(r["template"]["model"], CANARY)]
        if able:
            self.ready.add(self.random.choice(able)["name"])
        names = [r["name"] for r in self.revisions if r["name"] in self.ready]
        if names:
            self.told["ready"] = max(names)

    def route(self) -> None:
        ready = self.told.get("ready")
        if not ready or not self.wanted:
            return
        table = [{"revisionName": ready, **target} for target in copy.deepcopy(self.wanted["traffic"])]
        self.told["traffic"] = table
        self.traffic = {}
        for entry in table:
            self.traffic[entry["revisionName"]] = (
                self.traffic.get(entry["revisionName"], 0) + entry["percent"]
            )

    def some(self, count: int) -> None:
        for _ in range(count):
            self.random.choice([self.kserve, self.configuration, self.readiness, self.route])()

    def all(self) -> None:
        for _ in range(4):
            for part in (self.kserve, self.configuration, self.readiness, self.route):
                part()

    def share(self, deployed: Deployed) -> int:
        """Percent of users that meet a model."""
        of = [r["name"] for r in self.revisions if names_model(r["template"]["model"], deployed)]
        return sum(percent for name, percent in self.traffic.items() if name in of)

    def seen(self, before: dict[str, Any], impatient: bool = False) -> Seen:
        document = {
            "metadata": {"name": "x", "annotations": {"serving.kserve.io/enable-tag-routing": "true"}},
            "spec": copy.deepcopy(self.spec),
            "status": {"components": {"predictor": copy.deepcopy(self.status)}},
        }
        return Seen(document, cast(Cluster, self), before, impatient)

    def revision(self, name: str) -> dict[str, Any] | None:
        for one in self.revisions:
            if one["name"] == name:
                model = one["template"]["model"]
                spec = {"containers": [{"env": model.get("env", [])}]}
                return {"metadata": {"annotations": {SOURCE: model["storageUri"]}}, "spec": spec}
        return None

    def pods(self, _label: str) -> list[dict[str, Any]]:
        return []


def world(seed: int, *, healthy: bool = True, orderly: bool = True) -> tuple[World, dict[str, Any]]:
    """An older model was rolled out, then the stable one: KServe remembers both."""
    model = {"modelFormat": {"name": "xgboost"}, "runtime": "r", "resources": {"limits": {"cpu": "1"}}}
    made = World(
        random.Random(seed), healthy, {"predictor": {"model": {**model, "storageUri": OLDER.bundle}}}
    )
    made.all()
    made.spec["predictor"] = {"minReplicas": 0, "model": {**model, "storageUri": STABLE.bundle}}
    made.all()
    assert made.share(STABLE) == 100
    made.orderly = orderly
    return made, copy.deepcopy(made.spec["predictor"])


@dataclass
class Driver:
    """Does steps; everything it knows is the state."""

    world: World
    before: dict[str, Any]
    state: Service
    exposed: int = 0
    """Most that the state has allowed since it last allowed nothing."""

    def allow(self, state: Service) -> None:
        self.state = state
        if state.canary:
            self.exposed = max(self.exposed, state.traffic_percent)

    def step(self, impatient: bool = False) -> Step:
        step = Knative().next(self.state, self.world.seen(self.before, impatient))
        if step.patch:
            document = {"spec": self.world.spec, "metadata": {}}
            self.world.spec = merged(document, step.patch)["spec"]
        return step

    def watch(self) -> None:
        percent = self.world.share(CANARY)
        assert percent <= self.exposed, (
            f"{percent} % of users met the canary, at most {self.exposed} % were allowed"
        )

    def arrive(self, rounds: int = 300) -> Step:
        """Steps and parts of the cluster in any order, until what serves is what the state says."""
        for number in range(rounds):
            step = self.step(impatient=number > rounds * 0.8)
            self.watch()
            if step.arrived:
                return step
            for _ in range(self.world.random.randrange(4)):
                self.world.some(1)
                self.watch()
        self.world.all()
        return self.step()


def begin(world_: World, before: dict[str, Any]) -> Driver:
    rollout = Rollout(id="r", state="starting", owner_pid=1, owner_started=0.0, deadline=0.0)
    state = Service(service="x", model="x", stable=STABLE, canary=CANARY, rollout=rollout)
    return Driver(world_, before, state)


def at(driver: Driver, percent: int) -> Service:
    assert driver.state.rollout is not None
    moved = driver.state.rollout.model_copy(update={"state": "shifting"})
    return driver.state.model_copy(update={"traffic_percent": percent, "rollout": moved})


def settle(driver: Driver) -> None:
    """What another process does: all that is known is the state."""
    driver.allow(rolled_back(driver.state, "settled"))
    for _ in range(60):
        step = driver.arrive()
        driver.world.all()
        if step.arrived and driver.world.share(STABLE) == 100:
            break
    assert driver.world.share(STABLE) == 100, driver.world.traffic
    assert driver.world.spec["predictor"] == driver.before  # word for word


@pytest.mark.parametrize("seed", range(60))
def test_a_rollout_killed_anywhere_is_settled(seed: int) -> None:
    driver = begin(*world(seed, orderly=seed % 2 == 0))
    kill_after = driver.world.random.randrange(40)
    for percent in (0, 10, 50, 100):
        driver.allow(at(driver, percent) if percent else driver.state)
        for _ in range(300):
            kill_after -= 1
            step = driver.step()
            driver.watch()
            if step.arrived or kill_after < 0:
                break
            driver.world.some(driver.world.random.randrange(4))
            driver.watch()
        if kill_after < 0:
            break
    settle(driver)


@pytest.mark.parametrize("seed", range(30))
def test_a_proven_canary_is_promoted_and_the_next_rollout_can_begin(seed: int) -> None:
    driver = begin(*world(seed))
    for percent in (0, 20, 100):
        driver.allow(at(driver, percent) if percent else driver.state)
        for _ in range(60):
            if driver.arrive().arrived:
                break
            driver.world.all()
    driver.allow(rolled_forward(driver.state, "champion"))
    while not driver.arrive().arrived:
        driver.world.all()
    driver.world.all()
    assert driver.world.share(CANARY) == 100
    assert PERCENT not in driver.world.spec["predictor"]
    assert driver.world.status["latestRolledoutRevision"] == driver.world.status["latestReadyRevision"]


def test_kserve_falling_back_to_an_older_model_by_itself_is_noticed() -> None:
    driver = begin(*world(0, orderly=False))
    driver.step()
    driver.world.kserve()
    driver.world.route()  # 0 % of the latest revision, which still is the stable one …
    driver.world.kserve()
    driver.world.kserve()  # … looks like a rollback of it
    driver.world.all()
    assert driver.world.share(OLDER) == 100
    step = driver.step()
    assert not step.arrived
    assert "the rest at the stable model" in step.waits_for
    settle(driver)


@pytest.mark.parametrize("seed", range(20))
def test_a_rollback_at_100_percent_waits_for_no_new_revision(seed: int) -> None:
    driver = begin(*world(seed))
    for percent in (0, 100):
        driver.allow(at(driver, percent) if percent else driver.state)
        while not driver.arrive().arrived:
            driver.world.all()
    driver.allow(rolled_back(driver.state, "worse"))
    for _ in range(6):
        driver.step()
        driver.world.kserve()
        driver.world.configuration()
        driver.world.route()
    assert driver.world.share(STABLE) == 100
    settle(driver)


@pytest.mark.parametrize("seed", range(20))
def test_a_service_just_made_serves_its_stable_model_before_the_canary_comes(seed: int) -> None:
    model = {"modelFormat": {"name": "xgboost"}, "storageUri": STABLE.bundle}
    made = World(random.Random(seed), True, {"predictor": {"model": model}})
    driver = begin(made, {"model": copy.deepcopy(model)})
    while not driver.arrive().arrived:
        driver.world.all()
    assert (driver.world.share(STABLE), driver.world.share(CANARY)) == (100, 0)
    assert driver.exposed == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_canary_that_never_gets_ready_meets_nobody(seed: int) -> None:
    driver = begin(*world(seed, healthy=False))
    assert not driver.arrive(60).arrived
    assert driver.world.share(CANARY) == 0
    settle(driver)
    assert driver.exposed == 0


@pytest.mark.parametrize("seed", range(20))
def test_going_back_after_a_promotion_uses_the_revision_that_kserve_remembers(seed: int) -> None:
    driver = begin(*world(seed))
    driver.allow(at(driver, 100).model_copy(update={"stable": STABLE, "canary": None}))
    driver.exposed = 100
    while not driver.arrive().arrived:
        driver.world.all()
    older = driver.state.model_copy(update={"stable": OLDER})
    driver.allow(older)
    assert driver.step().patch == {"spec": {"predictor": {PERCENT: 0}}}
    driver.world.all()
    assert driver.world.share(OLDER) == 100  # before any new revision had to get ready
    while not driver.arrive().arrived:
        driver.world.all()
    assert driver.world.share(OLDER) == 100
    assert PERCENT not in driver.world.spec["predictor"]
