"""The rollout record: everything a rollout did and saw, as JSON lines, plus a summary (`rollout.json`).

The lines hold every observation the judge was fed, in order and exactly, so that the decision can be
recomputed bit for bit from the file alone (`replay`). Line kinds: `start`, `state`, `weight`, `requests`,
`evidence`, `end`.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airworthy.errors import RolloutError
from airworthy.files import write_whole
from airworthy.rollout.judge import JUDGE, Judge, Judgement, Settings, conclude
from airworthy.serving.observation import Observation

LINES = "record.jsonl"
SUMMARY = "rollout.json"
BATCH = 100
COLUMNS = ("index", "at", "arm", "share", "result", "seconds", "score", "forced")


class RecordWriter:
    """Appends lines; every line is on its way to disk when the call returns.

    Args:
        folder: Created if missing; an older record in it is replaced.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        (folder / SUMMARY).unlink(missing_ok=True)
        self._lines = (folder / LINES).open("w")
        self._pending: list[Observation] = []

    def write(self, kind: str, **facts: Any) -> None:
        """Append one line, after the observations that came before it."""
        self._flush_requests()
        self._append({"kind": kind, "at": round(time.time(), 6), **facts})

    def observe(self, seen: Observation) -> bool:
        """Keep an observation; true when a batch was written."""
        self._pending.append(seen)
        if len(self._pending) < BATCH:
            return False
        self._flush_requests()
        return True

    def close(self, summary: dict[str, Any]) -> None:
        """Write the summary and end the record. Safe to repeat."""
        if not self._lines.closed:
            self._flush_requests()
            self._lines.close()
        write_whole(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")

    def _flush_requests(self) -> None:
        if not self._pending:
            return
        rows = [[getattr(seen, column) for column in COLUMNS] for seen in self._pending]
        self._pending = []
        self._append({"kind": "requests", "columns": COLUMNS, "rows": rows})

    def _append(self, line: dict[str, Any]) -> None:
        self._lines.write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")
        self._lines.flush()


@dataclass(frozen=True)
class Replay:
    """A record, read and judged again.

    `judgement` is None when the record has no end (its controller was killed).
    """

    start: dict[str, Any]
    lines: tuple[dict[str, Any], ...]
    observations: tuple[Observation, ...]
    judgement: Judgement | None
    recorded: dict[str, Any] | None

    @property
    def settings(self) -> Settings:
        return Settings(**self.start["settings"])

    @property
    def agrees(self) -> bool:
        """Whether the recomputed decision is exactly the recorded one."""
        return (
            self.judgement is not None
            and self.recorded is not None
            and dataclasses.asdict(self.judgement) == self.recorded
        )


def replay(record: Path) -> Replay:
    """Recompute a rollout's decision from its record.

    Args:
        record: The record's folder, or its `record.jsonl`.

    Raises:
        RolloutError: There is no record there, or it is damaged.
    """
    path = record / LINES if record.is_dir() else record
    lines = tuple(_read(path))
    if not lines or lines[0].get("kind") != "start":
        raise RolloutError(f"{path}: not a rollout record: it does not begin with a start line")
    if lines[0].get("judge") != JUDGE:
        raise RolloutError(
            f"{path}: judged by rules number {lines[0].get('judge')}, but this is number {JUDGE}: replay it "
            "with the version of Airworthy that made it"
        )
    try:
        judge = Judge(Settings(**lines[0]["settings"]))
        observations = tuple(
            Observation(**dict(zip(line["columns"], row, strict=True)))
            for line in lines
            if line["kind"] == "requests"
            for row in line["rows"]
        )
        for seen in observations:
            judge.observe(seen)
        end = lines[-1] if lines[-1]["kind"] == "end" else None
        judgement = conclude(judge, end["ending"], end["detail"]) if end else None
    except (KeyError, TypeError, ValueError) as error:
        raise RolloutError(f"{path}: damaged rollout record: {error}") from None
    return Replay(lines[0], lines, observations, judgement, end["judgement"] if end else None)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    try:
        texts = path.read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        raise RolloutError(f"{path}: there is no rollout record") from None
    for number, text in enumerate(texts, 1):
        try:
            yield json.loads(text)
        except ValueError:
            if number == len(texts):  # the controller was killed while writing
                return
            raise RolloutError(f"{path}:{number}: damaged rollout record") from None
