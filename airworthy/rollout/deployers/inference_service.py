"""InferenceServices as plain documents: which model they name, and how to make them name another."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field

from airworthy.errors import ConfigError, RolloutError
from airworthy.rollout.deployers.api import Object
from airworthy.serving.state import Deployed

VERSION, DIGEST = "AIRWORTHY_MODEL_VERSION", "AIRWORTHY_MODEL_DIGEST"
"""Environment of a model's container, for the runtime's arguments `--model_version`, `--expected_digest`."""

MODE = "serving.kserve.io/deploymentMode"
STOP = "serving.kserve.io/stop"
SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"
"""KServe notes the storage address on what it makes of a model."""

LONGEST_NAME = 63
READABLE = ("s3://", "gs://", "pvc://", "http://", "https://", "hdfs://", "webhdfs://", "oci://", "hf://")


@dataclass(frozen=True)
class Template:
    """What a new InferenceService looks like, except for its model.

    Attributes:
        predictor: `spec.predictor`, whose `model` may name runtime, resources, env, …; never a storage address.
        annotations: Of the InferenceService.
        labels: Of the InferenceService.
    """

    predictor: Object = field(
        default_factory=lambda: {
            "minReplicas": 1,
            "model": {"modelFormat": {"name": "airworthy"}, "protocolVersion": "v1"},
        }
    )
    annotations: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Object, source: str) -> Template:
        """From an InferenceService manifest; name, namespace and storage address are ours to set.

        Raises:
            ConfigError: It is no InferenceService with a `spec.predictor.model`.
        """
        predictor = (document.get("spec") or {}).get("predictor") or {}
        named = (predictor.get("model") or {}).get("modelFormat")
        if document.get("kind") != "InferenceService" or not named:
            raise ConfigError(
                f"{source}: not a template; it must be an InferenceService with spec.predictor.model.modelFormat"
            )
        meta = document.get("metadata") or {}
        predictor = {k: v for k, v in predictor.items() if k not in ("canaryTrafficPercent", "name")}
        return cls(predictor, dict(meta.get("annotations") or {}), dict(meta.get("labels") or {}))


def created(
    service: str, namespace: str, template: Template, extra: dict[str, str], model: Deployed
) -> Object:
    """A new InferenceService that serves one model; `extra` are further annotations."""
    predictor = copy.deepcopy(template.predictor)
    predictor["model"] = with_model(predictor["model"], model)
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": service,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "airworthy", **template.labels},
            "annotations": {**extra, **template.annotations},
        },
        "spec": {"predictor": predictor},
    }


def with_model(model: Object, deployed: Deployed) -> Object:
    """A `model` document like this one, of another model: all else (runtime, resources, …) stays."""
    others = [entry for entry in model.get("env") or [] if entry.get("name") not in (VERSION, DIGEST)]
    own = [{"name": VERSION, "value": deployed.version}, {"name": DIGEST, "value": deployed.digest}]
    kept = {key: value for key, value in copy.deepcopy(model).items() if key != "storage"}
    return {**kept, "storageUri": deployed.bundle, "env": [*others, *(e for e in own if e["value"])]}


def names_model(model: Object, deployed: Deployed) -> bool:
    """Whether a `model` document is this model. Documents that others wrote name no digest: the address counts."""
    return _same(model.get("storageUri"), model.get("env"), deployed)


def is_revision_of(revision: Object, deployed: Deployed) -> bool:
    """Whether a Knative revision serves this model."""
    source = (revision["metadata"].get("annotations") or {}).get(SOURCE)
    containers = (revision.get("spec") or {}).get("containers") or [{}]
    return _same(source, containers[0].get("env"), deployed)


def _same(uri: str | None, env: list[Object] | None, deployed: Deployed) -> bool:
    digests = [entry.get("value") for entry in env or [] if entry.get("name") == DIGEST]
    return uri == deployed.bundle and (not digests or not deployed.digest or digests[0] == deployed.digest)


def difference(before: Object, after: Object) -> Object:
    """The JSON merge patch (RFC 7396) from one document to another: keys that have to go are null."""
    patch: Object = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            inner = difference(old, value)
            if inner:
                patch[key] = inner
        elif key not in before or old != value:
            patch[key] = value
    return patch


def notes(seen: Object) -> dict[str, str]:
    return dict(seen["metadata"].get("annotations") or {})


def stopped(seen: Object) -> bool:
    """Whether KServe was told to run nothing for this InferenceService."""
    return notes(seen).get(STOP) == "true"


def require_model(seen: Object) -> None:
    """Refuse what a rollout can't handle, whatever the mode.

    Raises:
        RolloutError: It has a transformer or an explainer, or its predictor isn't `model`.
    """
    name, spec = seen["metadata"]["name"], seen.get("spec") or {}
    for part in ("a transformer", "an explainer"):
        if spec.get(part.split()[1]):
            raise RolloutError(
                f"InferenceService {name} has {part}: KServe would split traffic past it; deploy the model without, or "
                "give rollout.service another name"
            )
    if not (spec.get("predictor") or {}).get("model"):
        raise RolloutError(
            f"InferenceService {name} doesn't use spec.predictor.model; change it to that form first (modelFormat, "
            "storageUri)"
        )


def storage_address(uri: str, version: str) -> str:
    """A storage address that KServe can read.

    Raises:
        RolloutError: It can't; the sentence says what to do.
    """
    blob = uri.startswith("https://") and ".blob.core.windows.net/" in uri
    if blob or uri.startswith((*READABLE, "oci+")):
        return uri
    scheme = uri.partition(":")[0] if ":" in uri else "a path"
    raise RolloutError(
        f"version {version} is stored at {uri!r}, and KServe can't read {scheme}: let MLflow keep its artifacts where "
        "both can (s3://, gs://, https://…)"
    )


def canary_name(deployed: Deployed, taken: str, service: str) -> str:
    """A name for the canary predictor: `v<version>`, another one if the stable predictor has that.

    Raises:
        RolloutError: With the service's name it gets longer than a DNS label may be.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", f"v{deployed.version}".lower()).strip("-")
    name = plain if plain != taken else f"{plain}-{deployed.digest[:6] or 'again'}"
    whole = predictor_name(service, name)
    if len(whole) > LONGEST_NAME:
        raise RolloutError(f"{whole} is longer than {LONGEST_NAME} characters: shorten rollout.service")
    return name


def predictor_name(service: str, name: str) -> str:
    """What KServe calls a predictor's Deployment, Service and revisions."""
    return f"{service}-{name}-predictor" if name else f"{service}-predictor"
