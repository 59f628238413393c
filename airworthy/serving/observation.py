"""One answered request as the splitter saw it: the unit of evidence that rollouts are judged on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Arm = Literal["stable", "canary"]
Result = Literal["ok", "rejected", "error", "timeout", "connection", "invalid"]
"""`rejected`: 4xx. `error`: 5xx. `invalid`: 2xx whose prediction is missing, not finite or outside 0..1."""

FAILED: frozenset[str] = frozenset({"error", "timeout", "connection", "invalid"})


@dataclass(frozen=True, slots=True)
class Observation:
    """One request.

    Attributes:
        index: Order of completion, from 0.
        at: When the request arrived, seconds since the epoch, to the microsecond.
        arm: The arm that was drawn (a canary connection failure stays the canary's, although stable answers).
        share: Probability of the canary at the draw (0..1).
        result: What came of it.
        seconds: Time the arm took, to the microsecond.
        score: First prediction, where there was a valid one.
        forced: The arm was asked for by header: never evidence.
    """

    index: int
    at: float
    arm: Arm
    share: float
    result: Result
    seconds: float
    score: float | None
    forced: bool = False

    @property
    def failed(self) -> bool:
        return self.result in FAILED
