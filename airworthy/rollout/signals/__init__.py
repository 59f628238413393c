"""Signals: where evidence comes from on a cluster, where no splitter of ours sees every request.

| source                                        | what it reports |
| --------------------------------------------- | --------------- |
| `airworthy.rollout.signals.prometheus`        | sums per scrape: errors, latency buckets |
| `airworthy.rollout.signals.prediction_log`    | single requests: errors, latency, scores |

`airworthy.rollout.signals.choose.choose` picks one from the environment. docs/signals.md tells them apart.
"""

from __future__ import annotations

from typing import Literal, Protocol

from airworthy.serving.observation import Arm, Observation

NamedBy = Literal["workload", "version"]
"""What a source calls the arms: `workload`: Knative revision, or Deployment's name; `version`: model version."""


class Signals(Protocol):
    """Reports what came of the requests of a service since it was last asked."""

    @property
    def named_by(self) -> NamedBy:
        """What `poll` has to be told about each arm."""

    async def poll(self, share: float, arms: dict[Arm, str]) -> list[Observation]:
        """What happened since the last poll, as observations (sums have a `count`); empty if nothing did.

        A first poll, or one with another share or other arms than the last, only begins to watch.

        Args:
            share: The canary's share of traffic that is applied since before the last poll (0..1).
            arms: What the metrics or the log call each arm, see `named_by`.

        Raises:
            ServingError: The source can't be used, or has been silent about an arm for too long: no news about
                a canary is not good news.
        """

    async def skip(self) -> None:
        """Forget everything up to now: weights have changed or the gateway has not settled yet."""
