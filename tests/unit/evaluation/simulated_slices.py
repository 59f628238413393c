"""Scored rows in columns, with known truth about each part: for tests of slices, weak spots and fairness."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from airworthy.evaluation.arms import Groups
from airworthy.evaluation.statistics.metrics import Floats, Labels
from airworthy.evaluation.statistics.resampling import Bootstrap


@dataclass(frozen=True)
class Rows:
    """Rows whose true chance is known; `champion` None stands for a first release."""

    labels: Labels
    challenger: Floats
    champion: Floats | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    """Raw values by column name."""
    blocks: NDArray[np.int32] | None = None
    thresholds: tuple[float, float] = (0.5, 0.5)
    """Challenger's and champion's."""

    @property
    def scored(self) -> Any:
        """What the evaluation's parts read of an `arms.Scored`."""
        table = pa.table({name: pa.array(values) for name, values in self.columns.items()})

        def sample(rows: int, seed: int) -> tuple[pa.Table, NDArray[np.intp]]:
            total = len(self.labels)
            places = np.sort(np.random.default_rng(seed).choice(total, min(rows, total), replace=False))
            return table.take(places), places

        def arm(scores: Floats, threshold: float) -> Any:
            return SimpleNamespace(scores=scores, info=SimpleNamespace(threshold=threshold))

        return SimpleNamespace(
            labels=self.labels,
            challenger=arm(self.challenger, self.thresholds[0]),
            champion=None if self.champion is None else arm(self.champion, self.thresholds[1]),
            columns={name: groups(values) for name, values in self.columns.items()},
            blocks=self.blocks,
            dataset=SimpleNamespace(feature_names=list(self.columns)),
            sample=sample,
        )

    def boot(self, replicates: int = 200, seed: int = 0) -> Bootstrap:
        return Bootstrap.plan(len(self.labels), replicates, seed, self.blocks)


def groups(values: Any) -> Groups:
    column = pa.array(values).cast(pa.string()).dictionary_encode()
    codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    return Groups(codes, tuple(column.dictionary.to_pylist()))


def sigmoid(odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-odds)))


def two_models(
    rows: int,
    seed: int,
    *,
    noise: tuple[float | Floats, float | Floats] = (0.5, 0.5),
    intercept: float | Floats = -1.0,
    blocks: int | None = None,
    columns: dict[str, Any] | None = None,
) -> Rows:
    """Two models of equal calibration that see the truth through noise of their own (challenger, champion).

    With blocks, the rows of a block share the noise.
    """
    draw = np.random.default_rng([seed, 5])
    member = None if blocks is None else draw.integers(0, blocks, rows).astype(np.int32)

    def error() -> Floats:
        if member is None:
            return draw.normal(size=rows)
        return draw.normal(size=int(blocks or 0))[member]

    odds = intercept + draw.normal(size=rows)
    labels = (draw.uniform(size=rows) < sigmoid(odds)).astype(np.int8)
    challenger, champion = (sigmoid(odds + spread * error()) for spread in noise)
    return Rows(labels, challenger, champion, columns or {}, member)
