"""What answers while a rollout on KServe goes on: waits for what is asked for to be observed, and gathers evidence.

What has been requested of Kubernetes counts for nothing here. A percent is applied once KServe's traffic table, or the
HTTPRoute's weights, say so; and as soon as they say something else, evidence is dropped until they agree again. The
cluster is polled: at a period of seconds a watch would save nothing, and polling survives what watches don't.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from airworthy.errors import AirworthyError, RolloutError, ServingError
from airworthy.rollout.deployers import PROBES, CanaryLostError, Sink
from airworthy.rollout.deployers.asking import Asker, Reach, directly
from airworthy.rollout.deployers.kserve import KServeStore
from airworthy.rollout.deployers.steps import Seen, Split, Step
from airworthy.rollout.signals import Signals
from airworthy.rollout.signals.outcomes import OutcomeFiles
from airworthy.serving.observation import Arm, Observation
from airworthy.serving.state import Service

log = logging.getLogger(__name__)

NOBODY = "nobody"
"""What the stable arm is called for the signals while there is none."""
SETTLE_SECONDS = 10.0
"""Gateways follow a change of weights late; this is what is allowed for by default."""


@dataclass(frozen=True)
class ClusterSetting:
    """What one rollout on KServe works with.

    Attributes:
        store: The service's state.
        signals: Where evidence comes from.
        bodies: V1 request bodies for probes and the shadow phase.
        reach: How an arm's own address is asked.
        settle_seconds: How long after a change of weights requests may still follow the old ones.
        poll_seconds: Between two polls of the signals.
        outcomes: Tells outcomes of an A/B test; the signals tell it of requests.
    """

    store: KServeStore
    signals: Signals
    bodies: tuple[bytes, ...]
    reach: Reach = directly
    settle_seconds: float = SETTLE_SECONDS
    poll_seconds: float = 5.0
    outcomes: OutcomeFiles | None = None


class KServePlane:
    """A `Plane` of one rollout on KServe.

    Args:
        setting: See `ClusterSetting`.
        state: The service's state as the rollout began it.
        sink: Who wants to know what comes of requests.
    """

    shields = False

    def __init__(self, setting: ClusterSetting, state: Service, sink: Sink) -> None:
        assert state.canary is not None
        assert state.rollout is not None
        self.settle_seconds = setting.settle_seconds
        self._setting = setting
        self._store = setting.store
        self._timing = setting.store.timing
        self._rollout = state.rollout.id
        self._compared = state.stable is not None
        self._versions: dict[Arm, str] = {"stable": state.stable.version if state.stable else NOBODY}
        self._versions["canary"] = state.canary.version
        self._sink = sink
        self._percent = 0 if state.stable else 100
        self._names: dict[Arm, str] = {}
        self._index = 0
        self._withdrawn = False
        self._settled_at = 0.0
        self._settled_since = 0.0
        self._polled_at = 0.0
        self._asker: Asker | None = None

    async def start(self) -> str:
        """Bring the canary up and wait until KServe calls it ready; see `Plane.start`."""
        self._asker = await Asker(self._store.service, self._setting.bodies, self._setting.reach).__aenter__()
        step = await self._until(self._timing.ready)
        if step.arrived:
            await self._agrees()
            return ""
        if self._compared and step.waits_for.startswith("the stable model"):
            told = f"{step.waits_for}; {step.failure}" if step.failure else step.waits_for
            raise ServingError(f"service {self._store.service}: waited for {told}")
        return step.failure or f"after {self._timing.ready:.0f} s it was still waiting for {step.waits_for}"

    async def probe(self, arm: Arm) -> str:
        """Ask one arm directly `PROBES` rows; one valid answer is enough here, the judge sees the rest.

        A gateway may not know a new address yet: only after the time to settle no answer is one.
        """
        end = time.monotonic() + self.settle_seconds
        while True:
            address, told = await self._address(arm), "it has no address of its own"
            if address:
                valid, last = await self._open().probe(address, PROBES)
                if valid:
                    return ""
                told = last.detail
            if time.monotonic() > end:
                return f"the {arm} model answered none of {PROBES} probes (last: {told})"
            await asyncio.sleep(self._timing.period)

    async def shift(self, percent: int) -> None:
        """Wait until the percent that the state names is observed; see `Plane.shift`."""
        state, _ = await asyncio.to_thread(self._store.look)
        self._still_ours(state)
        assert state is not None
        if state.stable and state.traffic_percent != percent:
            raise RolloutError(
                f"service {self._store.service}: {percent} % can't be applied, its state says {state.traffic_percent} %"
            )
        step = await self._until(self._timing.weights)
        if not step.arrived:
            raise RolloutError(await self._not_shifted(percent, step))
        changed, self._percent = self._percent != percent, percent
        if changed:
            await self._settle()
        await self._look()
        log.info("service %s: %d %% observed", self._store.service, percent)

    def withdraw(self) -> None:
        """Patch the share to 0 at once; see `Plane.withdraw`. What fails here is tried again by the rollback.

        Once is enough: nothing gives a canary a share that was found worse, and a poll may tell of thousands of
        requests after that.
        """
        if self._withdrawn:
            return
        self._withdrawn = True
        try:
            self._store.withdraw(self._rollout)
        except AirworthyError as error:
            log.warning("service %s: the canary still has its share: %s", self._store.service, error)

    async def gather(self, requests: int, until: Callable[[], bool]) -> None:
        """Poll the signals until so many requests were observed; see `Plane.gather`."""
        left = requests
        while left > 0 and not until():
            await self._pause(until)
            if not await self._agrees():
                await self._regain()
                continue
            begun, signals = self._polled_at, self._setting.signals
            arms = self._versions if signals.named_by == "version" else {"stable": NOBODY, **self._names}
            seen = await signals.poll(self._percent / 100, arms)
            self._polled_at = time.monotonic()
            if not await self._agrees():
                await self._regain()
                continue
            left -= self._report(seen, settling=begun < self._settled_at)
            await self._tell_outcomes()

    async def shadow(self, requests: int, until: Callable[[], bool]) -> None:
        """Ask both models the same rows directly; see `Plane.shadow`. Requests of users are not touched."""
        stable, canary = await self._address("stable"), await self._address("canary")
        if not stable or not canary:
            missing = "canary" if stable else "stable"
            raise ServingError(f"service {self._store.service}: the {missing} model can't be asked directly")
        await self._open().pairs(stable, canary, requests, until, self._sink.compare)

    async def close(self) -> None:
        """See `Plane.close`."""
        asker, self._asker = self._asker, None
        if asker and self._setting.outcomes:
            self._setting.outcomes.close()
        if asker:
            await asker.__aexit__()

    async def _until(self, seconds: float) -> Step:
        """Advance step by step until what serves is what the state says, nothing helps any more, or time is up."""
        begun = time.monotonic()
        while True:
            waited = time.monotonic() - begun
            step = await asyncio.to_thread(self._store.advance, impatient=waited > self._timing.patience)
            if step is None:
                raise RolloutError(f"the state of service {self._store.service} is gone")
            if step.arrived or (step.patch is None and (step.failure or waited > seconds)):
                return step
            if step.patch is None:
                await asyncio.sleep(self._timing.period)

    async def _not_shifted(self, percent: int, step: Step) -> str:
        asked = f"service {self._store.service}: {percent} % did not come about within {self._timing.weights:.0f} s"
        told = f"{asked}; waited for {step.failure or step.waits_for}"
        split = (await self._look())[2]
        if self._store.mode.name == "standard" and percent and not split.percent and not step.failure:
            return f"{told}: this KServe does not split traffic (0.20.x, or enableGatewayApi=false)"
        return told

    async def _look(self) -> tuple[Service | None, Seen, Split]:
        """What is there now; remembers what the cluster calls the arms, also of one that has no traffic."""

        def look() -> tuple[Service | None, Seen, Split]:
            state, seen = self._store.look()
            if seen is None:
                raise ServingError(f"InferenceService {self._store.service} is gone: somebody deleted it")
            if state is None:
                raise RolloutError(f"the state of service {self._store.service} is gone")
            return state, seen, self._store.mode.split(state, seen)

        state, seen, split = await asyncio.to_thread(look)
        self._names |= split.names
        return state, seen, split

    async def _agrees(self) -> bool:
        """Whether users are answered as was asked for.

        Raises:
            ServingError: The stable model doesn't serve any more.
        """
        state, seen, split = await self._look()
        assert state is not None
        if self._compared:
            why = await asyncio.to_thread(self._store.mode.serves, "stable", state, seen)
            if why:
                raise ServingError(f"service {self._store.service}: the stable model does not serve: {why}")
        return split.percent == self._percent

    async def _regain(self) -> None:
        """Weights are not what was asked for: no evidence until they are again.

        Raises:
            RolloutError: They stay so, or the canary does not come back.
        """
        log.warning("service %s: weights are not what was asked for: no evidence", self._store.service)
        begun = time.monotonic()
        while not await self._agrees():
            if time.monotonic() - begun > self._timing.weights:
                raise await self._drift()
            await asyncio.sleep(self._timing.period)
        await self._settle()

    async def _settle(self) -> None:
        """Weights are what was asked for since now: what comes until gateways follow is no evidence."""
        self._settled_at = time.monotonic() + self.settle_seconds
        self._settled_since = time.time() + self.settle_seconds
        await self._setting.signals.skip()
        if self._setting.outcomes:
            self._setting.outcomes.skip()
        self._polled_at = time.monotonic()

    def _still_ours(self, state: Service | None) -> None:
        """Raises what says that the rollout was settled, or another one began."""
        rollout = state.rollout if state else None
        if rollout is None or rollout.id != self._rollout:
            raise RolloutError(f"the rollout of service {self._store.service} was taken over by another one")
        if state and state.canary is None:
            raise RolloutError(
                f"the rollout of service {self._store.service} was {rollout.state} meanwhile: {rollout.reason}"
            )

    async def _drift(self) -> RolloutError:
        state, seen, split = await self._look()
        assert state is not None
        self._still_ours(state)
        why = await asyncio.to_thread(self._store.mode.serves, "canary", state, seen)
        if why:
            return CanaryLostError(f"version {self._versions['canary']} does not serve any more: {why}")
        return RolloutError(
            f"service {self._store.service}: {self._percent} % were applied, but users are answered otherwise for "
            f"{self._timing.weights:.0f} s ({split.seen}): somebody else changed it"
        )

    def _report(self, seen: list[Observation], *, settling: bool) -> int:
        """Hand observations on; what is from before the weights settled is no evidence."""
        told = 0
        for one in seen:
            early = settling or one.at < self._settled_since
            self._sink.observe(dataclasses.replace(one, index=self._index, repeat=one.repeat or early))
            self._index += 1
            told += 0 if early else one.count
        self._sink.polled()
        return told

    async def _tell_outcomes(self) -> None:
        outcomes = self._setting.outcomes
        for one in await outcomes.poll(self._settled_since) if outcomes else ():
            self._sink.outcome(one.value, one.canary, one.share)

    async def _pause(self, until: Callable[[], bool]) -> None:
        """Until the next poll is due."""
        due = self._polled_at + self._setting.poll_seconds
        while time.monotonic() < due and not until():
            await asyncio.sleep(min(self._timing.period, max(0.0, due - time.monotonic())))

    async def _address(self, arm: Arm) -> str:
        state, seen, _ = await self._look()
        assert state is not None
        return await asyncio.to_thread(self._store.mode.address, arm, state, seen)

    def _open(self) -> Asker:
        assert self._asker is not None
        return self._asker
