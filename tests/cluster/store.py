"""The objects of the API double: versions, generations, history. What etcd and the registry do, no HTTP."""

from __future__ import annotations

import copy
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A resource that the double serves.

    `strict` kinds refuse a PUT without resourceVersion, as custom resources and leases do.
    """

    group: str
    version: str
    plural: str
    kind: str
    status: bool = True
    generation: bool = True
    strict: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def custom(self) -> bool:
        return self.group not in ("", "apps", "coordination.k8s.io")

    @property
    def qualified(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


ISVC = Kind("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService", strict=True)
ROUTE = Kind("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute", strict=True)
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment")
POD = Kind("", "v1", "pods", "Pod", generation=False)
SERVICE = Kind("", "v1", "services", "Service", generation=False)
EVENT = Kind("", "v1", "events", "Event", status=False, generation=False)
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap", status=False, generation=False)
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease", status=False, generation=False, strict=True)
RUNTIME = Kind("serving.kserve.io", "v1alpha1", "servingruntimes", "ServingRuntime", strict=True)
REVISION = Kind("serving.knative.dev", "v1", "revisions", "Revision", strict=True)
KINDS = (ISVC, RUNTIME, REVISION, ROUTE, DEPLOYMENT, POD, SERVICE, EVENT, CONFIG_MAP, LEASE)


class ApiError(Exception):
    """What a real API server would answer with a Status body."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Object | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details
        self.retry_after = retry_after

    def status(self) -> Object:
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body |= {"message": self.message, "reason": self.reason, "code": self.code}
        return body | ({"details": self.details} if self.details else {})


def not_found(kind: Kind, name: str) -> ApiError:
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return ApiError(404, "NotFound", f'{kind.qualified} "{name}" not found', details)


def conflict(kind: Kind, name: str) -> ApiError:
    text = "the object has been modified; please apply your changes to the latest version and try again"
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return ApiError(
        409, "Conflict", f'Operation cannot be fulfilled on {kind.qualified} "{name}": {text}', details
    )


def invalid(kind: Kind, name: str, causes: list[tuple[str, str]]) -> ApiError:
    """422; `causes` are pairs of field and complaint."""
    text = ", ".join(f"{where}: {what}" for where, what in causes)
    details = {
        "name": name,
        "group": kind.group,
        "kind": kind.kind,
        "causes": [
            {"reason": "FieldValueInvalid", "message": what, "field": where} for where, what in causes
        ],
    }
    shown = f"[{text}]" if len(causes) > 1 else text
    return ApiError(422, "Invalid", f'{kind.kind}.{kind.group} "{name}" is invalid: {shown}', details)


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: null deletes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


@dataclass(frozen=True)
class Change:
    """One entry of the watch history."""

    version: int
    type: str
    kind: Kind
    object: Object


@dataclass
class Store:
    """Thread-safe. `changed` is notified, and every listener called, on each change."""

    kept: int = 2000
    changed: threading.Condition = field(default_factory=threading.Condition)
    version: int = 1000
    compacted: int = 0
    history: deque[Change] = field(default_factory=deque)
    listeners: list[Callable[[Change], None]] = field(default_factory=list)
    objects: dict[tuple[Kind, str, str], Object] = field(default_factory=dict)

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        with self.changed:
            found = self.objects.get((kind, namespace, name))
            if found is None:
                raise not_found(kind, name)
            return copy.deepcopy(found)

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        with self.changed:
            return copy.deepcopy(self.objects.get((kind, namespace, name)))

    def select(self, kind: Kind, namespace: str | None = None, **labels: str) -> list[Object]:
        """Objects of a kind, by name; `labels` select those that carry them all."""
        with self.changed:
            return [copy.deepcopy(found) for found in self._matching(kind, namespace, labels)]

    def _matching(self, kind: Kind, namespace: str | None, labels: dict[str, str]) -> Iterator[Object]:
        for (its_kind, its_namespace, _), found in sorted(self.objects.items(), key=lambda item: item[0][2]):
            if its_kind is kind and namespace in (None, its_namespace):
                carried = found["metadata"].get("labels") or {}
                if labels.items() <= carried.items():
                    yield found

    def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        with self.changed:
            new = copy.deepcopy(body)
            meta = new.setdefault("metadata", {})
            if not meta.get("name") and meta.get("generateName"):
                meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
            if (kind, namespace, meta["name"]) in self.objects:
                details = {"name": meta["name"], "group": kind.group, "kind": kind.plural}
                text = f'{kind.qualified} "{meta["name"]}" already exists'
                raise ApiError(409, "AlreadyExists", text, details)
            new["apiVersion"], new["kind"] = kind.api_version, kind.kind
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            meta |= {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": now}
            if kind.generation:
                meta["generation"] = 1
            if kind.status and not kind.custom:
                new["status"] = {}
            return self._put(kind, "ADDED", new)

    def update(self, kind: Kind, new: Object, *, part: str = "spec", expected: str | None = None) -> Object:
        """Replace an object; `part` is what may change: `spec` (all but status), `status`, or `all`.

        Raises:
            ApiError: It isn't there (404), or its version isn't `expected` (409).
        """
        meta = new["metadata"]
        with self.changed:
            old = self.objects.get((kind, meta["namespace"], meta["name"]))
            if old is None:
                raise not_found(kind, meta["name"])
            if expected and expected != old["metadata"]["resourceVersion"]:
                raise conflict(kind, meta["name"])
            merged = copy.deepcopy(new)
            if kind.status and part == "spec":
                merged.pop("status", None)
                if "status" in old:
                    merged["status"] = copy.deepcopy(old["status"])
            elif part == "status":
                merged = copy.deepcopy(old)
                merged["status"] = copy.deepcopy(new.get("status", {}))
            for key in ("uid", "creationTimestamp", "generation", "resourceVersion"):
                if key in old["metadata"]:
                    merged["metadata"][key] = old["metadata"][key]
            merged["apiVersion"], merged["kind"] = kind.api_version, kind.kind
            if merged == old:
                return copy.deepcopy(old)
            if kind.generation and merged.get("spec") != old.get("spec"):
                merged["metadata"]["generation"] += 1
            return self._put(kind, "MODIFIED", merged)

    def touch(self, kind: Kind, namespace: str, name: str) -> None:
        """Bump the version as another writer's change of the status would."""
        with self.changed:
            self._put(kind, "MODIFIED", copy.deepcopy(self.objects[(kind, namespace, name)]))

    def delete(self, kind: Kind, namespace: str, name: str) -> Object:
        with self.changed:
            old = self.objects.pop((kind, namespace, name), None)
            if old is None:
                raise not_found(kind, name)
            self._announce("DELETED", kind, old)
            return copy.deepcopy(old)

    def since(self, version: int) -> list[Change]:
        """What came after a version.

        Raises:
            ApiError: 410, that part of the history was compacted away.
        """
        with self.changed:
            if version < self.compacted:
                text = f"too old resource version: {version} ({self.compacted})"
                raise ApiError(410, "Expired", text)
            return [change for change in self.history if change.version > version]

    def compact(self) -> None:
        """Forget the history: a watch that starts at a version seen before gets 410."""
        with self.changed:
            self.history.clear()
            self.version += 1
            self.compacted = self.version

    def _put(self, kind: Kind, change: str, new: Object) -> Object:
        self.objects[(kind, new["metadata"]["namespace"], new["metadata"]["name"])] = new
        self._announce(change, kind, new)
        return copy.deepcopy(new)

    def _announce(self, change: str, kind: Kind, new: Object) -> None:
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        entry = Change(self.version, change, kind, copy.deepcopy(new))
        self.history.append(entry)
        if len(self.history) > self.kept:
            self.compacted = self.history.popleft().version
        for listener in self.listeners:
            listener(entry)
        self.changed.notify_all()
