"""Canaries of KServe's Knative mode: `canaryTrafficPercent`.

What KServe does with it, and what follows:

- The percent goes to the latest *ready* revision, the rest to the one that last had 100 % (`latestRolledoutRevision`).
  A new model patched together with a percent above 0 would send that share to whatever was ready before, so a new
  model always comes with 0, and the percent rises only once the latest ready revision is known to be the canary's.
- A percent of 100 makes the canary the last rolled-out one as soon as it is seen. From there on a rollback that also
  restores the model would pin users to the canary until the restored revision is ready. So from 100 the percent alone
  goes to 0 first: then KServe falls back to the revision before, within two reconciliations.
- Removing the percent promotes whatever the spec names: it goes only when the revision of the model that shall serve
  everyone is the latest one, and ready.
- Status lags the spec and has no usable generation, so revisions are recognised by their own content.
- `minReplicas` and annotations are part of the revision: they change together with the model, never alone.
"""

from __future__ import annotations

from airworthy.errors import RolloutError
from airworthy.rollout.deployers import DeployerName
from airworthy.rollout.deployers.api import Object
from airworthy.rollout.deployers.inference_service import (
    MODE,
    STOP,
    difference,
    is_revision_of,
    names_model,
    require_model,
    stopped,
    with_model,
)
from airworthy.rollout.deployers.pods import why_not_ready
from airworthy.rollout.deployers.steps import Seen, Split, Step, foreign
from airworthy.serving.observation import Arm
from airworthy.serving.state import Deployed, Service

TAGS = "serving.kserve.io/enable-tag-routing"
PERCENT = "canaryTrafficPercent"


class Knative:
    """See the module. Keeps no state."""

    name: DeployerName = "knative"

    @property
    def annotations(self) -> dict[str, str]:
        """See `Mode.annotations`. KServe of every age understands the mode's older name."""
        return {MODE: "Serverless", TAGS: "true"}

    def refuse(self, seen: Seen) -> None:
        """See `Mode.refuse`."""
        require_model(seen.object)

    def next(self, state: Service, seen: Seen) -> Step:
        """See `Mode.next`."""
        target = state.canary or state.stable
        if target is None:
            return Step() if stopped(seen.object) else Step({"metadata": {"annotations": {STOP: "true"}}})
        percent = state.traffic_percent if state.canary and state.stable else None
        if stopped(seen.object):
            wake = self._naming(seen, target, None)
            return Step({**wake, "metadata": {"annotations": {STOP: None}}})
        if not names_model(seen.predictor["model"], target):
            return self._replace(state, seen, target)
        if percent is None:
            return self._alone(seen, target)
        return self._share(state, seen, target)

    def withdrawal(self, seen: Seen) -> Object | None:
        """See `Mode.withdrawal`."""
        return _percent(0) if seen.predictor.get(PERCENT) else None

    def split(self, state: Service, seen: Seen) -> Split:
        """See `Mode.split`."""
        shares = _traffic(seen)
        text = ", ".join(f"{name} {share} %" for name, share in sorted(shares.items())) or "no traffic table"
        ready = _revision(seen, "latestReadyRevision")
        canary = ready if state.canary and self._is(seen, ready, state.canary) else ""
        names: dict[Arm, str] = {"canary": canary} if canary else {}
        others = [name for name, share in shares.items() if name != canary and share]
        if state.canary and state.stable is None:
            return Split(100.0 if canary and not others else None, names, text)
        if len(others) == 1 and (state.stable is None or self._is(seen, others[0], state.stable)):
            names["stable"] = others[0]
        elif others:
            return Split(None, names, text)
        return Split(float(shares.get(canary, 0)) if shares else None, names, text)

    def address(self, arm: Arm, state: Service, seen: Seen) -> str:
        """See `Mode.address`: the addresses of the tags `latest` and `prev`."""
        tag = "latest" if arm == "canary" else "prev"
        tagged = (entry for entry in _entries(seen) if entry.get("tag") == tag and entry.get("url"))
        found = next(tagged, None)
        if found is None and state.stable is None:
            return str(_component(seen).get("url") or "")
        return str(found["url"]) if found else ""

    def serves(self, arm: Arm, state: Service, seen: Seen) -> str:
        """See `Mode.serves`. An unready canary makes the whole InferenceService unready: only routes count."""
        route = seen.condition("PredictorRouteReady")
        if arm == "stable" and route.get("status") == "False":
            return f"its route is not ready ({route.get('message') or route.get('reason')})"
        return ""

    def _replace(self, state: Service, seen: Seen, target: Deployed) -> Step:
        """Another model has to be named: never with a percent above 0, and never while users meet the present one."""
        asked = seen.predictor.get(PERCENT)
        starts = state.canary is not None and state.stable is not None
        if starts and state.rollout and state.rollout.state != "starting":
            foreign(seen, target)
        if asked is None and starts:
            return self._begin(state, seen, target)
        if asked is None and self._is(seen, _revision(seen, "previousRolledoutRevision"), target):
            return Step(_percent(0))  # KServe goes back to that revision at once; the model follows below
        if asked == 100:
            return Step(_percent(0))
        stable = state.stable and names_model(seen.predictor["model"], state.stable)
        if asked == 0 and not stable and not seen.impatient and self._exposed(seen):
            return Step(waits_for=f"the earlier revision to take over again (now {_traffic(seen)})")
        return Step(self._naming(seen, target, 0))

    def _begin(self, state: Service, seen: Seen, target: Deployed) -> Step:
        assert state.stable is not None
        foreign(seen, state.stable)
        rolled, ready = _revision(seen, "latestRolledoutRevision"), _revision(seen, "latestReadyRevision")
        if not rolled or rolled != ready or not self._is(seen, ready, state.stable):
            told = f"latest ready {ready or 'none'}, rolled out {rolled or 'none'}"
            return Step(
                waits_for=f"the stable model to serve everyone ({told})",
                failure=self._failure(seen, state.stable),
            )
        return Step(self._naming(seen, target, 0))

    def _alone(self, seen: Seen, target: Deployed) -> Step:
        """The spec names the model that shall serve everyone: the percent goes once its revision is the ready one."""
        if not self._ready(seen, target):
            return Step(waits_for=self._not_ready(seen, target), failure=self._failure(seen, target))
        if PERCENT in seen.predictor:
            return Step(_percent(None))
        ready, shares = _revision(seen, "latestReadyRevision"), _traffic(seen)
        if {name for name, share in shares.items() if share} != {ready}:
            return Step(waits_for=f"all traffic at {ready} (now {shares})")
        if _revision(seen, "latestRolledoutRevision") != ready:
            return Step(waits_for=f"{ready} to count as rolled out")
        return Step()

    def _share(self, state: Service, seen: Seen, canary: Deployed) -> Step:
        percent, asked = state.traffic_percent, seen.predictor.get(PERCENT)
        if asked is None:
            raise RolloutError(
                f"InferenceService {seen.name} was changed by somebody else: {PERCENT} is gone, which gives everyone "
                "the model that is not proven yet"
            )
        if not self._ready(seen, canary):
            waits = Step(waits_for=self._not_ready(seen, canary), failure=self._failure(seen, canary))
            return Step(_percent(0)) if asked else waits
        if asked != percent:
            return Step(_percent(percent))
        split = self.split(state, seen)
        if split.percent != percent:
            return Step(
                waits_for=f"{percent} % at the canary, the rest at the stable model (now {split.seen})"
            )
        return Step()

    def _naming(self, seen: Seen, target: Deployed, percent: int | None) -> Object:
        """The patch that names a model; the stable one comes back as it was."""
        predictor = seen.predictor
        before = seen.before
        if before and names_model(before["model"], target):
            wanted = {**predictor, "model": before["model"]}
            wanted.pop("minReplicas", None)
            if before.get("minReplicas") is not None:
                wanted["minReplicas"] = before["minReplicas"]
        else:
            wanted = {**predictor, "model": with_model(predictor["model"], target)}
            if predictor.get("minReplicas") == 0:
                wanted["minReplicas"] = 1  # at 0 % it would scale away, and probes would meet a cold start
        patch: Object = {"spec": {"predictor": {**difference(predictor, wanted), PERCENT: percent}}}
        if (seen.object["metadata"].get("annotations") or {}).get(TAGS) != "true":
            patch["metadata"] = {"annotations": {TAGS: "true"}}
        return patch

    def _ready(self, seen: Seen, deployed: Deployed) -> bool:
        latest = _revision(seen, "latestCreatedRevision")
        return latest == _revision(seen, "latestReadyRevision") and self._is(seen, latest, deployed)

    def _exposed(self, seen: Seen) -> bool:
        """Whether users still meet the model that the spec names, although its percent is 0."""
        model, shares = seen.predictor["model"], _traffic(seen)
        present = Deployed(version="", digest="", bundle=str(model.get("storageUri")))
        return any(share and self._is(seen, name, present) for name, share in shares.items())

    def _is(self, seen: Seen, name: str, deployed: Deployed) -> bool:
        found = seen.cluster.revision(name) if name else None
        return found is not None and is_revision_of(found, deployed)

    def _not_ready(self, seen: Seen, deployed: Deployed) -> str:
        created, ready = _revision(seen, "latestCreatedRevision"), _revision(seen, "latestReadyRevision")
        text = f"version {deployed.version} to get ready (latest created {created or 'none'}, ready {ready or 'none'})"
        latest = seen.condition("LatestDeploymentReady") or seen.condition("PredictorReady")
        why = latest.get("message") or why_not_ready(seen.cluster, f"serving.knative.dev/revision={created}")
        return f"{text}: {why}" if why and latest.get("status") != "True" else text

    def _failure(self, seen: Seen, deployed: Deployed) -> str:
        """What KServe reports about the revision that is being brought up, when it has given up on it."""
        model = seen.status.get("modelStatus") or {}
        if model.get("transitionStatus") not in ("BlockedByFailedLoad", "InvalidSpec"):
            return ""
        if not self._is(seen, _revision(seen, "latestCreatedRevision"), deployed):
            return ""
        info = model.get("lastFailureInfo") or {}
        told = " ".join(str(info[key]) for key in ("reason", "message") if info.get(key))
        code = f" (exit code {info['exitCode']})" if info.get("exitCode") else ""
        return f"version {deployed.version} can't be loaded: {told or model['transitionStatus']}{code}"


def _percent(value: int | None) -> Object:
    return {"spec": {"predictor": {PERCENT: value}}}


def _component(seen: Seen) -> Object:
    return dict((seen.status.get("components") or {}).get("predictor") or {})


def _revision(seen: Seen, key: str) -> str:
    return str(_component(seen).get(key) or "")


def _entries(seen: Seen) -> list[Object]:
    return list(_component(seen).get("traffic") or [])


def _traffic(seen: Seen) -> dict[str, int]:
    """Percent by revision; one may stand in the table twice (as the latest and by name)."""
    shares: dict[str, int] = {}
    for entry in _entries(seen):
        name = str(entry.get("revisionName") or "")
        shares[name] = shares.get(name, 0) + int(entry.get("percent") or 0)
    return shares
