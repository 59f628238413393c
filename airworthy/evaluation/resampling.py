"""The paired bootstrap: one set of random weights for everything that is resampled.

Whole blocks of rows are drawn with replacement (an hour's flights together, or single rows), both models and
all slices under the same weights, so every difference is paired. A statistic that is a function of sums over
rows (means, rates, costs, counts per bin) then takes one matrix product for all replicates.

Independent rows beyond `GROUPS` are first dealt at random into that many equal groups, which are drawn
instead: variances stay unbiased, with a relative error of 1/sqrt(2 * GROUPS), and cost no longer grows with
the number of rows. Sources: Efron & Tibshirani 1993, ch. 6 and 8; for blocks, Künsch 1989 and Cameron, Gelbach
& Miller 2008.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from airworthy.evaluation.metrics import Floats

GROUPS = 5000


@dataclass(frozen=True)
class Bootstrap:
    """Replicates of a data set of `len(codes)` rows."""

    codes: NDArray[np.int32]
    """Block of each row, 0 to blocks - 1."""
    blocks: int
    replicates: int
    seed: int

    @classmethod
    def plan(
        cls, rows: int, replicates: int, seed: int, blocks: NDArray[np.int32] | None = None
    ) -> Bootstrap:
        """Make a plan.

        Args:
            rows: Number of rows.
            replicates: Number of replicates.
            seed: Equal seeds give equal weights.
            blocks: Block of each row, any codes; None for independent rows.
        """
        if blocks is not None:
            _, codes = np.unique(blocks, return_inverse=True)
            return cls(codes.astype(np.int32), int(codes.max()) + 1, replicates, seed)
        if rows <= GROUPS:
            return cls(np.arange(rows, dtype=np.int32), rows, replicates, seed)
        dealt = np.random.default_rng([seed, 1]).permutation(rows) % GROUPS
        return cls(dealt.astype(np.int32), GROUPS, replicates, seed)

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """How often each block is drawn, [replicates, blocks]; rows sum to the number of blocks."""
        drawn = np.random.default_rng([self.seed, 2]).multinomial(
            self.blocks, np.full(self.blocks, 1 / self.blocks), size=self.replicates
        )
        return drawn.astype(np.float32)

    def block_sums(self, values: Floats, rows: NDArray[np.intp] | None = None) -> Floats:
        """Sum per block of a value per row, [blocks]; `rows` says which rows the values belong to (all)."""
        codes = self.codes if rows is None else self.codes[rows]
        return np.asarray(np.bincount(codes, weights=values, minlength=self.blocks), dtype=np.float64)

    def totals(self, sums: Floats) -> Floats:
        """Replicated totals, [replicates, k], of sums per block, [blocks, k]."""
        return (self.weights @ np.asarray(sums, dtype=np.float32)).astype(np.float64)
