"""The search for weak spots that nobody named: parts of the rows where scores are worst, or worse than the
champion's.

Every feature is cut into a few parts, alone and crossed with another. One random half of the rows (of the
blocks, where rows come in blocks) says which parts look worst; the other half, which had no say in that,
tells whether it is so. Only then do intervals and p-values mean what they say: the best of thousands of
candidates always looks significant on the rows that chose it.

Related: Chung et al. 2019 (Slice Finder); Cox 1975 (splitting the data to test a hypothesis they suggested).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from airworthy.evaluation.candidates import Candidate, Wanted, members, pick
from airworthy.evaluation.cuts import Cut, cut_columns
from airworthy.evaluation.slices import number, worse_check
from airworthy.evaluation.statistics import metrics, parts, significance
from airworthy.findings import SliceFinding
from airworthy.verdict import Check, Outcome

if TYPE_CHECKING:
    from airworthy.evaluation.arms import Scored
    from airworthy.evaluation.statistics.metrics import Floats
    from airworthy.evaluation.statistics.resampling import Bootstrap
    from airworthy.evaluation.statistics.significance import Estimate
    from airworthy.model_spec import SlicePolicy, SliceSearch

MAX_ROWS = 400_000
"""Rows sampled from the test window: half to search, half to confirm."""
ABSOLUTE, COMPARED = "search", "search against champion"
"""`SliceFinding.column` of the two kinds of weak spots."""


@dataclass(frozen=True)
class _Half:
    """Half of the sampled rows."""

    cuts: Sequence[Cut]
    labels: metrics.Labels
    scores: Floats
    losses: Floats
    differences: Floats | None
    """Of each row's log loss to the champion's."""
    blocks: parts.Blocks

    def of(self, where: NDArray[np.bool_]) -> _Half:
        """Some of the rows."""
        return _Half(
            cuts=[Cut(cut.codes[where], cut.names) for cut in self.cuts],
            labels=self.labels[where],
            scores=self.scores[where],
            losses=self.losses[where],
            differences=None if self.differences is None else self.differences[where],
            blocks=None if self.blocks is None else self.blocks[where],
        )


@dataclass(frozen=True)
class _Spot:
    """A weak spot on the rows of the confirming half."""

    where: str
    rows: int
    positives: int
    auc: Estimate
    log_loss: Estimate
    excess: Estimate
    difference: Estimate | None
    p_value: float
    """Of the claim that the difference exceeds the margin; 1 without a champion."""
    blind: float
    """P-value of the claim that always answering this spot's own share of positives has a lower log loss."""


def search(
    scored: Scored, columns: Sequence[str], policy: SlicePolicy, boot: Bootstrap, level: float
) -> tuple[list[Check], tuple[SliceFinding, ...]]:
    """Search for the worst parts of the rows, and confirm what was found on other rows.

    Two kinds are looked for. Where scores are worst (mean log loss above that of all other rows): such spots
    always exist, as some rows are harder than others, so they inform; a warning when the model is surely
    worse there than always answering the spot's share of positives. And, with a champion, where its log
    loss is surely lower by more than `policy.margin`: such spots fail, by `policy.on_worse`. P-values are
    corrected over the spots of their kind that the search handed over for confirmation.

    Args:
        scored: The rows and scores; raw feature values are read from `scored.path`.
        columns: `spec.slices`; cut by besides the features.
        policy: `spec.gate.slices`; `policy.search` None switches the search off.
        boot: Which rows belong together; its seed draws the halves.
        level: Coverage of the intervals.

    Returns:
        Checks: `weak_spots` (what was found), and one `weak_spot` for each spot worse than the champion
        (`Check.slice` names it). Findings of the confirming half, `column` being `ABSOLUTE` or `COMPARED`.
    """
    plan = policy.search
    if plan is None:
        return [], ()
    searching, confirming, lost = _read(scored, columns, plan, boot)
    checks = [_lost_check(lost)] if lost else []
    total = len(searching.labels) + len(confirming.labels)
    if total < 4 * policy.min_rows or not searching.cuts:
        return [*checks, _nothing_to_search(total, policy)], ()
    need = max(policy.min_rows, math.ceil(plan.min_share * len(searching.labels)))
    wanted = Wanted(need, policy.min_per_class, plan.top, plan.crossings)
    hard = _confirm(
        confirming, pick(searching.cuts, searching.losses, searching.labels, wanted), policy.margin, level
    )
    adjusted = significance.adjust([s.excess.p_above(0.0) for s in hard], policy.correction)
    findings = [
        _finding(s, ABSOLUTE, p, _hard_outcome(s, p, len(hard), policy))
        for s, p in zip(hard, adjusted, strict=True)
    ]
    compared, tests = [], []
    if searching.differences is not None:
        picked = pick(searching.cuts, searching.differences, searching.labels, wanted, policy.margin)
        worse = _confirm(confirming, picked, policy.margin, level)
        tests = [s.p_value for s in worse]
        adjusted = significance.adjust(tests, policy.correction)
        compared = [
            _finding(s, COMPARED, p, _worse_outcome(p, policy)) for s, p in zip(worse, adjusted, strict=True)
        ]
    checks.append(_summary(findings, compared, total, need, policy))
    for found, p in zip(compared, tests, strict=True):
        if found.outcome != "pass":
            checks.append(
                worse_check("weak_spot", found, p, len(tests), policy, " of the half that confirmed it")
            )
    return checks, (*compared, *findings)


def _read(
    scored: Scored, columns: Sequence[str], plan: SliceSearch, boot: Bootstrap
) -> tuple[_Half, _Half, list[str]]:
    """The rows that search, those that confirm, and the columns asked for that the dataset lacks."""
    named = dict.fromkeys(part for name in columns for part in name.split("*"))
    wanted = dict.fromkeys(plan.features or [*scored.dataset.feature_names, *named])
    table, places = scored.sample(MAX_ROWS, boot.seed)
    lost = [name for name in wanted if name not in table.column_names]
    searching = _halves(boot, places)
    labels, scores = scored.labels[places], scored.challenger.scores[places]
    losses = metrics.log_losses(labels, scores)
    rival = scored.champion
    rows = _Half(
        cuts=cut_columns(table, [name for name in wanted if name not in lost], searching),
        labels=labels,
        scores=scores,
        losses=losses,
        differences=None if rival is None else losses - metrics.log_losses(labels, rival.scores[places]),
        blocks=boot.codes[places] if boot.blocked else None,
    )
    return rows.of(searching), rows.of(~searching), lost


def _halves(boot: Bootstrap, places: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which rows search; blocks stay whole, or the halves would not be independent."""
    draw = np.random.default_rng([boot.seed, 3])
    if boot.blocked:
        return (draw.permutation(boot.blocks) % 2 == 0)[boot.codes[places]]
    return draw.permutation(len(places)) % 2 == 0


def _confirm(rows: _Half, picked: Sequence[Candidate], margin: float, level: float) -> list[_Spot]:
    """What the other half says about the candidates."""
    labels, blocks = rows.labels, rows.blocks
    order = parts.Order.of(rows.scores)
    spots = []
    for candidate in picked:
        inside = members(rows.cuts, candidate)
        codes = np.where(inside, 0, 1).astype(np.int16)
        share = float(labels[inside].mean()) if inside.any() else 0.5
        compared = None
        if rows.differences is not None:
            compared = parts.means(rows.differences, codes, 1, blocks)
        spots.append(
            _Spot(
                where=" and ".join(rows.cuts[cut].names[part] for cut, part in candidate.where),
                rows=int(inside.sum()),
                positives=int(labels[inside].sum()),
                auc=parts.aucs(labels, order, codes, 1, blocks).at(0, level),
                log_loss=parts.means(rows.losses, codes, 1, blocks).at(0, level),
                excess=parts.contrast(rows.losses, inside, blocks, level),
                difference=None if compared is None else compared.at(0, level),
                p_value=1.0 if compared is None else compared.p_above(0, margin),
                blind=parts.means(rows.losses - _ignorant(labels, share), codes, 1, blocks).p_above(0, 0.0),
            )
        )
    return spots


def _ignorant(labels: metrics.Labels, share: float) -> Floats:
    """Log losses of always answering `share`."""
    return metrics.log_losses(labels, np.full(len(labels), share))


def _hard_outcome(spot: _Spot, adjusted: float, spots: int, policy: SlicePolicy) -> Outcome:
    """A warning where always answering the spot's own share of positives would be better."""
    return "warn" if max(adjusted, spots * spot.blind) < policy.level else "pass"


def _worse_outcome(adjusted: float, policy: SlicePolicy) -> Outcome:
    if adjusted >= policy.level:
        return "pass"
    return "fail" if policy.on_worse == "block" else "warn"


def _finding(spot: _Spot, kind: str, adjusted: float, outcome: Outcome) -> SliceFinding:
    return SliceFinding(
        where=spot.where,
        column=kind,
        rows=spot.rows,
        positives=spot.positives,
        assessed=True,
        auc=number(spot.auc),
        log_loss=number(spot.log_loss),
        excess=spot.excess.value if math.isfinite(spot.excess.value) else None,
        difference=number(spot.difference),
        p_adjusted=adjusted,
        outcome=outcome,
    )


def _summary(
    hard: Sequence[SliceFinding], compared: Sequence[SliceFinding], rows: int, need: int, policy: SlicePolicy
) -> Check:
    """What the search found, in a sentence."""
    confirmed = [s for s in hard if (s.p_adjusted or 0.0) < policy.level]
    unskilled = [s for s in confirmed if s.outcome == "warn"]
    worse = [s for s in compared if s.outcome != "pass"]
    said = f"Searched {rows:,} rows: "
    if confirmed:
        worst = max(confirmed, key=lambda s: s.excess or 0.0)
        said += f"scores are worst where {worst.where} (log loss {worst.excess or 0:+.3f} to all other rows)"
    else:
        said += f"no part with {need:,} rows in the searching half is surely harder than the rest"
    if unskilled:
        said += f"; worse than always answering the share of positives where {_listed(unskilled)}"
    if worse:
        said += f"; surely worse than the champion where {_listed(worse)}"
    return Check(
        name="weak_spots",
        family="slices",
        observed=max((s.excess or 0.0 for s in confirmed), default=None),
        rows=rows,
        outcome="warn" if unskilled or worse else "pass",
        reason=said + ".",
    )


def _listed(spots: Sequence[SliceFinding]) -> str:
    return ", or where ".join(spot.where for spot in spots)


def _nothing_to_search(rows: int, policy: SlicePolicy) -> Check:
    return Check(
        name="weak_spots",
        family="slices",
        rows=rows,
        outcome="inconclusive",
        blocking=False,
        reason=(
            f"No search for weak spots: it takes {4 * policy.min_rows:,} rows (there are {rows:,}) and a "
            "column with more than one value."
        ),
    )


def _lost_check(lost: Sequence[str]) -> Check:
    return Check(
        name="weak_spots_columns",
        family="slices",
        outcome="warn",
        reason=f"Not in the test dataset, so not searched for weak spots: {', '.join(lost)}.",
    )
