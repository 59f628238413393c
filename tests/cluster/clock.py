"""Delays of the scripted controller, and values that follow what is wanted of them late."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Delays:
    """Seconds. Real clusters take about a thousand times as long.

    Attributes:
        revision: Until Knative has made a revision of a new template. Longer than `weights`, and KServe takes the
            share of a new canary for a rollback: it falls back to the previously rolled-out revision.
        ready: Until a pod that was started is ready.
        weights: Until new weights stand in the traffic table or the HTTPRoute.
        gateway: Until the gateway follows those.
        failure: Until a failing revision is reported as failed.
        progress: Deployment's progressDeadlineSeconds.
    """

    revision: float = 0.01
    ready: float = 0.03
    weights: float = 0.02
    gateway: float = 0.02
    failure: float = 0.05
    progress: float = 0.5


@dataclass
class Lag:
    """Remembers values by key and changes them only so long after they were asked to."""

    applied: dict[Any, Any] = field(default_factory=dict)
    pending: dict[Any, tuple[Any, float]] = field(default_factory=dict)

    def follow(self, key: Any, wanted: Any, delay: float) -> Any:
        """The value in force; `wanted` comes into force once it was wanted for `delay` seconds on end."""
        now = time.monotonic()
        if key in self.applied and self.applied[key] == wanted:
            self.pending.pop(key, None)
            return wanted
        asked = self.pending.get(key)
        if asked is None or asked[0] != wanted:
            asked = self.pending[key] = (wanted, now + delay)
        if now >= asked[1]:
            self.applied[key] = wanted
            del self.pending[key]
        return self.applied.get(key)

    def forget(self, owner: str) -> None:
        """Drop everything whose key, a tuple, begins with `owner`."""
        for values in (self.applied, self.pending):
            for key in [key for key in values if key[0] == owner]:
                del values[key]

    def due(self) -> float:
        """Seconds until the next pending value comes into force; infinite if there is none."""
        soonest = min((at for _, at in self.pending.values()), default=float("inf"))
        return max(0.0, soonest - time.monotonic())
