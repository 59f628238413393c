"""Reading prediction requests: V1 and V2 (Open Inference Protocol) bodies to columns, strictly.

V1: `{"instances": [{feature: value, …}, …]}`.
V2: one tensor per feature, named like it, of shape `[n]` or `[n, 1]`.

| kind     | V1 value     | V2 datatype            | unknown value |
| -------- | ------------ | ---------------------- | ------------- |
| number   | number       | FP32, FP64, INT*, UINT* | null or NaN |
| integer  | whole number | INT*, UINT*, FP32, FP64 | null or NaN |
| category | string       | BYTES                  | null; also "" unless that is a category |
| bool     | true/false   | BOOL                   | null |

Every feature must be there in every row: a forgotten one is an error, an unknown value is said aloud. Bodies are
strict JSON: no NaN or Infinity, no name twice in one object.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from airworthy.errors import DataError


class FeatureLike(Protocol):
    """What is read of a bundle's feature."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def categories(self) -> tuple[str, ...]: ...


Columns = dict[str, Sequence[Any]]
_FLOATS = ("FP32", "FP64")
_INTEGERS = tuple(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
DATATYPES = {
    "number": _FLOATS + _INTEGERS,
    "integer": _INTEGERS + _FLOATS,
    "category": ("BYTES",),
    "bool": ("BOOL",),
}
PREFERRED = {"number": "FP64", "integer": "FP64", "category": "BYTES", "bool": "BOOL"}
_V2_FIELDS = frozenset({"id", "inputs"})
_PLAIN_TYPES: dict[str, frozenset[type]] = {
    "number": frozenset({int, float, type(None)}),
    "integer": frozenset({int, type(None)}),
    "category": frozenset({str, type(None)}),
    "bool": frozenset({bool, type(None)}),
}
_WANTED = {
    "number": "a number or null",
    "integer": "a whole number or null",
    "category": "a string or null",
    "bool": "true, false or null",
}


class Tensor(NamedTuple):
    """One input of a V2 request, as in its JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class TensorRequest(NamedTuple):
    """A V2 request, as far as it is read."""

    id: str | None
    inputs: list[Tensor]


def read_json(body: bytes) -> Any:
    """The document in a request's body.

    Raises:
        DataError: It is not JSON; the sentence says where, and what to do.
    """
    import orjson

    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise DataError(not_json(error)) from None


def not_json(error: json.JSONDecodeError) -> str:
    """One sentence about a body that can't be parsed."""
    there = error.doc[max(0, error.pos - 1) : error.pos + 9]
    where = f"line {error.lineno} column {error.colno}"
    for literal in ("NaN", "Infinity"):
        if there.lstrip(" :[,-").startswith(literal):
            return f"the body is not valid JSON: {literal} at {where}; send null where a value is unknown"
    if "infinity" in error.msg:
        return f"the body holds a number that is too large at {where}; send null where a value is unknown"
    return f"the body is not valid JSON: {error.msg[0].lower()}{error.msg[1:]} at {where}"


def refuse_repeated_names(body: bytes, names: int) -> None:
    """Refuse a body that names something twice in one object: which of the values was meant?

    Args:
        body: JSON that was parsed already.
        names: How many names its objects have. Every name is followed by a colon, so a body with no more colons
            than that needs no second look.

    Raises:
        DataError: There is one.
    """
    if body.count(b":") <= names:
        return
    try:
        json.loads(body, object_pairs_hook=_object_without_repeats)
    except RecursionError:
        raise DataError("the body nests too deeply to be a prediction request") from None


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        (repeated, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise DataError(f"the body names {_shown(repeated)} twice in one object")
    return found


def plain_v2(document: Any) -> TensorRequest | None:
    """A V2 request that asks for nothing but its inputs' scores; None for one with `parameters` or `outputs`,
    and for what is no V2 request: those are KServe's to answer."""
    if (
        type(document) is not dict
        or not document.keys() <= _V2_FIELDS
        or type(document.get("inputs")) is not list
    ):
        return None
    identity = document.get("id")
    if identity is not None and type(identity) is not str:
        return None
    inputs = []
    for given in document["inputs"]:
        if type(given) is not dict or len(given) != 4:
            return None
        tensor = Tensor(given.get("name", 0), given.get("shape"), given.get("datatype", 0), given.get("data"))  # type: ignore[arg-type]
        plain = type(tensor.name) is str and type(tensor.datatype) is str and type(tensor.data) is list
        if not plain or type(tensor.shape) is not list or tensor.datatype == "FP16":
            return None
        if not all(type(length) is int for length in tensor.shape):
            return None
        inputs.append(tensor)
    return TensorRequest(identity, inputs)


def read_v1(
    body: Any, features: Sequence[FeatureLike], max_rows: int, ignored: frozenset[str] = frozenset()
) -> Columns:
    """Columns of a V1 body, in the features' order; `ignored` names may be there and are not read.

    Raises:
        DataError: One sentence that says what is wrong and where; meant for the caller (HTTP 400).
    """
    if not isinstance(body, dict) or not isinstance(body.get("instances"), list):
        raise DataError('the body must be a JSON object with a list "instances"')
    others = sorted(set(body) - {"instances"})
    if others:
        raise DataError(f'the body has an unknown field {_shown(others[0])}; only "instances" is read')
    rows = body["instances"]
    check_rows(len(rows), max_rows)
    names = [feature.name for feature in features]
    known, ignored = set(names), ignored - set(names)
    for position, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"instances[{position}] must be an object that maps feature names to values")
        if row.keys() - ignored != known:
            _complain_about_names(row.keys() - ignored, names, f"instances[{position}]")
    columns: Columns = {}
    for feature in features:
        name = feature.name
        values = [row[name] for row in rows]
        odd = _first_odd(values, feature.kind)
        if odd is not None:
            raise DataError(_wrong_type(f"instances[{odd}].{name}", values[odd], feature.kind))
        columns[name] = values
    return columns


def read_v2(
    request: Any, features: Sequence[FeatureLike], max_rows: int, ignored: frozenset[str] = frozenset()
) -> Columns:
    """Columns of a V2 request (a KServe `InferRequest`), in the features' order; see `read_v1`.

    Raises:
        DataError: One sentence that says what is wrong and where; meant for the caller (HTTP 400).
    """
    tensors: dict[str, Any] = {}
    names = [feature.name for feature in features]
    ignored -= set(names)
    for tensor in request.inputs:
        if tensor.name in ignored:
            continue
        if tensor.name in tensors:
            raise DataError(f"input {tensor.name!r} is there twice")
        tensors[tensor.name] = tensor
    if tensors.keys() != set(names):
        _complain_about_names(tensors, names, "inputs")
    count = _length(tensors[names[0]])
    check_rows(count, max_rows)
    columns: Columns = {}
    for feature in features:
        tensor = tensors[feature.name]
        if _length(tensor) != count:
            raise DataError(
                f"input {feature.name!r} has {_length(tensor)} rows, but {names[0]!r} has {count}: "
                "give every input the same number"
            )
        columns[feature.name] = _tensor_values(tensor, feature, count)
    return columns


def check_rows(count: int, max_rows: int) -> None:
    """Refuse empty and too large requests.

    Raises:
        DataError: There are no rows, or more than `max_rows`.
    """
    if count == 0:
        raise DataError("the request has no rows")
    if count > max_rows:
        raise DataError(f"the request has {count} rows; this server takes at most {max_rows} at a time")


def _complain_about_names(given: Any, names: Sequence[str], where: str) -> None:
    missing = [name for name in names if name not in given]
    unknown = [str(name) for name in given if name not in names]
    if missing:
        hint = f" ({_shown(unknown[0])} is not a feature of this model)" if unknown else ""
        raise DataError(
            f"{where}: feature {missing[0]!r} is missing; send null where its value is unknown{hint}"
        )
    raise DataError(f"{where}: {_shown(unknown[0])} is not a feature of this model")


def _first_odd(values: Sequence[Any], kind: str) -> int | None:
    """Position of the first value that a feature of this kind can't have."""
    if set(map(type, values)) <= _PLAIN_TYPES[kind]:
        return None
    return next((position for position, value in enumerate(values) if not _fits(value, kind)), None)


def _fits(value: Any, kind: str) -> bool:
    if value is None:
        return True
    if kind == "category":
        return isinstance(value, str)
    if kind == "bool":
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return kind == "number" or isinstance(value, int) or value != value or value.is_integer()


def _wrong_type(where: str, value: Any, kind: str) -> str:
    return f"{where} must be {_WANTED[kind]}, not {_shown(value)}"


def _shown(value: Any) -> str:
    """The caller's value as it is repeated to them: in brief, however long it is."""
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."


def _length(tensor: Any) -> int:
    shape = list(tensor.shape)
    if not shape or len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise DataError(f"input {tensor.name!r} has shape {shape}; give it shape [rows] or [rows, 1]")
    return int(shape[0])


def _tensor_values(tensor: Any, feature: FeatureLike, count: int) -> Sequence[Any]:
    allowed = DATATYPES[feature.kind]
    if tensor.datatype not in allowed:
        raise DataError(
            f"input {tensor.name!r} has datatype {tensor.datatype}; for this {feature.kind} feature send "
            f"{', '.join(allowed[:3])}"
        )
    values = tensor.data
    if not isinstance(values, list):
        values = _from_binary(tensor)
    if len(tensor.shape) == 2 and values and all(type(row) is list and len(row) == 1 for row in values):
        values = [value for (value,) in values]
    if len(values) != count:
        raise DataError(f"input {tensor.name!r} has shape {list(tensor.shape)} but {len(values)} values")
    if feature.kind == "category" and "" not in feature.categories:
        values = [None if value == "" else value for value in values]
    odd = _first_odd(values, feature.kind)
    if odd is not None:
        raise DataError(_wrong_type(f"input {tensor.name!r}[{odd}]", values[odd], feature.kind))
    return values


def _from_binary(tensor: Any) -> list[Any]:
    try:
        values = tensor.as_numpy().reshape(-1).tolist()
        return [v.decode("utf-8") if isinstance(v, bytes) else v for v in values]
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        raise DataError(f"input {tensor.name!r}: its binary data can't be read: {error}") from None
