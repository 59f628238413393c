"""Data and training: where rows come from, what they must look like, how a model is fitted on them."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from airworthy.model_spec.fields import Days, Section, Severity


class Features(Section):
    """Where rows and features come from."""

    service: str
    """Feast feature service."""
    entities: str
    """Table of the feature repo that lists the rows to decide on."""
    id: str = "id"
    """Column that identifies a row."""
    time: str = "event_timestamp"
    """Decision time, UTC."""


class Label(Section):
    """A binary label (0/1 or false/true; null where it never became known)."""

    column: str
    known_at: str
    """Column with the time when the label became known."""


class Splits(Section):
    """Lengths in days of the windows, one after the other; the test window ends at `as_of`."""

    train_days: Days = 150
    tune_days: Days = 14
    test_days: Days = 28

    def windows(self) -> dict[str, tuple[timedelta, timedelta]]:
        """Start and end (exclusive) of each window, as offsets from `as_of`."""
        test = timedelta(days=self.test_days)
        tune = test + timedelta(days=self.tune_days)
        train = tune + timedelta(days=self.train_days)
        return {"train": (-train, -tune), "tune": (-tune, -test), "test": (-test, timedelta(0))}


class MinRows(Section):
    """Fewest rows per window."""

    train: Annotated[int, Field(ge=1)] = 1000
    tune: Annotated[int, Field(ge=1)] = 200
    test: Annotated[int, Field(ge=1)] = 200


class Comparison(Section):
    """Comparison of two sets of statistics: Jensen-Shannon divergence for numbers, L-infinity for categories."""

    numeric_threshold: Annotated[float, Field(gt=0)] = 0.3
    categorical_threshold: Annotated[float, Field(gt=0)] = 0.3
    severity: Severity = "warn"


class Validation(Section):
    """Data validation; expectations on single columns live in the schema file."""

    schema_file: Annotated[str, Field(alias="schema")]
    """TFDV schema (pbtxt), relative to the spec file."""
    min_rows: MinRows = MinRows()
    skew: Comparison = Comparison()
    """Test window against training window."""
    drift: Comparison = Comparison()
    """Training window against the statistics that the champion was accepted with."""
    severities: dict[str, Severity] = Field(default={})
    """Severity by anomaly type (`ENUM_TYPE_UNEXPECTED_STRING_VALUES: warn`), or for one feature alone
    (`FLOAT_TYPE_BIG_FLOAT.wind_speed: warn`); everything else blocks."""


class Trainer(Section):
    """How the model is fitted."""

    kind: Literal["xgboost"] = "xgboost"
    gpu: Literal["auto", "required", "off"] = "auto"
    rounds: Annotated[int, Field(ge=1, le=100_000)] = 300
    early_stopping_rounds: Annotated[int, Field(ge=1)] = 25
    seed: int = 0
    class_weight: Literal["none", "balanced"] = "none"
    params: dict[str, float | int | str | bool] = Field(default={})
    """Passed to XGBoost as they are."""

    @model_validator(mode="after")
    def _own_params_stay_ours(self) -> Trainer:
        ours = {"device", "seed", "objective", "tree_method", "eval_metric", "scale_pos_weight", "nthread"}
        taken = sorted(ours & set(self.params))
        if taken:
            raise ValueError(f"params: {', '.join(taken)} is set by Airworthy (see gpu, seed, class_weight)")
        return self
