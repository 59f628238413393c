"""One request on its way through the splitter: which arm has it, what is counted, and whether it is asked again."""

from __future__ import annotations

from dataclasses import dataclass

from airworthy.serving.clients import Client
from airworthy.serving.observation import Arm, Observation, Result
from airworthy.serving.upstream import Failure
from airworthy.serving.wire import IDEMPOTENT, Reply, Request, own_reply

PREDICTIONS = (":predict", "/infer")
_PREDICTIONS = tuple(ending.encode() for ending in PREDICTIONS)


@dataclass(frozen=True)
class Weights:
    """The canary's share of traffic (0..1); `version` counts the changes."""

    share: float
    version: int


def is_prediction(request: Request) -> bool:
    """Whether its answer is evidence."""
    return request.method == b"POST" and request.path.endswith(_PREDICTIONS)


@dataclass(slots=True)
class Exchange:
    """One request from its draw to its answer.

    Attributes:
        client: Who asked.
        request: What.
        prediction: Whether it is a prediction request.
        arm: The arm that was drawn.
        asked: The arm that has it now.
        weights: At the draw.
        forced: See `Observation`.
        repeat: See `Observation`.
        at: When it was drawn, seconds since the epoch.
        begun: When `asked` was asked, on the performance counter.
        address: The server that was asked.
        counted: Whether its observation was recorded.
        repeated: Whether stable was asked twice.
    """

    client: Client
    request: Request
    prediction: bool
    arm: Arm
    asked: Arm
    weights: Weights
    forced: bool
    repeat: bool
    at: float
    begun: float = 0.0
    address: str = ""
    counted: bool = False
    repeated: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether it may be asked twice: asking for a prediction changes nothing."""
        return self.prediction or self.request.method in IDEMPOTENT

    def next_arm(self, failure: Failure, reused: bool, stable: str | None) -> Arm | None:
        """The arm to ask after a failure; None if the failure is the answer.

        Args:
            failure: Of the arm that was asked.
            reused: Whether its connection had carried other calls.
            stable: Address of the stable server now.
        """
        safe = failure == "refused" or self.repeatable
        if not safe or stable is None:
            return None
        if self.asked == "canary":
            return None if self.forced else "stable"
        if failure == "timeout":
            return None
        worth = reused or stable != self.address
        return "stable" if worth and not self.repeated else None

    def observation(self, index: int, result: Result, seconds: float, score: float | None) -> Observation:
        """What came of it."""
        share = self.weights.share
        return Observation(index, self.at, self.arm, share, result, seconds, score, self.forced, self.repeat)


def failure_reply(failure: Failure, arm: Arm) -> Reply:
    """What the user gets if no arm answered."""
    if failure == "timeout":
        return own_reply(504, f"the {arm} model server did not answer in time")
    if failure == "refused":
        return own_reply(502, f"the {arm} model server can't be reached")
    return own_reply(502, f"the {arm} model server broke the connection")
