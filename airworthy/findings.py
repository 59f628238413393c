"""Findings: all that an evaluation measured, beside the verdict that it came to.

Recorded with the verdict; the report and the dossier are drawn from these two files alone, so what they show
can be checked and redrawn. Lists are short (curves at most 200 points), so the file stays below a megabyte
for any number of rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from airworthy.files import write_whole
from airworthy.verdict import read_record

Interval = tuple[float, float]
FILE = "findings.json"


class Part(BaseModel):
    """A part of the findings: frozen, finite, complete."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Number(Part):
    """A measured value; the interval is at the level in the verdict's settings."""

    value: float
    interval: Interval | None = None
    p_value: float | None = None


class Curve(Part):
    """A curve with a pointwise band (empty tuples: none)."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


class Reliability(Part):
    """Equally filled bins of scores; no `low` and `high` where the blocks are too few for intervals."""

    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    rows: tuple[int, ...]


class ArmFindings(Part):
    """One model on the test window."""

    version: str | None
    """Registry version; None for the challenger."""
    digest: str
    metrics: dict[str, Number]
    """By metric name (`auc`, `log_loss`, …); what the rows can't give is absent."""
    confusion: tuple[tuple[int, int], tuple[int, int]]
    """((tn, fp), (fn, tp)) at the model's own threshold."""
    roc: Curve
    """x: false positive rate, y: true positive rate."""
    precision_recall: Curve
    """x: recall, y: precision."""
    reliability: Reliability


class Difference(Part):
    """Challenger minus champion in one metric, on the same rows."""

    metric: str
    title: str
    difference: Number
    higher_is_better: bool
    margin: float | None
    """How much worse is tolerated; None where it is only reported."""


class SliceFinding(Part):
    """The rows of one slice. Differences are of the mean log loss: above 0 the challenger is worse."""

    where: str
    """Such as `origin = EWR` or `origin = EWR and carrier = UA`."""
    column: str
    """The slice column, `a*b` for a crossing, or `search` for a weak spot found."""
    rows: int
    positives: int
    assessed: bool
    """Whether it has enough rows of each class."""
    auc: Number | None = None
    log_loss: Number | None = None
    excess: float | None = None
    """Its log loss minus that of all other rows: how much harder this slice is."""
    difference: Number | None = None
    p_adjusted: float | None = None
    outcome: Literal["pass", "fail", "warn", "inconclusive"]


class Group(Part):
    """One group of a protected column."""

    value: str
    rows: int
    positives: int
    selection_rate: Number
    true_positive_rate: Number | None = None
    false_positive_rate: Number | None = None
    calibration: Number
    """Mean score minus share of positives."""


class FairnessFinding(Part):
    """Differences between the groups of one protected column."""

    column: str
    groups: tuple[Group, ...]
    left_out: tuple[str, ...]
    """Groups too small to compare."""
    differences: dict[str, Number]
    """`selection_rate`, `equalized_odds`, `calibration`: largest difference between groups."""


class BehaviourFinding(Part):
    """One probe of how the model takes odd inputs."""

    kind: Literal["missing", "unseen", "out_of_range", "noise", "invariance", "direction", "edge", "scenario"]
    name: str
    feature: str | None
    observed: float | None
    limit: float | None
    unit: str
    """What `observed` is, such as `AUC lost` or `share of rows`."""
    rows: int
    outcome: Literal["pass", "fail", "warn", "inconclusive"]
    example: str = ""
    """A row that shows it."""


class Attribution(Part):
    """How much of the scores one feature makes up: its share of all mean absolute SHAP contributions."""

    feature: str
    share: Number
    champion_share: float | None = None
    direction: float | None = None
    """Rank correlation of the feature's value with its contribution; None for categories."""
    auc_alone: float | None = None
    """AUC of the feature by itself, as good as its order or its categories' rates can make it."""


class SliceAttribution(Part):
    """Where a slice's scores come from that differ from the champion's: mean contribution differences (log odds)."""

    where: str
    features: dict[str, float]
    """Largest ones first."""


class Explained(Part):
    """Contributions on a sample of rows."""

    rows: int
    attributions: tuple[Attribution, ...]
    """Largest share first."""
    slices: tuple[SliceAttribution, ...] = ()
    additivity_error: float
    """Largest difference between a score in log odds and the sum of its contributions."""


class Findings(Part):
    """Everything measured about one challenger. What was not asked for, or could not be, is empty or None."""

    format: Literal[1] = 1
    model: str
    rows: int
    positives: int
    start: str
    end: str
    challenger: ArmFindings | None = None
    champion: ArmFindings | None = None
    differences: tuple[Difference, ...] = ()
    slices: tuple[SliceFinding, ...] = ()
    weak_spots: tuple[SliceFinding, ...] = ()
    fairness: tuple[FairnessFinding, ...] = ()
    behaviour: tuple[BehaviourFinding, ...] = ()
    explained: Explained | None = None
    effective_rows: float | None = None
    """Independent rows that the blocks are worth for the primary comparison; None where rows are the blocks."""
    seconds: dict[str, float] = {}
    """What each part took."""


def write_findings(findings: Findings, path: Path) -> None:
    """Write atomically."""
    write_whole(path, findings.model_dump_json(indent=1) + "\n")


def read_findings(path: Path) -> Findings:
    """Read findings.

    Raises:
        GateError: There are none, or they can't be read.
    """
    return read_record(
        Findings,
        path,
        missing="there are no findings; run the evaluation first",
        odd="not an evaluation's findings",
    )
