"""A service's state on KServe, and the writes that make an InferenceService follow it.

The state is a ConfigMap next to the InferenceService, `<service>-airworthy`, not an annotation of it: KServe copies
annotations into pod templates and revisions (`serviceAnnotationDisallowedList` names the few exceptions), so each
heartbeat would restart the model's pods or make a new revision.

Two objects, each under the optimistic lock of its `resourceVersion`. What keeps them in order:

1. The InferenceService is read *before* the state. The state is written first, then the InferenceService, and only as
   the version that was read.
2. Taking a canary back or promoting it changes the InferenceService, if the canary is in it. So whoever decided on an
   older state has an older version of it in hand, and its write is refused; it reads both again and stops if the
   state is not its own any more. Whoever brings a canary in reads the state once more afterwards, and takes it out
   again if nobody wants it any more.
3. A process killed between the two writes leaves a state whose InferenceService is behind, never ahead of it. Anybody's
   `settled` completes it, one step at a time.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from airworthy.errors import RolloutError
from airworthy.rollout.deployers import GoneError
from airworthy.rollout.deployers.api import Cluster, Conflict, Object
from airworthy.rollout.deployers.inference_service import (
    Template,
    canary_name,
    created,
    stopped,
    storage_address,
)
from airworthy.rollout.deployers.records import Adoption, Record, Records, begins
from airworthy.rollout.deployers.steps import Mode, Seen, Step, foreign
from airworthy.serving.state import Deployed, Service

log = logging.getLogger(__name__)

TRIES = 20
"""Conflicts in a row before giving up: somebody else writes all the time."""


@dataclass(frozen=True)
class Timing:
    """Seconds.

    Attributes:
        period: Between two looks at what is being waited for.
        settled: Until `settled` gives up.
        patience: Until a faster way that needs KServe's help is given up for a slower one that does not.
        ready: Until a canary counts as unable to get ready (above Kubernetes' own progress deadline, 600).
        weights: Until requested weights count as never coming.
        rest: From when weights are seen to when what they no longer use may be deleted: gateways follow late.
        conflict: Pause after a conflict, with jitter.
    """

    period: float = 1.0
    settled: float = 300.0
    patience: float = 20.0
    ready: float = 900.0
    weights: float = 60.0
    rest: float = 10.0
    conflict: float = 0.1


class KServeStore:
    """A `Store` whose service is an InferenceService. Several processes may use it at once.

    Args:
        cluster: The namespace.
        service: Name of the InferenceService.
        mode: How its deployment mode expresses a canary.
        storage_uri: Where a registry version's bundle is stored; needed by `keep` only.
        template: What a new InferenceService looks like.
        adoption: Take over an InferenceService that Airworthy did not make.
        timing: See `Timing`.
    """

    def __init__(
        self,
        cluster: Cluster,
        service: str,
        mode: Mode,
        *,
        storage_uri: Callable[[str], str] | None = None,
        template: Template | None = None,
        adoption: Adoption | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.service = service
        self.cluster = cluster
        self.mode = mode
        self.timing = timing or Timing()
        self._storage_uri = storage_uri
        self._template = template or Template()
        self._records = Records(cluster, service, mode, adoption)
        self._due: tuple[Object, float] | None = None

    def read(self) -> Service | None:
        """See `Store.read`."""
        return self._records.read(self.cluster.inference_service(self.service)).service

    def update(self, change: Callable[[Service | None], Service]) -> Service:
        """See `Store.update`: the state is written, then the InferenceService as it was read before.

        A change of the rollout's own fields (a renewed lease) writes no InferenceService.
        """
        written: Service | None = None
        origin: Service | None = None
        for _ in range(TRIES):
            seen = self.cluster.inference_service(self.service)
            record = self._records.read(seen)
            before = record.service
            if written is None or before != written:  # else it had been applied, and only the answer was lost
                after = change(before)
                if before is not None and after == before:
                    return before
                self._check(before, after, seen)
                origin = before
                written = after.model_copy(update={"revision": (before.revision if before else 0) + 1})
                try:
                    record = self._records.write(record, written, seen)
                except Conflict:
                    self._pause()
                    continue
            if _placement(origin) != _placement(written):
                self._follow(origin, written, record, seen)
            return written
        raise RolloutError(f"the state of service {self.service} changes all the time; try again")

    def keep(self, bundle: Path, version: str) -> Deployed:
        """Verify the bundle and find its storage address; see `Store.keep`."""
        from airworthy.bundle import verify_bundle

        digest = verify_bundle(bundle)
        if self._storage_uri is None:
            raise RolloutError(f"version {version} can't be deployed: its storage address is not known here")
        address = storage_address(self._storage_uri(version), version)
        return Deployed(version=version, digest=digest, bundle=address)

    def settled(self) -> None:
        """See `Store.settled`."""
        begun = time.monotonic()
        while True:
            waited = time.monotonic() - begun
            step = self.advance(impatient=waited > self.timing.patience)
            if step is None or step.arrived:
                return
            if step.patch is None:
                if waited > self.timing.settled or step.failure:
                    raise RolloutError(
                        f"service {self.service}: waited {waited:.0f} s for {step.waits_for}"
                        f"{f'; {step.failure}' if step.failure else ''}"
                    )
                time.sleep(self.timing.period)

    def prune(self) -> None:
        """Nothing: models lie in the registry's store."""

    def advance(self, *, impatient: bool = False) -> Step | None:
        """Do the next step towards the state, if there is something to do; None if there is no state.

        Raises:
            RolloutError: The InferenceService is gone, or somebody else changed what the rollout is about.
        """
        seen = self.cluster.inference_service(self.service)
        record = self._records.read(seen)
        state = record.service
        if state is None or (seen is None and _placement(state) == _placement(None)):
            return None
        if seen is None:
            raise GoneError(
                f"InferenceService {self.service} in namespace {self.cluster.namespace} is gone: somebody deleted it; "
                "the next release makes it again"
            )
        step = self.mode.next(state, Seen(seen, self.cluster, record.before, impatient))
        if not self._rested(step):
            return Step(waits_for="gateways to follow the weights")
        if step.patch is not None:
            try:
                self._patch(seen, step.patch, state)
            except Conflict:
                self._pause()
        return step

    def look(self) -> tuple[Service | None, Seen | None]:
        """The state and what is seen of the InferenceService now."""
        found = self.cluster.inference_service(self.service)
        record = self._records.read(found)
        return record.service, Seen(found, self.cluster, record.before) if found else None

    def withdraw(self, rollout: str) -> None:
        """Take the canary of a rollout out of the traffic at once; the state is for `update` to change.

        Raises:
            RolloutError: The API can't be reached, or refused.
        """
        for _ in range(TRIES):
            state, seen = self.look()
            if seen is None or state is None or state.stable is None or state.canary is None:
                return
            patch = self.mode.withdrawal(seen)
            if patch is None or (state.rollout and state.rollout.id != rollout):
                return
            try:
                self.cluster.patch_inference_service(seen.object, patch)
                return
            except Conflict:
                self._pause()

    def _follow(self, before: Service | None, after: Service, record: Record, seen: Object | None) -> None:
        """The first step towards a state just written; stops when the state is not ours any more."""
        for _ in range(TRIES):
            try:
                if seen is None:
                    return self._create(before, after)
                step = self.mode.next(after, Seen(seen, self.cluster, record.before))
                if step.patch is not None and self._rested(step):
                    self._patch(seen, step.patch, after)
                return None
            except Conflict:
                self._pause()
            seen = self.cluster.inference_service(self.service)
            record = self._records.read(seen)
            if _placement(record.service) != _placement(after):
                log.warning("service %s: somebody else decided otherwise meanwhile", self.service)
                return None
        raise RolloutError(f"InferenceService {self.service} changes all the time; try again")

    def _patch(self, seen: Object, patch: Object, meant: Service) -> None:
        """A step towards a state. If that was taken back before its first step, there was nothing to undo for whoever
        did, so our version of the InferenceService was still the present one: then it is ours to undo."""
        self.cluster.patch_inference_service(seen, patch)
        log.info("service %s: %s", self.service, json.dumps(patch))
        now = self._records.read(seen).service
        if _placement(now) != _placement(meant):
            log.warning("service %s: somebody else decided otherwise meanwhile", self.service)
            if now is None or now.canary is None:
                self.settled()  # else that canary's own controller goes on from here

    def _rested(self, step: Step) -> bool:
        """Whether a patch that deletes something has been due for long enough; others always have."""
        if not step.rests or step.patch is None:
            self._due = None
            return True
        if self._due is None or self._due[0] != step.patch:
            self._due = (step.patch, time.monotonic())
        return time.monotonic() - self._due[1] >= self.timing.rest

    def _create(self, before: Service | None, after: Service) -> None:
        """Make the InferenceService. Whoever deleted it may have meant it: only a model that is new makes it again."""
        first = after.stable or after.canary
        if first is None or (before and before.stable == after.stable and not begins(before, after)):
            return
        body = created(self.service, self.cluster.namespace, self._template, self.mode.annotations, first)
        self.cluster.create_inference_service(body)

    def _check(self, before: Service | None, after: Service, seen: Object | None) -> None:
        """Refuse a canary that could not be carried through; anything else must always be possible."""
        if not 0 <= after.traffic_percent <= 100:
            raise RolloutError(f"{after.traffic_percent} is no percent (0..100)")
        if after.canary is None or not begins(before, after):
            return
        if after.stable and after.stable.bundle == after.canary.bundle:
            raise RolloutError(
                f"service {self.service}: what is stored at {after.canary.bundle} is the stable model already (version "
                f"{after.stable.version}), so there is nothing to roll out"
            )
        if seen is None:
            canary_name(after.canary, "", self.service)
            return
        looked = Seen(seen, self.cluster)
        self.mode.refuse(looked)
        canary_name(after.canary, looked.predictor.get("name", ""), self.service)
        if stopped(seen):
            return
        known = (before.stable, before.canary) if before else ()
        foreign(looked, after.stable, after.canary, *known)
        if before is None and after.stable is None:
            raise self._records.not_ours(seen)

    def _pause(self) -> None:
        time.sleep(self.timing.conflict * random.uniform(0.5, 1.5))  # noqa: S311 (so that two writers part)


def _placement(state: Service | None) -> tuple[Deployed | None, Deployed | None, int]:
    """What of a state concerns the InferenceService."""
    return (state.stable, state.canary, state.traffic_percent) if state else (None, None, 0)
