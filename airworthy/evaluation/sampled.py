"""A sample of test rows to try things on: raw values that can be replaced, scored through a model's own door.

Shared by the probes, the scenarios and the explanations, with what they all need: the declared feature or a
clear complaint, a share with its interval, and one rule from estimate and limit to outcome.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from airworthy.encoding import Feature, Matrix
from airworthy.errors import ConfigError
from airworthy.evaluation.arms import raw_values, threads
from airworthy.evaluation.performance import share_estimate
from airworthy.evaluation.statistics.metrics import Floats, Labels
from airworthy.evaluation.statistics.resampling import Bootstrap
from airworthy.evaluation.statistics.significance import Estimate
from airworthy.findings import BehaviourFinding
from airworthy.verdict import Check, Outcome

if TYPE_CHECKING:
    from airworthy.bundle import BundleInfo, Scorer
    from airworthy.evaluation.arms import Scored

Values = np.ndarray[Any, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Probe = Literal["missing", "unseen", "out_of_range", "noise", "invariance", "direction", "edge"]
T = TypeVar("T")
R = TypeVar("R")

LEVEL = 0.95
"""Coverage of the intervals."""
_TAKES = {"number": "numbers", "integer": "whole numbers", "bool": "true or false", "category": "text"}


@dataclass(frozen=True)
class Sampled:
    """Some rows of the test window."""

    columns: dict[str, Values]
    """Raw values by feature, of both models: floats with NaN, or objects with None."""
    labels: Labels
    ids: tuple[str, ...]
    places: np.ndarray[Any, np.dtype[np.intp]]
    """Where the rows stand in the test window."""
    blocks: np.ndarray[Any, np.dtype[np.int32]] | None
    """Block of each row; None where rows are independent."""

    @classmethod
    def of(cls, scored: Scored, rows: int, seed: int) -> Sampled:
        """A uniform sample of at most `rows` rows; equal seeds give equal samples."""
        table, places = scored.sample(rows, seed)
        arms = [scored.challenger] + ([scored.champion] if scored.champion else [])
        names = {feature.name for arm in arms for feature in arm.info.features}
        return cls(
            columns={name: raw_values(table.column(name)) for name in sorted(names)},
            labels=scored.labels[places],
            ids=tuple(str(value) for value in table.column(scored.dataset.id).to_pylist()),
            places=places,
            blocks=None if scored.blocks is None else scored.blocks[places],
        )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray[Any, Any]) -> Sampled:
        """Some of the rows, by index or by a mask."""
        index = np.arange(len(self))[rows]
        return Sampled(
            columns={name: values[index] for name, values in self.columns.items()},
            labels=self.labels[index],
            ids=tuple(self.ids[i] for i in index),
            places=self.places[index],
            blocks=None if self.blocks is None else self.blocks[index],
        )

    def matrix(self, scorer: Scorer, replaced: Mapping[str, Values] | None = None) -> Matrix:
        """The rows encoded for a model, with some columns replaced."""
        return scorer.encode({**self.columns, **(replaced or {})})[0]

    def scores(self, scorer: Scorer, replaced: Mapping[str, Values] | None = None) -> Floats:
        """The model's scores of the rows, with some columns replaced."""
        return scorer.score(self.matrix(scorer, replaced))

    def filled(self, feature: Feature, value: str | bool | float | None) -> Values:
        """A column that holds one value in every row."""
        if feature.kind == "category" or isinstance(value, bool):
            return np.full(len(self), value, dtype=object)
        return np.full(len(self), np.nan if value is None else value, dtype=np.float64)

    def present(self, name: str) -> Mask:
        """Whether each row has a value there."""
        values = self.columns[name]
        if values.dtype.kind == "O":
            return np.array([v is not None and v == v for v in values], dtype=bool)
        return ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), dtype=bool)

    def plan(self, replicates: int = 1, seed: int = 0) -> Bootstrap:
        """The bootstrap of these rows, by their blocks where they have some; errors of sums need no replicates."""
        return Bootstrap.plan(len(self), replicates, seed, self.blocks)


def declared_feature(info: BundleInfo, name: str, where: str) -> Feature:
    """The model's feature of that name.

    Raises:
        ConfigError: It has none.
    """
    known = {feature.name: feature for feature in info.features}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"its features are {', '.join(known)}"
        raise ConfigError(f"{where}: the model has no feature {name}; {hint}")
    return known[name]


def require_value(feature: Feature, value: object, where: str) -> None:
    """Refuse a declared value that the feature can't hold.

    Raises:
        ConfigError: It is of another type.
    """
    fits = {
        "category": isinstance(value, str),
        "bool": isinstance(value, bool),
        "integer": _is_number(value) and float(value).is_integer(),  # type: ignore[arg-type]
        "number": _is_number(value),
    }[feature.kind]
    if value is not None and not fits:
        raise ConfigError(f"{where}: {feature.name} takes {_TAKES[feature.kind]}, not {value!r}")


def unmet(feature: Feature, values: Iterable[object]) -> list[str]:
    """The categories among declared values that training never met, which score as missing."""
    known = set(feature.categories)
    return [v for v in values if isinstance(v, str) and v not in known] if feature.kind == "category" else []


def share(hits: Mask, sample: Sampled, level: float = LEVEL) -> Estimate:
    """Share of rows, with its interval (see `performance.share_estimate`)."""
    return share_estimate(hits, np.ones(len(hits), dtype=bool), sample.plan(), level)


def against(estimate: Estimate, limit: float | None) -> Outcome:
    """What an estimate says against an upper limit: `fail` only when the whole interval lies beyond it.

    Above the limit, but with an interval that contains it, is `inconclusive`. Without a limit it is reported.
    """
    if limit is None:
        return "pass"
    if estimate.interval is None:
        return "inconclusive"
    if estimate.value <= limit:
        return "pass"
    return "fail" if estimate.low > limit else "inconclusive"


def concluded(
    kind: Probe,
    name: str,
    feature: str | None,
    estimate: Estimate,
    *,
    limit: float | None,
    unit: str,
    rows: int,
    outcome: Outcome,
    reason: str,
    example: str = "",
) -> tuple[Check, BehaviourFinding]:
    """A probe's check (of the family `robustness`) and finding."""
    value = known(estimate.value)
    check = Check(
        name=name,
        family="robustness",
        observed=value,
        threshold=limit,
        interval=estimate.interval,
        rows=rows,
        outcome=outcome,
        reason=reason,
    )
    finding = BehaviourFinding(
        kind=kind,
        name=name,
        feature=feature,
        observed=value,
        limit=limit,
        unit=unit,
        rows=rows,
        outcome=outcome,
        example=example,
    )
    return check, finding


def verdict_words(outcome: Outcome, limit: float | None, digits: str = ".4f") -> str:
    """How a sentence about an upper limit ends."""
    if limit is None:
        return "no limit is set, so this is reported only"
    said = {
        "pass": "kept",
        "fail": "broken, surely",
        "inconclusive": "not shown to be kept: these rows can't tell",
        "warn": "broken",
    }[outcome]
    return f"the limit {limit:{digits}} is {said}"


def span(estimate: Estimate, level: float, champion: float | None = None, digits: str = ".4f") -> str:
    """The interval in brackets, or that there is none, with the champion's value beside it."""
    words = "too few rows or blocks for an interval"
    if estimate.interval is not None:
        words = f"{level:.0%} interval {estimate.low:{digits}} to {estimate.high:{digits}}"
    return f"({words})" if champion is None else f"({words}; the champion's: {champion:{digits}})"


def in_parallel(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` on every item, in order, on as many threads as there are CPUs (models score outside the GIL)."""
    with ThreadPoolExecutor(threads()) as pool:
        return list(pool.map(work, items))


def known(value: float) -> float | None:
    """None for what is not finite, which JSON can't hold."""
    return value if math.isfinite(value) else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
