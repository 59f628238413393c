"""How the model does on parts of the rows that the spec names, each against the champion.

With many slices some look worse by chance alone: in simulations of equally good models over 40 slices, "none
may look worse" always rejects. So each slice is tested for being worse than the champion by more than a
margin, and the tests of all slices together are corrected for their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from airworthy.evaluation.statistics import metrics, parts, significance
from airworthy.findings import Number, SliceFinding
from airworthy.verdict import Check, Outcome

if TYPE_CHECKING:
    from airworthy.evaluation.arms import Scored
    from airworthy.evaluation.statistics.metrics import Floats
    from airworthy.evaluation.statistics.parts import Partition
    from airworthy.evaluation.statistics.resampling import Bootstrap
    from airworthy.evaluation.statistics.significance import Estimate
    from airworthy.model_spec import SlicePolicy
    from airworthy.model_spec.gate import OnInconclusive

FAMILY = "slices"


@dataclass(frozen=True)
class _Slice:
    where: str
    column: str
    rows: int
    positives: int
    assessed: bool
    auc: Estimate
    log_loss: Estimate
    excess: float | None
    difference: Estimate | None
    """Of the log loss to the champion's; None without one."""
    p_value: float | None
    """Of the claim that the difference exceeds the margin; None where that can't be tested."""


def assess(
    scored: Scored, columns: Sequence[str], policy: SlicePolicy, boot: Bootstrap, level: float
) -> tuple[list[Check], tuple[SliceFinding, ...]]:
    """Judge the slices that the spec names.

    A slice fails where it is surely worse than the champion: the one-sided p-value of "its mean log loss
    exceeds the champion's by more than the margin", corrected over all slices of all columns, is below the
    policy's level. Where rows come in blocks, errors are taken over blocks. A slice with fewer rows, rows
    of a class, or blocks than can carry that is inconclusive. Passing means not surely worse: how much harm
    could hide is told by the upper end of the interval.

    Args:
        scored: The rows and scores.
        columns: `spec.slices`: column names, or two crossed as `a*b`.
        policy: `spec.gate.slices`.
        boot: Which rows belong together.
        level: Coverage of the intervals.

    Returns:
        Checks: for each column one, `slice_<column>`, and one of the same name for each of its slices that is
        surely worse (`Check.slice` names it); `slice_<column>_small` where policy says that slices too small
        to judge count. And one finding per slice, largest first within a column.
    """
    checks = [_missing(name, scored) for name in columns if _lacking(name, scored)]
    cuts = [parts.partition(name, scored.columns) for name in columns if not _lacking(name, scored)]
    found = list(_measure(scored, cuts, policy, boot, level))
    p_values = {i: s.p_value for i, s in enumerate(found) if s.p_value is not None}
    adjusted = dict(
        zip(p_values, significance.adjust(list(p_values.values()), policy.correction), strict=True)
    )
    findings = tuple(_finding(s, adjusted.get(i), policy) for i, s in enumerate(found))
    for cut in cuts:
        mine = [i for i, s in enumerate(found) if s.column == cut.column]
        checks.append(_column_check(cut, [findings[i] for i in mine], scored, policy))
        for i in mine:
            if findings[i].outcome in ("fail", "warn"):
                checks.append(
                    worse_check(f"slice_{cut.column}", findings[i], p_values[i], len(p_values), policy)
                )
        checks += _small_check(cut.column, [findings[i] for i in mine], policy)
    return checks, findings


def unresolved(policy: OnInconclusive) -> tuple[Outcome, bool]:
    """Outcome and `blocking` of what the rows can't tell."""
    return ("warn" if policy == "warn" else "inconclusive"), policy == "block"


def number(estimate: Estimate | None) -> Number | None:
    """An estimate as it is recorded; None where there is none."""
    if estimate is None or not math.isfinite(estimate.value):
        return None
    return Number(value=estimate.value, interval=estimate.interval)


def worse_check(
    name: str, item: SliceFinding, p_value: float, tests: int, policy: SlicePolicy, of: str = ""
) -> Check:
    """The check of one slice that is surely worse than the champion; `of` says which rows were counted."""
    difference = item.difference
    assert difference is not None  # only a compared slice can be worse
    low, high = difference.interval or (difference.value, difference.value)
    return Check(
        name=name,
        family=FAMILY,
        slice=item.where,
        observed=difference.value,
        threshold=policy.margin,
        interval=difference.interval,
        p_value=p_value,
        p_adjusted=item.p_adjusted,
        rows=item.rows,
        outcome=item.outcome,
        reason=(
            f"Where {item.where} ({item.rows:,} rows{of}), the log loss is {difference.value:.4f} nats above "
            f"the champion's (interval {low:.4f} to {high:.4f}), surely more than the {policy.margin:g} "
            f"tolerated (p {item.p_adjusted or 0:.2g}, corrected for {tests} slice{'s' * (tests != 1)}): "
            "there, today's model predicts better."
        ),
    )


def _lacking(name: str, scored: Scored) -> list[str]:
    return [part for part in name.split("*") if part not in scored.columns]


def _missing(name: str, scored: Scored) -> Check:
    """A column that the dataset lacks is a warning, not silence."""
    lost = _lacking(name, scored)
    said = f"Slice column {lost[0]} is" if len(lost) == 1 else f"Slice columns {' and '.join(lost)} are"
    return Check(
        name=f"slice_{name}",
        family=FAMILY,
        outcome="warn",
        reason=f"{said} not in the test dataset, so {'it' if name in lost else name} was not assessed.",
    )


def _measure(
    scored: Scored, cuts: Sequence[Partition], policy: SlicePolicy, boot: Bootstrap, level: float
) -> Iterator[_Slice]:
    if not cuts:
        return
    labels, blocks = scored.labels, boot.codes if boot.blocked else None
    losses = metrics.log_losses(labels, scored.challenger.scores)
    rival = scored.champion
    differences = None if rival is None else losses - metrics.log_losses(labels, rival.scores)
    order = parts.Order.of(scored.challenger.scores)
    for cut in cuts:
        count = len(cut.names)
        rows = parts.counts(cut.codes, count)
        positives = parts.counts(cut.codes, count, labels == 1)
        auc = parts.aucs(labels, order, cut.codes, count, blocks)
        loss = parts.means(losses, cut.codes, count, blocks)
        compared = None if differences is None else parts.means(differences, cut.codes, count, blocks)
        excess = _excess(loss.value, rows, float(losses.sum()), len(losses))
        fewest = np.minimum(positives, rows - positives)
        enough = (rows >= policy.min_rows) & (fewest >= policy.min_per_class) & np.isfinite(loss.error)
        for i, where in enumerate(cut.names):
            yield _Slice(
                where=where,
                column=cut.column,
                rows=int(rows[i]),
                positives=int(positives[i]),
                assessed=bool(enough[i]),
                auc=auc.at(i, level),
                log_loss=loss.at(i, level),
                excess=excess[i],
                difference=None if compared is None else compared.at(i, level),
                p_value=compared.p_above(i, policy.margin) if compared is not None and enough[i] else None,
            )


def _excess(mean: Floats, rows: NDArray[np.intp], total: float, everything: int) -> list[float | None]:
    """Mean of each part minus the mean of all rows outside it; None where it holds all rows."""
    return [
        None if n == everything else float(m - (total - m * n) / (everything - n))
        for m, n in zip(mean, rows, strict=True)
    ]


def _finding(item: _Slice, adjusted: float | None, policy: SlicePolicy) -> SliceFinding:
    outcome: Outcome = "pass" if item.assessed else "inconclusive"
    if adjusted is not None and adjusted < policy.level:
        outcome = "fail" if policy.on_worse == "block" else "warn"
    return SliceFinding(
        where=item.where,
        column=item.column,
        rows=item.rows,
        positives=item.positives,
        assessed=item.assessed,
        auc=number(item.auc) if item.assessed else None,
        log_loss=number(item.log_loss),
        excess=item.excess,
        difference=number(item.difference),
        p_adjusted=adjusted,
        outcome=outcome,
    )


def _column_check(cut: Partition, found: list[SliceFinding], scored: Scored, policy: SlicePolicy) -> Check:
    """What there is to say about a column as a whole; slices that fail have checks of their own."""
    assessed = [s for s in found if s.assessed]
    worse = [s for s in found if s.outcome in ("fail", "warn")]
    weakest = min((s for s in assessed if s.auc), key=lambda s: s.auc.value if s.auc else 0, default=None)
    outcome: Outcome = "warn" if worse else "pass"
    blocking = True
    said = f"By {cut.column}, {len(assessed)} of {len(found)} values assessed"
    if not assessed:
        outcome, blocking = unresolved(policy.on_inconclusive)
        said = (
            f"By {cut.column}, no value has {policy.min_rows} rows with {policy.min_per_class} of each class"
            f"{' in enough blocks' if scored.blocks is not None else ''}: not assessed"
        )
    elif worse:
        said += f", surely worse than the champion for: {', '.join(s.where for s in worse)}"
    elif scored.champion is not None:
        reach = max(s.difference.interval[1] for s in assessed if s.difference and s.difference.interval)
        said += (
            f", none surely more than {policy.margin:g} nats of log loss worse than the champion (the widest "
            f"interval reaches {reach:+.4f})"
        )
    if weakest is not None and weakest.auc is not None:
        said += f"; lowest AUC {weakest.auc.value:.3f} ({weakest.where})"
    if cut.left_out:
        said += f"; {cut.left_out} rarer values are left out"
    return Check(
        name=f"slice_{cut.column}",
        family=FAMILY,
        observed=weakest.auc.value if weakest is not None and weakest.auc else None,
        rows=sum(s.rows for s in found),
        outcome=outcome,
        blocking=blocking,
        reason=said + ".",
    )


def _small_check(column: str, found: list[SliceFinding], policy: SlicePolicy) -> Iterator[Check]:
    """Slices too small to judge, where others of the column were judged and policy says that they count."""
    small = [s for s in found if not s.assessed]
    if not small or len(small) == len(found) or policy.on_inconclusive == "ignore":
        return
    outcome, blocking = unresolved(policy.on_inconclusive)
    named = ", ".join(f"{s.where} ({s.rows:,})" for s in small[:5]) + (" and more" if len(small) > 5 else "")
    yield Check(
        name=f"slice_{column}_small",
        family=FAMILY,
        observed=float(len(small)),
        rows=sum(s.rows for s in small),
        outcome=outcome,
        blocking=blocking,
        reason=(
            f"By {column}, {len(small)} of {len(found)} values have fewer than {policy.min_rows} rows or "
            f"{policy.min_per_class} of a class, so nobody knows how the model does there: {named}."
        ),
    )
