"""The rollout controller: one state machine that moves traffic step by step and always ends in order.

    starting -> verifying -> shifting ... -> baking -> proven        (then promoted by `finish`, or settled)
         \\___________\\___________\\__________\\____-> rolled back

The state is written with the service *before* the traffic it describes moves, so that whoever comes after a
killed controller (`settle`, or the next rollout) knows what to undo. Ending without PASS sets the canary's
share to 0 first and tells afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from airworthy.errors import RolloutError, ServingError
from airworthy.model_spec import ModelSpec
from airworthy.rollout.judge import Ending, Judge, Judgement, Settings, conclude
from airworthy.rollout.record import RecordWriter
from airworthy.serving.chaos import ChaosProxy, Fault
from airworthy.serving.local import ServerOptions, ServerProcess
from airworthy.serving.observation import Arm, Observation
from airworthy.serving.replay import Traffic, v1_path
from airworthy.serving.splitter import ARM_HEADER, Splitter, first_score
from airworthy.serving.state import NEXT, Deployed, Service, ServiceStore, State, rolled_back

log = logging.getLogger(__name__)

PROBES = 40
MOST_TRAFFIC = 4
"""Evidence may cost this many times the planned requests before the rollout is called inconclusive."""

PROMOTION_SECONDS = 600.0
"""How long a proven canary may wait for its promotion before another release may take the service."""


@dataclass(frozen=True)
class Setting:
    """What one rollout works with.

    Attributes:
        spec: The model spec; `spec.rollout` is the plan.
        store: The service's state.
        bodies: V1 request bodies to replay as traffic.
        inputs: Names of all features in the bodies: each arm reads its own and ignores the other's.
        settings: The judge's.
        fault: Injected misbehaviour of the canary (demo only).
        rollout_id: The rollout that this controller owns.
        logs: Folder for the servers' logs.
        server_module: What is run as the model server.
    """

    spec: ModelSpec
    store: ServiceStore
    bodies: tuple[bytes, ...]
    inputs: tuple[str, ...]
    settings: Settings
    fault: Fault | None
    rollout_id: str
    logs: Path
    server_module: str


class Controller:
    """Runs one rollout; `run` once. Everything it starts is stopped when `run` returns or raises."""

    def __init__(self, setting: Setting, state: Service, record: RecordWriter) -> None:
        assert state.canary is not None
        self.judge = Judge(setting.settings)
        self.harm = 0
        """Failed answers that users got because of the canary."""
        self._setting = setting
        self._plan = setting.spec.rollout
        self._record = record
        self._state = state
        self._splitter: Splitter | None = None
        self._stable = self._server("stable", state.stable) if state.stable else None
        self._canary = self._server("canary", state.canary)
        self._proxy: ChaosProxy | None = None

    async def run(self) -> Judgement:
        """Roll out; returns the judgement. The canary is left at 100 % in state `proven`, or rolled back.

        Raises:
            ServingError: The stable model's server failed: nothing can be said about the canary.
            RolloutError: Somebody else took the service over, or its state can't be written.
        """
        ending: Ending = "interrupted"
        detail = ""
        try:
            async with asyncio.timeout(self._plan.deadline_seconds):
                ending, detail = await self._advance()
        except TimeoutError:
            ending = "deadline"
        except asyncio.CancelledError:
            detail = "interrupted by a signal"
            raise
        except Exception as error:
            detail = str(error) or type(error).__name__
            raise
        finally:
            try:
                judgement = self._conclude(ending, detail)
            finally:
                await self._stop()
        return judgement

    def _conclude(self, ending: Ending, detail: str) -> Judgement:
        judgement = conclude(self.judge, ending, detail)
        if judgement.outcome != "PASS":
            self._roll_back(judgement.reason)
        else:
            self._to("proven", 100)
        self._record.write(
            "end",
            ending=ending,
            detail=detail,
            judgement=dataclasses.asdict(judgement),
            evidence=self.judge.evidence,
        )
        return judgement

    async def _advance(self) -> tuple[Ending, str]:
        unusable = await self._start()
        if unusable:
            return "unusable", unusable
        assert self._splitter is not None
        async with Traffic(
            self._splitter.url + v1_path(self._setting.spec.name), self._setting.bodies
        ) as traffic:
            unusable = await self._verify(traffic)
            if unusable:
                return "unusable", unusable
            if self._stable:
                for percent in self._plan.steps:
                    self._to("shifting", percent)
                    await self._send(traffic, self._plan.requests_per_step)
                    if self.judge.failure:
                        return "completed", ""
            self._to("baking", 100)
            await self._send(traffic, self._plan.bake_requests)
            return await self._gather(traffic), ""

    async def _gather(self, traffic: Traffic) -> Ending:
        """More traffic until the error rate is certified, within bounds (`hold`: until the deadline)."""
        planned = len(self._plan.steps) * self._plan.requests_per_step + self._plan.bake_requests
        left = MOST_TRAFFIC * max(planned, 100)
        while not self.judge.certified and not self.judge.failure:
            if left <= 0 and self._plan.on_inconclusive == "rollback":
                return "exhausted"
            await self._send(traffic, 20)
            left -= 20
        return "completed"

    async def _start(self) -> str:
        """Start servers and splitter; returns why the canary is unusable, or an empty string."""
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
            self._stable.url if self._stable else None, address, on_request=self._observe
        )
        await self._splitter.start()
        return ""

    async def _verify(self, traffic: Traffic) -> str:
        """At 0 %: probe both arms, then let the stable arm set the references. Returns why not to go on."""
        self._to("verifying", 0 if self._stable else 100)
        arms: list[Arm] = ["stable", "canary"] if self._stable else ["canary"]
        for arm in arms:
            answers = await traffic.send(PROBES, headers={ARM_HEADER: arm})
            valid = sum(first_score(a.body) is not None for a in answers if a.status == 200)
            if not valid:
                problem = (
                    f"the {arm} model answered none of {PROBES} probes (last: HTTP {answers[-1].status})"
                )
                if arm == "canary":
                    return problem
                raise ServingError(problem)
        if self._stable:
            await self._send(traffic, self._setting.settings.warm_up)
        return ""

    async def _send(self, traffic: Traffic, count: int) -> None:
        await traffic.send(count, until=lambda: self.judge.failure is not None)
        if self._stable and not self._stable.alive:
            raise ServingError(
                f"the stable model's server ended during the rollout (log: {self._stable.log_file})"
            )

    def _observe(self, seen: Observation) -> None:
        failure = self.judge.observe(seen)
        if failure and self._splitter and self._state.stable:
            # before anything else, also before the next request: nobody meets a canary that was found worse
            self._splitter.set_share(0.0)
        answered_by_stable = seen.result == "connection" and self._state.stable is not None
        if seen.arm == "canary" and seen.failed and not seen.forced and not answered_by_stable:
            self.harm += 1
        if self._record.observe(seen):
            self._record.write("evidence", index=seen.index, evidence=self.judge.evidence)

    def _to(self, state: State, percent: int) -> None:
        """Write the transition with the service, then move the traffic."""

        def change(current: Service | None) -> Service:
            rollout = current.rollout if current else None
            if current is None or rollout is None or rollout.id != self._setting.rollout_id:
                raise RolloutError(
                    f"the rollout of service {self._plan.service} was taken over by another one"
                )
            if state not in NEXT[rollout.state]:
                raise RolloutError(
                    f"the rollout of service {self._plan.service} is {rollout.state} (settled meanwhile?): "
                    f"it can't become {state}"
                )
            moved = rollout.model_copy(update={"state": state})
            if state == "proven":
                moved = moved.model_copy(update={"deadline": time.time() + PROMOTION_SECONDS})
            return current.model_copy(update={"rollout": moved, "traffic_percent": percent})

        before = self._state.rollout.state if self._state.rollout else None
        self._state = self._setting.store.update(change)
        self._record.write("state", before=before, after=state)
        self._set_percent(percent)
        log.info("rollout of %s: %s, canary at %d %%", self._plan.service, state, percent)

    def _set_percent(self, percent: int) -> None:
        if self._splitter is None:
            return
        if self.judge.failure and percent > 0:
            return
        weights = self._splitter.set_share(percent / 100)
        self._record.write("weight", percent=percent, version=weights.version)

    def _roll_back(self, reason: str) -> None:
        if self._splitter and self._state.stable:
            self._set_percent(0)

        def change(current: Service | None) -> Service:
            rollout = current.rollout if current else None
            if current is None or rollout is None or rollout.id != self._setting.rollout_id:
                raise RolloutError(
                    f"the rollout of service {self._plan.service} was taken over by another one"
                )
            return current if rollout.state == "rolled back" else rolled_back(current, reason)

        before = self._state.rollout.state if self._state.rollout else None
        self._state = self._setting.store.update(change)
        self._record.write("state", before=before, after="rolled back", reason=reason)
        log.info("rollout of %s rolled back: %s", self._plan.service, reason)

    async def _stop(self) -> None:
        if self._splitter:
            await self._splitter.stop(drain=2.0)
        if self._proxy:
            with contextlib.suppress(OSError):
                await self._proxy.stop()
        servers = [server for server in (self._stable, self._canary) if server]
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in servers))

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
        return ServerProcess(options, self._setting.logs / f"{arm}.log", self._setting.server_module)
