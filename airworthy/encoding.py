"""From columns of raw values to the matrix that a model scores: the one place where that happens.

Training, evaluation and serving all encode here, so that a category the model never met becomes missing and
is counted everywhere alike (XGBoost itself scores it as the first category, without a word). NumPy only.
A copy of this file travels inside every bundle, hence the relative imports.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from .errors import DataError

Kind = Literal["number", "integer", "category", "bool"]
Column = Sequence[Any] | np.ndarray[Any, Any]
Matrix = np.ndarray[Any, np.dtype[np.float32]]

_PLAIN = 2.0**53
"""Below, every whole number has a double of its own, so that an int and its double round to the same float32."""
_ABSENT = object()

_WANTED = {"number": "numbers", "integer": "whole numbers", "bool": "true or false"}


class Feature(BaseModel):
    """One model input, as it was in training."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: str
    kind: Kind
    categories: tuple[str, ...] = ()
    """Values met in training; a value's place is its code."""
    minimum: float | None = None
    """Smallest training value; None for categories and where all were missing."""
    maximum: float | None = None
    nullable: bool
    """Whether training saw missing values."""


class Encoder:
    """Encodes columns for one model. Safe to share between threads.

    Args:
        features: The model's inputs, in its order.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = tuple(features)
        self._codes: dict[str, dict[Any, float]] = {
            f.name: {None: np.nan} | {value: float(code) for code, value in enumerate(f.categories)}
            for f in features
            if f.kind == "category"
        }
        self._integers = [j for j, f in enumerate(self.features) if f.kind == "integer"]
        self._plan = tuple((f.name, f.kind, self._codes.get(f.name, {})) for f in self.features)
        self._pack = struct.Struct(f"={len(self.features)}f").pack

    def encode(self, columns: Mapping[str, Column]) -> tuple[Matrix, dict[str, int]]:
        """One row per element of the columns, one float32 column per feature; missing is NaN.

        Args:
            columns: Values by feature name: numbers, text, booleans; None or NaN for missing. Others are
                ignored.

        Returns:
            The matrix, C-contiguous `[rows, features]`, and the rows with unseen values per category feature
            that has any.

        Raises:
            DataError: A feature is missing, has another length or type than it should, or holds an infinite
                value.
        """
        absent = [f.name for f in self.features if f.name not in columns]
        if absent:
            raise DataError(f"columns {', '.join(absent)} are missing: the model needs them")
        rows = len(columns[self.features[0].name]) if self.features else 0
        if rows == 1 and all(len(columns[f.name]) == 1 for f in self.features):
            quick = self.encode_row({f.name: columns[f.name][0] for f in self.features})
            if quick is not None:
                return quick
        matrix = np.empty((rows, len(self.features)), dtype=np.float32)
        unseen: dict[str, int] = {}
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused below
            for j, feature in enumerate(self.features):
                values = columns[feature.name]
                if len(values) != rows:
                    raise DataError(f"column {feature.name}: {len(values)} values, but others have {rows}")
                if feature.kind == "category":
                    matrix[:, j], new = self._category(feature.name, values)
                    if new:
                        unseen[feature.name] = new
                else:
                    matrix[:, j] = _numeric(feature, values)
        self._require_sound(matrix)
        return matrix, unseen

    def encode_row(self, row: Mapping[str, Any]) -> tuple[Matrix, dict[str, int]] | None:
        """What `encode` makes of one row, about ten times quicker; None where only `encode` can tell.

        That is a row that lacks a feature or holds anything but None and plain Python values of the features'
        types, of moderate size. The matrix is read-only.
        """
        found: list[float] = []
        unseen: dict[str, int] = {}
        for name, kind, codes in self._plan:
            value = row.get(name, _ABSENT)
            if value is None:
                found.append(np.nan)
            elif kind == "category":
                if type(value) is not str:
                    return None
                code = codes.get(value)
                if code is None:
                    unseen[name] = 1
                    code = np.nan
                found.append(code)
            elif kind == "bool":
                if type(value) is not bool:
                    return None
                found.append(value)
            elif type(value) is int or (type(value) is float and (kind == "number" or value.is_integer())):
                if not -_PLAIN < value < _PLAIN:
                    return None
                found.append(value)
            else:
                return None
        return np.frombuffer(self._pack(*found), dtype=np.float32).reshape(1, -1), unseen

    def _category(self, name: str, values: Column) -> tuple[list[float], int]:
        codes = self._codes[name]
        plain = values.tolist() if isinstance(values, np.ndarray) else values
        # Fails on anything but known text and None, such as NaN or an unseen value: then each is looked at.
        with contextlib.suppress(KeyError, TypeError):
            return [codes[value] for value in plain], 0
        found, unseen = [], 0
        for value in plain:
            if not isinstance(value, str) and not _missing(value):
                raise DataError(f"column {name}: must be text, found {type(value).__name__} {value!r}")
            code = codes.get(value) if isinstance(value, str) else np.nan
            unseen += code is None
            found.append(np.nan if code is None else code)
        return found, unseen

    def _require_sound(self, matrix: Matrix) -> None:
        """No infinite value; whole numbers in integer columns."""
        if np.isinf(matrix).any():
            row, j = np.argwhere(np.isinf(matrix))[0]
            name = self.features[j].name
            raise DataError(f"column {name}: infinite or too large in row {row}; use null for unknown")
        whole = matrix[:, self._integers]
        odd = np.argwhere((whole != np.rint(whole)) & ~np.isnan(whole))
        if len(odd):
            row, k = odd[0]
            name = self.features[self._integers[k]].name
            raise DataError(f"column {name}: must be whole numbers, found {whole[row, k]:g} in row {row}")


def _numeric(feature: Feature, values: Column) -> np.ndarray[Any, Any]:
    """Values of a number, integer or bool column, missing as NaN."""
    array = np.asarray(values) if not isinstance(values, np.ndarray) else values
    wanted = "bfiu" if feature.kind == "bool" else "fiu"
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "OUbfiu"):
        raise DataError(f"column {feature.name}: must be {_WANTED[feature.kind]}, not {array.dtype}")
    if array.dtype.kind not in wanted or not _plain(feature, values, array):
        array = _one_by_one(feature, values)
    if feature.kind == "bool" and array.dtype.kind != "b":
        odd = array[(array != 0) & (array != 1) & ~np.isnan(array)]
        if len(odd):
            raise DataError(f"column {feature.name}: must be true or false, found {odd[0]:g}")
    return array


def _plain(feature: Feature, values: Column, array: np.ndarray[Any, Any]) -> bool:
    """Whether the array can be taken as it is: NumPy makes numbers of `[True, 2.5]`, hiding a mistake."""
    return feature.kind == "bool" or values is array or not any(isinstance(v, bool) for v in values)


def _one_by_one(feature: Feature, values: Column) -> np.ndarray[Any, Any]:
    if isinstance(values, list) and set(map(type, values)) <= {int, float, type(None)}:
        with contextlib.suppress(OverflowError):
            return np.array(values, dtype=np.float64)  # None becomes NaN, everything else what float() makes
    return np.array([_one(feature, value) for value in values], dtype=np.float64)


def _one(feature: Feature, value: Any) -> float:
    boolean = isinstance(value, (bool, np.bool_))
    number = isinstance(value, (int, float, np.integer, np.floating)) and not boolean
    if number or (boolean and feature.kind == "bool"):
        try:
            return float(value)
        except OverflowError:  # a whole number of hundreds of digits
            raise DataError(f"column {feature.name}: a number is too large; use null for unknown") from None
    if _missing(value):
        return np.nan
    raise DataError(
        f"column {feature.name}: must be {_WANTED[feature.kind]}, found {type(value).__name__} {value!r}"
    )


def _missing(value: Any) -> bool:
    """None, NaN, and the missing values of pandas, which this module does not import."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and bool(np.isnan(value))
