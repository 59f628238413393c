"""From what KServe shows now to what the state says: one step at a time, by anybody, from wherever a killed process
left things.

A mode looks at the state and the InferenceService and names the next write, or what is being waited for. It keeps
nothing in memory, so the process that finishes need not be the one that began.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from airworthy.errors import RolloutError
from airworthy.rollout.deployers import DeployerName
from airworthy.rollout.deployers.api import Cluster, Object
from airworthy.rollout.deployers.inference_service import names_model
from airworthy.serving.observation import Arm
from airworthy.serving.state import Deployed, Service


@dataclass(frozen=True)
class Seen:
    """What is known while a step is chosen.

    Attributes:
        object: The InferenceService.
        cluster: For what KServe made of it.
        before: `spec.predictor` as it was before the canary, as far as a rollout changes it.
        impatient: What should have come by itself didn't: take the slower way that needs no waiting.
    """

    object: Object
    cluster: Cluster
    before: Object = field(default_factory=dict)
    impatient: bool = False

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    @property
    def spec(self) -> Object:
        return dict(self.object["spec"])

    @property
    def predictor(self) -> Object:
        return dict(self.spec["predictor"])

    @property
    def status(self) -> Object:
        return dict(self.object.get("status") or {})

    def condition(self, kind: str) -> Object:
        """A condition of the InferenceService; empty if there is none."""
        found = (c for c in self.status.get("conditions") or [] if c.get("type") == kind)
        return next(found, {})


@dataclass(frozen=True)
class Step:
    """What comes next.

    Attributes:
        patch: A merge patch to send; None sends nothing.
        waits_for: What has to be seen before it goes on; empty and without a patch: what serves is what should.
        failure: Why the model that is being brought up will not get ready.
        rests: The patch deletes what weights no longer use: gateways must have had the time to follow them.
    """

    patch: Object | None = None
    waits_for: str = ""
    failure: str = ""
    rests: bool = False

    @property
    def arrived(self) -> bool:
        return self.patch is None and not self.waits_for


@dataclass(frozen=True)
class Split:
    """What is observed: who answers users.

    Attributes:
        percent: The canary's share in percent; None while requests meet neither what was asked nor stable alone.
        names: What the cluster calls each arm (revision, or Deployment).
        seen: In words.
    """

    percent: float | None
    names: dict[Arm, str]
    seen: str


class Mode(Protocol):
    """How one deployment mode of KServe expresses stable, canary and percent."""

    @property
    def name(self) -> DeployerName: ...

    @property
    def annotations(self) -> dict[str, str]:
        """What a new InferenceService needs in this mode."""

    def refuse(self, seen: Seen) -> None:
        """Refuse an InferenceService that can't carry a canary in this mode.

        Raises:
            RolloutError: The sentence says why.
        """

    def next(self, state: Service, seen: Seen) -> Step:
        """The next step towards the state.

        Raises:
            RolloutError: Somebody else changed what the rollout is about.
        """

    def withdrawal(self, seen: Seen) -> Object | None:
        """The patch that takes the canary out of the traffic, and changes nothing else; None if it has no share."""

    def split(self, state: Service, seen: Seen) -> Split:
        """Who answers users now."""

    def address(self, arm: Arm, state: Service, seen: Seen) -> str:
        """Base URL at which one arm can be asked directly; empty if there is none (yet)."""

    def serves(self, arm: Arm, state: Service, seen: Seen) -> str:
        """Why an arm can't answer at all, as KServe sees it; empty if nothing speaks against it."""


def foreign(seen: Seen, *expected: Deployed | None) -> None:
    """Refuse to go on with a model in the spec that the rollout knows nothing of.

    Raises:
        RolloutError: Somebody else changed the spec.
    """
    model = seen.predictor["model"]
    if not any(names_model(model, deployed) for deployed in expected if deployed):
        raise RolloutError(
            f"InferenceService {seen.name} was changed by somebody else: it names {model.get('storageUri')}, which is "
            "not what its rollout put there"
        )
