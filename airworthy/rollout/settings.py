"""What the judge needs to know, and how its chance of error is spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airworthy.model_spec import Rollout

ALPHA_SHARES = {
    "errors": 0.8,
    "latency": 0.15,
    "limit": 0.05,
    "shadow errors": 0.1,
    "flips": 0.1,
    "scores": 0.15,
}
"""Parts of alpha; those in use are scaled to sum to 1: `Settings.shares`. Chosen by simulation, see docs/judge.md."""


@dataclass(frozen=True)
class Settings:
    """What the judge needs to know.

    Attributes:
        alpha: Bound on the chance that a good canary is failed (0..1).
        max_error_rate: Absolute limit of the canary's failure rate (0..1).
        max_latency_increase: Tolerated relative excess over stable's latency (1.0: twice as slow).
        latency_slack: Tolerated seconds on top of that.
        warm_up: Stable answers before latency and scores are compared.
        min_requests: Canary requests that PASS needs besides the certificate.
        on_score_shift: Whether differently distributed scores fail the canary.
        max_flip_rate: Largest share of shadow pairs with different decisions (0..1); None only reports it.
        decision_threshold: Scores from here on are positive decisions.
        max_error_increase: Tolerated relative excess over stable's failure rate.
        shadow: Whether there is a shadow phase, whose errors can fail the canary.
    """

    alpha: float = 0.05
    max_error_rate: float = 0.05
    max_latency_increase: float = 1.0
    warm_up: int = 200
    min_requests: int = 0
    on_score_shift: Literal["warn", "fail"] = "warn"
    max_flip_rate: float | None = None
    decision_threshold: float = 0.5
    max_error_increase: float = 0.0
    shadow: bool = False
    latency_slack: float = 0.0

    @classmethod
    def of(cls, plan: Rollout, decision_threshold: float = 0.5) -> Settings:
        """The settings that a model spec's rollout plan asks for."""
        return cls(
            alpha=plan.alpha,
            max_error_rate=plan.max_error_rate,
            max_latency_increase=plan.max_latency_increase,
            latency_slack=plan.latency_slack_ms / 1000,
            min_requests=plan.min_canary_requests,
            on_score_shift=plan.on_score_shift,
            max_flip_rate=plan.max_flip_rate,
            decision_threshold=decision_threshold,
            max_error_increase=plan.max_error_increase,
            shadow=plan.shadow_requests > 0,
        )

    @property
    def shares(self) -> dict[str, float]:
        """The processes that can fail the canary, and their shares of alpha; they sum to 1."""
        used = {
            "shadow errors": self.shadow,
            "flips": self.max_flip_rate is not None,
            "scores": self.on_score_shift == "fail",
        }
        parts = {name: part for name, part in ALPHA_SHARES.items() if used.get(name, True)}
        return {name: part / sum(parts.values()) for name, part in parts.items()}

    def threshold(self, process: str) -> float:
        """Wealth at which a process decides: 1 over its share of alpha; over alpha if it can't fail the canary."""
        return 1.0 / (self.alpha * self.shares.get(process, 1.0))
