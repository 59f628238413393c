"""What the scores are made of, by XGBoost's own contributions on a sample, against the champion's.

Contributions are SHAP values in log odds. A feature's importance is its share of all mean absolute
contributions; the sampling error of a share comes from a bootstrap over the sampled rows (or their blocks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from airworthy.evaluation.arms import threads
from airworthy.evaluation.leakage import ROWS, leakage_check, single_feature_aucs
from airworthy.evaluation.sampled import LEVEL, Sampled, known
from airworthy.evaluation.statistics.metrics import Floats, midranks
from airworthy.evaluation.statistics.resampling import Bootstrap
from airworthy.evaluation.statistics.significance import Estimate
from airworthy.findings import Attribution, Explained, Number, SliceAttribution
from airworthy.verdict import Check, Outcome

if TYPE_CHECKING:
    from airworthy.bundle import Scorer
    from airworthy.evaluation.arms import Scored
    from airworthy.model_spec import Explanations

Places = np.ndarray[Any, np.dtype[np.intp]]

REPLICATES = 1000
ADDITIVITY = 0.01
"""How far, in log odds, contributions may miss the score that they explain: a conversion to ONNX may move a
score by 1e-6, which at a score of 0.0001 is that much."""
SLICES = 12
"""Largest slices that are explained."""
SLICE_ROWS = 30
"""Fewest sampled rows of such a slice."""
SLICE_FEATURES = 5


@dataclass(frozen=True)
class _Parts:
    """One model's contributions to the scores of the sampled rows."""

    names: tuple[str, ...]
    values: Floats
    """[rows, features], log odds."""
    error: float
    """Largest miss of a score, in log odds."""
    shares: Floats
    """Each feature's share of all mean absolute contributions, [features]."""
    replicated: Floats
    """The same of every replicate, [replicates, features]; equally drawn for both models."""

    def of(self, name: str) -> Floats:
        """Contributions of one feature, [rows]."""
        return np.asarray(self.values[:, self.names.index(name)])

    def share(self, name: str) -> tuple[float, Floats]:
        """A feature's share, and that of every replicate; 0 for a feature that the model lacks."""
        if name not in self.names:
            return 0.0, np.zeros(len(self.replicated))
        j = self.names.index(name)
        return float(self.shares[j]), np.asarray(self.replicated[:, j])


def explain(
    scored: Scored,
    policy: Explanations,
    slices: Sequence[tuple[str, Places]] = (),
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[list[Check], Explained]:
    """Explain the challenger's scores and look for leaks.

    Args:
        scored: The test window; rows are sampled from it, so that cost does not grow with it.
        policy: `gate.explanations` of the spec.
        slices: What to call a slice, and the places of its rows in the test window; the largest are compared
            with the champion.
        seed: Equal seeds give equal findings.
        level: Coverage of the intervals.

    Returns:
        Checks of the family `explanations`, and the explanation.
    """
    large = Sampled.of(scored, max(policy.rows, ROWS), seed)
    chosen = np.random.default_rng([seed, 6]).permutation(len(large))[: policy.rows]
    sample = large.take(np.sort(chosen))
    boot = sample.plan(REPLICATES, seed)
    ours = _contributions(scored.challenger.scorer, sample, boot)
    theirs = None if scored.champion is None else _contributions(scored.champion.scorer, sample, boot)
    aucs = single_feature_aucs(large, list(scored.challenger.info.features), seed, level)
    checks = [_additivity_check(ours, len(sample)), leakage_check(large, aucs, policy)]
    if theirs is not None:
        checks.append(_jump_check(ours, theirs, boot, policy, level))
    attributions = [
        Attribution(
            feature=feature.name,
            share=_share(ours, feature.name, boot, level),
            champion_share=theirs.share(feature.name)[0] if theirs and feature.name in theirs.names else None,
            direction=None if feature.kind == "category" else _direction(sample, ours, feature.name),
            auc_alone=known(aucs[feature.name].value),
        )
        for feature in scored.challenger.info.features
    ]
    return checks, Explained(
        rows=len(sample),
        attributions=tuple(sorted(attributions, key=lambda one: (-one.share.value, one.feature))),
        slices=() if theirs is None else _slices(ours, theirs, sample, slices, len(scored.labels)),
        additivity_error=ours.error,
    )


def _contributions(scorer: Scorer, sample: Sampled, boot: Bootstrap) -> _Parts:
    matrix = sample.matrix(scorer)
    found = scorer.contributions(matrix, threads()).astype(np.float64)
    scores = scorer.score(matrix)
    explained = 1 / (1 + np.exp(-found.sum(axis=1)))
    # In log odds by the slope there. Close to 0 and 1 a float32 score has no exact log odds any more.
    miss = np.abs(explained - scores) / np.maximum(scores * (1 - scores), 1e-4)
    size = np.abs(found[:, :-1])
    totals = boot.totals(np.stack([boot.block_sums(column) for column in size.T], axis=1))
    return _Parts(
        names=tuple(f.name for f in scorer.info.features),
        values=found[:, :-1],
        error=float(miss.max(initial=0.0)),
        shares=_normed(size.sum(axis=0)),
        replicated=_normed(totals),
    )


def _normed(totals: Floats) -> Floats:
    """Shares of the last axis; of nothing at all (a model that says the same of every row), nothing."""
    whole = totals.sum(axis=-1, keepdims=True)
    return np.divide(totals, whole, out=np.zeros_like(totals), where=whole > 0)


def _share(parts: _Parts, name: str, boot: Bootstrap, level: float) -> Number:
    """A feature's share with its sampling error."""
    estimate = boot.interval(*parts.share(name), level)
    span = estimate.interval
    return Number(value=estimate.value, interval=span and (max(0.0, span[0]), min(1.0, span[1])))


def _direction(sample: Sampled, ours: _Parts, name: str) -> float | None:
    """Spearman's correlation of a number's value with its contribution; None where either never changes."""
    there = sample.present(name)
    value = midranks(sample.columns[name][there].astype(np.float64))
    effect = midranks(ours.of(name)[there])
    if len(value) < 3 or np.ptp(value) == 0 or np.ptp(effect) == 0:
        return None
    return float(np.corrcoef(value, effect)[0, 1])


def _jump_check(ours: _Parts, theirs: _Parts, boot: Bootstrap, policy: Explanations, level: float) -> Check:
    """Alarm where a feature's share rose by surely more than the limit; one the champion lacks rose from 0."""
    limit, rises = policy.max_importance_jump, {}
    for name in ours.names:
        (now, drawn), (before, drawn_before) = ours.share(name), theirs.share(name)
        rises[name] = boot.interval(now - before, drawn - drawn_before, level)
    top = max(rises, key=lambda name: rises[name].value)
    estimate = rises[top]
    new = "" if top in theirs.names else ", which the champion does not have"
    outcome, end = _jumped(estimate, limit, policy)
    span = f"{estimate.low:+.1%} to {estimate.high:+.1%}" if estimate.interval else "too few blocks for one"
    return Check(
        name="importance_jump",
        family="explanations",
        observed=estimate.value,
        threshold=limit,
        interval=estimate.interval,
        rows=len(ours.values),
        outcome=outcome,
        blocking=outcome != "inconclusive",
        reason=f"The share of all contributions that rose most is that of {top}{new}, by {estimate.value:+.1%} "
        f"({level:.0%} interval {span}); {end}.",
    )


def _jumped(estimate: Estimate, limit: float | None, policy: Explanations) -> tuple[Outcome, str]:
    """What a rise means, and how the sentence about it ends; without an interval the rise itself counts."""
    if limit is None:
        return "pass", "no limit is set, so this is reported only"
    if estimate.value <= limit:
        return "pass", f"the limit {limit:.1%} is kept"
    if estimate.interval is not None and estimate.low <= limit:
        return "inconclusive", f"more than the limit {limit:.1%}, but not surely so on these rows"
    outcome: Outcome = "fail" if policy.on_importance_jump == "block" else "warn"
    return outcome, f"more than the limit {limit:.1%}: find out why before it decides so much"


def _additivity_check(ours: _Parts, rows: int) -> Check:
    kept = ours.error <= ADDITIVITY
    end = (
        "so the explanation is of these scores"
        if kept
        else "so it explains another model than the one that scores"
    )
    return Check(
        name="additivity",
        family="explanations",
        observed=ours.error,
        threshold=ADDITIVITY,
        rows=rows,
        outcome="pass" if kept else "fail",
        reason=f"Contributions of {rows:,} rows add up to their scores within {ours.error:.2g} log odds "
        f"(tolerated: {ADDITIVITY:g}), {end}.",
    )


def _slices(
    ours: _Parts, theirs: _Parts, sample: Sampled, slices: Sequence[tuple[str, Places]], rows: int
) -> tuple[SliceAttribution, ...]:
    """Mean contribution differences of features that both models have, in the largest slices."""
    shared = [name for name in ours.names if name in theirs.names]
    if not shared:
        return ()
    differences = np.stack([ours.of(name) - theirs.of(name) for name in shared], axis=1)
    found = []
    for where, places in sorted(slices, key=lambda item: (-len(item[1]), item[0]))[:SLICES]:
        member = np.zeros(rows, dtype=bool)
        member[places] = True
        inside = member[sample.places]
        if inside.sum() < SLICE_ROWS:
            continue
        means = differences[inside].mean(axis=0)
        first = np.argsort(-np.abs(means), kind="stable")[:SLICE_FEATURES]
        found.append(SliceAttribution(where=where, features={shared[i]: float(means[i]) for i in first}))
    return tuple(found)
