"""The comparison: recorded against now, line by line, and the one word that they come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from airworthy.bundle import BOOSTER, SUMS
from airworthy.errors import DataError
from airworthy.reproduce.facts import WINDOWS, Facts, Recorded, Window

TOLERANCE = 1e-6
"""Scores that differ by no more count as the same: what float32 arithmetic in another order may do."""
Kind = Literal["bit-identical", "metric-identical", "different"]


class Line(BaseModel):
    """One thing, recorded and now; `same` is None where nothing was recorded."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    what: str
    recorded: str
    now: str
    same: bool | None


class ScoreComparison(BaseModel):
    """The recorded bundle and the one made now, on the test window retrieved now."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    rows: int
    largest_difference: float
    metrics: dict[str, tuple[float, float]]
    """By name: of the recorded bundle, of the one made now."""


class Reproduction(BaseModel):
    """How an attempt to make a version again ended."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    format: Literal[1] = 1
    model: str
    version: str
    as_of: str
    kind: Kind
    """`bit-identical`: same data and same bundle, byte for byte; `metric-identical`: same data and decision
    threshold, and scores of the test window equal within 1e-6; `different`: anything else."""
    headline: str
    """One sentence."""
    recorded_digest: str
    now_digest: str
    lines: tuple[Line, ...]
    scores: ScoreComparison | None
    """None where one of the bundles can't score the window: `scores_problem` says why."""
    scores_problem: str | None = None
    recorded_metrics: dict[str, float] = {}
    """What the gate had measured."""

    @property
    def differences(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.same is False)


def read_reproduction(path: Path) -> Reproduction:
    """Read `reproduction.json`.

    Raises:
        DataError: There is none, or it can't be read.
    """
    try:
        return Reproduction.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not the record of a reproduction: {error}") from None


def compare(
    recorded: Recorded, now: Facts, scores: ScoreComparison | None, problem: str | None = None
) -> Reproduction:
    """Hold what was made now against the record.

    Args:
        recorded: What the registry says.
        now: What retrieval and training gave.
        scores: Both bundles on the test window.
        problem: Why there are no scores.
    """
    lines = (
        *_data_lines(recorded, now),
        *_definition_lines(recorded, now),
        *_machine_lines(recorded, now),
        *_model_lines(recorded, now),
    )
    kind, headline = _conclusion(recorded, now, scores, problem)
    return Reproduction(
        model=recorded.model,
        version=recorded.version,
        as_of=recorded.info.as_of,
        kind=kind,
        headline=headline,
        recorded_digest=recorded.digest,
        now_digest=now.digest,
        lines=lines,
        scores=scores,
        scores_problem=problem,
        recorded_metrics=recorded.metrics,
    )


def _conclusion(
    recorded: Recorded, now: Facts, scores: ScoreComparison | None, problem: str | None
) -> tuple[Kind, str]:
    changed = [name for name in WINDOWS if _other_data(recorded.windows[name], now.windows[name])]
    same_model = recorded.files.get(BOOSTER) == now.files.get(BOOSTER)
    thresholds = (recorded.info.threshold, now.info.threshold)
    if changed:
        model = "though the model is, byte for byte" if same_model else "and neither is the model"
        return (
            "different",
            f"{recorded}: the {_list(changed)} data retrieved now is not what it was, {model}.",
        )
    if recorded.digest == now.digest:
        return "bit-identical", f"{recorded} was made again, byte for byte the same ({now.digest[:12]})."
    if scores is None:
        return "different", f"{recorded}: the data is the same, but the scores can't be compared: {problem}."
    if scores.largest_difference > TOLERANCE:
        return "different", (
            f"{recorded}: the data is the same, but the model is another: scores of {scores.rows:,} rows differ by "
            f"up to {scores.largest_difference:.2g}."
        )
    if thresholds[0] != thresholds[1]:
        return "different", (
            f"{recorded}: data and scores are the same, but decisions are not: the threshold is {thresholds[1]:g} now "
            f"instead of {thresholds[0]:g}."
        )
    packaging = _other_files(recorded.files, now.files)
    which = ", ".join(packaging) if len(packaging) <= 2 else f"{len(packaging)} files"
    what = (
        f"the model itself is byte for byte the same; its packaging differs ({which})"
        if same_model
        else f"scores of {scores.rows:,} rows differ by {scores.largest_difference:.1e} at most"
    )
    return "metric-identical", f"{recorded} was made again from the same data: {what}."


def _data_lines(recorded: Recorded, now: Facts) -> Iterator[Line]:
    for name in WINDOWS:
        before, after = recorded.windows[name], now.windows[name]
        yield _line(f"{name} data: rows", _count(before.rows), _count(after.rows))
        yield _line(f"{name} data: fingerprint", before.fingerprint, after.fingerprint)


def _definition_lines(recorded: Recorded, now: Facts) -> Iterator[Line]:
    yield _line("feature service", recorded.info.feature_service, now.info.feature_service)
    digests = (recorded.info.feature_service_digest, now.info.feature_service_digest)
    yield _line("feature definitions", *digests)
    yield _line("features", *_features(recorded, now))
    yield _line("spec", recorded.info.spec_digest, now.info.spec_digest)
    yield from _each("trainer parameter", recorded.info.params, now.info.params)


def _machine_lines(recorded: Recorded, now: Facts) -> Iterator[Line]:
    yield _line("device", recorded.info.device, now.info.device)
    yield _line("threads", recorded.machine.get("cpus"), now.machine.get("cpus"))
    yield _line("platform", recorded.machine.get("platform"), now.machine.get("platform"))
    yield _line("version of airworthy", recorded.library, now.library)
    yield from _each("version of", recorded.info.versions, now.info.versions)


def _model_lines(recorded: Recorded, now: Facts) -> Iterator[Line]:
    yield _line("rounds kept", recorded.info.rounds, now.info.rounds)
    yield _line("decision threshold", recorded.info.threshold, now.info.threshold)
    yield _line("model bytes", *(facts.files.get(BOOSTER) for facts in (recorded, now)))
    for name in _other_files(recorded.files, now.files):
        if name != BOOSTER:
            yield _line(f"file {name}", *(facts.files.get(name, "none") for facts in (recorded, now)))
    yield _line("bundle", recorded.digest, now.digest)


def _each(what: str, before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[Line]:
    """A line per name; what only one side has is a difference."""
    for name in sorted(before.keys() | after.keys()):
        values = [str(side.get(name, "none")) for side in (before, after)]
        yield Line(what=f"{what} {name}", recorded=values[0], now=values[1], same=values[0] == values[1])


def _line(what: str, recorded: object, now: object) -> Line:
    said = "not recorded" if recorded is None else str(recorded)
    return Line(
        what=what,
        recorded=said,
        now="none" if now is None else str(now),
        same=None if recorded is None else recorded == now,
    )


def _other_data(before: Window, after: Window) -> bool:
    return before.fingerprint is not None and before.fingerprint != after.fingerprint


def _other_files(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return sorted(n for n in (before.keys() | after.keys()) - {SUMS} if before.get(n) != after.get(n))


def _features(recorded: Facts, now: Facts) -> tuple[str, str]:
    """The features in their order; of two different lists only what the other lacks, if there is such a thing."""
    lists = [[f.name for f in facts.info.features] for facts in (recorded, now)]
    alone = [[n for n in mine if n not in other] for mine, other in (lists, lists[::-1])]
    if lists[0] == lists[1]:
        return f"{len(lists[0])} features", f"{len(lists[1])} features"
    if not any(alone):
        return ", ".join(lists[0]), ", ".join(lists[1])
    words = [f", also {_list(own)}" if own else "" for own in alone]
    return f"{len(lists[0])} features{words[0]}", f"{len(lists[1])} features{words[1]}"


def _count(rows: int | None) -> str | None:
    return None if rows is None else f"{rows:,}"


def _list(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else ", ".join(names)
