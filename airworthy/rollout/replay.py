"""Recomputing a rollout's decision from its record, line by line: memory does not grow with the record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airworthy.errors import RolloutError
from airworthy.rollout.effects import EffectInterval
from airworthy.rollout.judge import JUDGE, Judge, Judgement, Settings, conclude
from airworthy.rollout.record import COLUMNS, KINDS, LINES, SUMMARY, TABLES, Polled, Seen, seal
from airworthy.serving.observation import Observation, Pair

MOST_OF_A_START = 1 << 20


class Retelling:
    """Judge and effect, fed again with what a record holds."""

    def __init__(self, settings: Settings) -> None:
        self.judge = Judge(settings)
        self.effect = EffectInterval(settings.alpha)
        self.counts = {"requests": 0, "pairs": 0, "outcomes": 0}

    def hear(self, seen: Seen) -> None:
        """Account for one thing seen."""
        if isinstance(seen, Observation):
            self.judge.observe(seen)
            self.counts["requests"] += 1
        elif isinstance(seen, Pair):
            self.judge.compare(seen)
            self.counts["pairs"] += 1
        elif isinstance(seen, Polled):
            self.judge.complete()
        else:
            self.effect.observe(seen.value, seen.canary, seen.share)
            self.counts["outcomes"] += 1


Witness = Callable[[dict[str, Any], Seen | None, Retelling], None]
"""Called after every line that is no `seen`, and after every single thing seen (then with it)."""


@dataclass(frozen=True)
class Replay:
    """A record, read and judged again.

    Attributes:
        start: The start line.
        told: Judge, effect and counts at the end.
        judgement: Recomputed; None when the record has no end.
        recorded: The judgement as recorded.
        problem: What is wrong with the record, in one sentence; empty when it is whole and the recomputed
            judgement is exactly the recorded one.
    """

    start: dict[str, Any]
    told: Retelling
    judgement: Judgement | None
    recorded: dict[str, Any] | None
    problem: str

    @property
    def agrees(self) -> bool:
        """Whether the record is whole and the recomputed decision is exactly the recorded one."""
        return not self.problem


def replay(record: Path, witness: Witness = lambda line, seen, told: None) -> Replay:
    """Recompute a rollout's decision from its record.

    Args:
        record: The record's folder, or its `record.jsonl`.
        witness: Told of every step on the way.

    Raises:
        RolloutError: There is no record there, it is damaged, or other rules judged it.
    """
    path = record / LINES if record.is_dir() else record
    reader = _Reader(path)
    try:
        lines = iter(reader)
        start = next(lines, {})
        told = Retelling(_settings(path, start))
        witness(start, None, told)
        end: dict[str, Any] | None = None
        for line in lines:
            for seen in _seen(line):
                told.hear(seen)
                witness(line, seen, told)
            if line["kind"] != "seen":
                witness(line, None, told)
            end = line if line["kind"] == "end" else None
        judgement = conclude(told.judge, end["ending"], end["detail"]) if end else None
        recorded = end["judgement"] if end else None
        problem = _problem(path, reader, told, judgement, end)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RolloutError(
            f"{path}:{reader.number}: damaged rollout record: {type(error).__name__} {error}"
        ) from None
    return Replay(start, told, judgement, recorded, problem)


def find_record(what: str, home: Path) -> Path:
    """The record that a user means.

    Args:
        what: A record's folder or file; or a run, a service or a model: then its newest record under `home`.
        home: State directory.

    Raises:
        RolloutError: There is none.
    """
    if Path(what).exists():
        return Path(what)
    found = list((home / "runs").glob(f"*/tasks/**/{LINES}"))
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        with path.open("rb") as lines:
            first = lines.readline(MOST_OF_A_START)
        try:
            start = json.loads(first)
        except ValueError:
            continue  # its controller was killed at once
        run = path.relative_to(home / "runs").parts[0]
        if what in (run, start.get("service"), start.get("model")):
            return path.parent
    raise RolloutError(
        f"{what}: neither a rollout record nor a run, service or model that was rolled out here ({home})"
    )


def _settings(path: Path, start: dict[str, Any]) -> Settings:
    if start.get("kind") != "start":
        raise RolloutError(f"{path}: not a rollout record: it does not begin with a start line")
    if start.get("judge") != JUDGE:
        raise RolloutError(
            f"{path}: judged by rules number {start.get('judge')}, but this is number {JUDGE}: replay it "
            "with the version of Airworthy that made it"
        )
    if start["columns"] != COLUMNS:
        raise ValueError("its rows have other columns")
    return Settings(**start["settings"])


def _seen(line: dict[str, Any]) -> Iterator[Seen]:
    if line["kind"] != "seen":
        return
    names = {kind: name for kind, (name, _) in TABLES.items() if name in line}
    order = (
        line["order"] if len(names) > 1 else "".join(kind * len(line[name]) for kind, name in names.items())
    )
    rows = {kind: iter(line[name]) for kind, name in names.items()}
    for kind in order:
        yield TABLES[kind][1](*next(rows[kind]))
    if any(True for left in rows.values() for _ in left):
        raise ValueError("rows that are in no order")


def _problem(
    path: Path, reader: _Reader, told: Retelling, judgement: Judgement | None, end: dict[str, Any] | None
) -> str:
    """What is wrong, most telling first."""
    summary = _summary(path.with_name(SUMMARY))
    said = summary.get("record_sha256", reader.digest)
    if judgement is None or end is None:
        if summary.get("decision") == "INCONCLUSIVE" and said == reader.digest:
            return f"{path}: the rollout broke off, nothing was decided: {summary.get('reason')}"
        if summary:
            return f"{path}: the record was cut off after it was written: {SUMMARY} knows more of it"
        return f"{path}: the rollout did not end (its controller was killed): nothing was decided"
    if not reader.sealed or said != reader.digest:
        return f"{path}: the record was changed after it was written: its seal is broken"
    recomputed = (dataclasses.asdict(judgement), told.judge.evidence, told.effect.found)
    if recomputed != (end["judgement"], end["evidence"], end["effect"]):
        return f"{path}: the recorded decision is not the one that its evidence leads to"
    if summary.get("decision", judgement.outcome) != judgement.outcome:
        return f"{path.with_name(SUMMARY)}: it says {summary['decision']}, but the record {judgement.outcome}"
    return ""


def _summary(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError:
        raise RolloutError(f"{path}: damaged summary of a rollout") from None
    return found


class _Reader:
    """The lines of a record but its seal, one at a time.

    Attributes:
        number: Of the latest line, from 1.
        digest: SHA-256 of all whole lines before the seal.
        sealed: Whether the last line is exactly the seal that the lines before it ask for.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.number = 0
        self.sealed = False
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            lines = self._path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            raise RolloutError(f"{self._path}: there is no rollout record") from None
        with lines:
            for text in lines:
                if self.sealed:
                    self.sealed = False  # something was added behind it
                    return
                if not text.endswith(b"\n"):  # its writer was killed, or the disk was full
                    return
                self.number += 1
                line = json.loads(text)
                if line["kind"] == "seal":
                    self.sealed = text == seal(self.digest)
                    continue
                if line["kind"] not in KINDS:
                    raise ValueError(f"a line of kind {line['kind']}")
                self._digest.update(text)
                yield line
