"""The outcome of single requests in an A/B test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airworthy.errors import ConfigError, DataError
from airworthy.model_spec import ModelSpec
from airworthy.serving.observation import Arm

COST = "cost"


@dataclass(frozen=True)
class DecisionCost:
    """What deciding on rows whose label is known costs, scaled to 0..1: a miss, a false alarm, or nothing.

    Attributes:
        labels: By row; None where it never became known.
        thresholds: From which score on each arm's decision is positive.
        false_alarm: Cost of a positive decision on a negative row.
        miss: Cost of a negative decision on a positive row.
    """

    labels: tuple[bool | None, ...]
    thresholds: dict[Arm, float]
    false_alarm: float
    miss: float

    def of(self, row: int, arm: Arm, score: float) -> float | None:
        """The cost of one decision; None where the label is not known."""
        label = self.labels[row]
        if label is None:
            return None
        positive = score >= self.thresholds[arm]
        if positive == label:
            return 0.0
        return (self.miss if label else self.false_alarm) / max(self.miss, self.false_alarm)


def decision_cost(
    spec: ModelSpec, labels: Sequence[object], thresholds: dict[Arm, float]
) -> DecisionCost | None:
    """What a plan's experiment measures on replayed rows; None if it has none.

    Raises:
        ConfigError: It declares an outcome that replayed rows can't have.
        DataError: No label is known.
    """
    experiment, costs = spec.rollout.experiment, spec.gate.threshold
    if experiment is None:
        return None
    if experiment.outcome != COST:
        raise ConfigError(
            f"rollout.experiment.outcome: {experiment.outcome!r} is not known of replayed rows; locally it can only be "
            f"{COST!r}, the cost of the decision"
        )
    known = tuple(None if label is None else bool(label) for label in labels)
    if not any(label is not None for label in known):
        raise DataError("the experiment's rows have no known label: the cost of a decision can't be told")
    return DecisionCost(known, thresholds, costs.cost_false_alarm, costs.cost_miss)
