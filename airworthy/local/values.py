"""Parameter values, placeholders and the inputs of a task."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airworthy.errors import EngineError
from airworthy.local.ir import Spec

Artifact = dict[str, Any]
_SELECTOR = re.compile(r'parseJson\(string_value\)(?:\["(.*)"\])?')
_PLACEHOLDER = re.compile(r"\{\{\$\.(.*?)\}\}")
_INPUT = re.compile(r"inputs\.parameters\['(.*)'\]")
_ARTIFACT = re.compile(r"inputs\.artifacts\['(.*)'\]\.(uri|path|metadata)(?:\['(.*)'\])?")


class MissingInputError(EngineError):
    """A task's required input got no value from where the pipeline takes it."""


@dataclass(frozen=True)
class Values:
    """Parameters and artifacts by name: inputs of a task, or its outputs.

    Attributes:
        parameters: JSON values; an unset optional one is absent.
        artifacts: Runtime artifacts (`name`, `type`, `uri`, `metadata`); one for a single artifact.
    """

    parameters: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, list[Artifact]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFacts:
    """What run-level placeholders stand for."""

    run_id: str
    pipeline_name: str
    root: str
    started: str

    def placeholders(self, task_name: str, task_id: str) -> dict[str, str]:
        """Text of each placeholder that doesn't depend on inputs."""
        return {
            "pipeline_job_name": self.run_id,
            "pipeline_job_resource_name": self.run_id,
            "pipeline_job_uuid": self.run_id,
            "pipeline_task_name": task_name,
            "pipeline_task_uuid": task_id,
            "pipeline_root": self.root,
            "pipeline_job_create_time_utc": self.started,
            "pipeline_job_schedule_time_utc": self.started,
        }


def whole_numbers(value: Any) -> Any:
    """Turns 2.0 into 2 throughout: the compiler writes every number as a float, a cluster hands on 2."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: whole_numbers(item) for key, item in value.items()}
    return value


def cast(value: Any, kind: str) -> Any:
    """A value as its declared parameter type.

    Args:
        value: Any JSON value; text stands for the JSON it holds where another type is declared.
        kind: `NUMBER_INTEGER`, `NUMBER_DOUBLE`, `BOOLEAN`, `STRING`, `LIST`, `STRUCT`.

    Raises:
        ValueError: The value is of another type.
    """
    if isinstance(value, str) and kind in ("NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN", "LIST", "STRUCT"):
        try:
            value = json.loads(value.lower() if kind == "BOOLEAN" else value)
        except ValueError:
            raise ValueError(f"{_short(value)} is not a {_WORDS[kind][0]}") from None
    if kind not in _WORDS or value is None:
        return value
    word, types = _WORDS[kind]
    if not isinstance(value, types) or (isinstance(value, bool) and kind != "BOOLEAN"):
        raise ValueError(f"{_short(value)} is not a {word}")
    if kind in ("NUMBER_INTEGER", "NUMBER_DOUBLE"):
        return _number(value, whole=kind == "NUMBER_INTEGER")
    return value


def _number(value: Any, *, whole: bool) -> int | float:
    if whole and not float(value).is_integer():
        raise ValueError(f"{_short(value)} is not a whole number")
    return int(value) if whole else float(value)


def select(value: Any, selector: str) -> Any:
    """Applies the compiler's selector for fields of loop items: `parseJson(string_value)["a"]`."""
    match = _SELECTOR.fullmatch(selector)
    if not match:
        raise EngineError(f"The selector {selector!r} is not known to this engine.")
    value = json.loads(value) if isinstance(value, str) else value
    if match[1] is None:
        return value
    if not isinstance(value, dict) or match[1] not in value:
        raise EngineError(f"The loop item {_short(value)} has no field {match[1]!r}.")
    return value[match[1]]


def known_selector(selector: str) -> bool:
    """Whether `select` can apply it."""
    return bool(_SELECTOR.fullmatch(selector))


def fill(value: Any, inputs: Values, placeholders: Mapping[str, str]) -> Any:
    """Replaces placeholders in a constant of the pipeline, also inside lists and dicts.

    Only constants written by the pipeline's author come here. Values that arise at run time are never
    searched for placeholders, so data can't smuggle one in.
    """
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: _lookup(match[1], inputs, placeholders), value)
    if isinstance(value, list):
        return [fill(item, inputs, placeholders) for item in value]
    if isinstance(value, dict):
        return {key: fill(item, inputs, placeholders) for key, item in value.items()}
    return value


def known_placeholders(text: str) -> list[str]:
    """Placeholders of a constant that `fill` does not know."""
    names = RunFacts("", "", "", "").placeholders("", "")
    return [
        found
        for found in _PLACEHOLDER.findall(text)
        if found not in names and not _INPUT.fullmatch(found) and not _ARTIFACT.fullmatch(found)
    ]


def complete(inputs: Values, component: Spec, task: str) -> Values:
    """Adds the component's defaults, casts parameters to their declared types, and misses what is required.

    Raises:
        MissingInputError: A required input has no value.
        EngineError: A value is of another type than declared.
    """
    definitions = component.get("inputDefinitions", {})
    parameters = dict(inputs.parameters)
    for name, definition in definitions.get("parameters", {}).items():
        if parameters.get(name) is None and "defaultValue" in definition:
            parameters[name] = whole_numbers(definition["defaultValue"])
        if parameters.get(name) is None:
            parameters.pop(name, None)
            if not definition.get("isOptional") and not name.startswith("pipelinechannel--"):
                raise MissingInputError(f"{task}: the input {name!r} has no value.")
            continue
        try:
            parameters[name] = cast(parameters[name], definition.get("parameterType", ""))
        except ValueError as error:
            raise EngineError(f"{task}: the input {name!r} has a wrong type: {error}.") from None
    for name, definition in definitions.get("artifacts", {}).items():
        if (
            name not in inputs.artifacts
            and not definition.get("isOptional")
            and not name.startswith("pipelinechannel--")
        ):
            raise MissingInputError(f"{task}: the input artifact {name!r} was not produced.")
    return Values(parameters, dict(inputs.artifacts))


def _lookup(name: str, inputs: Values, placeholders: Mapping[str, str]) -> str:
    if name in placeholders:
        return placeholders[name]
    if match := _INPUT.fullmatch(name):
        value = inputs.parameters.get(match[1])
        return value if isinstance(value, str) else json.dumps(value)
    if match := _ARTIFACT.fullmatch(name):
        artifact = (inputs.artifacts.get(match[1]) or [{}])[0]
        if match[2] != "metadata":
            return str(artifact.get("uri", ""))
        metadata = artifact.get("metadata", {})
        value = metadata if match[3] is None else metadata.get(match[3])
        return value if isinstance(value, str) else json.dumps(value)
    raise EngineError(f"The placeholder {{{{$.{name}}}}} is not known to this engine.")


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


_WORDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "NUMBER_INTEGER": ("whole number", (int, float)),
    "NUMBER_DOUBLE": ("number", (int, float)),
    "BOOLEAN": ("true or false value", (bool,)),
    "STRING": ("text", (str,)),
    "LIST": ("list", (list,)),
    "STRUCT": ("dictionary", (dict,)),
}
