"""The rollout controller: one state machine that moves traffic step by step and always ends in order.

    starting -> verifying -> shifting ... -> baking -> proven        (then promoted by `finish`, or settled)
         \\___________\\___________\\__________\\____-> rolled back

The state is written with the service *before* the traffic it describes moves, so that whoever comes after a
killed controller (`settle`, or the next rollout) knows what to undo. Ending without PASS sets the canary's
share to 0 first and tells afterwards.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from airworthy.errors import RolloutError, ServingError
from airworthy.model_spec import Rollout
from airworthy.rollout.deployers import Compare, Observe, Plane, Store
from airworthy.rollout.judge import Ending, Judge, Judgement, Settings, conclude
from airworthy.rollout.record import RecordWriter
from airworthy.serving.observation import Arm, Observation, Pair
from airworthy.serving.state import NEXT, Service, State, rolled_back

log = logging.getLogger(__name__)

MOST_TRAFFIC = 4
"""Evidence may cost this many times the planned requests before the rollout is called inconclusive."""

PROMOTION_SECONDS = 600.0
"""How long a proven canary may wait for its promotion before another release may take the service."""


@dataclass(frozen=True)
class Setting:
    """What one rollout works with.

    Attributes:
        plan: How traffic moves.
        settings: The judge's.
        store: The service's state.
        rollout_id: The rollout that this controller owns.
        plane: Makes what answers requests, given who wants to know of single requests and of pairs.
    """

    plan: Rollout
    settings: Settings
    store: Store
    rollout_id: str
    plane: Callable[[Observe, Compare], Plane]


class Controller:
    """Runs one rollout; `run` once. Everything it starts is stopped when `run` returns or raises."""

    def __init__(self, setting: Setting, state: Service, record: RecordWriter) -> None:
        self.judge = Judge(setting.settings)
        self.harm = 0
        """Failed answers that users got because of the canary."""
        self._setting = setting
        self._plan = setting.plan
        self._record = record
        self._state = state
        self._plane = setting.plane(self._observe, self._compare)

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
                await self._plane.close()
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
        unusable = await self._plane.start() or await self._verify()
        if unusable:
            return "unusable", unusable
        if self._state.stable:
            for percent in self._plan.steps:
                await self._shift("shifting", percent)
                await self._send(self._plan.requests_per_step)
                if self.judge.failure:
                    return "completed", ""
        await self._shift("baking", 100)
        await self._send(self._plan.bake_requests)
        return await self._gather(), ""

    async def _gather(self) -> Ending:
        """More traffic until the error rate is certified, within bounds (`hold`: until the deadline)."""
        planned = len(self._plan.steps) * self._plan.requests_per_step + self._plan.bake_requests
        left = MOST_TRAFFIC * max(planned, 100)
        while not self.judge.certified and not self.judge.failure:
            if left <= 0 and self._plan.on_inconclusive == "rollback":
                return "exhausted"
            await self._send(20)
            left -= 20
        return "completed"

    async def _verify(self) -> str:
        """At 0 %: probe both arms, then let the stable arm set the references. Returns why not to go on."""
        await self._shift("verifying", 0 if self._state.stable else 100)
        if self._state.stable:
            problem = await self._plane.probe("stable")
            if problem:
                raise ServingError(problem)
        problem = await self._plane.probe("canary")
        if not problem and self._state.stable:
            await self._send(self._setting.settings.warm_up)
        return problem

    async def _send(self, requests: int) -> None:
        await self._plane.gather(requests, lambda: self.judge.failure is not None)

    def _observe(self, seen: Observation) -> None:
        failure = self.judge.observe(seen)
        if failure:
            # before anything else, also before the next request: nobody meets a canary that was found worse
            self._plane.withdraw()
        answered_by_stable = seen.result == "connection" and self._state.stable is not None
        if seen.arm == "canary" and seen.failed and not seen.forced and not answered_by_stable:
            self.harm += seen.count
        if self._record.observe(seen):
            self._record.write("evidence", index=seen.index, evidence=self.judge.evidence)

    def _compare(self, pair: Pair) -> None:
        raise NotImplementedError

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
        log.info("rollout of %s: %s, canary at %d %%", self._plan.service, state, percent)

    async def _shift(self, state: State, percent: int) -> None:
        """One transition: the state is written first, then the traffic follows."""
        self._to(state, percent)
        if self.judge.failure:
            return
        await self._plane.shift(percent)
        self._record.write("weight", percent=percent)

    def _roll_back(self, reason: str) -> None:
        self._plane.withdraw()

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

