"""The state next to an InferenceService: written under locks, whatever the API server does, by several at once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes.client import ApiClient, Configuration

from airworthy.errors import AirworthyError, RolloutError
from airworthy.rollout.deployers.api import Cluster, Object, Patience
from airworthy.rollout.deployers.inference_service import Template, storage_address
from airworthy.rollout.deployers.knative import Knative
from airworthy.rollout.deployers.kserve import KServeStore, Timing
from airworthy.rollout.deployers.records import Adoption
from airworthy.rollout.deployers.standard import Standard
from airworthy.rollout.deployers.steps import Mode
from airworthy.serving.state import Deployed, Service, new_rollout, rolled_back
from tests.cluster.api import KubernetesApi
from tests.cluster.loop import LoopThread
from tests.cluster.script import Script
from tests.cluster.store import CONFIG_MAP, ISVC, REVISION, Store

STABLE, CANARY, NEXT = (Deployed(version=v, digest=v * 64, bundle=f"s3://models/{v}") for v in "123")
QUICK = Patience(total=1.5, connect=1.0, answer=1.0, first=0.02)
TIMING = Timing(period=0.02, settled=1.0, patience=0.3, ready=1.0, weights=0.5, rest=0.0, conflict=0.002)
MODES: tuple[Mode, ...] = (Knative(), Standard())


@pytest.fixture(params=MODES, ids=lambda mode: mode.name)
def mode(request: pytest.FixtureRequest) -> Mode:
    return request.param


@dataclasses.dataclass
class Api:
    """The API double without any controller."""

    front: KubernetesApi
    script: Script

    def store(self, mode: Mode, **options: Any) -> KServeStore:
        configuration = Configuration(host=self.front.url)
        configuration.retries = False
        cluster = Cluster(ApiClient(configuration), "models", QUICK)
        return KServeStore(cluster, "iris", mode, timing=TIMING, **options)

    def service(self) -> Object:
        return self.front.store.get(ISVC, "models", "iris")

    def writes(self) -> list[Any]:
        """Bodies of the writes of InferenceServices."""
        return [
            entry.body
            for entry in self.front.requests
            if entry.kind is ISVC and entry.verb in ("create", "patch", "update")
        ]


@pytest.fixture
def api() -> Iterator[Api]:
    loop, script = LoopThread(), Script()
    front = KubernetesApi(Store(), script, "Knative")
    loop.call(front.start())
    yield Api(front, script)
    loop.call(front.stop())
    loop.stop()


def serving(
    stable: Deployed | None, canary: Deployed | None = None, percent: int = 0
) -> Callable[[Service | None], Service]:
    """A change to such a state."""

    def change(current: Service | None) -> Service:
        state = current or Service(service="iris", model="iris")
        same = current is not None and current.canary == canary and current.rollout is not None
        rollout = current.rollout if same and current else new_rollout(60)
        placed = {"stable": stable, "canary": canary, "traffic_percent": percent, "rollout": rollout}
        return state.model_copy(update=placed)

    return change


def ready(api: Api, model: str = "s3://models/1") -> None:
    """What KServe would have said: the stable model serves."""
    entry = {"revisionName": "iris-predictor-00001", "latestRevision": True, "percent": 100}
    names = dict.fromkeys(
        ("latestCreatedRevision", "latestReadyRevision", "latestRolledoutRevision"), entry["revisionName"]
    )
    body = {**api.service(), "status": {"components": {"predictor": {**names, "traffic": [entry]}}}}
    api.front.store.update(ISVC, body, part="status")
    source = {"internal.serving.kserve.io/storage-initializer-sourceuri": model}
    meta = {"name": entry["revisionName"], "annotations": source}
    api.front.store.create(
        REVISION, "models", {"metadata": meta, "spec": {"containers": [{"name": "kserve-container"}]}}
    )


def test_a_first_release_makes_the_service_and_its_state(api: Api, mode: Mode) -> None:
    template = Template({"minReplicas": 2, "model": {"modelFormat": {"name": "xgboost"}, "runtime": "fast"}})
    store = api.store(mode, template=template)
    assert store.read() is None
    state = store.update(serving(None, CANARY))
    made = api.service()
    model = made["spec"]["predictor"]["model"]
    assert (model["storageUri"], model["runtime"], made["spec"]["predictor"]["minReplicas"]) == (
        CANARY.bundle,
        "fast",
        2,
    )
    assert {e["name"]: e["value"] for e in model["env"]}["AIRWORTHY_MODEL_VERSION"] == "2"
    assert "canaryTrafficPercent" not in made["spec"]["predictor"]
    assert api.front.warnings == []
    assert api.store(mode).read() == state
    api.store(mode).update(lambda current: rolled_back(current, "no"))  # type: ignore[arg-type]
    assert api.service()["metadata"]["annotations"]["serving.kserve.io/stop"] == "true"
    owner = api.front.store.get(CONFIG_MAP, "models", "iris-airworthy")["metadata"]["ownerReferences"][0]
    assert owner["uid"] == made["metadata"]["uid"]


def test_a_renewed_lease_touches_the_state_alone(api: Api, mode: Mode) -> None:
    store = api.store(mode)
    store.update(serving(STABLE))
    before, version = len(api.writes()), api.service()["metadata"]["resourceVersion"]

    def renewed(current: Service | None) -> Service:
        assert current is not None
        assert current.rollout is not None
        return current.model_copy(update={"rollout": current.rollout.renewed()})

    first = store.read()
    assert store.update(renewed) != first
    assert len(api.writes()) == before
    assert api.service()["metadata"]["resourceVersion"] == version
    assert "airworthy" not in json.dumps(
        api.service()["metadata"].get("annotations")
    )  # pods would restart for it


@pytest.mark.parametrize("trouble", ["conflicts", "lost answers", "failures", "too many requests"])
def test_writes_get_through_an_unsteady_api(api: Api, mode: Mode, trouble: str) -> None:
    store = api.store(mode)
    store.update(serving(STABLE))
    ready(api)
    called: list[int] = []

    def change(current: Service | None) -> Service:
        called.append(1)
        return serving(STABLE, CANARY)(current)

    if trouble == "conflicts":
        api.script.conflicts(6)
    elif trouble == "lost answers":
        api.script.lose_answers(2)
    elif trouble == "failures":
        api.script.fail(4, 503)
    else:
        api.script.fail(1, 429, retry_after=1)
    state = store.update(change)
    assert state.canary == CANARY
    assert state == store.read()
    assert state.revision == 2
    assert len(called) == 1  # a change that had been applied is not applied again
    spec = api.service()["spec"]
    models = [
        spec["predictor"]["model"],
        *(entry["predictor"]["model"] for entry in spec.get("canary") or []),
    ]
    assert models[-1]["storageUri"] == CANARY.bundle


def test_an_api_that_stays_away_is_told_in_a_sentence(api: Api, mode: Mode) -> None:
    store = api.store(mode)
    api.script.down()
    with pytest.raises(RolloutError, match=r"the Kubernetes API does not answer .*check the cluster"):
        store.read()


def test_a_controller_overtaken_between_its_two_writes_moves_no_traffic(api: Api, mode: Mode) -> None:
    slow, other = api.store(mode), api.store(mode)
    slow.update(serving(STABLE))
    ready(api)
    slow.update(serving(STABLE, CANARY))
    spec = api.service()["spec"]
    patch = slow.cluster.patch_inference_service

    def late(seen: Object, body: Object) -> None:
        if slow.cluster.patch_inference_service is late:
            slow.cluster.patch_inference_service = patch  # type: ignore[method-assign]
            other.update(lambda current: rolled_back(current, "settled"))  # type: ignore[arg-type]
        patch(seen, body)

    slow.cluster.patch_inference_service = late  # type: ignore[method-assign]
    # the stable model's return is a change in itself, whatever the percent
    slow.update(serving(STABLE, NEXT))
    after = api.service()["spec"]
    assert after != spec
    text = json.dumps(after)
    assert CANARY.bundle not in text
    assert NEXT.bundle not in text
    assert after["predictor"]["model"]["storageUri"] == STABLE.bundle


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"transformer": {"containers": [{"name": "kserve-container", "image": "t"}]}}, "has a transformer"),
        (
            {"explainer": {"containers": [{"name": "kserve-container", "image": "e"}]}},
            "has an explainer",
        ),
        (
            {"predictor": {"model": None, "xgboost": {"storageUri": "s3://models/1"}}},
            "doesn't use spec.predictor.model",
        ),
        ({"predictor": {"model": {"storageUri": "s3://elsewhere/9"}}}, "changed by somebody else"),
    ],
)
def test_services_that_cannot_carry_a_canary_are_refused(
    api: Api, mode: Mode, change: Object, sentence: str
) -> None:
    store = api.store(mode)
    store.update(serving(STABLE))
    store.cluster.patch_inference_service(api.service(), {"spec": change})
    before = store.read()
    with pytest.raises(RolloutError, match=sentence):
        store.update(serving(STABLE, CANARY))
    assert store.read() == before


@pytest.mark.parametrize(
    ("meta", "spec", "sentence"),
    [
        ({"labels": {"networking.kserve.io/visibility": "cluster-local"}}, {}, "is cluster-local"),
        ({"annotations": {"serving.kserve.io/deploymentMode": None}}, {}, "has no annotation"),
        (
            {"annotations": {"serving.kserve.io/autoscalerClass": "hpa"}},
            {"predictor": {"minReplicas": 2, "maxReplicas": 5}},
            "scaled automatically up to 5",
        ),
    ],
)
def test_standard_mode_refuses_what_its_canaries_cannot_do(
    api: Api, meta: Object, spec: Object, sentence: str
) -> None:
    store = api.store(Standard())
    api.front._default_mode = "Standard"
    store.update(serving(STABLE))
    store.cluster.patch_inference_service(api.service(), {"metadata": meta, "spec": spec})
    with pytest.raises(RolloutError, match=sentence):
        store.update(serving(STABLE, CANARY))


def test_a_service_of_somebody_else_is_left_alone_unless_adopted(api: Api, mode: Mode) -> None:
    annotations = {"serving.kserve.io/deploymentMode": "Standard" if mode.name == "standard" else "Knative"}
    model = {"modelFormat": {"name": "xgboost"}, "storageUri": STABLE.bundle}
    body = {"metadata": {"name": "iris", "annotations": annotations}, "spec": {"predictor": {"model": model}}}
    api.front.store.create(ISVC, "models", body)
    with pytest.raises(RolloutError, match=r"was not made by Airworthy.*s3://models/1.*AIRWORTHY_ADOPT"):
        api.store(mode).update(serving(STABLE, CANARY))
    ready(api)
    adopting = api.store(mode, adoption=Adoption("iris"))
    found = adopting.read()
    assert found is not None
    assert found.stable is not None
    assert (found.model, found.stable.bundle) == ("iris", STABLE.bundle)
    adopting.update(serving(found.stable, CANARY))
    adopting.update(lambda current: rolled_back(current, "worse"))  # type: ignore[arg-type]
    assert api.service()["spec"]["predictor"]["model"] == model  # word for word, without our environment


def test_no_more_rights_are_needed_than_are_documented(api: Api, mode: Mode) -> None:
    api.front.rules = [
        ("serving.kserve.io", "inferenceservices", ("get", "create", "patch")),
        ("", "configmaps", ("get", "create", "update")),
        ("", "pods", ("list",)),
        ("serving.knative.dev", "revisions", ("get",)),
        ("apps", "deployments", ("get",)),
        ("gateway.networking.k8s.io", "httproutes", ("get",)),
    ]
    store = api.store(mode)
    store.update(serving(STABLE))
    ready(api)
    store.update(serving(STABLE, CANARY))
    store.advance()
    store.update(lambda current: rolled_back(current, "worse"))  # type: ignore[arg-type]
    store.advance()
    assert api.front.denied == []
    api.front.rules = api.front.rules[1:]
    with pytest.raises(RolloutError, match="forbids to get inferenceservices in namespace models; grant it"):
        store.read()


def test_a_state_that_nobody_understands_is_not_overwritten(api: Api, mode: Mode) -> None:
    store = api.store(mode)
    store.update(serving(STABLE))
    found = api.front.store.get(CONFIG_MAP, "models", "iris-airworthy")
    api.front.store.update(CONFIG_MAP, {**found, "data": {"service.json": "{}"}})
    with pytest.raises(RolloutError, match=r"ConfigMap iris-airworthy .* can't be understood"):
        store.update(serving(STABLE, CANARY))


def test_a_deleted_service_is_told_and_only_a_new_model_makes_it_again(api: Api, mode: Mode) -> None:
    store = api.store(mode)
    store.update(serving(STABLE))
    ready(api)
    store.update(serving(STABLE, CANARY))
    api.front.store.delete(ISVC, "models", "iris")
    with pytest.raises(RolloutError, match="is gone: somebody deleted it"):
        store.settled()
    store.update(lambda current: rolled_back(current, "gone"))  # type: ignore[arg-type]
    assert api.front.store.find(ISVC, "models", "iris") is None
    store.update(serving(STABLE, NEXT))
    assert (
        api.service()["spec"]["predictor"]["model"]["storageUri"] == STABLE.bundle
    )  # the canary comes once it serves


def test_names_stay_within_what_dns_allows(api: Api) -> None:
    store = KServeStore(api.store(Standard()).cluster, "x" * 55, Standard(), timing=TIMING)
    with pytest.raises(AirworthyError, match=r"longer than 63 characters: shorten rollout\.service"):
        store.update(serving(STABLE, CANARY))


@pytest.mark.parametrize(
    "uri", ["models:/iris/3", "runs:/1/model", "mlflow-artifacts:/1/2", "file:///a/b", "/a/b", "dbfs:/x"]
)
def test_addresses_that_only_we_can_read_are_refused(uri: str) -> None:
    with pytest.raises(RolloutError, match="KServe can't read"):
        storage_address(uri, "3")


@pytest.mark.parametrize(
    "uri", ["s3://b/m", "gs://b/m", "https://h/m.zip", "oci+native://r/m", "pvc://claim/m"]
)
def test_addresses_that_kserve_reads_are_kept(uri: str) -> None:
    assert storage_address(uri, "3") == uri
