"""Stores and planes on a test's cluster: what a rollout works with, made anew as often as there are processes.

world = ClusterWorld(cluster)            # `cluster` is the fixture: knative and standard
world.deploy()                           # STABLE serves everyone, made by our own store
store = world.store()                    # a store as another process would have it
plane = world.plane(store, state, sink)  # evidence is what the gateway really did
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from airworthy.rollout.deployers.api import Cluster as Api
from airworthy.rollout.deployers.api import Object, Patience
from airworthy.rollout.deployers.asking import through
from airworthy.rollout.deployers.choose import mode_named
from airworthy.rollout.deployers.inference_service import Template
from airworthy.rollout.deployers.kserve import KServeStore, Timing
from airworthy.rollout.deployers.plane import ClusterSetting, KServePlane
from airworthy.rollout.signals import NamedBy
from airworthy.serving.observation import Arm, Observation, Pair, Result
from airworthy.serving.state import Deployed, Service, State, new_rollout
from tests.cluster.data_plane import Passed
from tests.cluster.double import Cluster

STABLE, CANARY, NEXT = (Deployed(version=v, digest=v * 64, bundle=f"s3://models/{v}") for v in "123")
SERVICE = "late"
QUICK = Patience(total=1.0, connect=1.0, answer=1.0, first=0.02)
TIMING = Timing(period=0.01, settled=5.0, patience=0.5, ready=1.5, weights=1.0, rest=0.1, conflict=0.005)
BODIES = tuple(json.dumps({"instances": [{"hour": hour}]}).encode() for hour in range(8))


class Killed(BaseException):
    """What a kill -9 is to the process: nothing of it runs any more."""


class MortalApi(Api):
    """An API client whose process is killed around its n-th write."""

    def __init__(self, client: Any, namespace: str, dies_at: int = -1, *, after: bool = False) -> None:
        super().__init__(client, namespace, QUICK)
        self.writes = 0
        self._dies_at, self._after = dies_at, after

    def create_inference_service(self, body: Object) -> None:
        self._dying(lambda: super(MortalApi, self).create_inference_service(body))

    def patch_inference_service(self, seen: Object, patch: Object) -> None:
        self._dying(lambda: super(MortalApi, self).patch_inference_service(seen, patch))

    def write_config_map(self, body: Object) -> None:
        self._dying(lambda: super(MortalApi, self).write_config_map(body))

    def _dying(self, write: Callable[[], None]) -> None:
        if self.writes == self._dies_at and not self._after:
            raise Killed
        write()  # a conflict is no write
        self.writes += 1
        if self.writes == self._dies_at + 1:
            raise Killed


@dataclass
class Told:
    """A sink that keeps what it is told."""

    observations: list[Observation] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)

    def observe(self, seen: Observation) -> None:
        self.observations.append(seen)

    def polled(self) -> None:
        """A poll is over."""

    def compare(self, pair: Pair) -> None:
        self.pairs.append(pair)

    def outcome(self, value: float, canary: bool, share: float) -> None:
        raise AssertionError("no outcomes are known on a cluster")


class GatewaySignals:
    """Reports what the gateway of the double really did, by the names that the cluster has for the arms."""

    named_by: NamedBy = "workload"

    def __init__(self, cluster: Cluster) -> None:
        self._log, self._told = cluster.gateway.log, 0

    async def poll(self, share: float, arms: dict[Arm, str]) -> list[Observation]:
        names = {name: arm for arm, name in arms.items()}
        begun, self._told = self._told, len(self._log)
        new = self._log[begun : self._told]
        return [
            _seen(one, names[one.workload], share) for one in new if one.workload in names and not one.direct
        ]

    async def skip(self) -> None:
        self._told = len(self._log)


def _seen(one: Passed, arm: Arm, share: float) -> Observation:
    valid = one.score is not None and math.isfinite(one.score)
    result: Result = "ok" if valid else "error" if one.status >= 500 else "invalid"
    return Observation(0, one.at, arm, share, result, one.seconds, one.score if valid else None)


@dataclass
class ClusterWorld:
    """See the module."""

    cluster: Cluster
    service: str = SERVICE
    replicas: int = 2
    planes: list[KServePlane] = field(default_factory=list)

    def store(self, dies_at: int = -1, *, after: bool = False) -> KServeStore:
        """A store as a process of its own has it, which may be killed before or after its n-th write."""
        api = MortalApi(self.cluster.client(), self.cluster.namespace, dies_at, after=after)
        template = Template({"minReplicas": self.replicas, "model": {"modelFormat": {"name": "xgboost"}}})
        mode = mode_named(self.cluster.mode)
        return KServeStore(api, self.service, mode, template=template, timing=TIMING)

    def plane(
        self, store: KServeStore, state: Service, sink: Any, *, settle_seconds: float = 0.1
    ) -> KServePlane:
        """What answers while the rollout of `state.canary` goes on."""
        assert state.canary is not None
        signals = GatewaySignals(self.cluster)
        reach = through(self.cluster.gateway_url)
        setting = ClusterSetting(store, signals, BODIES, reach, settle_seconds, poll_seconds=0.02)
        self.planes.append(KServePlane(setting, state, sink))
        return self.planes[-1]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run what uses planes; they are closed, however it ends."""

        async def closing() -> Any:
            try:
                return await work
            finally:
                while self.planes:
                    await self.planes.pop().close()

        return asyncio.run(closing())

    def deploy(self, stable: Deployed = STABLE) -> Object:
        """Let a model serve everyone; returns `spec` as it is then."""
        store = self.store()
        store.update(lambda _: Service(service=self.service, model=self.service, stable=stable))
        store.settled()
        self.cluster.wait(lambda: self.serving() == {stable.bundle: 100.0}, "the stable model serves")
        return self.spec()

    def begin(self, store: KServeStore, canary: Deployed = CANARY) -> Service:
        """Begin a rollout, as a release does."""

        def change(current: Service | None) -> Service:
            state = current or Service(service=self.service, model=self.service)
            update = {"canary": canary, "traffic_percent": 0, "rollout": new_rollout(60)}
            return state.model_copy(update=update)

        return store.update(change)

    def move(self, store: KServeStore, state: State, percent: int) -> Service:
        """A transition, as the controller writes it."""

        def change(current: Service | None) -> Service:
            assert current is not None
            assert current.rollout is not None
            rollout = current.rollout.model_copy(update={"state": state})
            return current.model_copy(update={"rollout": rollout, "traffic_percent": percent})

        return store.update(change)

    def serving(self) -> dict[str, float]:
        """Percent of users by storage address, as they are answered now."""
        return self.cluster.serving(self.service)

    def spec(self) -> Object:
        return dict(self.cluster.isvc(self.service)["spec"])
