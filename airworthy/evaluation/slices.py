"""How the model does on parts of the rows: reported for people, a warning at most.

With many slices some look worse by chance alone: in simulations of equally good models over 40 slices,
"none may look worse" always rejects. So differences to the champion are tested on paired losses and
corrected for their number (Holm), and slices too small to judge say so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from airworthy.evaluation import metrics, significance
from airworthy.verdict import Check

if TYPE_CHECKING:
    from airworthy.evaluation.arms import Groups, Scored

MIN_ROWS = 200
MIN_PER_CLASS = 20
MAX_VALUES = 50
"""Values of one column that are assessed, the most frequent first."""
MISSING = "(missing)"


@dataclass(frozen=True)
class Slice:
    """One value of one slice column. Numbers are None where the slice is too small to say."""

    column: str
    value: str
    rows: int
    positives: int
    auc: float | None
    log_loss: float
    champion_log_loss: float | None = None
    p_value: float | None = None
    """Paired test of the two log losses, corrected for all slices (Holm)."""
    assessed: bool = False

    @property
    def worse(self) -> bool:
        """Surely worse than the champion (at 5 % over all slices together)."""
        return (
            self.p_value is not None
            and self.p_value < 0.05
            and self.champion_log_loss is not None
            and self.log_loss > self.champion_log_loss
        )


def slice_table(scored: Scored) -> list[Slice]:
    """Every slice of every column, largest first within a column."""
    losses = metrics.log_losses(scored.labels, scored.challenger.scores)
    rival = scored.champion
    rival_losses = None if rival is None else metrics.log_losses(scored.labels, rival.scores)
    found: list[Slice] = []
    for column, groups in scored.columns.items():
        for value, rows in _members(groups):
            labels = scored.labels[rows]
            positives = int(labels.sum())
            enough = len(rows) >= MIN_ROWS and MIN_PER_CLASS <= positives <= len(rows) - MIN_PER_CLASS
            item = Slice(
                column=column,
                value=value,
                rows=len(rows),
                positives=positives,
                auc=metrics.auc(labels, scored.challenger.scores[rows]) if enough else None,
                log_loss=float(losses[rows].mean()),
                assessed=enough,
            )
            if rival_losses is not None:
                p = significance.mean_difference(rival_losses[rows], losses[rows]).p_value if enough else None
                item = replace(item, champion_log_loss=float(rival_losses[rows].mean()), p_value=p)
            found.append(item)
    return _corrected(found)


def slice_checks(scored: Scored, table: list[Slice]) -> Iterator[Check]:
    """One check per slice column; a column the dataset lacks is a warning, not silence."""
    for column in scored.missing_columns:
        yield Check(
            name=f"slice_{column}",
            family="slices",
            outcome="warn",
            reason=f"Slice column {column} is not in the test dataset, so it was not assessed.",
        )
    for column in scored.columns:
        rows = [s for s in table if s.column == column]
        assessed = [s for s in rows if s.assessed]
        worse = [s for s in assessed if s.worse]
        aucs = [s.auc for s in assessed if s.auc is not None and math.isfinite(s.auc)]
        if worse:
            names = ", ".join(s.value for s in worse)
            reason = f"By {column}, the log loss is surely higher than the champion's for: {names}."
        elif assessed:
            reason = (
                f"By {column}, {len(assessed)} of {len(rows)} values assessed; lowest AUC {min(aucs):.3f}."
            )
        else:
            reason = (
                f"By {column}, no value has {MIN_ROWS} rows with {MIN_PER_CLASS} of each class: not assessed."
            )
        yield Check(
            name=f"slice_{column}",
            family="slices",
            observed=min(aucs) if aucs else None,
            outcome="pass" if assessed and not worse else "warn",
            reason=reason,
        )


def _members(groups: Groups) -> Iterator[tuple[str, np.ndarray[tuple[int], np.dtype[np.intp]]]]:
    order = np.argsort(groups.codes, kind="stable")
    codes, starts = np.unique(groups.codes[order], return_index=True)
    parts = sorted(zip(codes, np.split(order, starts[1:]), strict=True), key=lambda p: (-len(p[1]), p[0]))
    for code, rows in parts[:MAX_VALUES]:
        yield (MISSING if code < 0 else groups.names[code]), rows


def _corrected(table: list[Slice]) -> list[Slice]:
    tested = [i for i, s in enumerate(table) if s.p_value is not None]
    adjusted = significance.holm([float(table[i].p_value or 0.0) for i in tested])
    table = list(table)
    for index, p in zip(tested, adjusted, strict=True):
        table[index] = replace(table[index], p_value=p)
    return table
