"""What must hold for every model, whatever its spec says: odd inputs give a probability or a clear refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from airworthy.encoding import Feature
from airworthy.errors import DataError
from airworthy.evaluation.sampled import Sampled, Values, concluded, in_parallel
from airworthy.evaluation.statistics.significance import Estimate
from airworthy.findings import BehaviourFinding
from airworthy.verdict import Check

if TYPE_CHECKING:
    from airworthy.bundle import Scorer
    from airworthy.evaluation.statistics.metrics import Floats

ROWS = 500
"""Rows that the edges are tried on; every one must hold."""
SINGLE_ROWS = 50
"""Rows that are scored one by one."""
SAME = 1e-6
"""How far two scores that must be equal may differ: engines sum in another order for other batch sizes."""
_BEYOND = 10
"""Extreme values lie this many ranges outside the range of training."""
_FLOAT32 = float(np.finfo(np.float32).max)

Broken = str | None
"""What does not hold, as the rest of a sentence; None where all does."""


def edge_checks(sample: Sampled, scorer: Scorer) -> tuple[list[Check], list[BehaviourFinding]]:
    """One check of each edge, on at most `ROWS` rows."""
    sample = sample.take(np.arange(min(ROWS, len(sample))))
    edges: dict[str, tuple[str, Callable[[Sampled, Scorer], Broken]]] = {
        "edge_all_missing": ("A row with every feature missing gets a probability", _all_missing),
        "edge_extreme_values": (
            f"Numbers {_BEYOND} ranges outside the range of training get a probability",
            _extreme_values,
        ),
        "edge_unseen_is_missing": ("A category never met scores as a missing one and is counted", _unseen),
        "edge_infinite_refused": ("An infinite number is refused with a clear error", _infinite),
        "edge_missing_column_refused": ("Rows that lack a feature's column are refused", _missing_column),
        "edge_row_order": ("The order of rows in a batch does not change a score", _row_order),
        "edge_single_rows": ("A row alone scores as it does in a batch", _single_rows),
    }
    checks, findings = [], []
    for name, (promise, test) in edges.items():
        broken = test(sample, scorer)
        check, finding = concluded(
            "edge",
            name,
            None,
            Estimate(float(broken is not None), np.nan, np.nan),
            limit=0.0,
            unit="promises broken",
            rows=len(sample),
            outcome="pass" if broken is None else "fail",
            reason=f"{promise}." if broken is None else f"{promise}: this does not hold, {broken}.",
            example=broken or "",
        )
        checks.append(check)
        findings.append(finding)
    return checks, findings


def foreign(feature: Feature) -> str:
    """A category that training never met."""
    value = "never met"
    while value in feature.categories:
        value += "!"
    return value


def _all_missing(sample: Sampled, scorer: Scorer) -> Broken:
    row = sample.take(np.arange(1))
    return _improbable(row.scores(scorer, {f.name: row.filled(f, None) for f in scorer.info.features}))


def _extreme_values(sample: Sampled, scorer: Scorer) -> Broken:
    for side in (-1, 1):
        replaced = {f.name: sample.filled(f, _extreme(f, sample, side)) for f in _numbers(scorer)}
        broken = _improbable(sample.scores(scorer, replaced))
        if broken:
            return broken
    return None


def _extreme(feature: Feature, sample: Sampled, side: int) -> float:
    """A value far outside the range of training (of the sample, where the bundle does not tell it)."""
    low, high = feature.minimum, feature.maximum
    if low is None or high is None:
        values = np.asarray(sample.columns[feature.name], dtype=np.float64)
        there = values[~np.isnan(values)]
        low, high = (float(there.min()), float(there.max())) if len(there) else (0.0, 0.0)
    reach = _BEYOND * max(high - low, 1.0)
    value = float(np.clip((high if side > 0 else low) + side * reach, -_FLOAT32, _FLOAT32))
    return float(np.rint(value)) if feature.kind == "integer" else value


def _unseen(sample: Sampled, scorer: Scorer) -> Broken:
    def broken(feature: Feature) -> Broken:
        missing = sample.scores(scorer, {feature.name: sample.filled(feature, None)})
        columns = {**sample.columns, feature.name: sample.filled(feature, foreign(feature))}
        matrix, counted = scorer.encode(columns)
        if counted.get(feature.name) != len(sample):
            return f"{feature.name}: {counted.get(feature.name, 0)} of {len(sample)} such values were counted"
        return _differ(scorer.score(matrix), missing, feature.name)

    categories = [f for f in scorer.info.features if f.kind == "category"]
    return next((b for b in in_parallel(broken, categories) if b), None)


def _infinite(sample: Sampled, scorer: Scorer) -> Broken:
    for feature in _numbers(scorer):
        if not _refused(scorer, {**sample.columns, feature.name: sample.filled(feature, np.inf)}):
            return f"an infinite {feature.name} was scored"
    return None


def _missing_column(sample: Sampled, scorer: Scorer) -> Broken:
    for feature in scorer.info.features:
        columns = {name: values for name, values in sample.columns.items() if name != feature.name}
        if not _refused(scorer, columns):
            return f"rows without {feature.name} were scored"
    return None


def _row_order(sample: Sampled, scorer: Scorer) -> Broken:
    order = np.random.default_rng(0).permutation(len(sample))
    return _differ(sample.take(order).scores(scorer), sample.scores(scorer)[order], "in another order")


def _single_rows(sample: Sampled, scorer: Scorer) -> Broken:
    few = sample.take(np.arange(min(SINGLE_ROWS, len(sample))))
    rows = zip(*(_plain(few.columns[f.name]) for f in scorer.info.features), strict=True)
    names = [f.name for f in scorer.info.features]
    alone = [
        scorer.score(scorer.encode({n: [v] for n, v in zip(names, row, strict=True)})[0]) for row in rows
    ]
    return _differ(np.concatenate(alone), few.scores(scorer), "alone")


def _plain(values: Values) -> list[Any]:
    """Plain Python values, as a request brings them."""
    return [None if value != value else value for value in values.tolist()]


def _numbers(scorer: Scorer) -> list[Feature]:
    return [f for f in scorer.info.features if f.kind in ("number", "integer")]


def _refused(scorer: Scorer, columns: Mapping[str, Values]) -> bool:
    try:
        scorer.encode(columns)
    except DataError:
        return True
    return False


def _improbable(scores: Floats) -> Broken:
    odd = scores[~((scores >= 0) & (scores <= 1))]
    return f"the model says {odd[0]}" if len(odd) else None


def _differ(found: Floats, wanted: Floats, where: str) -> Broken:
    apart = np.abs(found - wanted)
    worst = int(np.argmax(np.nan_to_num(apart, nan=np.inf)))
    if apart[worst] <= SAME:
        return None
    return f"{where}: a score is {found[worst]:.6f} instead of {wanted[worst]:.6f}"
