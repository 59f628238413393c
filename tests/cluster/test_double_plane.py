"""The double's data plane: models, gateway, metrics, users."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.asked import Isvcs, entry, uri
from tests.cluster.double import Cluster, DeploymentMode

ROW = {"hour": 3, "distance": 100.0, "carrier": "A"}
V1 = "/v1/models/late:predict"


@pytest.fixture
def mode() -> DeploymentMode:
    return "standard"


@pytest.fixture
def late(cluster: Cluster) -> Cluster:
    cluster.deploy("late", uri(1))
    return cluster


def ask(late: Cluster, path: str = V1, body: object = None, host: str = "") -> tuple[int, str, str]:
    """Status, text, version."""
    headers = {"Host": host} if host else {}
    data = json.dumps(body or {"instances": [ROW]}).encode()
    request = urllib.request.Request(late.gateway_url + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode(), answer.headers["X-Model-Version"]
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), ""


def test_both_protocols_are_answered_alike_by_all_models(late: Cluster) -> None:
    [score] = json.loads(ask(late)[1])["predictions"]
    assert 0.05 <= score <= 0.95
    tensor = {"inputs": [{"name": "hour", "shape": [1], "datatype": "FP64", "data": [3]}]}
    assert json.loads(ask(late, "/v2/models/late/infer", tensor)[1])["outputs"][0]["shape"] == [1]
    late.interfere("late", {"spec": {"predictor": {"model": {"storageUri": uri(2)}}}})
    late.wait(lambda: late.serving("late") == {uri(2): 100.0}, "the other model")
    status, text, version = ask(late)
    assert (status, json.loads(text)["predictions"], version) == (200, [score], "2")
    assert ask(late, body={"rows": []})[0] == 400
    assert ask(late, "/v1/models/unknown:predict")[0] == 404


def test_models_misbehave_as_asked(late: Cluster) -> None:
    healthy = json.loads(ask(late)[1])["predictions"][0]
    late.script.behave(uri(1), error_rate=1.0)
    assert ask(late)[0] == 500
    late.script.behave(uri(1), error_rate=0.0, nan_rate=1.0)
    assert ask(late)[1] == '{"predictions": [NaN]}'
    late.script.behave(uri(1), nan_rate=0.0, garbage_rate=1.0)
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(ask(late)[1])
    late.script.behave(uri(1), garbage_rate=0.0, shift=0.01)
    assert json.loads(ask(late)[1])["predictions"][0] == pytest.approx(healthy + 0.01)
    late.script.behave(uri(1), seconds=0.2)
    begun = time.monotonic()
    ask(late)
    assert time.monotonic() - begun >= 0.2
    late.script.behave(uri(1), dead=True)
    assert ask(late)[0] == 503


def test_users_are_split_by_weight_and_told_apart(late: Cluster) -> None:
    Isvcs(late).canary("late", entry(30))
    late.wait(lambda: late.serving("late") == {uri(1): 70.0, uri(2): 30.0}, "split")
    late.script.behave(uri(2), error_rate=1.0)
    with late.traffic("late", rate=400) as users:
        late.wait(lambda: len(users.samples) >= 200, "200 requests")
    share = len(users.failed) / len(users.samples)
    assert 0.2 < share < 0.4
    assert {sample.workload for sample in users.failed} == {"late-v2-predictor"}
    assert users.answered() == Counter({"1": len(users.samples) - len(users.failed)})
    seen = late.observations(canary=uri(2))
    assert Counter((one.arm, one.result) for one in seen) == Counter(
        {("canary", "error"): len(users.failed), ("stable", "ok"): users.answered()["1"]}
    )
    assert {one.share for one in seen} == {0.3}


def test_the_rate_of_users_is_bounded(late: Cluster) -> None:
    begun = time.monotonic()
    with late.traffic("late", rate=50) as users:
        late.wait(lambda: len(users.samples) >= 20, "20 requests")
    assert time.monotonic() - begun > 0.3
    assert users.failed == []


def test_a_predictor_can_be_asked_past_the_split(late: Cluster) -> None:
    Isvcs(late).canary("late", entry(0))
    late.wait(lambda: late.condition("late", "CanaryPredictorReady").get("status") == "True", "ready")
    for name, version in (("late-predictor", "1"), ("late-v2-predictor", "2")):
        _, headers = late.resolve(f"http://{name}.models.svc.cluster.local")
        assert ask(late, host=headers["Host"])[2] == version
    assert late.observations(canary=uri(2)) == []
    assert ask(late, host="nobody.models.svc.cluster.local")[0] == 404


def samples(text: str, metric: str) -> dict[str, float]:
    """Values of a metric by the rest of the line."""
    lines = [line for line in text.splitlines() if line.startswith(metric + "{")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_metrics_count_what_knative_and_istio_would(late: Cluster) -> None:
    late.script.behave(uri(1), seconds=0.03)
    for _ in range(3):
        ask(late)
    late.script.behave(uri(1), error_rate=1.0)
    ask(late)
    with urllib.request.urlopen(f"{late.gateway_url}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    istio = samples(text, "istio_requests_total")
    assert sorted(istio.values()) == [1, 3]
    assert all('destination_workload="late-predictor"' in key and 'reporter="source"' in key for key in istio)
    edges = samples(text, "istio_request_duration_milliseconds_bucket")
    assert sum(count for key, count in edges.items() if 'le="25"' in key) == 0
    assert sum(count for key, count in edges.items() if 'le="+Inf"' in key) == 4
    with urllib.request.urlopen(f"{late.gateway_url}/targets", timeout=5) as answer:
        groups = {group["labels"]["job"]: group["targets"] for group in json.load(answer)}
    with urllib.request.urlopen(f"http://{groups['queue-proxy'][0]}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    for name in ("revision_app_request_count", "revision_request_count", "revision_request_latencies_count"):
        found = samples(text, name)
        assert sorted(found.values()) == [1, 3]
        assert all('revision_name="late-predictor"' in key for key in found)
        assert sum('response_code="500"' in key for key in found) == 1


def test_a_real_prometheus_scrapes_it(late: Cluster, tmp_path: Path) -> None:
    from tests.cluster.prometheus_server import PROGRAM, PrometheusServer

    if PROGRAM is None:
        pytest.skip("needs the program prometheus")
    prometheus = PrometheusServer(tmp_path / "prometheus", {})
    (tmp_path / "prometheus" / "prometheus.yml").write_text(late.prometheus_config())
    for _ in range(5):
        ask(late)

    def counted() -> list[float]:
        query = "sum(istio_requests_total) or sum(revision_request_count)"
        return [float(series["value"][1]) for series in prometheus.ask(query)]

    with prometheus:
        late.wait(lambda: counted() == [5.0], "five requests", seconds=15)
        late.wait(lambda: prometheus.ask("revision_request_latencies_bucket"), "queue-proxy", seconds=15)


@pytest.mark.parametrize("mode", ["knative"])
def test_what_scales_to_zero_starts_cold(cluster: Cluster) -> None:
    cluster.deploy("late", uri(1), replicas=0)
    times = []
    for _ in range(2):
        begun = time.monotonic()
        assert ask(cluster)[0] == 200
        times.append(time.monotonic() - begun)
    assert times[0] >= 0.3 > times[1]
