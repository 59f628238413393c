"""The Kubernetes API double, as the real client meets it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from urllib3.exceptions import HTTPError

from tests.cluster.asked import WHERE, Isvcs, entry, model, refused, uri
from tests.cluster.double import Cluster
from tests.cluster.store import ISVC

ONE_MODE = pytest.mark.parametrize("mode", ["standard"])
pytestmark = ONE_MODE


@pytest.fixture
def isvcs(cluster: Cluster) -> Isvcs:
    return Isvcs(cluster)


@pytest.fixture
def late(cluster: Cluster) -> Cluster:
    """A cluster with the ready service `late`, whose controller doesn't interfere any more."""
    cluster.deploy("late", uri(1), replicas=2)
    cluster.script.paused = True
    time.sleep(0.02)
    return cluster


def test_an_object_is_created_read_listed_and_deleted(cluster: Cluster, isvcs: Isvcs) -> None:
    cluster.script.paused = True
    made = isvcs.create(cluster.manifest("late", uri(1)))
    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["uid"]
    assert made["metadata"]["creationTimestamp"]
    assert isvcs.get("late") == made
    assert refused(409, isvcs.create, cluster.manifest("late", uri(1)))["reason"] == "AlreadyExists"
    listed = isvcs.api.list_namespaced_custom_object(*WHERE)
    assert [item["metadata"]["name"] for item in listed["items"]] == ["late"]
    assert int(listed["metadata"]["resourceVersion"]) >= int(made["metadata"]["resourceVersion"])
    isvcs.api.delete_namespaced_custom_object(*WHERE, "late")
    gone = refused(404, isvcs.get, "late")
    assert gone["message"] == 'inferenceservices.serving.kserve.io "late" not found'


def test_labels_select(cluster: Cluster) -> None:
    core = client.CoreV1Api(cluster.client())
    for name, labels in (("a", {"app": "x", "tier": "1"}), ("b", {"app": "y"}), ("c", {})):
        core.create_namespaced_config_map(
            "models", {"metadata": {"name": name, "labels": labels}, "data": {}}
        )

    def names(selector: str) -> list[str]:
        found = core.list_namespaced_config_map("models", label_selector=selector)
        return [item.metadata.name for item in found.items]

    assert names("app=x") == ["a"]
    assert names("app=x,tier=1") == ["a"]
    assert names("app!=x") == ["b", "c"]
    assert names("app") == ["a", "b"]
    assert names("!app") == ["c"]
    assert (
        core.list_namespaced_config_map("models", field_selector="metadata.name=b").items[0].metadata.name
        == "b"
    )


def test_a_merge_patch_merges_deletes_with_null_and_replaces_lists(late: Cluster, isvcs: Isvcs) -> None:
    env = [{"name": "A", "value": "1"}]
    isvcs.predictor("late", model={"env": env, "runtime": "fast"})
    isvcs.predictor("late", model={"runtime": None, "env": [{"name": "B", "value": "2"}]})
    assert isvcs.get("late")["spec"]["predictor"]["model"] == {
        **model(1),
        "env": [{"name": "B", "value": "2"}],
    }


def test_versions_and_generations_count_changes(late: Cluster, isvcs: Isvcs) -> None:
    before = isvcs.get("late")["metadata"]
    same = isvcs.predictor("late", minReplicas=2)["metadata"]
    assert (same["resourceVersion"], same["generation"]) == (before["resourceVersion"], before["generation"])
    noted = isvcs.patch("late", {"metadata": {"annotations": {"a": "b"}}})["metadata"]
    assert int(noted["resourceVersion"]) > int(before["resourceVersion"])
    assert noted["generation"] == before["generation"]
    assert isvcs.predictor("late", minReplicas=3)["metadata"]["generation"] == before["generation"] + 1


def test_a_stale_version_conflicts(late: Cluster, isvcs: Isvcs) -> None:
    seen = isvcs.get("late")
    locked = {"metadata": {"resourceVersion": seen["metadata"]["resourceVersion"]}}
    isvcs.patch("late", {**locked, "spec": {"predictor": {"minReplicas": 3}}})
    status = refused(409, isvcs.patch, "late", {**locked, "spec": {"predictor": {"minReplicas": 4}}})
    assert status["reason"] == "Conflict"
    assert "the object has been modified" in status["message"]
    assert isvcs.get("late")["spec"]["predictor"]["minReplicas"] == 3
    assert refused(409, isvcs.patch, "late", {"metadata": {"uid": "other"}})["reason"] == "Conflict"


def test_put_needs_the_present_version(late: Cluster, isvcs: Isvcs) -> None:
    seen = isvcs.get("late")
    put = isvcs.api.replace_namespaced_custom_object
    bare = {**seen, "metadata": {"name": "late", "namespace": "models"}}
    status = refused(422, put, *WHERE, "late", bare)
    assert status["details"]["causes"][0]["field"] == "metadata.resourceVersion"
    seen["spec"]["predictor"]["minReplicas"] = 3
    assert put(*WHERE, "late", seen)["metadata"]["generation"] == seen["metadata"]["generation"] + 1
    refused(409, put, *WHERE, "late", seen)


def test_a_patch_of_another_kind_is_refused(late: Cluster, isvcs: Isvcs) -> None:
    refused(400, isvcs.patch, "late", [{"op": "remove", "path": "/spec/canary"}])
    refused(404, isvcs.patch, "missing", {})
    dynamic = DynamicClient(late.client()).resources.get(
        api_version="serving.kserve.io/v1beta1", kind=ISVC.kind
    )
    with pytest.raises(ApiException) as caught:
        dynamic.patch({}, "late", "models", content_type="application/strategic-merge-patch+json")
    assert caught.value.status == 415


def test_status_and_spec_are_written_apart(late: Cluster, isvcs: Isvcs) -> None:
    before = isvcs.get("late")
    isvcs.patch("late", {"status": {"url": "http://forged"}})
    assert isvcs.get("late")["status"] == before["status"]
    patch = {"status": {"url": "http://new"}, "spec": {"predictor": {"minReplicas": 5}}}
    isvcs.api.patch_namespaced_custom_object_status(*WHERE, "late", patch)
    after = isvcs.get("late")
    assert after["status"]["url"] == "http://new"
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    made = isvcs.create(late.manifest("other", uri(1)) | {"status": {"url": "http://forged"}})
    assert "status" not in made


def test_a_dynamic_client_discovers_what_is_served(late: Cluster) -> None:
    dynamic = DynamicClient(late.client())
    isvc = dynamic.resources.get(api_version="serving.kserve.io/v1beta1", kind="InferenceService")
    assert isvc.get(name="late", namespace="models").spec.predictor.minReplicas == 2
    deployments = dynamic.resources.get(api_version="apps/v1", kind="Deployment").get(namespace="models")
    assert [item.metadata.name for item in deployments.items] == ["late-predictor"]
    route = dynamic.resources.get(api_version="gateway.networking.k8s.io/v1", kind="HTTPRoute")
    assert len(route.get(namespace="models").items) == 2


def test_typed_clients_read_what_the_controller_made(late: Cluster) -> None:
    api = late.client()
    deployment = client.AppsV1Api(api).read_namespaced_deployment("late-predictor", "models")
    assert deployment.status.available_replicas == 2
    pods = client.CoreV1Api(api).list_namespaced_pod("models", label_selector="app=isvc.late-predictor").items
    assert [pod.status.container_statuses[0].ready for pod in pods] == [True, True]
    assert client.VersionApi(api).get_code().major == "1"


def test_leases_and_config_maps_are_locked_by_version(cluster: Cluster) -> None:
    leases = client.CoordinationV1Api(cluster.client())
    made = leases.create_namespaced_lease(
        "models", {"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}}
    )
    made.spec.holder_identity = "b"
    leases.replace_namespaced_lease("l", "models", made)
    refused(409, leases.replace_namespaced_lease, "l", "models", made)
    core = client.CoreV1Api(cluster.client())
    core.create_namespaced_config_map("models", {"metadata": {"name": "c"}, "data": {"a": "1"}})
    core.replace_namespaced_config_map("c", "models", {"metadata": {"name": "c"}, "data": {"b": "2"}})
    assert core.read_namespaced_config_map("c", "models").data == {"b": "2"}


def test_a_deletion_may_have_preconditions_and_takes_what_is_owned(late: Cluster, isvcs: Isvcs) -> None:
    late.script.paused = False
    delete = isvcs.api.delete_namespaced_custom_object
    refused(409, delete, *WHERE, "late", body={"preconditions": {"uid": "other"}})
    delete(*WHERE, "late")
    late.wait(lambda: late.deployment("late-predictor") is None, "garbage collection")
    late.wait(lambda: not late.weights("late"), "garbage collection of routes")
    assert late.serving("late") == {}


def test_a_watch_tells_what_changes_from_a_version_on(late: Cluster, isvcs: Isvcs) -> None:
    start = isvcs.api.list_namespaced_custom_object(*WHERE)["metadata"]["resourceVersion"]
    isvcs.predictor("late", minReplicas=3)
    changer = threading.Timer(0.1, lambda: isvcs.predictor("late", minReplicas=4))
    changer.start()
    seen = []
    options = {"resource_version": start, "field_selector": "metadata.name=late", "timeout_seconds": 5}
    for event in (stream := watch.Watch()).stream(isvcs.api.list_namespaced_custom_object, *WHERE, **options):
        seen.append((event["type"], event["object"]["spec"]["predictor"]["minReplicas"]))
        if len(seen) == 2:
            stream.stop()
    changer.join()
    assert seen == [("MODIFIED", 3), ("MODIFIED", 4)]


def events(isvcs: Isvcs, seen: list[str], **options: object) -> None:
    """Watch InferenceServices until the watch ends; notes the types of events."""
    for event in watch.Watch().stream(isvcs.api.list_namespaced_custom_object, *WHERE, **options):
        seen.append(event["type"])


def test_a_watch_from_a_forgotten_version_is_gone(late: Cluster, isvcs: Isvcs) -> None:
    start = isvcs.get("late")["metadata"]["resourceVersion"]
    late.store.compact()
    seen: list[str] = []
    with pytest.raises(ApiException) as caught:
        events(isvcs, seen, resource_version=start, timeout_seconds=5)
    assert (caught.value.status, seen) == (410, [])


def test_a_watch_can_be_dropped_in_the_middle(late: Cluster, isvcs: Isvcs) -> None:
    late.script.drop_watches(after=1)
    started = time.monotonic()
    seen: list[str] = []
    with pytest.raises(HTTPError):
        events(isvcs, seen, timeout_seconds=30)
    assert seen == ["ADDED"]
    assert time.monotonic() - started < 5


def test_wrong_types_and_missing_fields_are_invalid(late: Cluster, isvcs: Isvcs) -> None:
    status = refused(422, isvcs.predictor, "late", canaryTrafficPercent="5")
    assert status["reason"] == "Invalid"
    assert status["details"]["causes"][0]["field"] == "spec.predictor.canaryTrafficPercent"
    refused(422, isvcs.predictor, "late", minReplicas=1.5)
    refused(422, isvcs.predictor, "late", model={"env": [{"name": "A", "value": 3}]})
    refused(422, isvcs.predictor, "late", model={"modelFormat": None})
    refused(
        422, isvcs.patch, "late", {"spec": {"canary": [{"predictor": {"name": "v2", "model": model(2)}}]}}
    )
    refused(422, isvcs.patch, "late", {"spec": {"canary": entry(5)}})
    refused(422, isvcs.patch, "late", {"spec": None})


def test_unknown_fields_are_pruned_with_a_warning(late: Cluster, isvcs: Isvcs) -> None:
    patched = isvcs.patch("late", {"spec": {"predictor": {"modle": model(2)}, "canaryTrafficPercent": 5}})
    assert "modle" not in patched["spec"]["predictor"]
    assert "canaryTrafficPercent" not in patched["spec"]
    assert late.api.warnings == ["spec.predictor.modle", "spec.canaryTrafficPercent"]


@pytest.mark.parametrize(
    ("canaries", "complaint"),
    [
        ([entry(5, model=None)], "exactly one implementation"),
        ([entry(5, sklearn={"storageUri": "s3://x"})], "exactly one implementation"),
        ([entry(5, name="")], "predictor.name is required"),
        ([entry(5), entry(5)], "not unique"),
        ([entry(101)], "between 0 and 100"),
        ([entry(-1)], "between 0 and 100"),
        ([entry(60), entry(60, 3)], "add up to 120"),
        ([entry(5, maxReplicas=3)], "maxReplicas is not allowed"),
        ([entry(5, scaleTarget=3)], "scaleTarget is not allowed"),
        ([entry(5, replicas=3)], "minReplicas cannot be greater"),
    ],
)
def test_kserve_refuses_canaries_it_cannot_run(
    late: Cluster, isvcs: Isvcs, canaries: list[dict[str, object]], complaint: str
) -> None:
    status = refused(403, isvcs.canary, "late", *canaries)
    assert status["message"].startswith(
        'admission webhook "inferenceservice.kserve-webhook-server.validator"'
    )
    assert complaint in status["message"]


def test_kserve_refuses_canaries_without_the_standard_annotation(late: Cluster, isvcs: Isvcs) -> None:
    plain = late.manifest("plain", uri(1))
    plain["metadata"]["annotations"] = {}
    plain["spec"]["canary"] = [entry(5)]
    assert "needs the annotation" in refused(403, isvcs.create, plain)["message"]
    other = {"metadata": {"annotations": {"serving.kserve.io/deploymentMode": "Knative"}}}
    assert "cannot be changed" in refused(403, isvcs.patch, "late", other)["message"]


def test_kserve_accepts_a_transformer_beside_a_canary(late: Cluster, isvcs: Isvcs) -> None:
    isvcs.patch("late", {"spec": {"transformer": {"containers": [{"name": "t", "image": "t"}]}}})
    isvcs.canary("late", entry(5))


def test_a_service_account_may_only_do_what_its_role_says(late: Cluster, isvcs: Isvcs) -> None:
    late.allow(("serving.kserve.io", "inferenceservices", ("get",)))
    isvcs.get("late")
    status = refused(403, isvcs.predictor, "late", minReplicas=3)
    assert "cannot patch resource" in status["message"]
    refused(403, client.CoreV1Api(late.client()).list_namespaced_pod, "models")
    refused(403, isvcs.api.patch_namespaced_custom_object_status, *WHERE, "late", {})
    assert [(one.verb, one.kind.plural) for one in late.api.denied if one.kind] == [
        ("patch", "inferenceservices"),
        ("list", "pods"),
        ("patch", "inferenceservices"),
    ]


def test_every_request_is_recorded(late: Cluster, isvcs: Isvcs) -> None:
    isvcs.get("late")
    isvcs.predictor("late", minReplicas=3)
    refused(404, isvcs.get, "missing")
    told = [(one.verb, one.name, one.body, one.code) for one in late.api.requests]
    patch = {"spec": {"predictor": {"minReplicas": 3}}}
    assert told == [("get", "late", None, 200), ("patch", "late", patch, 200), ("get", "missing", None, 404)]
    assert [one.verb for one in late.writes("late")] == ["patch"]


def test_a_storm_of_conflicts_ends(late: Cluster, isvcs: Isvcs) -> None:
    late.script.conflicts(2)

    def locked() -> dict[str, object]:
        seen = isvcs.get("late")["metadata"]["resourceVersion"]
        return isvcs.patch(
            "late", {"metadata": {"resourceVersion": seen}, "spec": {"predictor": {"minReplicas": 3}}}
        )

    refused(409, locked)
    refused(409, locked)
    assert locked()["spec"]["predictor"]["minReplicas"] == 3


def test_the_api_fails_as_often_as_asked(late: Cluster, isvcs: Isvcs) -> None:
    late.script.fail(1, 429, retry_after=7, verb="patch")
    late.script.fail(1, 500, verb="get")
    refused(500, isvcs.get, "late")
    with pytest.raises(ApiException) as caught:
        isvcs.predictor("late", minReplicas=3)
    assert caught.value.status == 429
    assert caught.value.headers["Retry-After"] == "7"
    assert isvcs.predictor("late", minReplicas=3)["spec"]["predictor"]["minReplicas"] == 3


def test_an_answer_can_be_lost_after_the_write(late: Cluster, isvcs: Isvcs) -> None:
    late.script.lose_answers(1)
    with pytest.raises(HTTPError):
        isvcs.predictor("late", minReplicas=3)
    assert late.isvc("late")["spec"]["predictor"]["minReplicas"] == 3
    assert late.writes()[0].code == 0


def test_the_api_can_be_away_for_a_while(late: Cluster, isvcs: Isvcs) -> None:
    late.script.down()
    with pytest.raises(HTTPError):
        isvcs.get("late")
    late.script.up()
    assert isvcs.get("late")["metadata"]["name"] == "late"


def test_a_kubeconfig_reaches_it(late: Cluster) -> None:
    from kubernetes.config import new_client_from_config

    with new_client_from_config(str(late.kubeconfig)) as api:
        found = client.CustomObjectsApi(api).list_namespaced_custom_object(*WHERE)
    assert len(found["items"]) == 1


def test_clusters_are_apart(make_cluster: Callable[[str], Cluster], mode: str) -> None:
    one, other = make_cluster(mode), make_cluster("knative")
    one.deploy("late", uri(1))
    assert other.store.find(ISVC, "models", "late") is None
