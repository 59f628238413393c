"""Rows of the prediction log: from requests to columns."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airworthy.errors import ConfigError
from airworthy.serving.prediction_files import FEATURE

if TYPE_CHECKING:
    import pyarrow as pa

    from airworthy.bundle import BundleInfo
    from airworthy.serving.predictor import Prediction

log = logging.getLogger("airworthy.serving")

SALT = "AIRWORTHY_PREDICTION_LOG_SALT"
"""Environment variable: the secret that features are hashed with."""
PORTION = 256
"""Rows that are turned into columns at a time."""


@dataclass(frozen=True)
class LogOptions:
    """Where and what to write.

    Attributes:
        folder: The log; several servers may share it.
        drop: Features that are not written.
        hash: Features of which a salted hash is written (16 hexadecimal digits; null stays null).
        keep_days: Hours older than that are deleted.
        max_bytes: So are the oldest parts beyond that, over all servers.
        flush_seconds: Rows wait at most so long for the disk.
        flush_rows: Or until there are so many.
    """

    folder: Path
    drop: frozenset[str] = frozenset()
    hash: frozenset[str] = frozenset()
    keep_days: float = 90.0
    max_bytes: int = 10 * 1024**3
    flush_seconds: float = 5.0
    flush_rows: int = 5_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One request."""

    identity: str
    at: float
    status: int
    seconds: float
    prediction: Prediction | None
    rows: int
    size: int


class Rows:
    """Entries to tables.

    Args:
        options: What to leave out.
        info: The bundle's: features, threshold.
        served: Model name, version, digest and arm.

    Raises:
        ConfigError: Features are to be hashed, and there is no salt.
    """

    def __init__(self, options: LogOptions, info: BundleInfo, served: tuple[str, str, str, str]) -> None:
        self._served = served
        self._threshold = info.threshold
        names = {feature.name for feature in info.features}
        for name in sorted((options.drop | options.hash) - names):
            log.warning(
                "prediction log: %r is to be dropped or hashed, but this model has no such feature", name
            )
        self._salt = os.environ.get(SALT, "").encode()
        if options.hash & names and not self._salt:
            raise ConfigError(f"features are to be hashed in the prediction log: set {SALT} to a secret")
        self._features = [
            (f.name, "hash" if f.name in options.hash else f.kind)
            for f in info.features
            if f.name not in options.drop
        ]

    def table(self, entries: Sequence[Entry]) -> pa.Table:
        """One row per predicted row."""
        import pyarrow as pa

        schema = self._schema()
        return pa.Table.from_batches([self._batch(portion, schema) for portion in _portions(entries)], schema)

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        text = pa.string()
        types = {
            "number": pa.float64(),
            "integer": pa.int64(),
            "category": text,
            "bool": pa.bool_(),
            "hash": text,
        }
        about = [(name, text) for name in ("model", "model_version", "digest", "arm")]
        return pa.schema(
            [("request_id", text), ("row", pa.int32()), ("at", pa.timestamp("us", tz="UTC")), *about]
            + [
                ("status", pa.int16()),
                ("seconds", pa.float64()),
                ("score", pa.float64()),
                ("decision", pa.bool_()),
            ]
            + [(FEATURE + name, types[kind]) for name, kind in self._features]
        )

    def _batch(self, rows: list[_Row], schema: pa.Schema) -> pa.RecordBatch:
        import pyarrow as pa

        scores = [row.score for row in rows]
        columns = [
            pa.array([row.entry.identity for row in rows]),
            pa.array([row.place for row in rows], pa.int32()),
            pa.array([int(row.entry.at * 1e6) for row in rows], schema.field("at").type),
            *(pa.repeat(about, len(rows)) for about in self._served),
            pa.array([row.entry.status for row in rows], pa.int16()),
            pa.array([row.entry.seconds for row in rows]),
            pa.array(scores, pa.float64()),
            pa.array([None if score is None else score >= self._threshold for score in scores], pa.bool_()),
        ]
        for name, kind in self._features:
            values = [row.given.get(name) for row in rows]
            columns.append(self._column(values, kind, schema.field(FEATURE + name).type))
            time.sleep(0)  # lets a request have the interpreter
        return pa.record_batch(columns, schema=schema)

    def _column(self, values: list[Any], kind: str, wanted: pa.DataType) -> pa.Array:
        import pyarrow as pa

        if kind == "hash":
            values = [None if value is None else self._hashed(value) for value in values]
        try:
            return pa.array(values, wanted, from_pandas=True)
        except (pa.ArrowInvalid, OverflowError):  # a whole number beyond what a double or an int64 holds
            return pa.array([_fitting(value, kind) for value in values], wanted, from_pandas=True)

    def _hashed(self, value: Any) -> str:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 7 and 7.0 are one
        return hmac.new(self._salt, str(value).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[
            :16
        ]


@dataclass(frozen=True, slots=True)
class _Row:
    entry: Entry
    place: int
    score: float | None
    given: Mapping[str, Any]


def _portions(entries: Sequence[Entry]) -> Iterator[list[_Row]]:
    rows = (row for entry in entries for row in _rows_of(entry))
    while portion := list(islice(rows, PORTION)):
        yield portion


def _rows_of(entry: Entry) -> Iterator[_Row]:
    if entry.prediction is None:
        yield _Row(entry, 0, None, {})
        return
    pairs = zip(entry.prediction.scores, entry.prediction.rows(), strict=True)
    for place, (score, given) in enumerate(pairs):
        yield _Row(entry, place, score, given)


def _fitting(value: Any, kind: str) -> Any:
    """The value, or what comes nearest in a column of this kind; None for a whole number beyond 64 bits."""
    if value is None or value != value:
        return None
    if kind == "number":
        return float(value)
    return int(value) if -(2**63) <= value < 2**63 else None
