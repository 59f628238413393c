"""KServe's Knative mode, with Knative Serving below it.

The traffic table and the rolled-out revisions follow KServe's `createKnativeService` and `PropagateStatus`: the percent
goes to the latest READY revision, the rest to the one that last had 100 %; and if both are the same revision, KServe
falls back to the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.cluster.conditions import condition
from tests.cluster.store import DEPLOYMENT, REVISION, Object
from tests.cluster.workloads import CRASHED, REVISION_LABEL, SERVICE_LABEL, SOURCE

if TYPE_CHECKING:
    from tests.cluster.kserve_controller import World

TAGS = "serving.kserve.io/enable-tag-routing"
OUTSIDE_TEMPLATE = ("canaryTrafficPercent",)


@dataclass
class Made:
    """What Knative knows of one service: revisions in order, and the latest that got ready."""

    revisions: list[str] = field(default_factory=list)
    templates: list[Object] = field(default_factory=list)
    ready: set[str] = field(default_factory=set)
    latest_ready: str = ""
    generation: int = 0
    targets: Any = None


class KnativeMode:
    """Reconciles InferenceServices of this mode."""

    name = "Knative"

    def __init__(self, world: World) -> None:
        self._world = world
        self._made: dict[str, Made] = {}

    def forget(self, isvc: Object) -> None:
        """The service was deleted or stopped."""
        if self._made.pop(isvc["metadata"]["uid"], None) is None:
            return
        gateway = self._world.plane.gateway
        for host in _hosts(isvc):
            gateway.split.pop(host, None)
        for tag in ("latest", "prev"):
            for host in _hosts(isvc, tag)[1:]:
                gateway.direct.pop(host, None)
        gateway.services.pop(isvc["metadata"]["name"], None)

    def reconcile(self, isvc: Object) -> None:
        made = self._made.setdefault(isvc["metadata"]["uid"], Made())
        status = isvc.get("status") or {}
        component = dict((status.get("components") or {}).get("predictor") or {})
        targets = self._targets(isvc, component)
        self._revise(isvc, made)
        if (targets, len(made.templates)) != made.targets:
            made.targets, made.generation = (targets, len(made.templates)), made.generation + 1
        self._get_ready(isvc, made)
        table = self._route(isvc, made, targets)
        _propagate(component, made, table)
        self._report(isvc, made, component, table, targets)

    def _revise(self, isvc: Object, made: Made) -> None:
        """A new revision for a new template; Knative takes a moment."""
        meta, predictor = isvc["metadata"], isvc["spec"]["predictor"]
        annotations = self._world.annotations(isvc)
        annotations["autoscaling.knative.dev/min-scale"] = str(predictor.get("minReplicas", 1))
        uri = _uri(predictor)
        annotations[SOURCE] = uri
        spec = {key: value for key, value in predictor.items() if key not in OUTSIDE_TEMPLATE}
        labels = {key: value for key, value in (meta.get("labels") or {}).items() if "visibility" not in key}
        wanted = {"annotations": annotations, "labels": labels, "spec": spec}
        if made.templates and made.templates[-1] == wanted:
            return
        if self._world.lag.follow((meta["uid"], "template"), wanted, self._world.delays.revision) != wanted:
            return
        made.templates.append(wanted)
        name = f"{meta['name']}-predictor-{len(made.templates):05d}"
        made.revisions.append(name)
        labels = labels | {REVISION_LABEL: name, SERVICE_LABEL: meta["name"], "app": name}
        container = {"name": "kserve-container", "env": (predictor.get("model") or {}).get("env") or []}
        template = {
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": {"containers": [container]},
        }
        revision = {"metadata": {"name": name, "labels": labels, "annotations": annotations}}
        self._world.apply(REVISION, isvc, revision | {"spec": {"containers": [container]}})
        body = {"metadata": {"name": f"{name}-deployment", "labels": labels}}
        replicas = max(1, predictor.get("minReplicas", 1))
        selector = {"matchLabels": {"app": name}}
        self._world.apply(
            DEPLOYMENT,
            isvc,
            body | {"spec": {"replicas": replicas, "selector": selector, "template": template}},
        )

    def _get_ready(self, isvc: Object, made: Made) -> None:
        """The newest ready revision; it never goes back to an older one."""
        namespace = isvc["metadata"]["namespace"]
        for name in made.revisions:
            ready = self._world.workloads.ready(namespace, f"{name}-deployment") > 0
            if ready:
                made.ready.add(name)
            shown = self._world.store.find(REVISION, namespace, name)
            if shown is not None and (ready or name not in made.ready):
                shown["status"] = {"conditions": [condition("Ready", True if ready else None)]}
                self._world.store.update(REVISION, shown, part="status")
        made.latest_ready = max([*made.ready, made.latest_ready])

    def _targets(self, isvc: Object, component: Object) -> list[Object]:
        """What KServe asks of Knative, from the spec and the status as it was."""
        percent = isvc["spec"]["predictor"].get("canaryTrafficPercent")
        rolled = component.get("latestRolledoutRevision")
        tagged = self._world.annotations(isvc).get(TAGS) == "true"
        latest: Object = {"latestRevision": True, "percent": 100} | ({"tag": "latest"} if tagged else {})
        if percent is None or not rolled:
            return [latest]
        latest["percent"] = percent
        if percent >= 100:
            return [latest]
        return [
            latest,
            {"latestRevision": False, "revisionName": rolled, "percent": 100 - percent, "tag": "prev"},
        ]

    def _route(self, isvc: Object, made: Made, targets: list[Object]) -> list[Object]:
        """The traffic table as it is in force; the gateway follows it later."""
        meta, script, delays = isvc["metadata"], self._world.script, self._world.delays
        if not made.latest_ready:
            return []
        wanted = [dict(target) for target in targets]
        for target in wanted:
            if target["latestRevision"]:
                target["revisionName"] = made.latest_ready
            if "tag" in target:
                target["url"] = f"http://{_hosts(isvc, target['tag'])[1]}"
        if script.weights_wrong is not None and len(wanted) == 2:
            wanted[0]["percent"], wanted[1]["percent"] = script.weights_wrong, 100 - script.weights_wrong
        key = (meta["uid"], "traffic")
        if script.weights_never and key in self._world.lag.applied:
            table = self._world.lag.applied[key]
        else:
            first = key not in self._world.lag.applied
            delay = 0.0 if first else delays.weights + script.weights_late
            table = self._world.lag.follow(key, wanted, delay)
        applied = self._world.lag.follow((meta["uid"], "gateway"), table, delays.gateway)
        self._apply(isvc, applied or [])
        return [dict(target) for target in table or []]

    def _apply(self, isvc: Object, table: list[Object]) -> None:
        gateway = self._world.plane.gateway
        if not table:
            return
        weights: dict[str, float] = {}
        for target in table:
            name = target["revisionName"]
            weights[name] = weights.get(name, 0.0) + target["percent"]
        for host in _hosts(isvc):
            gateway.split[host] = weights
        gateway.services[isvc["metadata"]["name"]] = _hosts(isvc)[0]
        tags = {target["tag"]: target["revisionName"] for target in table if "tag" in target}
        for tag in ("latest", "prev"):
            for host in _hosts(isvc, tag)[1:]:
                if tag in tags:
                    gateway.direct[host] = tags[tag]
                else:
                    gateway.direct.pop(host, None)

    def _report(
        self, isvc: Object, made: Made, component: Object, table: list[Object], targets: list[Object]
    ) -> None:
        name, namespace = isvc["metadata"]["name"], isvc["metadata"]["namespace"]
        created = made.revisions[-1] if made.revisions else ""
        how = self._world.workloads.failing(namespace, f"{created}-deployment") if created else ""
        done = created in made.ready and created == made.latest_ready
        configured: bool | None = done or (None if not how else False)
        text = f'Revision "{created}" failed with message: {CRASHED["message"]}.' if how else ""
        settled = [target["percent"] for target in table] == [target["percent"] for target in targets]
        routed = (True if settled else None) if table else (False if how else None)
        ready = False if False in (configured, routed) else (None if None in (configured, routed) else True)
        reason = "RevisionFailed" if how else ""
        if routed and configured:
            component |= {"url": f"http://{_hosts(isvc)[1]}"}
            component["address"] = {"url": f"http://{_hosts(isvc)[2]}"}
        conditions = [
            condition("IngressReady", bool(table) or None),
            condition(
                "LatestDeploymentReady",
                configured,
                "" if configured else "PredictorConfigurationReady not ready",
            ),
            condition("PredictorConfigurationReady", configured, reason, text),
            condition("PredictorReady", ready, reason, text),
            condition("PredictorRouteReady", routed),
            condition("Ready", ready and (bool(table) or None), reason, text),
            condition("RoutesReady", routed),
            condition("Stopped", False),
        ]
        status: Object = {"conditions": conditions, "components": {"predictor": component}}
        status |= {"deploymentMode": self.name, "observedGeneration": made.generation}
        status["modelStatus"] = _model_status(isvc, bool(ready) and done, how, created)
        if table:
            status["url"] = f"http://{_hosts(isvc)[0]}"
            status["address"] = {"url": f"http://{name}-predictor.{namespace}.svc.cluster.local"}
        self._world.report(isvc, status)


def _propagate(component: Object, made: Made, table: list[Object]) -> None:
    """KServe's bookkeeping of rolled-out revisions, from what Knative reports."""
    created = made.revisions[-1] if made.revisions else ""
    shares: dict[str, int] = {}
    for target in table:
        shares[target["revisionName"]] = shares.get(target["revisionName"], 0) + target["percent"]
    for target in table:
        if not target["latestRevision"] or target["revisionName"] != made.latest_ready:
            continue
        percent, previous = target["percent"], component.get("previousRolledoutRevision")
        if component.get("latestRolledoutRevision") != made.latest_ready:
            if percent == 100:
                component["previousRolledoutRevision"] = component.get("latestRolledoutRevision", "")
                component["latestRolledoutRevision"] = made.latest_ready
        elif made.latest_ready == created and percent < 100 and shares[made.latest_ready] == 100 and previous:
            component["latestRolledoutRevision"] = previous
    component["latestCreatedRevision"], component["latestReadyRevision"] = created, made.latest_ready
    component["traffic"] = table
    for key in [key for key, value in component.items() if not value]:
        del component[key]


def _model_status(isvc: Object, loaded: bool, how: str, created: str) -> Object:
    before = ((isvc.get("status") or {}).get("modelStatus") or {}).get("states") or {}
    active = before.get("activeModelState", "Pending")
    if loaded:
        return {
            "transitionStatus": "UpToDate",
            "states": {"activeModelState": "Loaded", "targetModelState": "Loaded"},
        }
    if how == "crash_loop":
        states = {"activeModelState": active, "targetModelState": "FailedToLoad"}
        info = {"reason": "ModelLoadFailed", "message": CRASHED["message"], "exitCode": 1}
        info["modelRevisionName"] = created
        return {"transitionStatus": "BlockedByFailedLoad", "states": states, "lastFailureInfo": info}
    return {
        "transitionStatus": "InProgress",
        "states": {"activeModelState": active, "targetModelState": "Pending"},
    }


def _uri(predictor: Object) -> str:
    given = [value for value in predictor.values() if isinstance(value, dict) and "storageUri" in value]
    return given[0]["storageUri"] if given else ""


def _hosts(isvc: Object, tag: str = "") -> list[str]:
    """Public host, host of the predictor, in-cluster name of the predictor; the last two with a tag."""
    name, namespace = isvc["metadata"]["name"], isvc["metadata"]["namespace"]
    label = f"{tag}-{name}-predictor" if tag else f"{name}-predictor"
    return [
        f"{name}.{namespace}.example.com",
        f"{label}.{namespace}.example.com",
        f"{label}.{namespace}.svc.cluster.local",
    ]
