"""Which deployer a service has, and how a rollout reaches its cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from airworthy.errors import AirworthyError, ConfigError, MissingCapabilityError
from airworthy.rollout.deployers import choose
from airworthy.rollout.deployers.api import Cluster as Api
from airworthy.rollout.deployers.asking import through, within
from airworthy.rollout.deployers.kserve import KServeStore
from airworthy.serving.state import Service, ServiceStore
from tests.cluster.double import Cluster
from tests.cluster.store import CONFIG_MAP
from tests.cluster.worlds import STABLE, ClusterWorld

VARIABLES = (
    *("AIRWORTHY_DEPLOYER", "AIRWORTHY_NAMESPACE", "AIRWORTHY_GATEWAY", "AIRWORTHY_INFERENCE_SERVICE"),
    *("AIRWORTHY_ADOPT", "KUBERNETES_SERVICE_HOST", "KUBECONFIG"),
)


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def api(cluster: Cluster) -> Api:
    return Api(cluster.client(), cluster.namespace)


def test_what_is_named_is_taken_and_a_slip_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRWORTHY_DEPLOYER", "standard")
    assert choose.deployer_name("late") == "standard"
    monkeypatch.setenv("AIRWORTHY_DEPLOYER", "Standard")
    with pytest.raises(ConfigError, match="'Standard', not one of local, knative, standard"):
        choose.deployer_name("late")


def test_a_pod_asks_its_inference_service(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    ClusterWorld(cluster).deploy()
    assert choose.deployer_name("late", lambda: api(cluster)) == cluster.mode


def test_a_pod_asks_the_installation_about_a_service_to_be(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(MissingCapabilityError, match="is unknown; set AIRWORTHY_DEPLOYER"):
        choose.deployer_name("late", lambda: api(cluster))
    data = {"deploy": '{"defaultDeploymentMode": "RawDeployment"}'}
    cluster.store.create(
        CONFIG_MAP, "kserve", {"metadata": {"name": "inferenceservice-config"}, "data": data}
    )
    assert choose.deployer_name("late", lambda: api(cluster)) == "standard"


def test_a_store_is_opened_from_a_kubeconfig(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRWORTHY_DEPLOYER", cluster.mode)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(cluster.kubeconfig))
    template = tmp_path / "template.yaml"
    template.write_text(
        "kind: InferenceService\nmetadata: {labels: {team: late}}\n"
        "spec: {predictor: {serviceAccountName: models, model: {modelFormat: {name: xgboost}}}}\n"
    )
    monkeypatch.setenv("AIRWORTHY_INFERENCE_SERVICE", str(template))
    store = choose.open_store("late", tmp_path)
    assert isinstance(store, KServeStore)
    store.update(lambda _: Service(service="late", model="late", stable=STABLE))
    made = cluster.isvc("late")
    assert made["metadata"]["labels"]["team"] == "late"
    assert made["spec"]["predictor"]["serviceAccountName"] == "models"
    assert made["spec"]["predictor"]["model"]["storageUri"] == STABLE.bundle
    monkeypatch.setenv("AIRWORTHY_DEPLOYER", "local")
    assert isinstance(choose.open_store("late", tmp_path), ServiceStore)


def test_without_a_cluster_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRWORTHY_DEPLOYER", "knative")
    missing = str(tmp_path / "none")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", missing)
    with pytest.raises(
        AirworthyError, match=r"no Kubernetes cluster is configured .*AIRWORTHY_DEPLOYER=local"
    ):
        choose.open_store("late", tmp_path)


def test_a_template_has_to_be_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cluster: Cluster) -> None:
    file = tmp_path / "template.yaml"
    file.write_text("kind: Deployment\n")
    monkeypatch.setenv("AIRWORTHY_DEPLOYER", "knative")
    monkeypatch.setenv("AIRWORTHY_INFERENCE_SERVICE", str(file))
    with pytest.raises(ConfigError, match="must be an InferenceService"):
        choose.open_store("late", tmp_path, cluster=lambda: api(cluster))
    file.write_text("a: [")
    with pytest.raises(ConfigError, match="can't be read"):
        choose.open_store("late", tmp_path, cluster=lambda: api(cluster))


def test_arms_are_asked_inside_the_cluster_or_through_a_gateway() -> None:
    url = "http://latest-late-predictor.models.example.com"
    assert within("models")(url) == ("http://latest-late-predictor.models.svc.cluster.local", {})
    assert through("http://gateway:80/")(url) == (
        "http://gateway:80",
        {"Host": "latest-late-predictor.models.example.com"},
    )
