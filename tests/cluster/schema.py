"""CRD-shaped validation: types and required fields of a spec, read out of the KServe SDK's generated models.

The wheel carries no CRD, but its models are generated from the same Go types. They are parsed, not imported:
importing kserve takes seconds. Like a structural schema, unknown fields are pruned (and warned of).
"""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kubernetes import client as core

_REQUIRED = re.compile(r"Invalid value for `(\w+)`, must not be `None`")
_SCALARS = {"int": "integer", "str": "string", "bool": "boolean", "float": "number", "datetime": "string"}
_ANY = frozenset({"object", "IntOrString", "ResourceQuantity", "K8sIoApimachineryPkgUtilIntstrIntOrString"})


@dataclass(frozen=True)
class Model:
    """Fields of one type: JSON name to type name."""

    fields: dict[str, str]
    required: frozenset[str]


@dataclass(frozen=True)
class Checked:
    """A pruned value, what a server would reject it for, and the fields it warns of."""

    value: Any
    causes: list[tuple[str, str]]
    unknown: list[str]


@cache
def _files() -> dict[str, Path]:
    """KServe's model files by class name in lower case without underscores."""
    found = importlib.util.find_spec("kserve")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "models"
    return {path.stem.replace("_", ""): path for path in folder.glob("v1*.py")}


@cache
def model(name: str) -> Model | None:
    """The fields of an SDK type; None for one that isn't known (anything goes then)."""
    path = _files().get(name.lower())
    if path is not None:
        return _parse(path)
    known = getattr(core, name, None)
    if known is None:
        return None
    return Model({known.attribute_map[key]: kind for key, kind in known.openapi_types.items()}, frozenset())


def _parse(path: Path) -> Model:
    text = path.read_text()
    found: dict[str, dict[str, str]] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in ("openapi_types", "attribute_map"):
                found[name] = ast.literal_eval(node.value)
    names = found["attribute_map"]
    required = frozenset(names[key] for key in _REQUIRED.findall(text))
    return Model({names[key]: kind for key, kind in found["openapi_types"].items()}, required)


def check(value: Any, kind: str, where: str = "spec") -> Checked:
    """Validate a value against an SDK type such as `V1beta1InferenceServiceSpec`."""
    causes: list[tuple[str, str]] = []
    unknown: list[str] = []
    return Checked(_check(value, kind, where, causes, unknown), causes, unknown)


def _check(value: Any, kind: str, where: str, causes: list[tuple[str, str]], unknown: list[str]) -> Any:
    if kind in _ANY:
        return value
    if kind in _SCALARS:
        return _scalar(value, _SCALARS[kind], where, causes)
    if kind.startswith("list["):
        if not isinstance(value, list):
            return _wrong(value, "array", where, causes)
        inner = kind[5:-1]
        return [_check(item, inner, f"{where}[{at}]", causes, unknown) for at, item in enumerate(value)]
    if not isinstance(value, dict):
        # Unknown types may be anything, known ones are objects.
        return _wrong(value, "object", where, causes) if kind[:5] == "dict(" or model(kind) else value
    if kind.startswith("dict("):
        inner = kind[5:-1].split(", ", 1)[1]
        return {key: _check(item, inner, f"{where}.{key}", causes, unknown) for key, item in value.items()}
    return _object(value, kind, where, causes, unknown)


def _object(
    value: dict[str, Any], kind: str, where: str, causes: list[tuple[str, str]], unknown: list[str]
) -> dict[str, Any]:
    shape = model(kind)
    if shape is None:
        return value
    kept = {}
    for key, item in value.items():
        if key not in shape.fields:
            unknown.append(f"{where}.{key}")
        elif item is not None:  # a null for a field that can't be null is pruned
            kept[key] = _check(item, shape.fields[key], f"{where}.{key}", causes, unknown)
    causes.extend((f"{where}.{key}", "Required value") for key in sorted(shape.required - kept.keys()))
    return kept


def _scalar(value: Any, wanted: str, where: str, causes: list[tuple[str, str]]) -> Any:
    fits = {
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
    }[wanted]
    return value if fits else _wrong(value, wanted, where, causes)


def _wrong(value: Any, wanted: str, where: str, causes: list[tuple[str, str]]) -> Any:
    got = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    name = got.get(type(value), "null")
    causes.append((where, f'Invalid value: "{name}": {where} in body must be of type {wanted}: "{name}"'))
    return value
