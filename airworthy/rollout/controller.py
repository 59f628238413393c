"""The rollout controller: one state machine that moves traffic step by step and always ends in order.

    starting -> verifying -> [shadowing] -> shifting ... -> baking -> proven     (then promoted by `finish`)
         \\___________\\____________\\____________\\__________\\____-> rolled back

The state is written with the service *before* the traffic it describes moves, so that whoever comes after a
killed controller (`settle`, or the next rollout) knows what to undo. Ending without PASS takes the canary out of
the traffic first and tells afterwards. While it works the controller renews a lease; one that can't any more, or
finds that somebody settled its rollout, stops.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airworthy.errors import RolloutError, ServingError
from airworthy.model_spec import Rollout
from airworthy.rollout.deployers import CanaryLostError, Plane, Sink, Store
from airworthy.rollout.effects import EffectInterval
from airworthy.rollout.judge import Ending, Judge, Judgement, Settings, conclude
from airworthy.rollout.record import RecordWriter
from airworthy.serving.observation import Observation, Pair
from airworthy.serving.state import (
    FINAL,
    LEASE_SECONDS,
    NEXT,
    PROMOTION_SECONDS,
    Service,
    State,
    rolled_back,
)

log = logging.getLogger(__name__)

MOST_TRAFFIC = 4
"""Evidence may cost this many times the planned requests before the rollout is called inconclusive."""

PORTION = 20
"""Requests to wait for at a time while more evidence or more time is needed."""


@dataclass(frozen=True)
class Setting:
    """What one rollout works with.

    Attributes:
        plan: How traffic moves.
        settings: The judge's.
        store: The service's state.
        rollout_id: The rollout that this controller owns.
        plane: Makes what answers requests, given who wants to know what comes of them.
        facts: What the record begins with.
    """

    plan: Rollout
    settings: Settings
    store: Store
    rollout_id: str
    plane: Callable[[Sink], Plane]
    facts: dict[str, Any]


class Controller:
    """Runs one rollout; `run` once. Everything it starts is stopped when `run` returns or raises."""

    def __init__(self, setting: Setting, state: Service, record: RecordWriter) -> None:
        self.judge = Judge(setting.settings)
        self.effect = EffectInterval(setting.settings.alpha)
        self.harm = 0
        """Failed answers that users got because of the canary."""
        self.shielded = 0
        """Canary failures that the stable model answered instead."""
        self.judgement: Judgement | None = None
        """The recorded one; None as long as the record has no end."""
        self._setting = setting
        self._plan = setting.plan
        self._record = record
        self._state = state
        self._settling_until = 0.0
        self._plane = setting.plane(self)

    async def run(self) -> Judgement:
        """Roll out; returns the judgement. The canary is left at 100 % in state `proven`, or rolled back.

        Raises:
            ServingError: The stable model's server failed: nothing can be said about the canary.
            RolloutError: Somebody else took the service over, or its state can't be written.
        """
        ending: Ending = "interrupted"
        detail = ""
        try:
            self._record.write("start", **self._setting.facts)
            async with asyncio.timeout(self._plan.deadline_seconds) as deadline:
                ending, detail = await self._leased()
        except CanaryLostError as error:
            ending, detail = "unusable", str(error)
        except TimeoutError as error:
            if not deadline.expired():
                detail = str(error) or "something did not answer in time"
                raise
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
                await self._close()
        return judgement

    def observe(self, seen: Observation) -> None:
        """One request, or several alike; see `Sink`."""
        if seen.at < self._settling_until:
            seen = dataclasses.replace(seen, repeat=True)
        failure = self.judge.observe(seen)
        if failure:
            # before anything else, also before the next request: nobody meets a canary that was found worse
            self._plane.withdraw()
        if seen.arm == "canary" and seen.failed and not seen.forced:
            if seen.result in ("connection", "timeout") and self._plane.shields and self._state.stable:
                self.shielded += seen.count
            else:
                self.harm += seen.count
        if self._record.observe(seen):
            self._record.write("evidence", index=seen.index, evidence=self.judge.evidence)

    def polled(self) -> None:
        """All that one poll found was told; see `Sink`."""
        self._record.polled()
        if self.judge.complete():
            self._plane.withdraw()

    def compare(self, pair: Pair) -> None:
        """One request that both models were asked; see `Sink`."""
        if self.judge.compare(pair):
            self._plane.withdraw()
        self._record.compare(pair)

    def outcome(self, value: float, canary: bool, share: float) -> None:
        """The outcome of one request of an A/B test; see `Sink`."""
        self.effect.observe(value, canary, share)
        self._record.outcome(value, canary, share)

    async def _close(self) -> None:
        """Stop everything. The rollout has ended by now: a signal changes nothing any more."""
        closing = asyncio.create_task(self._plane.close())
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError:
                log.info("rollout of %s: stopping already", self._plan.service)

    def _conclude(self, ending: Ending, detail: str) -> Judgement:
        judgement = conclude(self.judge, ending, detail)
        if judgement.outcome != "PASS":
            self._roll_back(judgement.reason)
            self._write_end(judgement, ending, detail)
            return judgement
        try:
            self._to("proven", 100)
            self._write_end(judgement, ending, detail)
        except TakenOverError:
            raise
        except RolloutError as error:
            self._roll_back(f"it was proven, but that can't be written down: {error}")
            raise
        return judgement

    def _write_end(self, judgement: Judgement, ending: Ending, detail: str) -> None:
        self._record.write(
            "end",
            ending=ending,
            detail=detail,
            judgement=dataclasses.asdict(judgement),
            evidence=self.judge.evidence,
            harm=self.harm,
            shielded=self.shielded,
            effect=self.effect.found,
        )
        self.judgement = judgement

    async def _leased(self) -> tuple[Ending, str]:
        """Advance while the lease is being renewed; whichever ends first ends both."""
        work = asyncio.create_task(self._advance())
        lease = asyncio.create_task(self._keep_lease())
        try:
            done, _ = await asyncio.wait((work, lease), return_when=asyncio.FIRST_COMPLETED)
            if work not in done:
                lease.result()  # raises: the lease only ends by an error
            return work.result()
        finally:
            for task in (work, lease):
                task.cancel()
            await asyncio.gather(work, lease, return_exceptions=True)

    async def _keep_lease(self) -> None:
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                self._state = self._setting.store.update(self._renewed)
                renewed = time.monotonic()
            except TakenOverError:
                raise
            except RolloutError as error:
                # An API server may be away for a moment, but not for as long as others believe us alive.
                if time.monotonic() - renewed > LEASE_SECONDS * 2 / 3:
                    raise
                log.warning("the lease of rollout %s was not renewed: %s", self._setting.rollout_id, error)

    def _renewed(self, current: Service | None) -> Service:
        owned = self._owned(current)
        assert owned.rollout is not None
        return owned.model_copy(update={"rollout": owned.rollout.renewed()})

    async def _advance(self) -> tuple[Ending, str]:
        unusable = await self._plane.start() or await self._verify()
        if unusable:
            return "unusable", unusable
        stable = self._state.stable
        if stable and self._plan.shadow_requests:
            await self._shift("shadowing", 0)
            await self._plane.shadow(self._plan.shadow_requests, self._decided)
        if self.judge.failure or self._plan.kind == "shadow":
            return self._observed("the shadow phase is over; by plan no traffic was moved")
        if self._plan.experiment:
            await self._hold_split()
            return self._observed("the experiment is over; by plan nothing was promoted")
        for percent in self._plan.steps if stable else ():
            if percent == 100:
                break
            await self._shift("shifting", percent)
            if percent:
                await self._let_pass(self._plan.requests_per_step, self._plan.step_seconds)
            if self.judge.failure:
                return "completed", ""
        await self._shift("baking", 100)
        await self._let_pass(self._plan.bake_requests, self._plan.bake_seconds)
        return await self._gather(), ""

    def _observed(self, sentence: str) -> tuple[Ending, str]:
        return ("completed", "") if self.judge.failure else ("observed", sentence)

    async def _hold_split(self) -> None:
        experiment = self._plan.experiment
        assert experiment is not None
        await self._shift("shifting", experiment.traffic_percent)
        await self._let_pass(experiment.requests, experiment.seconds)

    async def _gather(self) -> Ending:
        """More traffic until the evidence is in, within bounds (`hold`: until the deadline)."""
        planned = len(self._plan.steps) * self._plan.requests_per_step + self._plan.bake_requests
        left = MOST_TRAFFIC * max(planned, 100, self.judge.missing)
        while not self.judge.certified and not self.judge.failure:
            if left <= 0 and self._plan.on_inconclusive == "rollback":
                return "exhausted"
            await self._send(PORTION)
            left -= PORTION
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

    async def _let_pass(self, requests: int, seconds: float) -> None:
        """At least so many requests and so much time."""
        end = time.monotonic() + seconds
        await self._send(requests)
        while time.monotonic() < end and not self.judge.failure:
            await self._plane.gather(PORTION, lambda: self._decided() or time.monotonic() >= end)
            # Time is what is missing, not evidence.
            await asyncio.sleep(min(0.25, max(0.0, end - time.monotonic())))

    async def _send(self, requests: int) -> None:
        await self._plane.gather(requests, self._decided)
        if self._record.failure:
            raise RolloutError(f"the rollout's record can't be written: {self._record.failure}")

    def _decided(self) -> bool:
        return self.judge.failure is not None or bool(self._record.failure)

    async def _shift(self, state: State, percent: int) -> None:
        """One transition: the state is written first, then the traffic follows and settles."""
        if self.judge.failure:
            return
        settle = self._settle_seconds if percent != self._state.traffic_percent else 0.0
        if settle:
            self._settling_until = math.inf  # until the new weights are observed
        self._to(state, percent)
        await self._plane.shift(percent)
        self._record.write("weight", percent=percent)
        if settle:
            self._settling_until = time.time() + settle
            await self._let_pass(0, settle)

    @property
    def _settle_seconds(self) -> float:
        planned = self._plan.settle_seconds
        return self._plane.settle_seconds if planned is None else planned

    def _owned(self, current: Service | None) -> Service:
        """The present state, if this controller's rollout still is what it is about."""
        rollout = current.rollout if current else None
        if current is None or rollout is None or rollout.id != self._setting.rollout_id:
            raise TakenOverError(f"the rollout of service {self._plan.service} was taken over by another one")
        if rollout.state in FINAL:
            raise TakenOverError(
                f"the rollout of service {self._plan.service} was {rollout.state} meanwhile: {rollout.reason}"
            )
        return current

    def _to(self, state: State, percent: int) -> None:
        """Write a transition; on KServe the same write moves the traffic."""

        def change(current: Service | None) -> Service:
            owned = self._owned(current)
            assert owned.rollout is not None
            if state not in NEXT[owned.rollout.state]:
                raise RolloutError(f"a rollout that is {owned.rollout.state} can't become {state}")
            moved = owned.rollout.renewed().model_copy(update={"state": state})
            if state == "proven":
                moved = moved.model_copy(update={"deadline": time.time() + PROMOTION_SECONDS})
            return owned.model_copy(update={"rollout": moved, "traffic_percent": percent})

        before = self._state.rollout.state if self._state.rollout else None
        self._state = self._setting.store.update(change)
        self._record.write("state", before=before, after=state)
        log.info("rollout of %s: %s, canary at %d %%", self._plan.service, state, percent)

    def _roll_back(self, reason: str) -> None:
        self._plane.withdraw()

        def change(current: Service | None) -> Service:
            rollout = current.rollout if current else None
            if (
                current
                and rollout
                and (rollout.id, rollout.state) == (self._setting.rollout_id, "rolled back")
            ):
                return current
            return rolled_back(self._owned(current), reason)

        before = self._state.rollout.state if self._state.rollout else None
        self._state = self._setting.store.update(change)
        log.info("rollout of %s rolled back: %s", self._plan.service, reason)
        left = ""
        try:
            self._setting.store.settled()
        except RolloutError as error:
            # Everyone has the stable model already; `settle` tidies up what is left.
            left = str(error)
            log.warning("%s", left)
        self._record.write("state", before=before, after="rolled back", reason=reason)
        if left:
            self._record.write("note", text=left)


class TakenOverError(RolloutError):
    """The rollout was settled, or another one began: this controller has nothing to say any more."""
