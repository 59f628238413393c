"""A scripted KServe: a thread that makes InferenceServices of the store true, as slowly and as badly as asked.

Facts that catch deployers and are the same in both modes: annotations and labels of an InferenceService go into the
pod template (a changed one makes a new revision, or restarts pods); `status.observedGeneration` is that of what KServe
made, not of the InferenceService; `serving.kserve.io/stop` deletes everything.
"""

from __future__ import annotations

import threading
import traceback
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.admission import deployment_mode
from tests.cluster.clock import Delays, Lag
from tests.cluster.conditions import merged
from tests.cluster.data_plane import DataPlane
from tests.cluster.knative_mode import KnativeMode
from tests.cluster.script import Script
from tests.cluster.standard_mode import StandardMode
from tests.cluster.store import DEPLOYMENT, ISVC, KINDS, REVISION, ROUTE, SERVICE, ApiError, Object, Store
from tests.cluster.workloads import SOURCE, Workloads

STOP = "serving.kserve.io/stop"
DOMAIN = "example.com"
DISALLOWED = frozenset(
    [
        "autoscaling.knative.dev/min-scale",
        "autoscaling.knative.dev/max-scale",
        "kubectl.kubernetes.io/last-applied-configuration",
        "serving.knative.dev/rollout-duration",
        SOURCE,
    ]
)
"""`serviceAnnotationDisallowedList` as shipped (and what goes to the Knative Service): not in pod templates."""


@dataclass
class World:
    """What both modes work with."""

    store: Store
    plane: DataPlane
    script: Script
    delays: Delays
    workloads: Workloads
    lag: Lag = field(default_factory=Lag)

    def apply(self, kind: Any, owner: Object, body: Object) -> Object:
        """Create or update an object that KServe owns."""
        namespace, meta = owner["metadata"]["namespace"], body["metadata"]
        uid = owner["metadata"]["uid"]
        reference = {"apiVersion": ISVC.api_version, "kind": ISVC.kind, "name": owner["metadata"]["name"]}
        meta["ownerReferences"] = [reference | {"uid": uid, "controller": True}]
        present = self.store.find(kind, namespace, meta["name"])
        if present is None:
            return self.store.create(kind, namespace, body)
        return self.store.update(kind, body | {"metadata": present["metadata"] | meta})

    def owned(self, kind: Any, owner: Object) -> list[Object]:
        found = self.store.select(kind, owner["metadata"]["namespace"])
        return [item for item in found if _owner(item) == owner["metadata"]["uid"]]

    def annotations(self, isvc: Object) -> dict[str, str]:
        """Those that go into the pod template."""
        given = isvc["metadata"].get("annotations") or {}
        return {key: value for key, value in given.items() if key not in DISALLOWED}

    def report(self, isvc: Object, status: Object) -> None:
        """Write the status of an InferenceService."""
        changed = isvc | {"status": status}
        merged(isvc, changed)
        self.store.update(ISVC, changed, part="status")


def _owner(item: Object) -> str:
    return (item["metadata"].get("ownerReferences") or [{}])[0].get("uid", "")


class KServeController:
    """The thread. `stop` ends it; what went wrong in it is raised there."""

    def __init__(
        self, store: Store, plane: DataPlane, script: Script, delays: Delays, default_mode: str
    ) -> None:
        self._world = World(store, plane, script, delays, Workloads(store, plane, script, delays))
        self._knative, self._standard = KnativeMode(self._world), StandardMode(self._world)
        self._default_mode = default_mode
        self._known: dict[str, tuple[str, str]] = {}
        self._stopping = False
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="test-cluster-kserve", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        with self._world.store.changed:
            self._world.store.changed.notify_all()
        self._thread.join(10)
        assert not self._failure, self._failure

    def _run(self) -> None:
        seen = 0
        while not self._stopping:
            store, world = self._world.store, self._world
            with store.changed:
                if store.version == seen:
                    pause = min(
                        0.01 if world.script.restless else 0.05, world.lag.due(), world.workloads.due()
                    )
                    store.changed.wait(max(pause, 0.001))
                seen = store.version
            try:
                self._collect()
                if not world.script.paused:
                    for isvc in store.select(ISVC):
                        self._reconcile(isvc)
                world.workloads.reconcile()
            except ApiError:
                continue  # somebody deleted what we were about to change: look again
            except Exception:
                self._failure = traceback.format_exc()
                return

    def _reconcile(self, isvc: Object) -> None:
        meta = isvc["metadata"]
        self._known[meta["uid"]] = (meta["namespace"], meta["name"])
        mode = self._knative if deployment_mode(isvc, self._default_mode) == "Knative" else self._standard
        if (meta.get("annotations") or {}).get(STOP) == "true":
            for kind in (ROUTE, SERVICE, REVISION, DEPLOYMENT):
                for item in self._world.owned(kind, isvc):
                    self._world.store.delete(kind, meta["namespace"], item["metadata"]["name"])
            mode.forget(isvc)
            self._world.lag.forget(meta["uid"])
            stopped = {"type": "Stopped", "status": "True", "reason": "Stopped"}
            ready = {"type": "Ready", "status": "False", "reason": "Stopped"}
            self._world.report(isvc, {"conditions": [ready, stopped], "deploymentMode": mode.name})
            return
        mode.reconcile(isvc)

    def _collect(self) -> None:
        """Garbage collection: what belonged to objects that are gone."""
        store = self._world.store
        with store.changed:
            alive = {item["metadata"]["uid"] for item in store.objects.values()}
            gone = [key for key, item in store.objects.items() if _owner(item) and _owner(item) not in alive]
        for kind, namespace, name in gone:
            assert kind in KINDS
            store.delete(kind, namespace, name)
        for uid in [uid for uid in self._known if uid not in alive]:
            namespace, name = self._known.pop(uid)
            self._world.lag.forget(uid)
            for mode in (self._knative, self._standard):
                mode.forget({"metadata": {"uid": uid, "namespace": namespace, "name": name}})
