"""The scripted KServe in Standard mode: Deployments, weights, promotion, and what goes wrong with them."""

from __future__ import annotations

import pytest
from kubernetes.client import AppsV1Api, CoreV1Api, CustomObjectsApi

from tests.cluster.asked import Isvcs, entry, model, uri
from tests.cluster.double import Cluster
from tests.cluster.store import POD

pytestmark = pytest.mark.parametrize("mode", ["standard"])
STABLE, CANARY = "late-predictor", "late-v2-predictor"


@pytest.fixture
def late(cluster: Cluster) -> Cluster:
    cluster.deploy("late", uri(1), replicas=4)
    return cluster


@pytest.fixture
def isvcs(late: Cluster) -> Isvcs:
    return Isvcs(late)


def serves(late: Cluster, **percents: float) -> None:
    """Wait until users are answered by models `v1`, `v2`, … with these percents."""
    wanted = {uri(int(version[1:])): percent for version, percent in percents.items()}
    late.wait(lambda: late.serving("late") == wanted, f"{wanted}, not {late.serving('late')}")


def available(late: Cluster, name: str) -> int:
    found = late.deployment(name) or {}
    return (found.get("status") or {}).get("availableReplicas", 0)


def canary_ready(late: Cluster) -> bool:
    return late.condition("late", "CanaryPredictorReady").get("status") == "True"


def test_a_canary_starts_steps_and_is_promoted_without_a_failed_request(late: Cluster, isvcs: Isvcs) -> None:
    with late.traffic("late", rate=300) as users:
        isvcs.canary("late", entry(0))
        late.wait(lambda: canary_ready(late), "ready")
        assert late.isvc("late")["status"]["canaryStatuses"] == [
            {"name": "v2", "ready": True, "trafficPercent": 0}
        ]
        isvcs.canary("late", entry(25))
        serves(late, v1=75, v2=25)
        assert late.weights("late") == late.weights("late-predictor") == {STABLE: 75, CANARY: 25}
        late.wait(lambda: late.deployment(STABLE)["spec"]["replicas"] == 3, "stable gives way")  # type: ignore[index]
        isvcs.canary("late", entry(100, replicas=4))
        serves(late, v2=100)
        late.wait(lambda: available(late, CANARY) == 4, "all replicas")
        pods = {pod["metadata"]["uid"] for pod in late.store.select(POD, app=f"isvc.{CANARY}")}
        isvcs.patch("late", {"spec": {"predictor": {"name": "v2", "model": model(2)}, "canary": None}})
        late.wait(lambda: late.weights("late") == {CANARY: 100}, "route")
        late.wait(lambda: late.deployment(STABLE) is None, "old stable gone")
        serves(late, v2=100)
    assert {pod["metadata"]["uid"] for pod in late.store.select(POD, app=f"isvc.{CANARY}")} == pods
    assert users.failed == []
    assert late.isvc("late")["status"]["address"]["url"] == f"http://{CANARY}.models.svc.cluster.local"
    assert late.condition("late", "CanaryPredictorReady") == {}


def test_a_promotion_before_100_percent_hurts_users(late: Cluster, isvcs: Isvcs) -> None:
    isvcs.canary("late", entry(25))
    serves(late, v1=75, v2=25)
    late.delays.weights = 0.2
    with late.traffic("late", rate=300) as users:
        isvcs.patch("late", {"spec": {"predictor": {"name": "v2", "model": model(2)}, "canary": None}})
        serves(late, v2=100)
    assert len(users.failed) > 5
    assert {sample.status for sample in users.failed} == {503}


def test_a_rollback_removes_the_canary(late: Cluster, isvcs: Isvcs) -> None:
    isvcs.canary("late", entry(50))
    serves(late, v1=50, v2=50)
    with late.traffic("late", rate=300) as users:
        isvcs.canary("late")
        serves(late, v1=100)
        late.wait(lambda: available(late, STABLE) == 4, "stable grows again")
    assert late.deployment(CANARY) is None
    assert late.condition("late", "CanaryPredictorReady") == {}
    assert all(
        sample.status == 503 for sample in users.failed
    )  # the Deployment goes before the route follows


def test_at_0_percent_without_replicas_a_canary_never_gets_ready(late: Cluster, isvcs: Isvcs) -> None:
    isvcs.canary("late", entry(0, replicas=None))
    late.wait(lambda: late.deployment(CANARY) is not None, "its Deployment")
    assert late.deployment(CANARY)["spec"]["replicas"] == 0  # type: ignore[index]
    with pytest.raises(AssertionError):
        late.wait(lambda: canary_ready(late), seconds=0.2)
    isvcs.canary("late", entry(30, replicas=None))
    late.wait(lambda: available(late, CANARY) == 2, "ceil(4 * 30 %)")


@pytest.mark.parametrize("how", ["never", "crash_loop"])
def test_an_unready_canary_gets_no_traffic_and_leaves_the_service_ready(
    late: Cluster, isvcs: Isvcs, how: str
) -> None:
    late.script.unready(uri(2), how)  # type: ignore[arg-type]
    isvcs.canary("late", entry(30))
    late.wait(
        lambda: late.condition("late", "CanaryPredictorReady").get("reason") == "CanariesNotReady", "told"
    )
    status = AppsV1Api(late.client()).read_namespaced_deployment_status

    def stuck() -> bool:
        conditions = status(CANARY, "models").status.conditions or []
        return any(one.reason == "ProgressDeadlineExceeded" and one.status == "False" for one in conditions)

    late.wait(stuck, "the deadline of its Deployment")
    assert late.condition("late", "Ready")["status"] == "True"
    assert late.weights("late") == {STABLE: 100}
    assert late.isvc("late")["status"]["canaryStatuses"][0] == {
        "name": "v2",
        "ready": False,
        "trafficPercent": 30,
    }
    serves(late, v1=100)
    core = CoreV1Api(late.client())
    [pod] = core.list_namespaced_pod("models", label_selector=f"app=isvc.{CANARY}").items
    events = core.list_namespaced_event(
        "models", field_selector=f"involvedObject.name={pod.metadata.name}"
    ).items
    assert events[0].reason == ("BackOff" if how == "crash_loop" else "Unhealthy")
    crashed = pod.status.container_statuses[0].last_state
    assert (crashed is not None and crashed.terminated.exit_code == 1) == (how == "crash_loop")


def test_a_controller_of_0_20_says_the_percent_but_does_not_split(late: Cluster, isvcs: Isvcs) -> None:
    late.script.weights_never = True
    isvcs.canary("late", entry(30))
    late.wait(lambda: canary_ready(late), "ready")
    assert late.isvc("late")["status"]["canaryStatuses"][0]["trafficPercent"] == 30
    with pytest.raises(AssertionError):
        late.wait(lambda: len(late.weights("late")) == 2, seconds=0.2)
    serves(late, v1=100)


def test_without_gateway_api_there_is_no_route_and_no_split(late: Cluster, isvcs: Isvcs) -> None:
    late.script.gateway_api = False
    isvcs.canary("late", entry(30))
    late.wait(lambda: canary_ready(late), "ready")
    late.wait(lambda: late.weights("late") == {}, "no route")
    serves(late, v1=100)


def test_an_older_controller_sends_users_to_a_canary_that_is_not_ready(late: Cluster, isvcs: Isvcs) -> None:
    late.script.gated = False
    late.script.unready(uri(2))
    isvcs.canary("late", entry(30))
    late.wait(lambda: late.weights("late") == {STABLE: 70, CANARY: 30}, "weights")
    late.wait(lambda: late.serving("late").get("") == 30.0, "nobody answers them")


def test_weights_come_late_or_wrong(late: Cluster, isvcs: Isvcs) -> None:
    isvcs.canary("late", entry(0))
    late.wait(lambda: CANARY in late.weights("late"), "route")
    late.script.weights_wrong = 77
    isvcs.canary("late", entry(30))
    serves(late, v1=23, v2=77)
    late.script.weights_wrong, late.script.weights_late = None, 0.2
    with pytest.raises(AssertionError):
        late.wait(lambda: late.weights("late")[CANARY] == 30, seconds=0.15)
    serves(late, v1=70, v2=30)


def test_the_gateway_follows_the_route_late(late: Cluster, isvcs: Isvcs) -> None:
    late.delays.gateway = 0.3
    isvcs.canary("late", entry(30))
    late.wait(lambda: late.weights("late").get(CANARY) == 30, "route")
    assert late.serving("late") == {uri(1): 100.0}
    serves(late, v1=70, v2=30)


def test_a_canary_that_crashes_loses_its_share_to_stable(late: Cluster, isvcs: Isvcs) -> None:
    isvcs.canary("late", entry(50))
    serves(late, v1=50, v2=50)
    late.script.crash(uri(2), after=10)
    with late.traffic("late", rate=300) as users:
        late.wait(lambda: not canary_ready(late), "noticed")
        serves(late, v1=100)
    assert users.answered()["2"] in range(1, 45)
    assert users.failed
    assert late.condition("late", "Ready")["status"] == "True"


def test_flapping_readiness_comes_and_goes(late: Cluster, isvcs: Isvcs) -> None:
    isvcs.canary("late", entry(50))
    serves(late, v1=50, v2=50)
    late.script.flap(uri(2), period=0.2)
    for _ in range(2):
        late.wait(lambda: not canary_ready(late), "gone")
        late.wait(lambda: canary_ready(late), "back")
    late.script.heal(uri(2))
    serves(late, v1=50, v2=50)


def test_a_changed_annotation_restarts_the_pods(late: Cluster, isvcs: Isvcs) -> None:
    before = {pod["metadata"]["uid"] for pod in late.store.select(POD)}
    isvcs.patch("late", {"metadata": {"annotations": {"airworthy/step": "1"}}})
    late.wait(lambda: not before & {pod["metadata"]["uid"] for pod in late.store.select(POD)}, "new pods")
    serves(late, v1=100)


def test_a_new_model_of_the_stable_predictor_rolls_without_a_failed_request(
    late: Cluster, isvcs: Isvcs
) -> None:
    with late.traffic("late", rate=300) as users:
        isvcs.predictor("late", model=model(2))
        serves(late, v2=100)
    assert users.failed == []


def test_a_paused_controller_does_nothing(late: Cluster, isvcs: Isvcs) -> None:
    late.script.paused = True
    isvcs.canary("late", entry(30))
    with pytest.raises(AssertionError):
        late.wait(lambda: late.deployment(CANARY), seconds=0.2)
    late.script.paused = False
    serves(late, v1=70, v2=30)


def test_observed_generation_is_that_of_the_deployment(late: Cluster, isvcs: Isvcs) -> None:
    isvcs.canary("late", entry(0))
    isvcs.canary("late", entry(5))
    late.wait(lambda: canary_ready(late), "ready")
    shown = late.isvc("late")
    deployment = late.deployment(STABLE)
    assert deployment is not None
    assert shown["metadata"]["generation"] == 3
    late.wait(
        lambda: (
            late.isvc("late")["status"]["observedGeneration"]
            == late.deployment(STABLE)["metadata"]["generation"]
        ),  # type: ignore[index]
        "it follows the Deployment",
    )


def test_somebody_deletes_the_service_in_the_middle(late: Cluster, isvcs: Isvcs) -> None:
    isvcs.canary("late", entry(50))
    serves(late, v1=50, v2=50)
    late.delete("late")
    late.wait(lambda: late.deployment(CANARY) is None, "collected")
    late.wait(lambda: late.serving("late") == {}, "no route")


def test_routes_tell_whether_their_backends_are_there(late: Cluster, isvcs: Isvcs) -> None:
    route = CustomObjectsApi(late.client()).get_namespaced_custom_object
    found = route("gateway.networking.k8s.io", "v1", "models", "httproutes", "late")
    conditions = {one["type"]: one["status"] for one in found["status"]["parents"][0]["conditions"]}
    assert conditions == {"Accepted": "True", "ResolvedRefs": "True"}
    assert found["spec"]["hostnames"] == ["late-models.example.com"]
    late.delays.weights = 0.3
    isvcs.canary("late", entry(50))
    serves(late, v1=50, v2=50)
    isvcs.canary("late")

    def dangling() -> bool:
        shown = route("gateway.networking.k8s.io", "v1", "models", "httproutes", "late")
        return any(
            one.get("reason") == "BackendNotFound" for one in shown["status"]["parents"][0]["conditions"]
        )

    late.wait(dangling, "a route to what is gone")
