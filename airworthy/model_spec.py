"""The model spec: the one file that a user writes to bring a model (`models/<name>.yaml`).

`load_spec` turns its text into frozen pydantic models; every complaint names file, line and field.
"""

from __future__ import annotations

import difflib
import hashlib
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from airworthy.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
ServiceName = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$")]
Share = Annotated[float, Field(ge=0, le=1)]
Severity = Literal["block", "warn", "ignore"]
Days = Annotated[float, Field(gt=0, le=36_500)]


class Section(BaseModel):
    """Part of a spec: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    severities: dict[str, Severity] = {}
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
    params: dict[str, float | int | str | bool] = {}
    """Passed to XGBoost as they are."""

    @model_validator(mode="after")
    def _own_params_stay_ours(self) -> Trainer:
        ours = {"device", "seed", "objective", "tree_method", "eval_metric", "scale_pos_weight", "nthread"}
        taken = sorted(ours & set(self.params))
        if taken:
            raise ValueError(f"params: {', '.join(taken)} is set by Airworthy (see gpu, seed, class_weight)")
        return self


class ChampionComparison(Section):
    """Challenger against champion on the same rows."""

    metric: Literal["auc"] = "auc"
    margin: Annotated[float, Field(ge=0, le=0.5)] = 0.005
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    policy: Literal["non_inferiority", "superiority"] = "non_inferiority"


class Threshold(Section):
    """Costs that choose the decision threshold on the tuning window."""

    cost_false_alarm: Annotated[float, Field(gt=0)] = 1.0
    cost_miss: Annotated[float, Field(gt=0)] = 1.0


class Gate(Section):
    """Limits that a model must keep. An empty gate is an error, never a pass."""

    min_auc: Annotated[float, Field(ge=0.5, le=1)] | None = None
    min_pr_auc: Share | None = None
    max_log_loss: Annotated[float, Field(gt=0)] | None = None
    max_brier: Share | None = None
    max_calibration_error: Share | None = None
    champion: ChampionComparison | None = None
    threshold: Threshold = Threshold()


class Experiment(Section):
    """An A/B test: a split is held, and the effect on a declared outcome is reported. Nothing is promoted by it."""

    outcome: str
    """Column with the outcome of each request, between 0 and 1; `cost` is the cost of the decision at the model's
    threshold, scaled to 0..1, which needs the label."""
    traffic_percent: Annotated[int, Field(ge=1, le=99)] = 50
    requests: Annotated[int, Field(ge=1)] = 2000
    """The split is held for this many requests …"""
    seconds: Annotated[float, Field(ge=0, le=7_776_000)] = 0
    """… and at least this long."""


class Rollout(Section):
    """How traffic moves to a new model, and what stops it."""

    service: ServiceName
    kind: Literal["canary", "shadow", "ab"] = "canary"
    """`canary` moves traffic by `steps` (blue-green: `steps: [0, 100]`), `shadow` never moves any, `ab` holds a
    split."""
    steps: tuple[Annotated[int, Field(ge=0, le=100)], ...] = (10, 50)
    """Traffic percent of the canary, rising; 100 % follows."""
    requests_per_step: Annotated[int, Field(ge=1)] = 400
    step_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0
    """Least time at each step."""
    settle_seconds: Annotated[float, Field(ge=0, le=3600)] | None = None
    """What arrives this long after a change of weights is no evidence. Default: 0 locally, where weights change at
    once, 10 on a cluster, where gateways follow late."""
    shadow_requests: Annotated[int, Field(ge=0)] = 0
    """Requests that both models are asked before the first step; users get the stable model's answer."""
    bake_requests: Annotated[int, Field(ge=0)] = 300
    bake_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0
    """Least time at 100 % before PASS."""
    sticky_header: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")] | None = None
    """Requests with the same value of this header stay with one model; only the first of each is evidence."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    max_error_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    max_error_increase: Annotated[float, Field(ge=0)] = 0.0
    """Tolerated relative excess of the canary's error rate over stable's."""
    max_latency_increase: Annotated[float, Field(ge=0)] = 1.0
    """Tolerated relative excess over the stable 95th percentile latency before the evidence counts against
    the canary (1.0: twice as slow)."""
    latency_slack_ms: Annotated[float, Field(ge=0)] = 2.0
    """Milliseconds tolerated on top of that: a model that answers in 0.3 ms may take 0.7, nobody notices."""
    on_score_shift: Literal["warn", "fail"] = "warn"
    """What scores that are distributed differently from stable's do: a retrained model may well mean it."""
    max_flip_rate: Share | None = None
    """Most decisions that may differ between the two models in the shadow phase; None only reports them."""
    min_canary_requests: Annotated[int, Field(ge=0)] = 0
    """Canary requests that PASS needs, whatever the other evidence says."""
    experiment: Experiment | None = None
    """Needed by `kind: ab`."""
    deadline_seconds: Annotated[float, Field(gt=0, le=7_776_000)] = 600
    on_inconclusive: Literal["rollback", "hold"] = "rollback"

    @model_validator(mode="after")
    def _plan_makes_sense(self) -> Rollout:
        if not self.steps or any(b <= a for a, b in pairwise(self.steps)):
            raise ValueError("steps: must be traffic percents that rise, such as [10, 50]")
        if (self.kind == "ab") != (self.experiment is not None):
            raise ValueError("experiment: is for kind: ab, which needs it")
        if self.kind == "shadow" and not self.shadow_requests:
            raise ValueError("shadow_requests: must be above 0 for kind: shadow")
        if self.max_flip_rate is not None and not self.shadow_requests:
            raise ValueError("max_flip_rate: needs shadow_requests above 0 to be measured")
        return self


class PredictionLog(Section):
    """What the model server writes down about every request."""

    enabled: bool = True
    drop: tuple[str, ...] = ()
    """Features that are not written (personal data)."""
    hash: tuple[str, ...] = ()
    """Features of which only a salted hash is written."""
    keep_days: Days = 90
    max_mib: Annotated[int, Field(ge=1)] = 10_240


class Serving(Section):
    """What the model server accepts and writes down."""

    max_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    unseen_category: Literal["missing", "reject"] = "missing"
    prediction_log: PredictionLog = PredictionLog()


class ModelSpec(Section):
    """A whole model spec. Load one with `load_spec`."""

    name: Name
    description: str = ""
    features: Features
    label: Label
    splits: Splits = Splits()
    validation: Validation
    trainer: Trainer = Trainer()
    gate: Gate = Gate()
    slices: tuple[str, ...] = ()
    """Columns whose values get metrics of their own."""
    rollout: Rollout
    serving: Serving = Serving()


def spec_digest(text: str) -> str:
    """SHA-256 (hex) of a spec's text: the policy that a verdict was made under."""
    return hashlib.sha256(text.encode()).hexdigest()


def load_spec(text: str, source: str = "spec") -> ModelSpec:
    """Parse and check the text of a model spec.

    Args:
        text: YAML.
        source: What to call it in messages: the file's name.

    Raises:
        ConfigError: One line per problem: `models/x.yaml:31 gate.min_auc: must be …`.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        document = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}:{line}: not valid YAML: {error.problem}") from None
    except YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: a model spec is a YAML mapping (name:, features:, label:, …)")
    try:
        return ModelSpec.model_validate(_plain(document))
    except ValidationError as error:
        problems = sorted(_complaint(document, source, problem) for problem in error.errors())
        raise ConfigError("\n".join(text for _, text in problems)) from None


def read_spec(path: Path) -> tuple[ModelSpec, str, str]:
    """A spec file, its text and the text of the schema file that it names.

    Raises:
        ConfigError: A file is missing, or the spec is wrong.
    """
    text = read_text(path, "model spec")
    spec = load_spec(text, str(path))
    schema = path.parent / spec.validation.schema_file
    if not schema.exists():
        raise ConfigError(
            f"{path} validation.schema: {schema} does not exist; make a first one with "
            f"`airworthy schema infer {path}`"
        )
    return spec, text, read_text(schema, "schema")


def read_text(path: Path, what: str) -> str:
    """The text of a file that the user named.

    Raises:
        ConfigError: It is not there, can't be read, or is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"{path}: no such {what}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None


def parse_as_of(text: str | None) -> datetime:
    """The present, as seen by a release: an ISO date or time, UTC where it names no zone; None or "" is now.

    Raises:
        ConfigError: It is neither.
    """
    if not text:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"as_of {text!r} is no ISO date or time, such as 2013-09-01 or 2013-09-01T04:00"
        ) from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _plain(node: Any) -> Any:
    """ruamel's round-trip containers and scalars as plain ones."""
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for scalar in (bool, int, float, str):
        if isinstance(node, scalar):
            return scalar(node)
    return node


def _complaint(document: Any, source: str, problem: Any) -> tuple[int, str]:
    keys = [key for key in problem["loc"] if not str(key).startswith("function-")]
    line = _line(document, keys)
    field = ".".join(str(key) for key in keys)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        message = "is missing"
    elif problem["type"] == "extra_forbidden":
        message = "is not a field" + _nearest(str(keys[-1]), keys[:-1])
    else:
        given = problem.get("input")
        message = message[0].lower() + message[1:]
        if isinstance(given, (str, int, float, bool)):
            message += f" (it is {given!r})"
    return line, f"{source}:{line} {field}: {message}" if field else f"{source}:{line} {message}"


def _line(document: Any, keys: list[Any]) -> int:
    """Line of the deepest part of the path that exists."""
    node: Any = document
    line = 1
    for key in keys:
        try:
            position = node.lc.item(key) if isinstance(key, int) else node.lc.key(key)
            node, line = node[key], position[0] + 1
        except (KeyError, IndexError, AttributeError, TypeError):
            break
    return line


def _nearest(key: str, parents: list[Any]) -> str:
    model: Any = ModelSpec
    for parent in parents:
        annotation = model.model_fields[parent].annotation if parent in model.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if model is None:
            return ""
    known = [field.alias or name for name, field in model.model_fields.items()]
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; the fields here are {', '.join(known)}"
