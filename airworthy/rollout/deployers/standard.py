"""Canaries of KServe's Standard mode: `spec.canary[]` and the weights of an HTTPRoute.

What KServe does with it, and what follows:

- The list is atomic: it is always sent whole. Replicas of a canary are fixed, and 0 at 0 % unless said otherwise:
  every entry names its `minReplicas`, the stable predictor's share of them, at least 1.
- `status.canaryStatuses` repeats the requested percent. What users meet are the weights of HTTPRoute `<service>`;
  an installation without them (KServe 0.20, or without Gateway API) never writes any.
- A canary that is not ready gets no requests and leaves the InferenceService ready: the reason for that is found with
  its Deployment and pods.
- What leaves the spec is deleted at once, before weights are rewritten and long before gateways have followed: a
  canary leaves from observed 0 %, and a stable predictor (in one patch with the promotion) from observed 100 % at a
  canary with all its replicas available; either way some time after that was first seen.
- Names are used up: after a promotion the stable predictor has the canary's name.
"""

from __future__ import annotations

import math

from airworthy.errors import RolloutError
from airworthy.rollout.deployers import DeployerName
from airworthy.rollout.deployers.api import Object
from airworthy.rollout.deployers.inference_service import (
    MODE,
    SOURCE,
    STOP,
    canary_name,
    difference,
    names_model,
    notes,
    predictor_name,
    require_model,
    stopped,
    with_model,
)
from airworthy.rollout.deployers.pods import given_up, why_not_ready
from airworthy.rollout.deployers.steps import Seen, Split, Step, foreign
from airworthy.serving.observation import Arm
from airworthy.serving.state import Deployed, Service

AUTOSCALER = "serving.kserve.io/autoscalerClass"
VISIBILITY = "networking.kserve.io/visibility"
STANDARD_NAMES = ("Standard", "RawDeployment")


class Standard:
    """See the module. Keeps no state."""

    name: DeployerName = "standard"

    @property
    def annotations(self) -> dict[str, str]:
        """See `Mode.annotations`. An autoscaler would fight the fixed replicas of canaries."""
        return {MODE: "Standard", AUTOSCALER: "none"}

    def refuse(self, seen: Seen) -> None:
        """See `Mode.refuse`."""
        require_model(seen.object)
        name, noted, labels = seen.name, notes(seen.object), seen.object["metadata"].get("labels") or {}
        if noted.get(MODE) not in STANDARD_NAMES:
            raise RolloutError(
                f"InferenceService {name} has no annotation {MODE}: Standard, without which KServe refuses canaries; "
                "add it (the mode itself can't be changed)"
            )
        if "cluster-local" in (labels.get(VISIBILITY), noted.get(VISIBILITY)):
            raise RolloutError(
                f"InferenceService {name} is cluster-local ({VISIBILITY}): its callers reach the predictor past the "
                "gateway, which alone splits traffic; expose it, or deploy in Knative mode"
            )
        most = seen.predictor.get("maxReplicas") or 0
        if noted.get(AUTOSCALER) != "none" and most > self._replicas(seen):
            raise RolloutError(
                f"InferenceService {name} is scaled automatically up to {most} replicas, and KServe gives a canary a "
                f"fixed number: set minReplicas to what the peak needs and the annotation {AUTOSCALER}: none"
            )

    def next(self, state: Service, seen: Seen) -> Step:
        """See `Mode.next`."""
        alone = state.stable or state.canary
        if alone is None:
            return Step() if stopped(seen.object) else Step({"metadata": {"annotations": {STOP: "true"}}})
        if stopped(seen.object):
            wake = {"spec": {"predictor": self._naming(seen, alone), "canary": None}}
            return Step({**wake, "metadata": {"annotations": {STOP: None}}})
        if state.stable and state.canary:
            return self._share(state, seen, state.canary)
        return self._alone(state, seen, alone)

    def withdrawal(self, seen: Seen) -> Object | None:
        """See `Mode.withdrawal`."""
        canaries = seen.spec.get("canary") or []
        if not any(entry.get("trafficPercent") for entry in canaries):
            return None
        return {"spec": {"canary": [{**entry, "trafficPercent": 0} for entry in canaries]}}

    def split(self, state: Service, seen: Seen) -> Split:
        """See `Mode.split`."""
        names: dict[Arm, str] = {"stable": predictor_name(seen.name, seen.predictor.get("name", ""))}
        entry, model = self._entry(seen, state.canary), seen.predictor["model"]
        alone = state.stable or state.canary
        if alone and not names_model(model, alone):
            return Split(None, names, f"the spec names {model.get('storageUri')}")
        if state.stable is None:
            return Split(100.0, {"canary": names["stable"]}, "a single model")
        weights, text = self._weights(seen)
        if entry:
            names["canary"] = predictor_name(seen.name, entry["predictor"]["name"])
        total = sum(weights.values())
        if not total or set(weights) - set(names.values()):
            return Split(None, names, text)
        return Split(100.0 * weights.get(names.get("canary", ""), 0) / total, names, text)

    def address(self, arm: Arm, state: Service, seen: Seen) -> str:
        """See `Mode.address`: each predictor's own Service."""
        names = self.split(state, seen).names
        return f"http://{names[arm]}.{seen.cluster.namespace}.svc.cluster.local" if arm in names else ""

    def serves(self, arm: Arm, state: Service, seen: Seen) -> str:
        """See `Mode.serves`."""
        name = self.split(state, seen).names.get(arm, "")
        if not name or self._available(seen, name):
            return ""
        return f"Deployment {name} has no available replica"

    def _alone(self, state: Service, seen: Seen, target: Deployed) -> Step:
        """One model for everyone: the canary goes, or takes the stable predictor's place."""
        canaries = seen.spec.get("canary") or []
        if names_model(seen.predictor["model"], target):
            return self._without(seen) if canaries else self._settled(seen, target)
        entry = self._entry(seen, target)
        if entry is None:
            return Step({"spec": {"predictor": self._naming(seen, target), "canary": None}})
        own = predictor_name(seen.name, entry["predictor"]["name"])
        full, available = self._entry_for(seen, entry, 100), self._available(seen, own)
        if entry != full:
            return Step({"spec": {"canary": [full]}})
        weights, text = self._weights(seen)
        if {name for name, weight in weights.items() if weight} != {own} or available < self._replicas(seen):
            waits = f"all traffic and {self._replicas(seen)} replicas at {own} (now {text}; {available} available)"
            return Step(waits_for=waits)
        predictor = {"name": entry["predictor"]["name"], "model": entry["predictor"]["model"]}
        old = {key: seen.predictor.get(key) for key in predictor if seen.predictor.get(key) is not None}
        return Step({"spec": {"predictor": difference(old, predictor), "canary": None}}, rests=True)

    def _without(self, seen: Seen) -> Step:
        """The canary goes: first out of the traffic, for KServe deletes its pods before it rewrites the weights."""
        patch = self.withdrawal(seen)
        if patch is not None:
            return Step(patch)
        stable = predictor_name(seen.name, seen.predictor.get("name", ""))
        weights, text = self._weights(seen)
        if {name for name, weight in weights.items() if weight} != {stable} and not seen.impatient:
            return Step(waits_for=f"all traffic at {stable} (now {text})")
        return Step({"spec": {"canary": None}}, rests=True)

    def _settled(self, seen: Seen, target: Deployed) -> Step:
        name = predictor_name(seen.name, seen.predictor.get("name", ""))
        if not self._available(seen, name) or not self._is_updated(seen, name, target):
            waits = f"version {target.version} to get ready{self._why(seen, name)}"
            return Step(waits_for=waits, failure=self._failure(seen, name, target))
        weights, text = self._weights(seen)
        if set(weights) - {name}:
            return Step(waits_for=f"all traffic at {name} (now {text})")
        return Step()

    def _share(self, state: Service, seen: Seen, canary: Deployed) -> Step:
        assert state.stable is not None
        foreign(seen, state.stable)
        entry, percent = self._entry(seen, canary), state.traffic_percent
        begun = state.rollout is None or state.rollout.state != "starting"
        if entry is None and begun:
            raise RolloutError(
                f"InferenceService {seen.name} was changed by somebody else: its spec.canary is not the one that its "
                "rollout put there"
            )
        if entry is None:
            return Step({"spec": {"canary": [self._entry_of(seen, canary)]}})
        own = predictor_name(seen.name, entry["predictor"]["name"])
        if not self._is_ready(seen, entry):
            waits = f"version {canary.version} to get ready{self._why(seen, own)}"
            return Step(waits_for=waits, failure=self._failure(seen, own, canary))
        wanted = self._entry_for(seen, entry, percent)
        if wanted != entry or len(seen.spec["canary"]) > 1:
            return Step({"spec": {"canary": [wanted]}})
        return self._observed(state, seen, own, percent)

    def _observed(self, state: Service, seen: Seen, own: str, percent: int) -> Step:
        split, available = self.split(state, seen), self._available(seen, own)
        refused = self._refused(seen)
        if refused:
            return Step(waits_for=f"HTTPRoute {seen.name} to be accepted ({refused})")
        if split.percent != percent:
            return Step(waits_for=f"{percent} % at {own} (now {split.seen})")
        if percent == 100 and available < self._replicas(seen):
            return Step(waits_for=f"{self._replicas(seen)} replicas of {own} (now {available})")
        return Step()

    def _entry(self, seen: Seen, canary: Deployed | None) -> Object | None:
        """The canary's entry in the spec."""
        entries = seen.spec.get("canary") or []
        ours = (e for e in entries if canary and names_model(e["predictor"].get("model") or {}, canary))
        return next(ours, None)

    def _entry_of(self, seen: Seen, canary: Deployed) -> Object:
        name = canary_name(canary, seen.predictor.get("name", ""), seen.name)
        model = with_model(seen.predictor["model"], canary)
        return {"trafficPercent": 0, "predictor": {"name": name, "minReplicas": 1, "model": model}}

    def _entry_for(self, seen: Seen, entry: Object, percent: int) -> Object:
        replicas = max(1, math.ceil(self._replicas(seen) * percent / 100))
        predictor = {**entry["predictor"], "minReplicas": replicas}
        return {**entry, "trafficPercent": percent, "predictor": predictor}

    def _naming(self, seen: Seen, target: Deployed) -> Object:
        model = seen.predictor["model"]
        return {"model": difference(model, with_model(model, target))}

    def _replicas(self, seen: Seen) -> int:
        """Replicas that the stable model is to have; KServe's default is 1."""
        return max(1, int(seen.predictor.get("minReplicas") or 1))

    def _is_ready(self, seen: Seen, entry: Object) -> bool:
        name = entry["predictor"]["name"]
        told = seen.status.get("canaryStatuses") or []
        ready = any(one.get("name") == name and one.get("ready") for one in told)
        return ready and self._available(seen, predictor_name(seen.name, name)) > 0

    def _available(self, seen: Seen, name: str) -> int:
        found = seen.cluster.deployment(name) or {}
        return int((found.get("status") or {}).get("availableReplicas") or 0)

    def _is_updated(self, seen: Seen, name: str, target: Deployed) -> bool:
        """Whether a Deployment's pods are of this model already, not of one that it was patched from."""
        found = seen.cluster.deployment(name) or {}
        template = ((found.get("spec") or {}).get("template") or {}).get("metadata") or {}
        source, status = (template.get("annotations") or {}).get(SOURCE), found.get("status") or {}
        behind = status.get("updatedReplicas", status.get("replicas", 0)) < status.get("replicas", 0)
        return source in (None, target.bundle) and not behind

    def _weights(self, seen: Seen) -> tuple[dict[str, int], str]:
        """Weights by backend, as the HTTPRoute has them, and in words; empty if its rules disagree.

        Without an HTTPRoute, an Ingress sends everything to the stable predictor.
        """
        route = seen.cluster.http_route(seen.name)
        if route is None:
            stable = predictor_name(seen.name, seen.predictor.get("name", ""))
            return {stable: 100}, f"no HTTPRoute {seen.name}"
        tables = [
            {ref["name"]: int(ref.get("weight", 1)) for ref in rule.get("backendRefs") or []}
            for rule in (route.get("spec") or {}).get("rules") or []
        ]
        text = "; ".join(", ".join(f"{n} {w}" for n, w in table.items()) for table in tables) or "no rules"
        agree = bool(tables) and all(table == tables[0] for table in tables)
        return (tables[0], text) if agree else ({}, text)

    def _refused(self, seen: Seen) -> str:
        """Why a gateway doesn't take the HTTPRoute as it is; empty if none complains."""
        route = seen.cluster.http_route(seen.name) or {}
        for parent in (route.get("status") or {}).get("parents") or []:
            for condition in parent.get("conditions") or []:
                refused = condition.get("status") == "False"
                if refused and condition.get("type") in ("Accepted", "ResolvedRefs"):
                    return str(condition.get("message") or condition.get("reason") or condition["type"])
        return ""

    def _why(self, seen: Seen, name: str) -> str:
        why = why_not_ready(seen.cluster, f"app=isvc.{name}")
        return f" ({why})" if why else ""

    def _failure(self, seen: Seen, name: str, deployed: Deployed) -> str:
        """Why a predictor will not get ready, when Kubernetes has given up on it."""
        found = seen.cluster.deployment(name) or {}
        conditions = (found.get("status") or {}).get("conditions") or []
        stuck = (c for c in conditions if c.get("type") == "Progressing" and c.get("status") == "False")
        late = next(stuck, None)
        told = given_up(seen.cluster, f"app=isvc.{name}")
        if late is not None:
            told = (
                told or why_not_ready(seen.cluster, f"app=isvc.{name}") or late.get("message") or "too late"
            )
        return f"version {deployed.version} doesn't get ready: {told}" if told else ""
