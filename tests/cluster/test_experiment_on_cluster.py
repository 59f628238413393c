"""An A/B test on a cluster: users are split by the gateway, and what comes of their requests is told by files."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airworthy.errors import ConfigError
from airworthy.rollout import roll_out
from airworthy.rollout.controller import Controller, Setting
from airworthy.rollout.deployers.asking import through
from airworthy.rollout.deployers.plane import ClusterSetting, KServePlane
from airworthy.rollout.judge import JUDGE
from airworthy.rollout.record import RecordWriter
from airworthy.rollout.replay import replay
from airworthy.rollout.report import render
from airworthy.rollout.settings import Settings
from airworthy.rollout.signals import NamedBy
from airworthy.rollout.signals.outcomes import OutcomeFiles
from airworthy.rollout.signals.prediction_log import PredictionLogSignals
from airworthy.serving.observation import Arm, Observation
from airworthy.serving.prediction_files import write_part
from tests.cluster.double import Cluster, DeploymentMode
from tests.cluster.worlds import BODIES, CANARY, STABLE, ClusterWorld, Told
from tests.release_evidence import Evidence
from tests.unit.rollout.conftest import models, planned  # noqa: F401 (fixture)

PLAN = (
    "{service: late, kind: ab, experiment: {outcome: bought, traffic_percent: 50, requests: 800}, "
    "settle_seconds: 0.2, max_latency_increase: 9, deadline_seconds: 60}"
)
BUYERS = {STABLE.bundle: 0.2, CANARY.bundle: 0.7}


class Shop:
    """What the gateway passed on, as model servers log it, and what users did then, as a shop reports it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.log, self.outcomes = folder / "log", folder / "outcomes"
        self._passed, self._told, self._parts = cluster.gateway.log, 0, 0
        self._over = threading.Event()
        self._draw = random.Random(3)
        for made in (self.log, self.outcomes):
            made.mkdir()

    @contextmanager
    def open(self) -> Iterator[None]:
        writer = threading.Thread(target=self._work)
        writer.start()
        try:
            yield
        finally:
            self._over.set()
            writer.join()

    def _work(self) -> None:
        while not self._over.wait(0.05):
            self._write()

    def _write(self) -> None:
        begun, self._told = self._told, len(self._passed)
        new = [
            (f"request-{begun + i}", one)
            for i, one in enumerate(self._passed[begun : self._told])
            if not one.direct
        ]
        if not new:
            return
        names = [name for name, _ in new]
        log = pa.table(
            {
                "request_id": names,
                "row": pa.array([0] * len(new), pa.int32()),
                "at": [datetime.fromtimestamp(one.at, UTC) for _, one in new],
                "model": ["late"] * len(new),
                "model_version": ["2" if one.uri == CANARY.bundle else "1" for _, one in new],
                "digest": [""] * len(new),
                "status": pa.array([one.status for _, one in new], pa.int16()),
                "seconds": [one.seconds for _, one in new],
                "score": pa.array([one.score for _, one in new], pa.float64()),
            }
        )
        bought = [self._draw.random() < BUYERS[one.uri] for _, one in new]
        self._parts += 1
        part = self.outcomes / f"part-{self._parts}.parquet"
        pq.write_table(pa.table({"request_id": names, "bought": bought}), part.with_suffix(".new"))
        part.with_suffix(".new").rename(part)
        write_part(self.log, datetime.now(UTC), f"part-{self._parts}-00000000-1-{self._parts}", log)


def test_an_experiment_reports_the_effect_and_takes_the_canary_back(cluster: Cluster, tmp_path: Path) -> None:
    world, shop = ClusterWorld(cluster), Shop(cluster, tmp_path)
    world.deploy()
    before, store, plan = world.spec(), world.store(), planned(PLAN).rollout
    outcomes = OutcomeFiles(shop.outcomes, "bought")
    signals = PredictionLogSignals(shop.log, model="late", lag=0.3, on_request=outcomes.drawn)
    state = world.begin(store)
    assert state.rollout is not None
    reach = through(cluster.gateway_url)
    there = ClusterSetting(store, signals, BODIES, reach, 0.2, poll_seconds=0.1, outcomes=outcomes)
    settings = Settings.of(plan)
    facts = {
        "judge": JUDGE,
        "settings": vars(settings),
        "service": "late",
        "model": "late",
        "version": "2",
        "stable_version": "1",
        "rollout": state.rollout.id,
        "bundle_digest": CANARY.digest,
        "stable_digest": STABLE.digest,
        "traffic": "requests of users",
        "plan": plan.model_dump(mode="json"),
        "compared": True,
        "fault": None,
    }
    record = RecordWriter(tmp_path / "record")
    setting = Setting(
        plan, settings, store, state.rollout.id, lambda sink: KServePlane(there, state, sink), facts
    )
    controller = Controller(setting, state, record)
    with cluster.traffic("late", rate=400) as users, shop.open():
        judgement = asyncio.run(controller.run())
    record.close({"decision": judgement.outcome, "effect": controller.effect.found})
    assert (judgement.outcome, judgement.process) == ("INCONCLUSIVE", "plan")
    cluster.wait(lambda: world.serving() == {STABLE.bundle: 100.0}, "stable serves everyone")
    assert world.spec() == before
    assert not users.failed
    effect = controller.effect.found
    assert effect is not None
    assert effect["n"] >= 0.9 * 800
    assert 0 < effect["low"] <= 0.5 <= effect["high"]
    told = replay(tmp_path / "record")
    assert told.agrees, told.problem
    assert told.told.effect.found == effect
    lines = [json.loads(line) for line in (tmp_path / "record" / "record.jsonl").read_text().splitlines()]
    assert {share for line in lines for _, _, share in line.get("outcomes", [])} == {0.5}
    assert "an effect is shown" in render(tmp_path / "record")


class Lagging:
    """Tells requests only some time after they came, as a log does."""

    named_by: NamedBy = "version"

    def __init__(self) -> None:
        self.skipped = 0.0

    async def skip(self) -> None:
        self.skipped = time.time()

    async def poll(self, share: float, arms: dict[Arm, str]) -> list[Observation]:
        now = time.time()
        if now < self.skipped + 0.6:
            return []
        return [Observation(0, at, "canary", share, "ok", 0.001, 0.5) for at in (self.skipped + 0.1, now)]


def test_what_a_log_tells_late_of_the_time_to_settle_is_no_evidence(cluster: Cluster) -> None:
    world, signals, told = ClusterWorld(cluster), Lagging(), Told()
    world.deploy()
    store = world.store()
    setting = ClusterSetting(store, signals, BODIES, through(cluster.gateway_url), 0.3, poll_seconds=0.05)

    async def scenario() -> None:
        world.planes.append(plane := KServePlane(setting, world.begin(store), told))
        await plane.start()
        world.move(store, "shifting", 50)
        await plane.shift(50)
        await plane.gather(1, lambda: False)

    world.run(scenario())
    assert [seen.repeat for seen in told.observations] == [True, False]


@pytest.mark.parametrize("lacking", ["outcomes", "prediction log"])
def test_an_experiment_that_could_see_no_outcome_is_refused_before_anything_is_deployed(
    make_cluster: Callable[[DeploymentMode], Cluster],
    models: tuple[Evidence, Evidence, Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lacking: str,
) -> None:
    old, new, traffic = models
    cluster = make_cluster("knative")
    settings = {
        "AIRWORTHY_DEPLOYER": "knative",
        "AIRWORTHY_NAMESPACE": cluster.namespace,
        "KUBECONFIG": str(cluster.kubeconfig),
        "AIRWORTHY_SIGNALS": f"prediction-log:{tmp_path}",
        "AIRWORTHY_OUTCOMES": str(tmp_path),
    }
    if lacking == "outcomes":
        del settings["AIRWORTHY_OUTCOMES"]
        monkeypatch.delenv("AIRWORTHY_OUTCOMES", raising=False)
        message = "AIRWORTHY_OUTCOMES is not set"
    else:
        settings["AIRWORTHY_SIGNALS"] = "prometheus:http://127.0.0.1:9"
        message = "set it to prediction-log:FOLDER"
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        roll_out(
            planned(PLAN),
            bundle=new.bundle,
            version="2",
            verdict=new.verdict,
            stable=(old.bundle, "1"),
            traffic=traffic,
            home=tmp_path / "home",
            record_out=tmp_path / "record",
            storage_uri=lambda version: f"s3://models/{version}",
        )
    assert not cluster.writes()
