"""The model spec: the one file that a user writes to bring a model (`models/<name>.yaml`).

`load_spec` turns its text into frozen pydantic models; every complaint names file, line and field.
"""

from __future__ import annotations

import difflib
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from airworthy.errors import ConfigError
from airworthy.model_spec.documents import inline_documents
from airworthy.model_spec.fields import Name, Section, Severity
from airworthy.model_spec.gate import (
    ChampionComparison,
    Direction,
    Explanations,
    Fairness,
    Gate,
    Invariance,
    Metric,
    Override,
    Resampling,
    Robustness,
    Scenario,
    SlicePolicy,
    SliceSearch,
    Threshold,
)
from airworthy.model_spec.learning import (
    Comparison,
    Features,
    Label,
    MinRows,
    Splits,
    Trainer,
    Validation,
)
from airworthy.model_spec.release import (
    Approval,
    Budget,
    Card,
    Experiment,
    PredictionLog,
    Retention,
    Rollout,
    Serving,
)

__all__ = [
    "BLOCKS",
    "Approval",
    "Budget",
    "Card",
    "ChampionComparison",
    "Comparison",
    "Direction",
    "Experiment",
    "Explanations",
    "Fairness",
    "Features",
    "Gate",
    "Invariance",
    "Label",
    "Metric",
    "MinRows",
    "ModelSpec",
    "Override",
    "PredictionLog",
    "Resampling",
    "Retention",
    "Robustness",
    "Rollout",
    "Scenario",
    "Serving",
    "Severity",
    "SlicePolicy",
    "SliceSearch",
    "Splits",
    "Threshold",
    "Trainer",
    "Validation",
    "load_spec",
    "parse_as_of",
    "read_spec",
    "read_text",
    "spec_digest",
]

BLOCKS = ("row", "hour", "day", "week")
"""Units of `gate.resampling.block` that are no columns."""


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
    """Columns whose values get metrics of their own; `origin*carrier` crosses two."""
    approval: Approval = Approval()
    rollout: Rollout
    serving: Serving = Serving()
    retention: Retention = Retention()
    card: Card = Card()

    @property
    def evaluation_columns(self) -> dict[str, str]:
        """Columns that the evaluation cuts the rows by, and which field of the spec names each."""
        block = self.gate.resampling.block
        named = {} if block in BLOCKS else {block: "gate.resampling.block"}
        if self.gate.fairness:
            named |= dict.fromkeys(self.gate.fairness.columns, "gate.fairness.columns")
        return named | {part: "slices" for name in self.slices for part in name.split("*")}

    @model_validator(mode="after")
    def _slices_are_columns(self) -> ModelSpec:
        for name in self.slices:
            parts = name.split("*")
            if len(parts) > 2 or not all(parts) or len(set(parts)) < len(parts):
                raise ValueError(f"slices: {name!r} must be a column, or two of them as column*column")
        if len({frozenset(name.split("*")) for name in self.slices}) < len(self.slices):
            raise ValueError("slices: a column or crossing is named twice")
        return self


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

    Texts that the card takes from `docs/` are written into the spec's text: see `documents`.

    Raises:
        ConfigError: A file is missing, or the spec is wrong.
    """
    text = read_text(path, "model spec")
    load_spec(text, str(path))
    text = inline_documents(text, path)
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
        model = next((o for o in options if isinstance(o, type) and issubclass(o, Section)), None)
        if model is None:
            return ""
    known = [field.alias or name for name, field in model.model_fields.items()]
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; the fields here are {', '.join(known)}"
