"""A test's cluster: API double, scripted KServe, data plane, users."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from kubernetes import client as kubernetes

from airworthy.serving.observation import Observation, Result
from tests.cluster.admission import MODE
from tests.cluster.api import KubernetesApi, Recorded, Rule
from tests.cluster.clock import Delays
from tests.cluster.data_plane import DataPlane
from tests.cluster.kserve_controller import KServeController
from tests.cluster.loop import LoopThread
from tests.cluster.script import Script
from tests.cluster.store import DEPLOYMENT, ISVC, ROUTE, Object, Store, merge_patch
from tests.cluster.traffic import Traffic

DeploymentMode = Literal["knative", "standard"]
NAMES = {"knative": "Knative", "standard": "Standard"}
NAMESPACE = "models"


class Cluster:
    """See `tests/cluster/conftest.py` for how to use one. Close it with `stop`.

    Attributes:
        mode: The installation's default deployment mode.
        api: `api.requests`, `api.denied`, `api.warnings`, `api.rules`.
        store: The objects, without HTTP and unrecorded.
        script: Faults; see `Script`.
        delays: How slow the controller is; may be changed at any time.
    """

    def __init__(self, mode: DeploymentMode, folder: Path, delays: Delays | None = None) -> None:
        self.mode = mode
        self.namespace = NAMESPACE
        self.script, self.store, self.delays = Script(), Store(), delays or Delays()
        self._folder = folder
        self._loop = LoopThread()
        self._clients: list[kubernetes.ApiClient] = []
        self.api = KubernetesApi(self.store, self.script, NAMES[mode])
        self._loop.call(self.api.start())
        self.plane = DataPlane(self._loop, self.script)
        self.gateway = self.plane.gateway
        self._controller = KServeController(self.store, self.plane, self.script, self.delays, NAMES[mode])
        self._controller.start()

    def stop(self) -> None:
        """Raises what went wrong in the controller."""
        try:
            self._controller.stop()
        finally:
            for client in self._clients:
                client.close()
            self.plane.stop()
            self._loop.call(self.api.stop())
            self._loop.stop()

    # -- how to reach it ---------------------------------------------------------------------------------------

    @property
    def gateway_url(self) -> str:
        return self.gateway.url

    def client(self) -> kubernetes.ApiClient:
        """A real client of the double."""
        configuration = kubernetes.Configuration()
        configuration.host, configuration.verify_ssl = self.api.url, False
        client = kubernetes.ApiClient(configuration)
        self._clients.append(client)
        return client

    @property
    def kubeconfig(self) -> Path:
        """For processes: `KUBECONFIG`."""
        path = self._folder / "kubeconfig"
        if not path.exists():
            path.write_text(
                f"apiVersion: v1\nkind: Config\ncurrent-context: double\n"
                f"clusters: [{{name: double, cluster: {{server: '{self.api.url}'}}}}]\n"
                f"users: [{{name: double, user: {{}}}}]\n"
                f"contexts: [{{name: double, context: "
                f"{{cluster: double, user: double, namespace: {NAMESPACE}}}}}]\n"
            )
        return path

    def resolve(self, url: str) -> tuple[str, dict[str, str]]:
        """Where a URL of the cluster is asked from here, and with which headers: the gateway, by Host."""
        return self.gateway_url, {"Host": urlsplit(url).netloc or url}

    def prometheus_config(self, interval: str = "200ms") -> str:
        """Configuration with which a real Prometheus scrapes the gateway (Istio's series) and queue-proxies."""
        discovery = f"http_sd_configs: [{{url: '{self.gateway_url}/targets', refresh_interval: 1s}}]"
        job = f"{{job_name: cluster, honor_labels: true, {discovery}}}"
        return (
            f"global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}\nscrape_configs: [{job}]\n"
        )

    # -- what is there -----------------------------------------------------------------------------------------

    def isvc(self, name: str) -> Object:
        return self.store.get(ISVC, NAMESPACE, name)

    def predictor(self, name: str) -> Object:
        """`status.components.predictor`."""
        return (self.isvc(name).get("status") or {}).get("components", {}).get("predictor", {})

    def condition(self, name: str, kind: str) -> Object:
        """A condition of the InferenceService; empty if there is none."""
        shown = (self.isvc(name).get("status") or {}).get("conditions") or []
        return next((one for one in shown if one["type"] == kind), {})

    def deployment(self, name: str) -> Object | None:
        return self.store.find(DEPLOYMENT, NAMESPACE, name)

    def weights(self, name: str) -> dict[str, int]:
        """What HTTPRoute `name` says, by backend."""
        route = self.store.find(ROUTE, NAMESPACE, name)
        rules = route["spec"]["rules"] if route else []
        return {ref["name"]: ref["weight"] for rule in rules for ref in rule["backendRefs"]}

    def serving(self, name: str) -> dict[str, float]:
        """The truth: percent of users by storage address, as the gateway splits them now ("" for no pods)."""
        found: dict[str, float] = {}
        for workload, weight in self.gateway.split.get(self.gateway.services.get(name, ""), {}).items():
            server = self.gateway.servers.get(workload)
            up = server is not None and workload in self.gateway.endpoints
            uri = server.backend.uri if up and server is not None else ""
            if weight:
                found[uri] = found.get(uri, 0.0) + weight
        return found

    def writes(self, name: str = "") -> list[Recorded]:
        """Requests that changed something (of one object), in order."""
        changing = ("create", "update", "patch", "delete")
        return [one for one in self.api.requests if one.verb in changing and name in ("", one.name)]

    def observations(self, canary: str, since: float = 0.0) -> list[Observation]:
        """What users met, as the splitter would tell it; `canary` is the canary's storage address."""
        found: list[Observation] = []
        for one in list(self.gateway.log):
            if not one.direct and one.at >= since:
                is_canary = one.uri == canary
                valid = one.score is not None and math.isfinite(one.score)
                result: Result = "ok" if valid else ("invalid" if one.status == 200 else "error")
                share = round(one.share if is_canary else 1 - one.share, 9)
                arm: Any = "canary" if is_canary else "stable"
                score = one.score if valid else None
                found.append(Observation(len(found), one.at, arm, share, result, one.seconds, score))
        return found

    # -- what tests do -----------------------------------------------------------------------------------------

    def allow(self, *rules: Rule) -> None:
        """From now on only this is allowed, as by a Role; see `api.denied`."""
        self.api.rules = list(rules)

    def manifest(self, name: str, uri: str, replicas: int = 1, **predictor: Any) -> Object:
        """An InferenceService of this cluster's mode."""
        model = {"modelFormat": {"name": "xgboost"}, "storageUri": uri}
        annotations = {MODE: NAMES[self.mode], "serving.kserve.io/enable-tag-routing": "true"}
        meta = {"name": name, "namespace": NAMESPACE, "annotations": annotations}
        body = {"apiVersion": ISVC.api_version, "kind": ISVC.kind, "metadata": meta}
        return body | {"spec": {"predictor": {"minReplicas": replicas, "model": model, **predictor}}}

    def deploy(self, name: str, uri: str, replicas: int = 1, **predictor: Any) -> Object:
        """Create an InferenceService (unrecorded) and wait until it serves everyone."""
        self.store.create(ISVC, NAMESPACE, self.manifest(name, uri, replicas, **predictor))
        self.wait(lambda: self.condition(name, "Ready").get("status") == "True", f"{name} ready")
        self.wait(lambda: self.serving(name) == {uri: 100.0}, f"{name} serves {uri}")
        return self.isvc(name)

    def delete(self, name: str) -> None:
        """Somebody deletes the InferenceService."""
        self.store.delete(ISVC, NAMESPACE, name)

    def interfere(self, name: str, patch: Object) -> None:
        """Somebody else patches the InferenceService (unrecorded, not admitted)."""
        with self.store.changed:
            self.store.update(ISVC, merge_patch(self.isvc(name), patch))

    def traffic(self, name: str, rate: float = 200.0, seed: int = 0) -> Traffic:
        """Users of a service; a context, see `Traffic`."""
        return Traffic(self._loop, self.gateway_url, name, rate, seed)

    def wait(self, until: Callable[[], Any], what: str = "it", seconds: float = 5.0) -> None:
        """Wait until something is so.

        Raises:
            AssertionError: It did not come about in time.
        """
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, f"{what} did not come about within {seconds} s"
            time.sleep(0.002)
