"""Differences between the groups of protected columns, against limits that the spec sets.

Point values come from fairlearn. It is given the confusion counts of each group as weighted rows, which is
the same to it as all rows one by one. Intervals: `airworthy.evaluation.group_gaps`.

A limit is broken when the interval lies wholly above it, kept when it lies wholly at or below it, and
otherwise the rows can't tell: `on_inconclusive` of the policy says what that means. So a model that breaks a
limit passes as kept, or one that keeps it fails, in at most (1 - level) / 2 of all cases each. Where several
limits are set, failing is corrected over all of them (Holm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from airworthy.evaluation.group_gaps import Counts, Gap, Groups, Rate, block_sums
from airworthy.evaluation.slices import unresolved
from airworthy.evaluation.statistics import parts, significance
from airworthy.findings import FairnessFinding, Group, Number
from airworthy.verdict import Check, Outcome

if TYPE_CHECKING:
    from airworthy.evaluation.arms import Scored
    from airworthy.evaluation.statistics.resampling import Bootstrap
    from airworthy.model_spec import Fairness

FAMILY = "fairness"


@dataclass(frozen=True)
class _Respect:
    """One respect in which groups are compared."""

    name: str
    title: str
    rates: tuple[Rate, ...]

    def limit(self, policy: Fairness) -> float | None:
        return {
            "selection_rate": policy.max_selection_rate_difference,
            "equalized_odds": policy.max_equalized_odds_difference,
            "calibration": policy.max_calibration_difference,
        }[self.name]


RESPECTS = (
    _Respect("selection_rate", "the share that is flagged", ("selection_rate",)),
    _Respect("equalized_odds", "true or false positive rate", ("true_positive_rate", "false_positive_rate")),
    _Respect("calibration", "mean score minus share of positives", ("calibration",)),
)


@dataclass(frozen=True)
class _Difference:
    column: str
    respect: _Respect
    gap: Gap
    value: float
    champion: float | None
    rows: int
    extremes: tuple[str, str]
    """Groups with the lowest and the highest rate."""


def assess(
    scored: Scored, policy: Fairness, boot: Bootstrap, level: float
) -> tuple[list[Check], tuple[FairnessFinding, ...]]:
    """Compare the groups of every protected column.

    Args:
        scored: The rows and scores; decisions are taken at each bundle's own threshold.
        policy: `spec.gate.fairness`.
        boot: The replicates, and which rows belong together.
        level: Coverage of the intervals; see the module for the rule behind each outcome.

    Returns:
        Checks `fairness_<column>_<selection_rate | equalized_odds | calibration>` (one `fairness_<column>`
        where there is nothing to compare), and a finding per column that the dataset has.
    """
    checks, findings, differences = [], [], []
    for column in policy.columns:
        if column not in scored.columns:
            checks.append(_unable(column, f"{column} is not in the test dataset", policy))
            continue
        finding, found = _column(column, scored, policy, boot, level)
        findings.append(finding)
        differences += found
        if not found:
            more = f" and {len(finding.left_out) - 5} more" if len(finding.left_out) > 5 else ""
            left = f" (too small: {', '.join(finding.left_out[:5])}{more})" if finding.left_out else ""
            why = f"fewer than two groups of {column} have {policy.min_rows} rows in enough blocks{left}"
            checks.append(_unable(column, why, policy))
    limited = [i for i, d in enumerate(differences) if d.gap.p_value is not None]
    p_values = significance.holm([differences[i].gap.p_value or 0.0 for i in limited])
    adjusted = dict(zip(limited, p_values, strict=True))
    checks += [_check(d, adjusted.get(i), policy, level) for i, d in enumerate(differences)]
    return checks, tuple(findings)


def _column(
    column: str, scored: Scored, policy: Fairness, boot: Bootstrap, level: float
) -> tuple[FairnessFinding, list[_Difference]]:
    names, codes, left_out = _large_groups(column, scored, policy.min_rows)
    if not names:
        return FairnessFinding(column=column, groups=(), left_out=left_out, differences={}), []
    labels, ours, rival = scored.labels, scored.challenger, scored.champion
    groups = Groups.of(labels, ours.scores, ours.info.threshold, codes, len(names), boot)
    theirs = None
    if rival is not None:
        sums = block_sums(labels, rival.scores, rival.info.threshold, codes, len(names), boot)
        theirs = Counts.split(sums.sum(axis=0))
    found = []
    for respect in RESPECTS:
        gap = groups.gap(respect.rates, respect.limit(policy), level)
        if gap is None:
            continue
        found.append(
            _Difference(
                column=column,
                respect=respect,
                gap=gap,
                value=largest_difference(respect.name, groups.counts, gap.groups),
                champion=None if theirs is None else largest_difference(respect.name, theirs, gap.groups),
                rows=int(groups.counts.rows[gap.groups].sum()),
                extremes=(names[gap.lowest], names[gap.highest]),
            )
        )
    finding = FairnessFinding(
        column=column,
        groups=tuple(_group(name, i, groups, level) for i, name in enumerate(names)),
        left_out=left_out,
        differences={d.respect.name: Number(value=d.value, interval=d.gap.interval) for d in found},
    )
    return finding, found


def _large_groups(
    column: str, scored: Scored, min_rows: int
) -> tuple[list[str], parts.Codes, tuple[str, ...]]:
    """Names of the groups that are large enough, each row's place in them, and what is left out."""
    cut = parts.partition(column, scored.columns)
    sizes = parts.counts(cut.codes, len(cut.names))
    values = [name.removeprefix(f"{column} = ") for name in cut.names]
    kept = np.flatnonzero(sizes >= min_rows)
    left = [f"{values[i]} ({sizes[i]:,} rows)" for i in np.flatnonzero(sizes < min_rows)]
    if cut.left_out:
        left.append(f"{cut.left_out} rarer values")
    place = np.full(len(values) + 1, len(kept), dtype=np.int16)
    place[kept] = np.arange(len(kept))
    return [values[i] for i in kept], place[cut.codes], tuple(left)


def largest_difference(name: str, counts: Counts, groups: NDArray[np.intp]) -> float:
    """The largest difference between these groups in one respect; by fairlearn where it knows it."""
    if name == "calibration":
        return float(np.ptp(counts.rate("calibration")[groups]))
    from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

    hits, flagged, positives, rows = (
        field[groups] for field in (counts.hits, counts.flagged, counts.positives, counts.rows)
    )
    weights = np.concatenate([hits, positives - hits, flagged - hits, rows - positives - flagged + hits])
    seen = weights > 0
    metric = demographic_parity_difference if name == "selection_rate" else equalized_odds_difference
    return float(
        metric(
            np.repeat([1, 1, 0, 0], len(groups))[seen],
            np.repeat([1, 0, 1, 0], len(groups))[seen],
            sensitive_features=np.tile(np.arange(len(groups)), 4)[seen],
            sample_weight=weights[seen],
        )
    )


def _group(name: str, place: int, groups: Groups, level: float) -> Group:
    def number(rate: Rate) -> Number:
        value = float(groups.counts.rate(rate)[place])
        return Number(value=value, interval=groups.interval(rate, place, level))

    def where_known(rate: Rate) -> Number | None:
        return number(rate) if place in groups.comparable([rate]) else None

    return Group(
        value=name,
        rows=int(groups.counts.rows[place]),
        positives=int(groups.counts.positives[place]),
        selection_rate=number("selection_rate"),
        true_positive_rate=where_known("true_positive_rate"),
        false_positive_rate=where_known("false_positive_rate"),
        calibration=number("calibration"),
    )


def _check(item: _Difference, adjusted: float | None, policy: Fairness, level: float) -> Check:
    (low, high), limit = item.gap.interval, item.respect.limit(policy)
    outcome: Outcome = "pass"
    blocking = True
    if limit is None:
        rest = "no limit set"
    elif adjusted is not None and adjusted < (1 - level) / 2:
        outcome, rest = "fail", f"surely more than the limit {limit:g}"
    elif high <= limit:
        rest = f"surely within the limit {limit:g}"
    else:
        outcome, blocking = unresolved(policy.on_inconclusive)
        side = "within" if item.value <= limit else "above"
        rest = f"{side} the limit {limit:g}, but these rows can't tell for sure"
    return Check(
        name=f"fairness_{item.column}_{item.respect.name}",
        family=FAMILY,
        observed=item.value,
        threshold=limit,
        interval=item.gap.interval,
        p_value=item.gap.p_value,
        p_adjusted=adjusted,
        rows=item.rows,
        outcome=outcome,
        blocking=blocking,
        reason=(
            f"By {item.column}, groups differ by up to {item.value:.4f} in {item.respect.title} (interval "
            f"{low:.4f} to {high:.4f}, lowest {item.extremes[0]}, highest {item.extremes[1]}"
            f"{_beside(item.champion)}): {rest}."
        ),
    )


def _beside(champion: float | None) -> str:
    return "" if champion is None else f"; the champion's groups by {champion:.4f}"


def _unable(column: str, why: str, policy: Fairness) -> Check:
    outcome, blocking = unresolved(policy.on_inconclusive)
    return Check(
        name=f"fairness_{column}",
        family=FAMILY,
        outcome=outcome,
        blocking=blocking,
        reason=f"Groups can't be compared: {why}.",
    )
