"""The ConfigMap that holds a service's state, next to its InferenceService."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from pydantic import ValidationError

from airworthy.errors import RolloutError
from airworthy.rollout.deployers.api import Cluster, Object
from airworthy.rollout.deployers.inference_service import names_model
from airworthy.rollout.deployers.steps import Mode, Seen
from airworthy.serving.state import Deployed, Service

STATE, BEFORE = "service.json", "predictor-before.json"


@dataclass(frozen=True)
class Adoption:
    """Permission to take over an InferenceService that exists: its present model becomes the stable one."""

    model: str
    version: str = "adopted"


@dataclass(frozen=True)
class Record:
    """What the ConfigMap holds."""

    service: Service | None = None
    before: Object = field(default_factory=dict)
    """`model` and `minReplicas` of the predictor as they were before the canary."""
    object: Object | None = None


class Records:
    """Reads and writes the state of one service.

    Args:
        cluster: The namespace.
        service: Name of the InferenceService.
        mode: How its deployment mode expresses a canary.
        adoption: Take over an InferenceService that Airworthy did not make.
    """

    def __init__(self, cluster: Cluster, service: str, mode: Mode, adoption: Adoption | None) -> None:
        self._cluster = cluster
        self._service = service
        self._mode = mode
        self._adoption = adoption

    def read(self, seen: Object | None) -> Record:
        """What the ConfigMap says; without one, what may be adopted.

        Raises:
            RolloutError: It can't be understood, or there is an InferenceService that isn't ours.
        """
        found = self._cluster.config_map(self._name)
        if found is None:
            return Record(self._adopted(seen) if seen else None)
        data = found.get("data") or {}
        try:
            service = Service.model_validate_json(data[STATE])
            return Record(service, json.loads(data.get(BEFORE) or "{}"), found)
        except (KeyError, ValueError, ValidationError):
            raise RolloutError(
                f"ConfigMap {self._name} in namespace {self._cluster.namespace} can't be understood; restore or "
                "delete it"
            ) from None

    def _adopted(self, seen: Object) -> Service:
        if self._adoption is None:
            raise self.not_ours(seen)
        looked = Seen(seen, self._cluster)
        self._mode.refuse(looked)
        if looked.spec.get("canary") or looked.predictor.get("canaryTrafficPercent", 100) != 100:
            raise RolloutError(
                f"InferenceService {self._service} in namespace {self._cluster.namespace} has a canary of its own: "
                "promote it or take it back before Airworthy takes the service over"
            )
        uri = str(looked.predictor["model"].get("storageUri") or "")
        stable = Deployed(version=self._adoption.version, digest="", bundle=uri)
        return Service(service=self._service, model=self._adoption.model, stable=stable)

    def not_ours(self, seen: Object) -> RolloutError:
        """What to say of an InferenceService without a state of ours."""
        model = ((seen.get("spec") or {}).get("predictor") or {}).get("model") or {}
        return RolloutError(
            f"InferenceService {self._service} in namespace {self._cluster.namespace} was not made by Airworthy (it "
            f"serves {model.get('storageUri', 'no storageUri')}): set AIRWORTHY_ADOPT=true to take its model over as "
            "the stable one, or give rollout.service another name"
        )

    def _with_before(self, record: Record, seen: Object | None) -> Record:
        """Notes the predictor's model as it is, if it is the stable one: a rollback restores it word for word."""
        if seen is None or record.service is None or record.service.stable is None:
            return record
        predictor = seen["spec"].get("predictor") or {}
        if not names_model(predictor.get("model") or {}, record.service.stable):
            return record
        kept = {key: predictor[key] for key in ("model", "minReplicas") if key in predictor}
        return Record(record.service, kept, record.object)

    def write(self, record: Record, after: Service, seen: Object | None) -> Record:
        """Replace what was read by a new state; the InferenceService as it is now owns it.

        Raises:
            Conflict: Somebody else wrote the state meanwhile.
            RolloutError: It was refused, or the API can't be reached.
        """
        changed = Record(after, record.before, record.object)
        if begins(record.service, after):
            changed = self._with_before(changed, seen)
        meta: Object = {
            "name": self._name,
            "namespace": self._cluster.namespace,
            "labels": {"app.kubernetes.io/managed-by": "airworthy"},
        }
        if record.object is not None:
            meta = record.object["metadata"]
        if seen is not None:  # it goes when the InferenceService goes
            owner = {"apiVersion": seen["apiVersion"], "kind": seen["kind"], "name": self._service}
            meta = {**meta, "ownerReferences": [{**owner, "uid": seen["metadata"]["uid"]}]}
        data = {STATE: after.model_dump_json(indent=2), BEFORE: json.dumps(changed.before)}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
        self._cluster.write_config_map(body)
        return changed

    @property
    def _name(self) -> str:
        return f"{self._service}-airworthy"


def begins(before: Service | None, after: Service) -> bool:
    """Whether a canary comes with this change."""
    return after.canary is not None and (before is None or before.canary != after.canary)
