"""Reading prediction requests: V1 and V2 (Open Inference Protocol) bodies to columns, strictly.

V1: `{"instances": [{feature: value, …}, …]}`.
V2: one tensor per feature, named like it, of shape `[n]` or `[n, 1]`.

| kind     | V1 value     | V2 datatype            | unknown value |
| -------- | ------------ | ---------------------- | ------------- |
| number   | number       | FP32, FP64, INT*, UINT* | null or NaN |
| integer  | whole number | INT*, UINT*, FP32, FP64 | null or NaN |
| category | string       | BYTES                  | null; also "" unless that is a category |
| bool     | true/false   | BOOL                   | null |

Every feature must be there in every row: a forgotten one is an error, an unknown value is said aloud.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

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
_WANTED = {
    "number": "a number or null",
    "integer": "a whole number or null",
    "category": "a string or null",
    "bool": "true, false or null",
}


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
        raise DataError(f'the body has an unknown field {others[0]!r}; only "instances" is read')
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
        for position, value in enumerate(values):
            if not _fits(value, feature.kind):
                raise DataError(_wrong_type(f"instances[{position}].{name}", value, feature.kind))
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
        hint = f" ({unknown[0]!r} is not a feature of this model)" if unknown else ""
        raise DataError(
            f"{where}: feature {missing[0]!r} is missing; send null where its value is unknown{hint}"
        )
    raise DataError(f"{where}: {unknown[0]!r} is not a feature of this model")


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
    shown = repr(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return f"{where} must be {_WANTED[kind]}, not {shown}"


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
    if values and isinstance(values[0], list):
        values = [value for row in values for value in row]
    if len(values) != count:
        raise DataError(f"input {tensor.name!r} has shape {list(tensor.shape)} but {len(values)} values")
    if feature.kind == "category" and "" not in feature.categories:
        values = [None if value == "" else value for value in values]
    for position, value in enumerate(values):
        if not _fits(value, feature.kind):
            raise DataError(_wrong_type(f"input {tensor.name!r}[{position}]", value, feature.kind))
    return values


def _from_binary(tensor: Any) -> list[Any]:
    try:
        values = tensor.as_numpy().reshape(-1).tolist()
        return [v.decode("utf-8") if isinstance(v, bytes) else v for v in values]
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        raise DataError(f"input {tensor.name!r}: its binary data can't be read: {error}") from None
