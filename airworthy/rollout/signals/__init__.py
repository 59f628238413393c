"""Signals: where evidence comes from on a cluster, where no splitter of ours sees every request."""

from __future__ import annotations

from typing import Protocol

from airworthy.serving.observation import Arm, Observation


class Signals(Protocol):
    """Reports what came of the requests of a service since it was last asked."""

    async def poll(self, share: float, arms: dict[Arm, str]) -> list[Observation]:
        """What happened since the last poll, as observations (sums have a `count`); empty if nothing did.

        Args:
            share: The canary's share of traffic that is applied since before the last poll (0..1).
            arms: What the metrics or the log call each arm: revision, workload, or model version.

        Raises:
            ServingError: The source doesn't answer, or doesn't know the service.
        """

    async def skip(self) -> None:
        """Forget everything up to now: weights have changed or the gateway has not settled yet."""
