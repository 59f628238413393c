"""Requests to scores: what both of the server's ways in (its own quick one, and KServe's) have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airworthy.errors import DataError, ServingError
from airworthy.serving.protocol import DATATYPES, Columns, read_v1, read_v2

if TYPE_CHECKING:
    import numpy as np

    from airworthy.bundle import Scorer


_SAME = 1e-6
"""What the order of summation may change."""
_NOTHING: tuple[frozenset[str], bool] = (frozenset(), False)


class UnsoundScoreError(ServingError):
    """The model answered with something that is no probability."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What came of one request.

    Attributes:
        scores: Probabilities, one per row.
        given: The rows as they were sent, either way round.
        unseen: Rows with a category not seen in training, by feature.
    """

    scores: list[float]
    given: Sequence[Mapping[str, Any]] | Columns
    unseen: dict[str, int] = field(default_factory=dict)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """The features by row."""
        if not isinstance(self.given, dict):
            return iter(self.given)
        names = self.given.keys()
        return (dict(zip(names, values, strict=True)) for values in zip(*self.given.values(), strict=True))


class Predictor:
    """Reads V1 and V2 requests strictly and scores them. Safe to share between threads.

    Args:
        scorer: Loaded and verified.
        max_rows: Most rows in one request.
        unseen_category: `missing` scores them as missing and counts them; `reject` refuses them.
        ignored: Inputs that may be sent although this model does not read them.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        max_rows: int = 1000,
        unseen_category: str = "missing",
        ignored: frozenset[str] = frozenset(),
    ) -> None:
        self.scorer = scorer
        self.features = scorer.info.features
        self._max_rows = max_rows
        self._reject_unseen = unseen_category == "reject"
        self._names = frozenset(f.name for f in self.features)
        self._ignored = ignored - self._names
        self._tensors = {
            f.name: (frozenset(DATATYPES[f.kind]), f.kind == "category" and "" not in f.categories)
            for f in self.features
        }

    def v1(self, document: Any) -> Prediction:
        """Scores of a V1 body.

        Raises:
            DataError: The request is wrong: one sentence for the caller (HTTP 400).
            UnsoundScoreError: The model's answer is (HTTP 500).
        """
        if type(document) is dict and len(document) == 1:
            rows = document.get("instances")
            if type(rows) is list and len(rows) == 1 and type(rows[0]) is dict:
                quick = self._one(rows[0])
                if quick is not None:
                    return quick
        columns = read_v1(document, self.features, self._max_rows, self._ignored)
        return self._many(columns, document["instances"])

    def v2(self, request: Any) -> Prediction:
        """Scores of a V2 request: KServe's `InferRequest`, or a `TensorRequest`. Raises what `v1` raises."""
        row = self._row_of(request.inputs)
        quick = self._one(row) if row is not None else None
        if quick is not None:
            return quick
        columns = read_v2(request, self.features, self._max_rows, self._ignored)
        return self._many(columns, columns)

    def self_check(self) -> float:
        """The score of a row whose values are all unknown, asked alone and in company.

        Raises:
            ServingError: It is no probability, or depends on the company: this model can't be served.
        """
        scores: list[float] = []
        try:
            for rows in (1, 2):
                columns: Columns = {feature.name: [None] * rows for feature in self.features}
                scores += self._many(columns, columns).scores
        except UnsoundScoreError as error:
            raise ServingError(f"the model failed its self-check: {error}") from None
        if max(scores) - min(scores) > _SAME:
            raise ServingError(f"the model failed its self-check: equal rows got the scores {scores}")
        return scores[0]

    def _one(self, row: dict[str, Any]) -> Prediction | None:
        """A single row on the quick way; None if the long way must tell what is the matter."""
        if len(row) != len(self._names) and row.keys() - self._ignored != self._names:
            return None
        encoded = self.scorer.encode_row(row)
        if encoded is None:
            return None
        matrix, unseen = encoded
        if unseen and self._reject_unseen:
            return None
        return Prediction(self._scores(matrix), (row,), unseen)

    def _many(self, columns: Columns, given: Sequence[Mapping[str, Any]] | Columns) -> Prediction:
        matrix, unseen = self.scorer.encode(columns)
        if unseen and self._reject_unseen:
            raise DataError(f"feature {next(iter(unseen))!r} has a category that was not seen in training")
        return Prediction(self._scores(matrix), given, unseen)

    def _scores(self, matrix: np.ndarray[Any, Any]) -> list[float]:
        scores: list[float] = self.scorer.score(matrix).tolist()
        for score in scores:
            if not 0.0 <= score <= 1.0:
                raise UnsoundScoreError(f"the model's score is no probability ({score})")
        return scores

    def _row_of(self, inputs: Sequence[Any]) -> dict[str, Any] | None:
        """The row of a V2 request that plainly holds a single one."""
        if len(inputs) != len(self._names):
            return None
        row: dict[str, Any] = {}
        for tensor in inputs:
            allowed, empty_is_unknown = self._tensors.get(tensor.name, _NOTHING)
            data = tensor.data
            if tensor.datatype not in allowed or type(data) is not list or len(data) != 1:
                return None
            if tensor.shape != [1] and tensor.shape != [1, 1]:
                return None
            row[tensor.name] = None if empty_is_unknown and data[0] == "" else data[0]
        return row
