"""A release's rollout on a cluster as its step runs it: configured by the environment alone, evidence from a real
Prometheus, and the promotion, the settlement and the way back as the other steps do them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airworthy.errors import ConfigError
from airworthy.rollout import deploy, finish, roll_out, settle
from airworthy.rollout.replay import replay
from tests.cluster.double import Cluster, DeploymentMode
from tests.cluster.prometheus_server import PrometheusServer, needs_prometheus
from tests.release_evidence import Evidence
from tests.unit.rollout.conftest import models, planned  # noqa: F401 (fixture)

PLAN = (
    "{service: late, steps: [30], requests_per_step: 200, bake_requests: 100, settle_seconds: 0.5, "
    "max_latency_increase: 9, deadline_seconds: 120}"
)


class _Prometheus(PrometheusServer):
    """Configured as the cluster says: its gateway's Istio series, its queue-proxies'."""

    def __init__(self, folder: Path, config: str) -> None:
        super().__init__(folder, {})
        (folder / "prometheus.yml").write_text(config)


@pytest.fixture
def configured(
    make_cluster: Callable[[DeploymentMode], Cluster],
    mode: DeploymentMode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Cluster]:
    cluster = make_cluster(mode)
    with _Prometheus(tmp_path / "prometheus", cluster.prometheus_config()) as prometheus:
        settings = {
            "AIRWORTHY_DEPLOYER": mode,
            "AIRWORTHY_NAMESPACE": cluster.namespace,
            "AIRWORTHY_GATEWAY": cluster.gateway_url,
            "AIRWORTHY_SIGNALS": f"prometheus:{prometheus.url}",
            "AIRWORTHY_SIGNALS_FAMILY": "istio" if mode == "standard" else "knative",
            "KUBECONFIG": str(cluster.kubeconfig),
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        yield cluster


def stored(version: str) -> str:
    return f"s3://models/{version}"


@needs_prometheus
def test_from_the_first_model_to_the_next_and_back(
    configured: Cluster,
    models: tuple[Evidence, Evidence, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    old, new, traffic = models
    cluster, home = configured, tmp_path / "home"
    deploy("late", model="late", bundle=old.bundle, version="1", home=home, storage_uri=stored)
    cluster.wait(lambda: cluster.serving("late") == {stored("1"): 100.0}, "the first model serves", 20)
    with cluster.traffic("late", rate=300) as users:
        outcome = roll_out(
            planned(PLAN),
            bundle=new.bundle,
            version="2",
            verdict=new.verdict,
            stable=(old.bundle, "1"),
            traffic=traffic,
            home=home,
            record_out=tmp_path / "record",
            report_out=tmp_path / "report.html",
            run="run-1",
            storage_uri=stored,
        )
        assert outcome.decision == "PASS", outcome.reason
        assert cluster.serving("late") == {stored("2"): 100.0}
        assert replay(tmp_path / "record").agrees
        promoted: list[str] = []
        finish("late", bundle=new.bundle, version="2", home=home, promote=lambda: promoted.append("2"))
        assert promoted
        assert settle("late", champion_digest=new.digest, home=home, run="run-1").action == "nothing"
        assert cluster.serving("late") == {stored("2"): 100.0}
        deploy("late", model="late", bundle=old.bundle, version="1", home=home, storage_uri=stored)
        cluster.wait(lambda: cluster.serving("late") == {stored("1"): 100.0}, "the earlier model serves", 20)
    assert not users.failed
    assert not home.exists(), "nothing of a cluster's rollout lives on this machine"


def test_a_rollout_without_signals_is_refused_before_anything_is_deployed(
    make_cluster: Callable[[DeploymentMode], Cluster],
    mode: DeploymentMode,
    models: tuple[Evidence, Evidence, Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new, traffic = models
    cluster = make_cluster(mode)
    monkeypatch.setenv("AIRWORTHY_DEPLOYER", mode)
    monkeypatch.setenv("AIRWORTHY_NAMESPACE", cluster.namespace)
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.delenv("AIRWORTHY_SIGNALS", raising=False)
    with pytest.raises(ConfigError, match="AIRWORTHY_SIGNALS is not set"):
        roll_out(
            planned(PLAN),
            bundle=new.bundle,
            version="2",
            verdict=new.verdict,
            stable=(old.bundle, "1"),
            traffic=traffic,
            home=tmp_path / "home",
            record_out=tmp_path / "record",
            storage_uri=stored,
        )
    assert not cluster.writes()
