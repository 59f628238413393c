"""What a request to a Kubernetes API is about: its verb, its target, its selectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.cluster.store import KINDS, ApiError, Kind, Object, not_found


@dataclass(frozen=True)
class Target:
    """What a path names."""

    kind: Kind
    namespace: str | None
    name: str
    part: str

    @property
    def resource(self) -> str:
        return f"{self.kind.plural}/status" if self.part == "status" else self.kind.plural


def verb_of(request: web.Request, target: Target | None) -> str:
    if request.method == "GET":
        if request.query.get("watch", "").lower() in ("true", "1"):
            return "watch"
        return "get" if target is None or target.name else "list"
    return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(
        request.method, "other"
    )


def target_of(path: str) -> Target:
    """What a path names.

    Raises:
        ApiError: 404, nothing that is served.
    """
    parts = path.strip("/").split("/")
    group, version, rest = (
        ("", parts[1:2], parts[2:]) if parts[0] == "api" else (parts[1], parts[2:3], parts[3:])
    )
    namespace = None
    if len(rest) >= 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    if parts[0] in ("api", "apis") and rest:
        for kind in KINDS:
            if (kind.group, [kind.version], kind.plural) == (group, version, rest[0]):
                name, part = (rest[1:2] or [""])[0], (rest[2:3] or [""])[0]
                if part and not (part == "status" and kind.status):
                    raise not_found(kind, f"{name}/{part}")
                return Target(kind, namespace, name, part)
    raise ApiError(404, "NotFound", "the server could not find the requested resource")


def is_selected(item: Object, request: web.Request) -> bool:
    labels = item["metadata"].get("labels") or {}
    for term in filter(None, request.query.get("labelSelector", "").split(",")):
        key, sign, value = term.partition("!=" if "!=" in term else "=")
        key, value = key.strip().strip("="), value.strip().lstrip("=")
        if (sign == "!=" and labels.get(key) == value) or (sign == "=" and labels.get(key) != value):
            return False
        if not sign and (key not in labels if not key.startswith("!") else key[1:] in labels):
            return False
    for term in filter(None, request.query.get("fieldSelector", "").split(",")):
        key, _, value = term.partition("=")
        found: Any = item
        for step in key.split("."):
            found = found.get(step) if isinstance(found, dict) else None
        if str(found) != value.lstrip("="):
            return False
    return True
