"""A Kubernetes cluster with KServe, for tests, in this process: real HTTP, real clients, made-up models.

    @pytest.mark.parametrize("mode", ["knative"])       # without it: once per mode
    def test_it(cluster):
        cluster.deploy("late", "s3://models/1", replicas=2)   # an InferenceService that serves everyone
        api = CustomObjectsApi(cluster.client())        # the real client; processes: KUBECONFIG=cluster.kubeconfig
        cluster.script.behave("s3://models/2", error_rate=0.3)
        with cluster.traffic("late", rate=300) as users:      # through the gateway, by its applied weights
            ...                                         # roll out s3://models/2 with the deployer
        assert cluster.serving("late") == {"s3://models/2": 100.0}    # the truth: percent of users by model
        assert not users.failed

Addresses in statuses are hosts as on a real cluster. From here they are asked through the gateway, with the host as
header: `cluster.resolve(url)` returns base URL and headers, which is what `asking.through(cluster.gateway_url)` does
(`AIRWORTHY_GATEWAY`). The namespace is `models`.

Look: `cluster.isvc(name)`, `.predictor(name)`, `.condition(name, type)`, `.weights(route)`, `.deployment(name)`,
`.serving(name)`, `.writes()`, `.observations(canary_uri)`, `.api.requests / .denied / .warnings`.
Disturb: `cluster.script` (see `Script`), `.delays` (see `Delays`), `.delete(name)`, `.interfere(name, patch)`,
`.allow(rules…)` (RBAC), `.store.compact()` (watches get 410).
Measure: `cluster.prometheus_config()` for a real Prometheus; metrics are Knative's and Istio's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.double import Cluster, DeploymentMode


@pytest.fixture(params=["knative", "standard"])
def mode(request: pytest.FixtureRequest) -> DeploymentMode:
    """Deployment mode of `cluster`."""
    return request.param


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[[DeploymentMode], Cluster]]:
    """Makes clusters; they are stopped after the test."""
    made: list[Cluster] = []

    def make(mode: DeploymentMode) -> Cluster:
        folder = tmp_path / f"cluster{len(made)}"
        folder.mkdir()
        made.append(Cluster(mode, folder))
        return made[-1]

    yield make
    for cluster in made:
        cluster.stop()


@pytest.fixture
def cluster(make_cluster: Callable[[DeploymentMode], Cluster], mode: DeploymentMode) -> Cluster:
    """A cluster whose default deployment mode is `mode`."""
    return make_cluster(mode)
