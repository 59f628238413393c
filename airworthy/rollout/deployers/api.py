"""The few calls to a Kubernetes API that a rollout needs, with bounded retries and plain sentences.

Every write carries the `resourceVersion` it was decided on, so a write whose answer was lost can be sent again: if
it had been applied, the repetition is a conflict, and whoever asked reads again and finds it done.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airworthy.errors import RolloutError

log = logging.getLogger(__name__)

Object = dict[str, Any]
KSERVE = ("serving.kserve.io", "v1beta1")
KNATIVE = ("serving.knative.dev", "v1")
GATEWAY = ("gateway.networking.k8s.io", "v1")
SERVICES = "inferenceservices"

PASSING = frozenset({429, 500, 502, 503, 504})
"""Answers that another try may change."""


class Conflict(Exception):  # noqa: N818 (an answer, not a fault)
    """Somebody else changed (or created) the object since it was read."""


@dataclass(frozen=True)
class Patience:
    """How long to try again. Seconds.

    Attributes:
        total: From the first try to giving up.
        connect: Per try, for a connection.
        answer: Per try, for an answer.
        first: First pause; it doubles up to 16 times that, with jitter.
    """

    total: float = 30.0
    connect: float = 3.0
    answer: float = 10.0
    first: float = 0.25


class Cluster:
    """One namespace of a Kubernetes API. Thread-safe, blocking.

    Args:
        client: A configured `kubernetes.client.ApiClient`.
        namespace: Where the InferenceService lives.
        patience: How long to try again when the API does not answer.
    """

    def __init__(self, client: Any, namespace: str, patience: Patience | None = None) -> None:
        from kubernetes import client as kubernetes

        self.namespace = namespace
        self._client = client
        self._patience = patience or Patience()
        self._custom = kubernetes.CustomObjectsApi(client)
        self._core = kubernetes.CoreV1Api(client)
        self._apps = kubernetes.AppsV1Api(client)

    def elsewhere(self, namespace: str) -> Cluster:
        """The same API, another namespace."""
        return Cluster(self._client, namespace, self._patience)

    def inference_service(self, name: str) -> Object | None:
        return self._custom_object(KSERVE, SERVICES, name)

    def create_inference_service(self, body: Object) -> None:
        """Create it.

        Raises:
            Conflict: It exists.
            RolloutError: It was refused, or the API can't be reached.
        """
        call = self._custom.create_namespaced_custom_object
        self._call("create inferenceservices", call, *KSERVE, self.namespace, SERVICES, body)

    def patch_inference_service(self, seen: Object, patch: Object) -> None:
        """Merge a patch into the InferenceService as it was seen.

        Raises:
            Conflict: It has changed since, or is gone.
            RolloutError: It was refused, or the API can't be reached.
        """
        meta = {**patch.get("metadata", {}), "resourceVersion": seen["metadata"]["resourceVersion"]}
        name = seen["metadata"]["name"]
        call = self._custom.patch_namespaced_custom_object
        body = {**patch, "metadata": meta}
        if self._call("patch inferenceservices", call, *KSERVE, self.namespace, SERVICES, name, body) is None:
            raise Conflict(f"InferenceService {name} is gone")

    def config_map(self, name: str) -> Object | None:
        return self._plain("get configmaps", self._core.read_namespaced_config_map, name)

    def write_config_map(self, body: Object) -> None:
        """Create a ConfigMap, or replace the one whose `resourceVersion` the body carries.

        Raises:
            Conflict: It has changed since, is gone, or was created meanwhile.
            RolloutError: It was refused, or the API can't be reached.
        """
        if "resourceVersion" not in body["metadata"]:
            self._call("create configmaps", self._core.create_namespaced_config_map, self.namespace, body)
            return
        name = body["metadata"]["name"]
        call = self._core.replace_namespaced_config_map
        if self._call("update configmaps", call, name, self.namespace, body) is None:
            raise Conflict(f"ConfigMap {name} is gone")

    def revision(self, name: str) -> Object | None:
        """A Knative revision."""
        return self._custom_object(KNATIVE, "revisions", name)

    def http_route(self, name: str) -> Object | None:
        return self._custom_object(GATEWAY, "httproutes", name)

    def deployment(self, name: str) -> Object | None:
        return self._plain("get deployments", self._apps.read_namespaced_deployment, name)

    def pods(self, label: str) -> list[Object]:
        """Pods with a label, such as `app=isvc.x-predictor`."""
        call = self._core.list_namespaced_pod
        answer = self._call("list pods", call, self.namespace, label_selector=label, _preload_content=False)
        return list(json.loads(answer.data).get("items", [])) if answer is not None else []

    def _custom_object(self, group: tuple[str, str], plural: str, name: str) -> Object | None:
        call = self._custom.get_namespaced_custom_object
        found = self._call(f"get {plural}", call, *group, self.namespace, plural, name)
        return found if found is None else dict(found)

    def _plain(self, what: str, call: Callable[..., Any], name: str) -> Object | None:
        answer = self._call(what, call, name, self.namespace, _preload_content=False)
        return None if answer is None else dict(json.loads(answer.data))

    def _call(self, what: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The answer; None for 404."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        patience = self._patience
        end = time.monotonic() + patience.total
        pause = patience.first
        while True:
            wait = pause * random.uniform(0.5, 1.5)  # noqa: S311 (so that many clients don't come back together)
            try:
                return call(*arguments, _request_timeout=(patience.connect, patience.answer), **options)
            except ApiException as error:
                if error.status == 404:
                    return None
                if error.status == 409:
                    raise Conflict(_message(error)) from None
                if error.status not in PASSING:
                    raise RolloutError(self._refusal(what, error)) from None
                problem = f"HTTP {error.status}"
                wait = max(wait, _retry_after(error))
            except HTTPError as error:
                problem = type(error.__cause__ or error).__name__
            if time.monotonic() + wait > end:
                raise RolloutError(
                    f"the Kubernetes API does not answer ({what} in namespace {self.namespace}: {problem}, tried for "
                    f"{patience.total:.0f} s); check the cluster or the kubeconfig"
                )
            log.info("Kubernetes API: %s: %s; trying again", what, problem)
            time.sleep(wait)
            pause = min(pause * 2, patience.first * 16)

    def _refusal(self, what: str, error: Any) -> str:
        said = _message(error)
        if error.status == 403 and "admission webhook" not in said:
            verb, _, resource = what.partition(" ")
            return (
                f"the Kubernetes API forbids to {verb} {resource} in namespace {self.namespace}; grant it to this "
                "service account (docs/rollout-on-kserve.md lists what a rollout needs)"
            )
        if error.status == 401:
            return (
                "the Kubernetes API does not accept our credentials; check the kubeconfig or service account"
            )
        return f"the Kubernetes API refused to {what} in namespace {self.namespace}: {said}"


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"HTTP {error.status} {error.reason}"


def _retry_after(error: Any) -> float:
    try:
        return float((error.headers or {}).get("Retry-After", 0))
    except ValueError:  # a date: our own pause will do
        return 0.0
