"""The Deployment controller and the kubelet of the double: replicas, pods, readiness, reasons of failures."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass

from tests.cluster.clock import Delays
from tests.cluster.conditions import condition, merged
from tests.cluster.data_plane import DataPlane
from tests.cluster.models import Backend
from tests.cluster.script import Script
from tests.cluster.store import DEPLOYMENT, EVENT, POD, Object, Store

SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"
REVISION_LABEL = "serving.knative.dev/revision"
SERVICE_LABEL = "serving.kserve.io/inferenceservice"
CRASHED = {"exitCode": 1, "reason": "Error", "message": "model.onnx: digest does not match"}


def hash_of(value: object) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=5).hexdigest()


@dataclass
class PodState:
    """One pod of a Deployment; `template` is the hash of what it was made from."""

    name: str
    uri: str
    template: str
    started: float


class Workloads:
    """Makes Deployments of the store true: pods, statuses, model servers."""

    def __init__(self, store: Store, plane: DataPlane, script: Script, delays: Delays) -> None:
        self._store, self._plane, self._script, self._delays = store, plane, script, delays
        self._pods: dict[tuple[str, str], list[PodState]] = {}
        self._progress: dict[tuple[str, str], tuple[int, str, float]] = {}
        self._workloads: dict[tuple[str, str], str] = {}
        self._made = 0

    def reconcile(self) -> None:
        found = {
            (d["metadata"]["namespace"], d["metadata"]["name"]): d for d in self._store.select(DEPLOYMENT)
        }
        for key in [key for key in self._pods if key not in found]:
            self._remove(key, self._pods.pop(key))
            self._plane.gone(self._workloads.pop(key))
            self._progress.pop(key, None)
        for key, deployment in found.items():
            self._one(key, deployment)

    def _one(self, key: tuple[str, str], deployment: Object) -> None:
        template, labels = (
            deployment["spec"]["template"],
            deployment["spec"]["template"]["metadata"]["labels"],
        )
        uri, wanted = template["metadata"]["annotations"].get(SOURCE, ""), hash_of(template)
        replicas = deployment["spec"].get("replicas", 1)
        pods = self._pods.setdefault(key, [])
        self._workloads[key] = labels.get(REVISION_LABEL, key[1])
        new = [pod for pod in pods if pod.template == wanted]
        old = [pod for pod in pods if pod.template != wanted]
        for _ in range(replicas - len(new)):
            self._made += 1
            name = f"{key[1]}-{wanted}-{self._made:05d}"
            new.append(PodState(name, uri, wanted, time.monotonic()))
        extra = new[replicas:]
        new = new[:replicas]
        if all(self._ready(pod) for pod in new):  # a rolling update keeps the old pods until then
            extra += old
            old = []
        self._remove(key, extra)
        self._pods[key] = pods = [*new, *old]
        self._show(key, pods, labels)
        self._report(key, deployment, new, pods)
        serving = [pod for pod in new if self._ready(pod)] or [pod for pod in old if self._ready(pod)]
        self._answer(key, labels, template, serving)

    def ready(self, namespace: str, name: str) -> int:
        """How many pods of a Deployment are ready."""
        return sum(self._ready(pod) for pod in self._pods.get((namespace, name), []))

    def failing(self, namespace: str, name: str) -> str:
        """How pods of a Deployment fail: "", `never` or `crash_loop`, once that has shown."""
        for pod in self._pods.get((namespace, name), []):
            how = self._script.failing(pod.uri)
            if how and time.monotonic() - pod.started > self._delays.failure:
                return how
        return ""

    def due(self) -> float:
        """Seconds until a pod may get ready or be given up."""
        ages = [time.monotonic() - pod.started for pods in self._pods.values() for pod in pods]
        steps = (self._delays.ready, self._delays.failure, self._delays.progress)
        return min((step - age for age in ages for step in steps if step > age), default=float("inf"))

    def _ready(self, pod: PodState) -> bool:
        started = time.monotonic() - pod.started >= self._delays.ready
        return started and self._script.failing(pod.uri) is None

    def _answer(
        self, key: tuple[str, str], labels: Object, template: Object, serving: list[PodState]
    ) -> None:
        workload, knative = self._workloads[key], REVISION_LABEL in labels
        if not serving:
            self._plane.down(workload)
            return
        cold = template["metadata"]["annotations"].get("autoscaling.knative.dev/min-scale") == "0"
        service = labels[SERVICE_LABEL]
        uri = serving[0].uri
        self._plane.up(Backend(workload, service, key[0], uri, knative, 0.3 if knative and cold else 0.0))

    def _remove(self, key: tuple[str, str], pods: list[PodState]) -> None:
        for pod in pods:
            if self._store.find(POD, key[0], pod.name):
                self._store.delete(POD, key[0], pod.name)

    def _show(self, key: tuple[str, str], pods: list[PodState], labels: Object) -> None:
        for pod in pods:
            shown = self._store.find(POD, key[0], pod.name)
            if shown is None:
                meta = {"name": pod.name, "labels": labels}
                containers = [{"name": "kserve-container", "image": "server"}]
                shown = self._store.create(
                    POD, key[0], {"metadata": meta, "spec": {"containers": containers}}
                )
            ready, how = self._ready(pod), self._script.failing(pod.uri)
            age = time.monotonic() - pod.started
            failed = how if how and age > self._delays.failure else None
            container: Object = {
                "name": "kserve-container",
                "ready": ready,
                "restartCount": 0,
                "image": "server",
            }
            container["imageID"], container["state"] = "", {"running": {}}
            if failed == "crash_loop":
                container |= {"restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
                container["lastState"] = {"terminated": CRASHED}
            elif age < self._delays.ready:
                container["state"] = {"waiting": {"reason": "ContainerCreating"}}
            shown["status"] = {
                "phase": "Running",
                "conditions": [condition("Ready", ready), condition("PodScheduled", True)],
                "containerStatuses": [container],
            }
            present = self._store.find(POD, key[0], pod.name) or {}
            merged(present, shown)
            self._store.update(POD, shown, part="status")
            if failed:
                self._event(key, pod, failed)

    def _event(self, key: tuple[str, str], pod: PodState, how: str) -> None:
        if self._store.find(EVENT, key[0], f"{pod.name}.failed"):
            return
        reason, message = ("BackOff", "Back-off restarting failed container kserve-container")
        if how == "never":
            reason, message = "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503"
        involved = {"kind": "Pod", "name": pod.name, "namespace": key[0]}
        body = {
            "metadata": {"name": f"{pod.name}.failed"},
            "type": "Warning",
            "reason": reason,
            "message": message,
        }
        self._store.create(EVENT, key[0], body | {"involvedObject": involved})

    def _report(
        self, key: tuple[str, str], deployment: Object, new: list[PodState], pods: list[PodState]
    ) -> None:
        ready, available = sum(map(self._ready, new)), sum(map(self._ready, pods))
        mark = (ready, hash_of(deployment["spec"]))
        before = self._progress.get(key)
        if before is None or before[:2] != mark:
            before = self._progress[key] = (*mark, time.monotonic())
        done_before = _complete(deployment)
        complete = ready == len(new) == len(pods) or (done_before and len(new) == len(pods))
        late = time.monotonic() - before[2] > self._delays.progress
        progressing = condition("Progressing", True, "ReplicaSetUpdated")
        if complete:
            progressing = condition("Progressing", True, "NewReplicaSetAvailable")
        elif late:
            text = f'ReplicaSet "{key[1]}-{mark[1]}" has timed out progressing.'
            progressing = condition("Progressing", False, "ProgressDeadlineExceeded", text)
        replicas = deployment["spec"].get("replicas", 1)
        enough = available >= replicas - replicas // 4
        reason = "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable"
        shown = {"observedGeneration": deployment["metadata"]["generation"], "replicas": len(pods)}
        shown |= {"updatedReplicas": len(new), "readyReplicas": available, "availableReplicas": available}
        shown = {name: value for name, value in shown.items() if value}
        status = shown | {"conditions": [condition("Available", enough, reason), progressing]}
        changed = deployment | {"status": status}
        merged(deployment, changed)
        self._store.update(DEPLOYMENT, changed, part="status")


def _complete(deployment: Object) -> bool:
    """Whether this generation had been rolled out before: crashes after that don't undo it."""
    status = deployment.get("status") or {}
    conditions = status.get("conditions") or []
    done = any(
        one["type"] == "Progressing" and one.get("reason") == "NewReplicaSetAvailable" for one in conditions
    )
    return done and status.get("observedGeneration") == deployment["metadata"]["generation"]
