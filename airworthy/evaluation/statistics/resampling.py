"""The paired bootstrap: one set of random weights for everything that is resampled.

Whole blocks of rows are drawn with replacement (an hour's flights together, or single rows), both models and
all slices under the same weights, so every difference is paired. A statistic that is a function of sums over
rows (means, rates, costs, counts per bin) then takes one matrix product for all replicates.

More than `GROUPS` blocks (or independent rows) are first dealt at random into that many groups, which are
drawn instead: variances stay unbiased, with a relative error of 1/sqrt(2 * GROUPS), and cost no longer grows
with the number of rows. Sources: Efron & Tibshirani 1993, ch. 6 and 8; for blocks, Künsch 1989 and Cameron,
Gelbach & Miller 2008.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from airworthy.evaluation.statistics.metrics import Floats
from airworthy.evaluation.statistics.significance import Estimate, from_error

GROUPS = 5000
MIN_BLOCKS = 20
"""Fewest blocks from which an interval is made; fewer can't say how much blocks differ."""
_CHUNK = 250
"""Replicates drawn at a time."""
_KEPT = 64 * 2**20
"""Bytes of weights that are kept; beyond that they are drawn again for every use."""


@dataclass(frozen=True)
class Bootstrap:
    """Replicates of a data set of `len(codes)` rows."""

    codes: NDArray[np.int32]
    """Block of each row, 0 to blocks - 1 (after dealing)."""
    blocks: int
    replicates: int
    seed: int
    blocked: bool = False
    """Whether rows come in blocks that belong together; False: rows are independent."""

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
        codes = np.arange(rows) if blocks is None else np.unique(blocks, return_inverse=True)[1]
        count = rows if blocks is None else int(codes.max(initial=-1)) + 1
        if count > GROUPS:
            codes = (np.random.default_rng([seed, 1]).permutation(count) % GROUPS)[codes]
            count = GROUPS
        return cls(codes.astype(np.int32), count, replicates, seed, blocks is not None)

    @cached_property
    def freedom(self) -> float:
        """Degrees of freedom of a standard error taken over the blocks: their number less one, unequal ones
        counting for fewer (Carter, Schnepel & Steigerwald 2017); infinite for independent rows."""
        sizes = np.bincount(self.codes, minlength=self.blocks).astype(float)
        return max(1.0, float(sizes.sum() ** 2 / np.sum(sizes**2)) - 1) if self.blocked else math.inf

    @property
    def enough(self) -> bool:
        """Whether there are enough blocks for an interval."""
        return self.blocks >= MIN_BLOCKS

    def spread(self, *groups: NDArray[np.bool_]) -> bool:
        """Whether rows of every group occur in enough blocks. The errors of a rate or area over a group that
        makes up a few blocks only would look far too small: within them its influences add up to zero."""
        if not self.blocked:
            return True
        return all(len(np.unique(self.codes[rows])) >= MIN_BLOCKS for rows in groups)

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """How often each block is drawn, [replicates, blocks]; rows sum to the number of blocks."""
        return np.concatenate(list(self._drawn()))

    def block_sums(self, values: Floats, rows: NDArray[np.intp] | None = None) -> Floats:
        """Sum per block of a value per row, [blocks]; `rows` says which rows the values belong to (all)."""
        codes = self.codes if rows is None else self.codes[rows]
        return np.asarray(np.bincount(codes, weights=values, minlength=self.blocks), dtype=np.float64)

    def totals(self, sums: NDArray[np.number]) -> Floats:
        """Replicated totals, [replicates, k], of sums per block, [blocks, k]."""
        return np.concatenate([part.astype(np.float64) for part in self.chunked_totals(sums)])

    def chunked_totals(self, sums: NDArray[np.number]) -> Iterator[NDArray[np.float32]]:
        """The same in parts of a few hundred replicates, for k so large that the whole is better not held."""
        single: NDArray[np.float32] = np.asarray(sums, dtype=np.float32)
        if self.replicates * self.blocks * 4 > _KEPT:
            yield from (part @ single for part in self._drawn())
        else:
            for first in range(0, self.replicates, _CHUNK):
                yield self.weights[first : first + _CHUNK] @ single

    def interval(self, value: float, replicated: Floats, level: float) -> Estimate:
        """The interval of a value from its replicates: symmetric, of as many standard errors as the normal
        (for blocks Student's t with `freedom`) says, so that it agrees with its p-values.

        Replicates that are not finite (a class was not drawn) are left out. No interval with fewer than
        `MIN_BLOCKS` blocks, or when over a tenth of the replicates are missing.
        """
        finite = replicated[np.isfinite(replicated)]
        if not self.enough or len(finite) < 0.9 * len(replicated) or not math.isfinite(value):
            return Estimate(value, math.nan, math.nan)
        # The variance of n drawn with replacement is (n - 1) / n of the unbiased one.
        error = float(finite.std(ddof=1)) * math.sqrt(self.blocks / (self.blocks - 1))
        return from_error(value, error, level, self.freedom)

    def error_of_sum(self, values: Floats, rows: NDArray[np.intp] | None = None) -> float:
        """Standard error of the sum of centred values per row (influences), without resampling: from rows
        where they are independent, from the sums of blocks otherwise (cluster-robust, Liang & Zeger 1986).
        NaN with fewer than `MIN_BLOCKS` blocks."""
        parts = self.block_sums(values, rows) if self.blocked else values
        count = self.blocks if self.blocked else len(self.codes)
        if count < (MIN_BLOCKS if self.blocked else 2):
            return math.nan
        return math.sqrt(float(np.sum(parts**2)) * count / (count - 1))

    def _drawn(self) -> Iterator[NDArray[np.float32]]:
        for first in range(0, self.replicates, _CHUNK):
            draw = np.random.default_rng([self.seed, 2, first])
            count = min(_CHUNK, self.replicates - first)
            drawn = draw.multinomial(self.blocks, np.full(self.blocks, 1 / self.blocks), size=count)
            yield drawn.astype(np.float32)
