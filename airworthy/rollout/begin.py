"""Taking a service for a new rollout: only from rest, and only over the champion that the gate compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from airworthy.errors import ConfigError, GateError, RolloutError
from airworthy.model_spec import ModelSpec
from airworthy.rollout.deployers import GoneError, Store
from airworthy.rollout.rest import refuse_if_taken
from airworthy.serving.state import Deployed, Rollout, Service, new_rollout, rolled_back


@dataclass(frozen=True)
class Beginning:
    """What one rollout begins with.

    Attributes:
        spec: The model spec.
        canary: The challenger, as the store keeps it.
        champion: The champion that it was compared with; None on a first release.
        run: The pipeline run.
        registered_champion: Asks the registry for the champion's bundle digest; None trusts `champion`.
    """

    spec: ModelSpec
    canary: Deployed
    champion: Deployed | None
    run: str = ""
    registered_champion: Callable[[], str | None] | None = None

    def take(self, store: Store) -> Service:
        """Take the service: state `starting`, nothing has moved.

        The registry is asked under the lock that `finish` needs too. So another release's promotion is seen either
        here, or as its proven canary, which still holds the service; never neither.

        Raises:
            RolloutError: The service is taken, belongs to another model, or can't carry this plan.
            GateError: The champion has changed.
            ConfigError: The registry is another one than the service was released with.
        """
        if store.read() is not None:
            # What an earlier rollout left half undone comes first; what it had in mind is over.
            store.update(self._at_rest)
            with contextlib.suppress(GoneError):  # this release makes it again
                store.settled()
        rollout = new_rollout(self.spec.rollout.deadline_seconds, self.run)  # its lease begins now
        return store.update(lambda current: self._begun(current, rollout))

    def _begun(self, current: Service | None, rollout: Rollout) -> Service:
        placed = {
            "canary": self.canary,
            "traffic_percent": 0,
            "serving": self.spec.serving,
            "rollout": rollout,
        }
        return self._at_rest(current).model_copy(update=placed)

    def _at_rest(self, current: Service | None) -> Service:
        """The service with its champion alone."""
        service = current or Service(service=self.spec.rollout.service, model=self.spec.name)
        if service.model != self.spec.name:
            raise RolloutError(
                f"service {service.service} serves model {service.model}; "
                f"give {self.spec.name} a rollout.service of its own"
            )
        refuse_if_taken(service, self.canary, self.run)
        self._refuse_if_stale(service)
        stable = self.champion or service.stable
        kind = self.spec.rollout.kind
        if stable is None and kind != "canary":
            raise RolloutError(
                f"rollout.kind: {kind} needs a stable model to compare with, and service {service.service} has none: "
                "release one with kind: canary first"
            )
        if service.canary is not None:
            service = rolled_back(
                service, f"its controller is gone; version {self.canary.version} takes over"
            )
        return service.model_copy(update={"stable": stable})

    def _refuse_if_stale(self, service: Service) -> None:
        if self.registered_champion is None:
            return
        served = service.stable
        if (
            self.champion is None and served and served.digest
        ):  # an adopted model has none, and never was champion
            raise ConfigError(
                f"service {service.service} serves version {served.version}, but the registry has no champion of "
                f"{self.spec.name}: is this the registry that it was released with (MLFLOW_TRACKING_URI)?"
            )
        if self.registered_champion() != (self.champion.digest if self.champion else None):
            raise GateError(
                f"{self.spec.name} has another champion by now than the one that version {self.canary.version} was "
                "compared with: the verdict is stale, release again"
            )
