"""Why pods don't get ready, in Kubernetes' own words."""

from __future__ import annotations

from collections.abc import Iterator

from airworthy.rollout.deployers.api import Cluster, Object

CRASHES = 3
"""A container that ended this often and is waiting for its next try counts as failed."""


def why_not_ready(cluster: Cluster, label: str) -> str:
    """The first complaint found about pods with a label; empty if there is none."""
    return next((text for text, _ in _complaints(cluster.pods(label))), "")


def given_up(cluster: Cluster, label: str) -> str:
    """A complaint that waiting will not cure; empty if there is none."""
    return next((text for text, final in _complaints(cluster.pods(label)) if final), "")


def _complaints(pods: list[Object]) -> Iterator[tuple[str, bool]]:
    for pod in pods:
        status = pod.get("status") or {}
        for condition in status.get("conditions") or []:
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                yield _told(pod, condition), False
        containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
        for container in containers:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in (None, "PodInitializing", "ContainerCreating"):
                continue
            ended = (container.get("lastState") or {}).get("terminated") or {}
            crashed = waiting["reason"] == "CrashLoopBackOff" and container.get("restartCount", 0) >= CRASHES
            yield _told(pod, {**waiting, "message": ended.get("message") or waiting.get("message")}), crashed


def _told(pod: Object, what: Object) -> str:
    message = f": {what['message'].strip().splitlines()[-1]}" if what.get("message") else ""
    return f"pod {pod['metadata']['name']}: {what.get('reason', 'not ready')}{message}"
