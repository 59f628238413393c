"""Status conditions as Kubernetes keeps them: the time of a transition stays until the next one."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.cluster.store import Object


def condition(kind: str, status: bool | None, reason: str = "", message: str = "") -> Object:
    """A condition; a status of None is `Unknown`."""
    shown: Object = {"type": kind, "status": {True: "True", False: "False", None: "Unknown"}[status]}
    if reason:
        shown["reason"] = reason
    if message:
        shown["message"] = message
    return shown


def merged(before: Object, after: Object) -> None:
    """Give the conditions of `after` their times: those of `before` where nothing changed."""
    present = {one["type"]: one for one in (before.get("status") or {}).get("conditions") or []}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for one in after["status"].get("conditions") or []:
        known = present.get(one["type"])
        same = known is not None and known["status"] == one["status"]
        one["lastTransitionTime"] = known["lastTransitionTime"] if known and same else now
