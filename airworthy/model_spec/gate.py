"""The gate's policy: what a model must show before it may go on."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field, model_validator

from airworthy.model_spec.fields import Section, Share

Metric = Literal["auc", "pr_auc", "log_loss", "brier", "cost"]
"""`cost` is the mean cost of a decision at each model's own threshold, by `gate.threshold`."""
Policy = Literal["non_inferiority", "superiority"]
OnInconclusive = Literal["ignore", "warn", "block"]
"""What too few rows to judge do: nothing, a warning, or no promotion."""
Margin = Annotated[float, Field(ge=0)]
Value = str | bool | int | float | None


class ChampionComparison(Section):
    """Challenger against champion on the same rows."""

    metric: Metric = "auc"
    margin: Margin = 0.005
    """In the metric's own unit: how much worse the challenger may be (non-inferiority)."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    policy: Policy = "non_inferiority"
    guards: dict[Metric, Margin] = Field(default={})
    """Further metrics that must not be surely worse by more than this; what no guard names is only reported."""

    @model_validator(mode="after")
    def _guards_are_further_metrics(self) -> ChampionComparison:
        if self.metric in self.guards:
            raise ValueError(
                f"guards: {self.metric} is the metric of the comparison itself; its margin judges it"
            )
        return self


class Resampling(Section):
    """The paired bootstrap behind intervals that have no formula, and behind all of them where rows come in
    blocks."""

    replicates: Annotated[int, Field(ge=200, le=20_000)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0
    block: str = "row"
    """What is drawn: `row` (rows are independent), `hour`, `day` or `week` of the decision time, or a column
    whose equal values belong together."""


class Threshold(Section):
    """Costs that choose the decision threshold on the tuning window."""

    cost_false_alarm: Annotated[float, Field(gt=0)] = 1.0
    cost_miss: Annotated[float, Field(gt=0)] = 1.0


class SliceSearch(Section):
    """The search for weak spots nobody named: found on one half of the rows, confirmed on the other."""

    features: tuple[str, ...] = ()
    """Features and slice columns to cut by; all of them by default."""
    crossings: bool = True
    """Also cut by two at once."""
    min_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """Smallest weak spot, as a share of the rows."""
    top: Annotated[int, Field(ge=1, le=50)] = 5


class SlicePolicy(Section):
    """What happens where the challenger does worse than the champion on a part of the rows."""

    margin: Margin = 0.02
    """Tolerated excess of the challenger's mean log loss over the champion's, in nats."""
    level: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Chance of any false alarm over all slices (Holm), or share of false ones among the alarms (BH)."""
    correction: Literal["holm", "bh"] = "holm"
    on_worse: Literal["warn", "block"] = "block"
    min_rows: Annotated[int, Field(ge=10)] = 200
    min_per_class: Annotated[int, Field(ge=2)] = 20
    on_inconclusive: OnInconclusive = "ignore"
    """For slices smaller than that."""
    search: SliceSearch | None = SliceSearch()


class Fairness(Section):
    """Differences between groups of people, or whatever else is protected. There are no default limits: how
    much is tolerable is not for a library to say."""

    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    """Protected columns; they need not be features."""
    max_selection_rate_difference: Share | None = None
    """Demographic parity: largest difference between groups in the share that is flagged."""
    max_equalized_odds_difference: Share | None = None
    """The larger of the differences in true and in false positive rate."""
    max_calibration_difference: Share | None = None
    """Largest difference between groups in (mean score - share of positives)."""
    min_rows: Annotated[int, Field(ge=10)] = 200
    """Smaller groups are not compared."""
    on_inconclusive: OnInconclusive = "warn"

    @model_validator(mode="after")
    def _columns_are_named_once(self) -> Fairness:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("columns: one is named twice")
        return self


class Invariance(Section):
    """What the score must not depend on (much)."""

    name: str = ""
    feature: str
    values: Annotated[tuple[Value, ...], Field(min_length=2)]
    """Each is put in, row by row; the score may move by `tolerance` at most."""
    tolerance: Share = 0.05
    max_violations: Share = 0.05
    """Share of rows that may break it."""


class Direction(Section):
    """Which way the score must go when a number grows."""

    name: str = ""
    feature: str
    change: float
    """Added to the feature."""
    expect: Literal["up", "down"]
    tolerance: Share = 0.01
    """A move the wrong way that counts as none."""
    max_violations: Share = 0.05


class Robustness(Section):
    """How the model takes inputs that are worse than those of the test window. Limits are opt-in; what has none
    is reported."""

    rows: Annotated[int, Field(ge=100, le=1_000_000)] = 5000
    """Sampled from the test window."""
    noise: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Small perturbation of numbers, as a share of each one's standard deviation."""
    max_score_change: Share | None = None
    """95th percentile of how far that moves a score."""
    max_auc_loss_missing: Share | None = None
    """AUC lost when any one feature is missing altogether (a feed that is down)."""
    max_auc_loss_unseen: Share | None = None
    """AUC lost when any one category is one the model never met."""
    max_out_of_range_share: Share | None = None
    """Share of test rows with a number outside the range of training."""
    invariance: tuple[Invariance, ...] = ()
    direction: tuple[Direction, ...] = ()


class Explanations(Section):
    """SHAP contributions on a sample, and the alarm for leakage."""

    rows: Annotated[int, Field(ge=100, le=100_000)] = 1000
    max_single_feature_auc: Annotated[float, Field(gt=0.5, le=1)] | None = 0.98
    """No honest feature tells the label this well alone."""
    max_importance_jump: Share | None = 0.3
    """Largest rise of a feature's share of all contributions against the champion's."""
    on_leak: Literal["warn", "block"] = "block"
    on_importance_jump: Literal["warn", "block"] = "warn"


class Scenario(Section):
    """A named case whose answer people agree on."""

    name: Annotated[str, Field(min_length=1)]
    row: dict[str, Value]
    """Feature values."""
    base: Literal["typical", "missing"] = "typical"
    """What the features not named are: the test window's median or most frequent value, or missing."""
    min_score: Share | None = None
    max_score: Share | None = None
    decision: bool | None = None
    """Whether the score reaches the decision threshold."""
    above: str | None = None
    """Another scenario whose score must be lower than this one's."""
    on_failure: Literal["warn", "block"] = "block"

    @model_validator(mode="after")
    def _expects_something(self) -> Scenario:
        if self.min_score is None and self.max_score is None and self.decision is None and not self.above:
            raise ValueError(f"{self.name}: expects nothing; give min_score, max_score, decision or above")
        if self.above == self.name:
            raise ValueError(f"{self.name}: no score lies above itself; above must name another scenario")
        if self.min_score is not None and self.max_score is not None and self.min_score > self.max_score:
            raise ValueError(f"{self.name}: min_score is above max_score, so no score can keep both")
        return self


class Override(Section):
    """A person's decision to let one failed check pass. It is written into the verdict and shown everywhere."""

    check: str
    """Name of the check, as in the verdict."""
    slice: str | None = None
    by: Annotated[str, Field(min_length=2)]
    reason: Annotated[str, Field(min_length=10)]
    until: date
    """Last day (UTC) on which it counts."""


class Gate(Section):
    """Limits that a model must keep. An empty gate is an error, never a pass."""

    limits_by: Literal["estimate", "interval"] = "estimate"
    """What must keep the limits below: the measured value, or its whole 95 % interval, so that a model near a
    limit does not pass by luck (inconclusive where the interval contains the limit, which blocks)."""
    min_auc: Annotated[float, Field(ge=0.5, le=1)] | None = None
    min_pr_auc: Share | None = None
    max_log_loss: Annotated[float, Field(gt=0)] | None = None
    max_brier: Share | None = None
    max_cost: Annotated[float, Field(gt=0)] | None = None
    """Mean cost of a decision, by `threshold`."""
    max_calibration_error: Share | None = None
    champion: ChampionComparison | None = None
    resampling: Resampling = Resampling()
    threshold: Threshold = Threshold()
    slices: SlicePolicy = SlicePolicy()
    fairness: Fairness | None = None
    robustness: Robustness = Robustness()
    explanations: Explanations = Explanations()
    scenarios: tuple[Scenario, ...] = ()
    overrides: tuple[Override, ...] = ()

    @model_validator(mode="after")
    def _scenarios_can_be_told_apart(self) -> Gate:
        names = [scenario.name for scenario in self.scenarios]
        if len(set(names)) < len(names):
            raise ValueError("scenarios: two have the same name")
        lost = sorted({s.above for s in self.scenarios if s.above} - set(names))
        if lost:
            raise ValueError(f"scenarios: above names {', '.join(lost)}, which is no scenario here")
        return self
