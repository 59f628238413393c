"""The local deployer: KServe model servers of this machine behind our splitter, asked replayed rows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from airworthy.errors import ServingError
from airworthy.model_spec import ModelSpec
from airworthy.rollout.deployers import PROBES, Sink
from airworthy.rollout.experiment import DecisionCost
from airworthy.serving.chaos import ChaosProxy, Fault
from airworthy.serving.local import ServerOptions, ServerProcess
from airworthy.serving.observation import Arm, Pair
from airworthy.serving.replay import Answer, Traffic, v1_path
from airworthy.serving.splitter import ARM_HEADER, Splitter, first_score
from airworthy.serving.state import Deployed, Service, ServiceStore

SHADOW_PORTION = 50
"""Requests replayed before looking how many pairs came of them: fewer than the shadow's queue holds."""


@dataclass(frozen=True)
class LocalSetting:
    """What one local rollout works with.

    Attributes:
        spec: The model spec.
        store: The service's state.
        bodies: V1 request bodies to replay as traffic.
        inputs: Names of all features in the bodies: each arm reads its own and ignores the other's.
        fault: Injected misbehaviour of the canary (demo only).
        server_module: What is run as the model server.
        cost: Tells the outcome of each request of an A/B test.
    """

    spec: ModelSpec
    store: ServiceStore
    bodies: tuple[bytes, ...]
    inputs: tuple[str, ...]
    fault: Fault | None
    server_module: str
    cost: DecisionCost | None = None


class LocalPlane:
    """A `Plane` of processes of this machine. Its traffic is replayed rows; its weights change at once."""

    settle_seconds = 0.0
    shields = True

    def __init__(self, setting: LocalSetting, state: Service, sink: Sink) -> None:
        assert state.canary is not None
        assert state.rollout is not None
        self._setting = setting
        self._logs = setting.store.folder / "logs" / state.rollout.id
        self._sink = sink
        self._stable = self._server("stable", state.stable) if state.stable else None
        self._canary = self._server("canary", state.canary)
        self._proxy: ChaosProxy | None = None
        self._splitter: Splitter | None = None
        self._traffic: Traffic | None = None

    async def start(self) -> str:
        """Start servers and splitter; see `Plane.start`."""
        servers = [server for server in (self._stable, self._canary) if server]
        for server in servers:
            server.start()
        waits = await asyncio.gather(*(server.ready() for server in servers), return_exceptions=True)
        *stable_wait, canary_wait = waits
        for wait in stable_wait:
            if isinstance(wait, BaseException):
                raise wait
        if isinstance(canary_wait, ServingError):
            return str(canary_wait)
        if isinstance(canary_wait, BaseException):
            raise canary_wait
        address = canary_wait
        if self._setting.fault:
            self._proxy = ChaosProxy(canary_wait, self._setting.fault)
            address = await self._proxy.start()
        self._splitter = Splitter(
            self._stable.url if self._stable else None,
            address,
            on_request=self._sink.observe,
            sticky=self._setting.spec.rollout.sticky_header,
        )
        url = await self._splitter.start()
        self._traffic = Traffic(
            url + v1_path(self._setting.spec.name), self._setting.bodies, on_answer=self._outcome
        )
        await self._traffic.__aenter__()
        return ""

    async def probe(self, arm: Arm) -> str:
        """Ask one arm `PROBES` rows; one valid answer is enough here, the judge sees the rest."""
        answers = await self._open_traffic().send(PROBES, headers={ARM_HEADER: arm})
        if any(a.status == 200 and first_score(a.body) is not None for a in answers):
            return ""
        return f"the {arm} model answered none of {PROBES} probes (last: HTTP {answers[-1].status})"

    async def shift(self, percent: int) -> None:
        """See `Plane.shift`; immediate here."""
        assert self._splitter is not None
        self._splitter.set_share(percent / 100)

    def withdraw(self) -> None:
        """See `Plane.withdraw`: what was drawn for the canary already is finished, nothing is drawn any more."""
        if self._splitter and self._stable:
            self._splitter.set_share(0.0)

    async def gather(self, requests: int, until: Callable[[], bool]) -> None:
        """Replay that many requests; see `Plane.gather`."""
        await self._open_traffic().send(requests, until=until)
        if self._stable and not self._stable.alive:
            raise ServingError(
                f"the stable model's server ended during the rollout (log: {self._stable.log_file})"
            )

    async def shadow(self, requests: int, until: Callable[[], bool]) -> None:
        """Replay requests until so many pairs were compared; see `Plane.shadow`."""
        assert self._splitter is not None
        pairs = 0

        def compare(pair: Pair) -> None:
            nonlocal pairs
            pairs += 1
            self._sink.compare(pair)

        def enough() -> bool:
            return pairs >= requests or until()

        self._splitter.set_shadow(1.0, on_pair=compare)
        try:
            while not enough():
                await self.gather(min(SHADOW_PORTION, requests - pairs), enough)
                await asyncio.sleep(0.01)  # the shadow answers after the reply
        finally:
            self._splitter.set_shadow(0.0)

    def _outcome(self, row: int, answer: Answer) -> None:
        """Tell the outcome of a request of an A/B test."""
        cost, splitter = self._setting.cost, self._splitter
        if cost is None or splitter is None or not 0.0 < splitter.weights.share < 1.0:
            return
        score = first_score(answer.body) if answer.status == 200 else None
        if score is None:
            return
        arm: Arm = "canary" if answer.arm == "canary" else "stable"
        value = cost.of(row, arm, score)
        if value is not None:
            self._sink.outcome(value, arm == "canary", splitter.weights.share)

    async def close(self) -> None:
        """See `Plane.close`."""
        if self._traffic:
            await self._traffic.__aexit__()
        if self._splitter:
            await self._splitter.stop(drain=2.0)
        if self._proxy:
            with contextlib.suppress(OSError):
                await self._proxy.stop()
        servers = [server for server in (self._stable, self._canary) if server]
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in servers))

    def _open_traffic(self) -> Traffic:
        assert self._traffic is not None
        return self._traffic

    def _server(self, arm: Arm, deployed: Deployed) -> ServerProcess:
        spec = self._setting.spec
        options = ServerOptions(
            bundle=self._setting.store.path(deployed),
            name=spec.name,
            version=deployed.version,
            digest=deployed.digest,
            max_rows=spec.serving.max_rows,
            unseen_category=spec.serving.unseen_category,
            ignored=self._setting.inputs,
        )
        return ServerProcess(options, self._logs / f"{arm}.log", self._setting.server_module)
