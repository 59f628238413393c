"""Which parts of the rows look worst: the searching half of `airworthy.evaluation.weak_spots`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from airworthy.evaluation.statistics.metrics import Floats, Labels

if TYPE_CHECKING:
    from airworthy.evaluation.cuts import Cut

MAX_CROSSED = 30
"""Columns that are crossed, those that tell most alone."""
SURE = 2.0
"""Standard errors taken off a candidate's excess before candidates are ranked: large and unsure loses against
smaller and sure."""
IMPROVES = 1.25
"""How many times as bad as both its parts alone a crossing must look to be worth naming."""
OVERLAP = 0.8
"""Share of a candidate's rows inside spots already taken from which on it says nothing new."""
_TRIED = 2000
"""Candidates looked at, best first, before giving up on filling the list."""


@dataclass(frozen=True)
class Candidate:
    """One part of a cut (of two cuts); `bound` is what it surely exceeds the rest by."""

    bound: float
    where: tuple[tuple[int, int], ...]
    """Cuts by index, each with its part."""


@dataclass(frozen=True)
class Wanted:
    """What counts as a part worth naming."""

    rows: int
    """Fewest rows."""
    per_class: int
    """Fewest rows of each class."""
    top: int
    """How many parts at most."""
    crossings: bool
    """Whether two columns at once are looked at."""


def pick(
    cuts: Sequence[Cut], values: Floats, labels: Labels, wanted: Wanted, margin: float | None = None
) -> list[Candidate]:
    """The worst parts, no two of them about the same rows.

    Args:
        cuts: The rows cut by one column each.
        values: Per row: what is worse when it is higher.
        labels: 0 or 1 per row.
        wanted: What counts as a part worth naming.
        margin: Only parts whose mean exceeds it; None: that of all other rows.
    """
    covered = np.zeros(len(values), dtype=bool)
    taken: list[Candidate] = []
    for candidate in _candidates(cuts, values, wanted, margin)[:_TRIED]:
        inside = members(cuts, candidate)
        positives = int(labels[inside].sum())
        fresh = inside & ~covered
        new = int(fresh.sum())
        rows = int(inside.sum())
        if min(positives, rows - positives) < wanted.per_class or new < (1 - OVERLAP) * rows:
            continue
        if covered.any() and not _stands_alone(values, fresh, margin):
            continue
        covered |= inside
        taken.append(candidate)
        if len(taken) == wanted.top:
            break
    return taken


def _candidates(cuts: Sequence[Cut], values: Floats, wanted: Wanted, margin: float | None) -> list[Candidate]:
    """Parts that surely exceed the rest (the margin), best first. A crossing must exceed both its parts."""
    squares = values**2
    singles = [_Cells.of(cut.codes, len(cut.names), values, squares) for cut in cuts]
    found = []
    for i, cells in enumerate(singles):
        for part, bound in cells.above(wanted.rows, margin):
            found.append(Candidate(bound, ((i, part),)))
    strongest = sorted(range(len(cuts)), key=lambda i: -singles[i].signal(wanted.rows))[:MAX_CROSSED]
    for a, b in itertools.combinations(sorted(strongest), 2) if wanted.crossings else ():
        width = len(cuts[b].names)
        both = cuts[a].codes.astype(np.int32) * width + cuts[b].codes
        cells = _Cells.of(both, len(cuts[a].names) * width, values, squares)
        for cell, bound in cells.above(wanted.rows, margin):
            p, q = divmod(cell, width)
            parent = max(singles[a].badness(margin)[p], singles[b].badness(margin)[q])
            badness = cells.badness(margin)[cell]
            if badness - SURE * cells.error[cell] > parent and badness > IMPROVES * parent:
                found.append(Candidate(bound, ((a, p), (b, q))))
    return sorted(found, key=lambda c: (-c.bound, c.where))


@dataclass(frozen=True)
class _Cells:
    """Rows, mean and standard error of every part, and how far each mean lies above that of all other rows.

    Errors take rows as independent: they only rank. What is reported is tested on the other half.
    """

    rows: Floats
    mean: Floats
    error: Floats
    excess: Floats

    @classmethod
    def of(cls, codes: NDArray[np.signedinteger], count: int, values: Floats, squares: Floats) -> _Cells:
        rows = np.bincount(codes, minlength=count).astype(float)
        sums, square_sums = (np.bincount(codes, weights=v, minlength=count) for v in (values, squares))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = sums / rows
            error = np.sqrt(np.maximum(square_sums / rows - mean**2, 0) / rows)
            excess = mean - (values.sum() - sums) / (len(values) - rows)
        return cls(rows, mean, error, excess)

    def badness(self, margin: float | None) -> Floats:
        """What counts: the excess over the other rows, or with a margin the mean itself."""
        return self.excess if margin is None else self.mean

    def above(self, need: int, margin: float | None) -> list[tuple[int, float]]:
        """Parts of at least `need` rows, with what they surely exceed the margin (the other rows) by."""
        bound = self.badness(margin) - (margin or 0.0) - SURE * self.error
        with np.errstate(invalid="ignore"):
            fits = np.flatnonzero((self.rows >= need) & (bound > 0) & np.isfinite(self.excess))
        return [(int(i), float(bound[i])) for i in fits]

    def signal(self, need: int) -> float:
        """How much the column tells alone: the largest excess in standard errors."""
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.abs(self.excess) / self.error
        return float(np.max(z, where=(self.rows >= need) & np.isfinite(z), initial=0.0))


def members(cuts: Sequence[Cut], candidate: Candidate) -> NDArray[np.bool_]:
    """Which rows are in a part."""
    inside = [cuts[cut].codes == part for cut, part in candidate.where]
    return inside[0] & inside[1] if len(inside) > 1 else inside[0]


def _stands_alone(values: Floats, fresh: NDArray[np.bool_], margin: float | None) -> bool:
    """Whether the rows that no spot taken before holds are bad by themselves."""
    own = values[fresh]
    if len(own) < 2:
        return False
    limit = float(values[~fresh].mean()) if margin is None else margin
    return float(own.mean()) - SURE * float(own.std()) / math.sqrt(len(own)) > limit
