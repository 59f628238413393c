"""KServe's Standard mode: Deployments, Services and HTTPRoutes of a predictor and its canaries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tests.cluster.conditions import condition
from tests.cluster.store import DEPLOYMENT, ISVC, ROUTE, SERVICE, Object, merge_patch
from tests.cluster.workloads import SERVICE_LABEL, SOURCE

if TYPE_CHECKING:
    from tests.cluster.kserve_controller import World

VISIBILITY = "networking.kserve.io/visibility"
NOT_IN_PODS = ("minReplicas", "maxReplicas", "name", "canaryTrafficPercent", "scaleTarget", "scaleMetric")


class StandardMode:
    """Reconciles InferenceServices of this mode."""

    name = "Standard"

    def __init__(self, world: World) -> None:
        self._world = world

    def forget(self, isvc: Object) -> None:
        """The service was deleted or stopped."""
        gateway, meta = self._world.plane.gateway, isvc["metadata"]
        for host in _hosts(isvc):
            gateway.split.pop(host, None)
        if gateway.services.get(meta["name"]) == _hosts(isvc)[0]:
            del gateway.services[meta["name"]]
        suffix = f".{meta['namespace']}.svc.cluster.local"
        for host in [h for h, to in gateway.direct.items() if h == to + suffix and to not in gateway.servers]:
            del gateway.direct[host]

    def reconcile(self, isvc: Object) -> None:
        stable = isvc["spec"]["predictor"]
        canaries = isvc["spec"].get("canary") or []
        wanted = {_name(isvc, part) for part in (stable, *(canary["predictor"] for canary in canaries))}
        for kind in (DEPLOYMENT, SERVICE):  # first of all, before routes or replicas follow
            for item in self._world.owned(kind, isvc):
                if item["metadata"]["name"] not in wanted:
                    self._world.store.delete(kind, isvc["metadata"]["namespace"], item["metadata"]["name"])
        ready = {canary["predictor"]["name"]: self._ready(isvc, canary["predictor"]) for canary in canaries}
        for canary in canaries:
            part = merge_patch(stable, _without_zero(canary["predictor"]))
            self._deploy(isvc, part, _canary_replicas(stable, canary))
        counted = [c for c in canaries if ready[c["predictor"]["name"]] or not self._world.script.gated]
        taken = sum(_canary_replicas(stable, canary) for canary in counted)
        least = stable.get("minReplicas")
        self._deploy(isvc, stable, 1 if least is None else max(1, least - taken))
        self._route(isvc, counted)
        self._report(isvc, ready)

    def _ready(self, isvc: Object, part: Object) -> bool:
        found = self._world.store.find(DEPLOYMENT, isvc["metadata"]["namespace"], _name(isvc, part)) or {}
        return bool((found.get("status") or {}).get("availableReplicas"))

    def _deploy(self, isvc: Object, part: Object, replicas: int) -> None:
        meta, name = isvc["metadata"], _name(isvc, part)
        uri = (part.get("model") or {}).get("storageUri", "")
        annotations = self._world.annotations(isvc) | {SOURCE: uri}
        labels = (meta.get("labels") or {}) | {
            "app": f"isvc.{name}",
            SERVICE_LABEL: meta["name"],
            "component": "predictor",
        }
        content = {key: value for key, value in part.items() if key not in NOT_IN_PODS}
        container = {
            "name": "kserve-container",
            "env": (part.get("model") or {}).get("env") or [],
            "x-spec": content,
        }
        template = {
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": {"containers": [container]},
        }
        selector = {"matchLabels": {"app": labels["app"]}}
        spec = {"replicas": replicas, "selector": selector, "template": template}
        self._world.apply(DEPLOYMENT, isvc, {"metadata": {"name": name, "labels": labels}, "spec": spec})
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        body = {
            "metadata": {"name": name, "labels": labels},
            "spec": {"selector": {"app": labels["app"]}, "ports": ports},
        }
        self._world.apply(SERVICE, isvc, body)
        self._world.plane.gateway.direct[f"{name}.{meta['namespace']}.svc.cluster.local"] = name

    def _route(self, isvc: Object, counted: list[Object]) -> None:
        meta, script, gateway = isvc["metadata"], self._world.script, self._world.plane.gateway
        stable = _name(isvc, isvc["spec"]["predictor"])
        local = (meta.get("labels") or {}).get(VISIBILITY) == "cluster-local"
        table = {stable: 100}
        if not script.weights_never and script.gateway_api:
            for canary in counted:
                percent = canary.get("trafficPercent", 0)
                percent = percent if script.weights_wrong is None else script.weights_wrong
                table[_name(isvc, canary["predictor"])] = percent
                table[stable] -= percent
        key = (meta["uid"], "weights")
        delay = self._world.delays.weights + script.weights_late if key in self._world.lag.applied else 0.0
        written = self._world.lag.follow(key, table, delay)
        if local or not script.gateway_api:
            for name in (meta["name"], f"{meta['name']}-predictor"):
                if self._world.store.find(ROUTE, meta["namespace"], name):
                    self._world.store.delete(ROUTE, meta["namespace"], name)
        elif written:
            self._write_routes(isvc, written)
        applied = self._world.lag.follow((meta["uid"], "gateway"), written, self._world.delays.gateway)
        if applied and not local:
            for host in _hosts(isvc):
                gateway.split[host] = {name: float(weight) for name, weight in applied.items()}
            gateway.services[meta["name"]] = _hosts(isvc)[0]

    def _write_routes(self, isvc: Object, table: dict[str, int]) -> None:
        namespace, name = isvc["metadata"]["namespace"], isvc["metadata"]["name"]
        missing = [one for one in table if not self._world.store.find(SERVICE, namespace, one)]
        refs = [
            {
                "group": "",
                "kind": "Service",
                "name": one,
                "namespace": namespace,
                "port": 80,
                "weight": weight,
            }
            for one, weight in table.items()
        ]
        for own, host in zip((name, f"{name}-predictor"), _hosts(isvc), strict=True):
            match = [{"path": {"type": "RegularExpression", "value": "^/.*$"}}]
            spec = {
                "parentRefs": [{"name": "kserve-ingress-gateway", "namespace": "kserve"}],
                "hostnames": [host],
                "rules": [{"backendRefs": refs, "matches": match, "timeouts": {"request": "60s"}}],
            }
            route = self._world.apply(ROUTE, isvc, {"metadata": {"name": own}, "spec": spec})
            resolved = condition(
                "ResolvedRefs", not missing, "BackendNotFound" if missing else "ResolvedRefs"
            )
            conditions = [condition("Accepted", True, "Accepted"), resolved]
            parent = {
                "parentRef": spec["parentRefs"][0],
                "controllerName": "test/gateway",
                "conditions": conditions,
            }
            route["status"] = {"parents": [parent]}
            self._world.store.update(ROUTE, route, part="status")

    def _report(self, isvc: Object, ready: dict[str, bool]) -> None:
        meta, namespace = isvc["metadata"], isvc["metadata"]["namespace"]
        name = _name(isvc, isvc["spec"]["predictor"])
        found = self._world.store.find(DEPLOYMENT, namespace, name) or {}
        its = found.get("status") or {}
        conditions = {one["type"]: one for one in its.get("conditions") or []}
        happy = conditions.get("Available", {}).get("status") == "True"
        why = conditions.get("Progressing", {}) if not happy else {}
        complaint: tuple[Any, ...] = (why.get("reason", ""), why.get("message", ""))
        predictor = condition("PredictorReady", happy, *complaint)
        shown = [condition("IngressReady", True), predictor, condition("Ready", happy, *complaint)]
        shown.append(condition("Stopped", False))
        state = "Loaded" if happy else "Pending"
        status: Object = {
            "conditions": shown,
            "deploymentMode": self.name,
            "url": f"http://{_hosts(isvc)[0]}",
            "address": {"url": f"http://{name}.{namespace}.svc.cluster.local"},
            "components": {"predictor": {"url": f"http://{_hosts(isvc)[1]}"}},
            "modelStatus": {
                "transitionStatus": "UpToDate" if happy else "InProgress",
                "states": {"activeModelState": state, "targetModelState": state},
            },
        }
        if its.get("observedGeneration"):
            status["observedGeneration"] = its["observedGeneration"]
        canaries = isvc["spec"].get("canary") or []
        if canaries:
            every = all(ready.values())
            reason = "AllCanariesReady" if every else "CanariesNotReady"
            shown.append(condition("CanaryPredictorReady", every, reason))
            status["canaryStatuses"] = [
                {
                    "name": canary["predictor"]["name"],
                    "ready": ready[canary["predictor"]["name"]],
                    "trafficPercent": canary.get("trafficPercent", 0),
                }
                for canary in canaries
            ]
        self._world.report(self._world.store.get(ISVC, namespace, meta["name"]), status)


def _name(isvc: Object, part: Object) -> str:
    own = f"-{part['name']}" if part.get("name") else ""
    return f"{isvc['metadata']['name']}{own}-predictor"


def _canary_replicas(stable: Object, canary: Object) -> int:
    own = canary["predictor"].get("minReplicas")
    return (
        own
        if own is not None
        else math.ceil(stable.get("minReplicas", 1) * canary.get("trafficPercent", 0) / 100)
    )


def _without_zero(part: Object) -> Object:
    """What wins over the stable predictor in the deep merge: the canary's non-zero fields."""
    return {key: value for key, value in part.items() if value not in (0, "", None, [], {})}


def _hosts(isvc: Object) -> tuple[str, str]:
    name, namespace = isvc["metadata"]["name"], isvc["metadata"]["namespace"]
    return f"{name}-{namespace}.example.com", f"{name}-predictor-{namespace}.example.com"
