"""The scripted KServe in Knative mode: what it does with a canary, and the traps that deployers can fall into."""

from __future__ import annotations

import urllib.request

import pytest
from kubernetes.client import CoreV1Api

from tests.cluster.asked import Isvcs, model, uri
from tests.cluster.double import Cluster
from tests.cluster.store import REVISION

pytestmark = pytest.mark.parametrize("mode", ["knative"])
HISTORY = ("late-predictor-00001", "late-predictor-00002", "late-predictor-00003", "late-predictor-00004")


@pytest.fixture
def late(cluster: Cluster) -> Cluster:
    cluster.deploy("late", uri(1))
    return cluster


@pytest.fixture
def isvcs(late: Cluster) -> Isvcs:
    return Isvcs(late)


def start(late: Cluster, isvcs: Isvcs, version: int = 2, percent: int | None = 0) -> None:
    """Patch a model with a percent, and wait until its revision is ready."""
    count = len(late.store.select(REVISION))
    isvcs.predictor("late", model=model(version), canaryTrafficPercent=percent)
    name = f"late-predictor-{count + 1:05d}"
    late.wait(lambda: late.predictor("late")["latestReadyRevision"] == name, name)


def serves(late: Cluster, **percents: float) -> None:
    """Wait until users are answered by models `v1`, `v2`, … with these percents, and stay so."""
    wanted = {uri(int(version[1:])): percent for version, percent in percents.items()}
    late.wait(lambda: late.serving("late") == wanted, f"{wanted}, not {late.serving('late')}")


def test_a_canary_starts_steps_and_is_promoted(late: Cluster, isvcs: Isvcs) -> None:
    start(late, isvcs)
    serves(late, v1=100)
    for percent in (5, 50):
        isvcs.predictor("late", canaryTrafficPercent=percent)
        serves(late, v1=100 - percent, v2=percent)
        shown = {t["tag"]: (t["revisionName"], t["percent"]) for t in late.predictor("late")["traffic"]}
        assert shown == {"latest": (HISTORY[1], percent), "prev": (HISTORY[0], 100 - percent)}
    isvcs.predictor("late", canaryTrafficPercent=100)
    serves(late, v2=100)
    isvcs.predictor("late", canaryTrafficPercent=None)
    late.wait(lambda: late.predictor("late").get("latestRolledoutRevision") == HISTORY[1], "rolled out")
    assert late.predictor("late")["previousRolledoutRevision"] == HISTORY[0]
    serves(late, v2=100)


def test_a_canary_is_rolled_back_and_the_stable_model_restored(late: Cluster, isvcs: Isvcs) -> None:
    start(late, isvcs)
    isvcs.predictor("late", canaryTrafficPercent=20)
    serves(late, v1=80, v2=20)
    isvcs.predictor("late", canaryTrafficPercent=0)
    serves(late, v1=100)
    start(late, isvcs, version=1)
    isvcs.predictor("late", canaryTrafficPercent=None)
    late.wait(lambda: late.predictor("late")["latestRolledoutRevision"] == HISTORY[2], "rolled out")
    serves(late, v1=100)


def test_removing_the_percent_promotes_the_bad_model_in_the_spec(late: Cluster, isvcs: Isvcs) -> None:
    start(late, isvcs)
    isvcs.predictor("late", canaryTrafficPercent=None)
    serves(late, v2=100)


def test_a_percent_above_0_with_a_new_model_goes_to_the_rejected_revision(
    late: Cluster, isvcs: Isvcs
) -> None:
    start(late, isvcs)  # rejected: its percent stays 0, its model stays in the spec
    late.script.unready(uri(3))
    isvcs.predictor("late", model=model(3), canaryTrafficPercent=30)
    serves(late, v1=70, v2=30)
    assert late.predictor("late")["latestCreatedRevision"] == HISTORY[2]


def test_after_a_promotion_0_percent_falls_back_to_the_revision_before(late: Cluster, isvcs: Isvcs) -> None:
    start(late, isvcs, percent=None)
    serves(late, v2=100)
    isvcs.predictor("late", canaryTrafficPercent=0)
    serves(late, v1=100)
    assert late.predictor("late")["latestRolledoutRevision"] == HISTORY[0]


def test_a_slow_configuration_makes_kserve_fall_back(late: Cluster, isvcs: Isvcs) -> None:
    start(late, isvcs, percent=None)
    serves(late, v2=100)
    late.delays.revision = 0.2  # the route is there before the revision
    start(late, isvcs, version=3)
    serves(late, v1=100)


@pytest.mark.parametrize("how", ["never", "crash_loop"])
def test_an_unready_canary_gets_no_traffic_but_turns_ready_false(
    late: Cluster, isvcs: Isvcs, how: str
) -> None:
    late.script.unready(uri(2), how)  # type: ignore[arg-type]
    isvcs.predictor("late", model=model(2), canaryTrafficPercent=0)
    late.wait(lambda: late.condition("late", "Ready")["status"] == "Unknown", "it starts")
    late.wait(lambda: late.condition("late", "Ready")["status"] == "False", "it fails")
    assert late.condition("late", "PredictorReady")["reason"] == "RevisionFailed"
    assert late.condition("late", "PredictorRouteReady")["status"] == "True"
    isvcs.predictor("late", canaryTrafficPercent=50)
    late.wait(lambda: any(t["percent"] == 50 for t in late.predictor("late")["traffic"]), "the table")
    assert {t["revisionName"] for t in late.predictor("late")["traffic"]} == {HISTORY[0]}
    serves(late, v1=100)
    blocked = late.isvc("late")["status"]["modelStatus"]["transitionStatus"] == "BlockedByFailedLoad"
    assert blocked == (how == "crash_loop")
    label = f"serving.knative.dev/revision={HISTORY[1]}"
    [pod] = CoreV1Api(late.client()).list_namespaced_pod("models", label_selector=label).items
    waiting = pod.status.container_statuses[0].state.waiting
    assert (waiting.reason if waiting else None) == ("CrashLoopBackOff" if how == "crash_loop" else None)


@pytest.mark.parametrize("part", ["annotations", "labels"])
def test_an_annotation_makes_a_revision(late: Cluster, isvcs: Isvcs, part: str) -> None:
    isvcs.patch("late", {"metadata": {part: {"airworthy/step": "1"}}})
    late.wait(lambda: late.predictor("late")["latestCreatedRevision"] == HISTORY[1], "a revision")
    isvcs.patch("late", {"metadata": {"annotations": {"serving.knative.dev/rollout-duration": "1s"}}})
    isvcs.predictor("late", minReplicas=2)
    late.wait(lambda: late.predictor("late")["latestCreatedRevision"] == HISTORY[2], "a revision")


def test_revisions_can_be_asked_directly(late: Cluster, isvcs: Isvcs) -> None:
    start(late, isvcs)
    names = {HISTORY[0], HISTORY[1]}
    late.wait(lambda: {t["revisionName"] for t in late.predictor("late")["traffic"]} == names, "tags")
    asked = {}
    for target in late.predictor("late")["traffic"]:
        url, headers = late.resolve(target["url"])
        request = urllib.request.Request(f"{url}/v1/models/late:predict", b'{"instances": [{}]}', headers)
        host, to = headers["Host"], target["revisionName"]
        late.wait(lambda host=host, to=to: late.gateway.direct.get(host) == to, "the gateway follows")
        with urllib.request.urlopen(request, timeout=5) as answer:
            asked[target["tag"]] = answer.headers["X-Model-Version"]
    assert asked == {"latest": "2", "prev": "1"}


def test_weights_come_late_wrong_or_never(late: Cluster, isvcs: Isvcs) -> None:
    start(late, isvcs)
    late.script.weights_never = True
    isvcs.predictor("late", canaryTrafficPercent=30)
    with pytest.raises(AssertionError):
        late.wait(lambda: uri(2) in late.serving("late"), seconds=0.2)
    late.script.weights_never, late.script.weights_wrong = False, 77
    serves(late, v1=23, v2=77)
    late.script.weights_wrong, late.script.weights_late = None, 0.2
    with pytest.raises(AssertionError):
        late.wait(lambda: late.serving("late")[uri(2)] == 30, seconds=0.15)
    serves(late, v1=70, v2=30)


def test_status_generations_say_nothing_about_the_spec(late: Cluster, isvcs: Isvcs) -> None:
    start(late, isvcs)
    isvcs.patch("late", {"metadata": {"annotations": {"note": "x"}}})
    late.wait(lambda: late.predictor("late")["latestReadyRevision"] == HISTORY[2], "a revision")
    shown = late.isvc("late")
    assert shown["status"]["observedGeneration"] != shown["metadata"]["generation"]


def test_a_stopped_service_is_deleted_and_comes_back(late: Cluster, isvcs: Isvcs) -> None:
    isvcs.patch("late", {"metadata": {"annotations": {"serving.kserve.io/stop": "true"}}})
    late.wait(lambda: late.condition("late", "Stopped").get("status") == "True", "stopped")
    late.wait(lambda: late.serving("late") == {}, "nothing serves")
    assert late.store.select(REVISION) == []
    isvcs.patch("late", {"metadata": {"annotations": {"serving.kserve.io/stop": None}}})
    serves(late, v1=100)
