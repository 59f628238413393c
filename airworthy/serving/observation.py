"""What the splitter or a cluster's signals saw: the units of evidence that rollouts are judged on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Arm = Literal["stable", "canary"]
Result = Literal["ok", "rejected", "error", "timeout", "connection", "invalid"]
"""`rejected`: 4xx. `error`: 5xx. `invalid`: any other without one prediction per row, all within 0..1."""

FAILED: frozenset[str] = frozenset({"error", "timeout", "connection", "invalid"})


@dataclass(frozen=True, slots=True)
class Observation:
    """One request, or several alike.

    Attributes:
        index: Order of completion, from 0.
        at: When the request arrived, seconds since the epoch, to the microsecond.
        arm: The arm that was drawn (a canary connection failure stays the canary's, although stable answers).
        share: Probability of the canary at the draw (0..1).
        result: What came of it.
        seconds: Time the arm took, to the microsecond.
        score: First prediction, where there was a valid one.
        forced: The arm was asked for by header: never evidence.
        repeat: A later request of a sticky key: its arm was not drawn afresh, so it is no evidence either.
        count: How many equal requests this stands for (a gateway's metrics come in sums); their order among each
            other is unknown.
    """

    index: int
    at: float
    arm: Arm
    share: float
    result: Result
    seconds: float
    score: float | None
    forced: bool = False
    repeat: bool = False
    count: int = 1

    @property
    def failed(self) -> bool:
        return self.result in FAILED


@dataclass(frozen=True, slots=True)
class Pair:
    """One request that stable answered and that the canary was asked too, in its shadow: nobody got that answer.

    Attributes:
        index: Order of completion among pairs, from 0.
        at: When the request arrived, seconds since the epoch, to the microsecond.
        result: What came of it on the canary.
        stable_result: What came of it on stable.
        score: The canary's first prediction, where there was a valid one.
        stable_score: Stable's.
        seconds: Time the canary took, to the microsecond.
        stable_seconds: Time stable took.
    """

    index: int
    at: float
    result: Result
    stable_result: Result
    score: float | None
    stable_score: float | None
    seconds: float
    stable_seconds: float
