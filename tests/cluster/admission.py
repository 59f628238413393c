"""What KServe's validating webhook refuses (rules read in its source), and its one default.

Facts: modes are immutable; `spec.canary` needs the Standard mode by annotation; names of canaries are needed,
unique and not the stable's; percents lie in 0..100 and add up to at most 100; a canary has exactly one
implementation, no scaling fields, and at most the stable's replicas. Transformers and explainers beside a canary
ARE accepted: it is the deployer that has to refuse them.
"""

from __future__ import annotations

import re
from typing import Any

from tests.cluster.schema import check
from tests.cluster.store import ISVC, RUNTIME, ApiError, Kind, Object, invalid

MODE = "serving.kserve.io/deploymentMode"
MODES = {"Standard": "Standard", "RawDeployment": "Standard", "Knative": "Knative", "Serverless": "Knative"}
FRAMEWORKS = (
    "sklearn",
    "xgboost",
    "tensorflow",
    "pytorch",
    "triton",
    "onnx",
    "huggingface",
    "pmml",
    "lightgbm",
)
IMPLEMENTATIONS = (*FRAMEWORKS, "paddle", "model")
NOT_ON_CANARIES = ("workerSpec", "maxReplicas", "scaleTarget", "scaleMetric", "autoScaling")
_NAME = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
_SPECS = {ISVC: "V1beta1InferenceServiceSpec", RUNTIME: "V1alpha1ServingRuntimeSpec"}


def deployment_mode(isvc: Object, default: str) -> str:
    """`Standard` or `Knative`, as annotated or else the installation's default; old names are understood."""
    annotated = (isvc["metadata"].get("annotations") or {}).get(MODE, default)
    return MODES.get(annotated, annotated)


def structural(kind: Kind, body: Object) -> tuple[Object, list[str]]:
    """Prune and validate a custom resource's spec; also the unknown fields.

    Raises:
        ApiError: 422 with a cause per field.
    """
    if kind not in _SPECS:
        return body, []
    if not isinstance(body.get("spec"), dict):
        raise invalid(kind, body["metadata"]["name"], [("spec", "Required value")])
    checked = check(body["spec"], _SPECS[kind])
    if checked.causes:
        raise invalid(kind, body["metadata"]["name"], checked.causes)
    return body | {"spec": checked.value}, checked.unknown


def admit(new: Object, old: Object | None, default_mode: str) -> None:
    """KServe's webhook for InferenceServices.

    Raises:
        ApiError: 403 Forbidden, as admission webhooks answer, with the webhook's name.
    """
    name = new["metadata"]["name"]
    complaint = _complaint(new, old, default_mode)
    if complaint:
        hook = 'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request'
        raise ApiError(403, "Forbidden", f"{hook}: {complaint}", {"name": name, "group": ISVC.group})


def _complaint(new: Object, old: Object | None, default_mode: str) -> str | None:
    name, spec = new["metadata"]["name"], new["spec"]
    mode = deployment_mode(new, default_mode)
    if not _NAME.match(name):
        return f"the InferenceService {name!r} is invalid: a DNS-1035 name is needed"
    in_force = ((old or {}).get("status") or {}).get("deploymentMode")
    if in_force and MODES.get(in_force, in_force) != mode:
        return f"update rejected: deploymentMode cannot be changed from {in_force!r} to {mode!r}"
    if old is not None and old["metadata"]["name"] != name:
        return "the name cannot be changed"
    predictor = spec.get("predictor")
    if not predictor:
        return "the predictor is missing"
    return _predictor_complaint(predictor, "predictor") or _canary_complaint(new, predictor, mode)


def _predictor_complaint(predictor: dict[str, Any], where: str) -> str | None:
    given = [key for key in IMPLEMENTATIONS if predictor.get(key)] + ["custom"] * bool(
        predictor.get("containers")
    )
    if len(given) != 1:
        return f"exactly one implementation is needed in {where}, not {len(given)} ({', '.join(given) or 'none'})"
    low, high = predictor.get("minReplicas"), predictor.get("maxReplicas")
    if low is not None and low < 0:
        return "minReplicas cannot be less than 0"
    if low is not None and high and low > high:
        return "minReplicas cannot be greater than maxReplicas"
    return None


def _canary_complaint(new: Object, predictor: dict[str, Any], mode: str) -> str | None:
    canaries = new["spec"].get("canary") or []
    if not canaries:
        return None
    annotated = (new["metadata"].get("annotations") or {}).get(MODE)
    if MODES.get(annotated or "") != "Standard" or mode != "Standard":
        return f"spec.canary needs the annotation {MODE}: Standard"
    if not predictor.get("model"):
        return "spec.canary needs a model in spec.predictor"
    stable_replicas = predictor.get("minReplicas", 1)
    names = [predictor.get("name", "")]
    for at, canary in enumerate(canaries):
        own, where = canary.get("predictor") or {}, f"spec.canary[{at}]"
        percent, own_name = canary.get("trafficPercent", 0), own.get("name", "")
        if not own_name:
            return f"{where}.predictor.name is required"
        if own_name in names:
            return f"{where}.predictor.name {own_name!r} is not unique or is the stable predictor's"
        if not 0 <= percent <= 100:
            return f"{where}.trafficPercent must lie between 0 and 100"
        names.append(own_name)
        wrong = next((key for key in NOT_ON_CANARIES if own.get(key)), None)
        if wrong:
            return f"{where}.predictor.{wrong} is not allowed"
        if own.get("minReplicas", 0) > stable_replicas:
            return f"{where}.predictor.minReplicas cannot be greater than the stable predictor's"
        complaint = _predictor_complaint(own, f"{where}.predictor")
        if complaint:
            return complaint
    total = sum(canary.get("trafficPercent", 0) for canary in canaries)
    return f"the canaries' trafficPercent add up to {total}, more than 100" if total > 100 else None
