"""Short ways to ask the double through the real kubernetes client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kubernetes.client import CustomObjectsApi
from kubernetes.client.exceptions import ApiException

from tests.cluster.double import Cluster
from tests.cluster.store import ISVC, Object

WHERE = (ISVC.group, ISVC.version, "models", ISVC.plural)
MODEL = {"modelFormat": {"name": "xgboost"}}


class Isvcs:
    """InferenceServices, by `CustomObjectsApi`."""

    def __init__(self, cluster: Cluster) -> None:
        self.api = CustomObjectsApi(cluster.client())

    def get(self, name: str) -> Object:
        return self.api.get_namespaced_custom_object(*WHERE, name)

    def create(self, body: Object) -> Object:
        return self.api.create_namespaced_custom_object(*WHERE, body)

    def patch(self, name: str, body: Any) -> Object:
        return self.api.patch_namespaced_custom_object(*WHERE, name, body)

    def predictor(self, name: str, **fields: Any) -> Object:
        """Patch fields of `spec.predictor`; None deletes."""
        return self.patch(name, {"spec": {"predictor": fields}})

    def canary(self, name: str, *entries: Object) -> Object:
        """Patch `spec.canary`; none at all deletes it."""
        return self.patch(name, {"spec": {"canary": list(entries) or None}})


def uri(version: int) -> str:
    return f"s3://models/{version}"


def model(version: int) -> Object:
    return {**MODEL, "storageUri": uri(version)}


def entry(percent: int, version: int = 2, replicas: int | None = 1, **fields: Any) -> Object:
    """An element of `spec.canary`."""
    own = {} if replicas is None else {"minReplicas": replicas}
    predictor = {"name": f"v{version}", "model": model(version), **own, **fields}
    return {"trafficPercent": percent, "predictor": predictor}


def refused(code: int, call: Any, *arguments: Any, **options: Any) -> Object:
    """The Status body with which a call is refused."""
    with pytest.raises(ApiException) as caught:
        call(*arguments, **options)
    assert caught.value.status == code, caught.value.body
    status = json.loads(caught.value.body)
    assert status["kind"] == "Status"
    assert status["code"] == code
    return status
