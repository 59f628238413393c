"""The rollout record: everything a rollout did and saw, as JSON lines, plus a summary (`rollout.json`).

The lines hold every observation the judge was fed, in order and exactly, so that the decision can be
recomputed bit for bit from the file alone (`airworthy.rollout.replay`).

| kind                                | holds |
| ----------------------------------- | ----- |
| `start`                             | what is rolled out, the judge's settings, the columns of `seen` rows |
| `state`, `weight`, `note`           | what the controller did |
| `seen`                              | rows of requests, pairs, outcomes, polls; `order` (r, p, o, e) where they mix |
| `evidence`                          | wealth of every process at that point |
| `end`                               | how it ended, and the judgement |
| `seal`                              | SHA-256 of all bytes before it: the last line |

`rollout.json` repeats the seal. It reveals damage and careless edits; it is no signature.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airworthy.errors import RolloutError
from airworthy.files import write_whole
from airworthy.serving.observation import Observation, Pair

LINES = "record.jsonl"
SUMMARY = "rollout.json"
BATCH = 100
KINDS = frozenset({"start", "state", "weight", "note", "seen", "evidence", "end"})
DURABLE = frozenset({"start", "state", "weight", "end"})
"""Kinds that are on the disk, not only with the operating system, before the controller goes on."""
SPARED = ("forced", "repeat", "count")
"""Last columns of a request: left out from the right while they say the usual."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request of an A/B test: what came of it (0..1), which arm had it, with which probability."""

    value: float
    canary: bool
    share: float


@dataclass(frozen=True, slots=True)
class Polled:
    """All that one poll of a cluster's signals found was told: what was summed up may be decided on."""


Seen = Observation | Pair | Outcome | Polled
TABLES: dict[str, tuple[str, type[Seen]]] = {
    "r": ("requests", Observation),
    "p": ("pairs", Pair),
    "o": ("outcomes", Outcome),
    "e": ("polls", Polled),
}
COLUMNS = {name: [field.name for field in dataclasses.fields(kind)] for name, kind in TABLES.values()}
_USUAL = [field.default for field in dataclasses.fields(Observation) if field.name in SPARED]
_BARE = len(COLUMNS["requests"]) - len(SPARED)


class RecordWriter:
    """Appends lines; every line is with the operating system when the call returns, see also `DURABLE`.

    `observe`, `compare`, `outcome` and `polled` are called while users' requests are answered, so they never raise:
    what they could not write is in `failure`, and the next durable line raises it.

    Args:
        folder: Created if missing; an older record in it is replaced.

    Raises:
        RolloutError: The record can't be begun.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failure = ""
        """Why nothing is written any more; empty while all is well."""
        self._digest = hashlib.sha256()
        self._pending: list[tuple[str, list[Any]]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SUMMARY).unlink(missing_ok=True)
            self._lines = (folder / LINES).open("wb", buffering=0)
        except OSError as error:
            raise RolloutError(
                f"the rollout's record can't be begun in {folder}: {error.strerror}"
            ) from error

    def write(self, kind: str, **facts: Any) -> None:
        """Append one line, after the observations that came before it. An `end` is sealed.

        Raises:
            RolloutError: This or an earlier line can't be written, and the kind is durable.
        """
        self._flush_seen()
        if kind == "start":
            facts["columns"] = COLUMNS
        self._append({"kind": kind, "at": round(time.time(), 6), **facts})
        if kind == "end":
            self._put(seal(self._digest.hexdigest()))
        if kind not in DURABLE:
            return
        if not self.failure:
            try:
                os.fsync(self._lines.fileno())
            except OSError as error:
                self.failure = error.strerror or str(error)
        if self.failure:
            raise RolloutError(f"the rollout's record {self.folder / LINES} can't be written: {self.failure}")

    def observe(self, seen: Observation) -> bool:
        """Keep an observation; true when a batch was written."""
        row = [getattr(seen, name) for name in COLUMNS["requests"]]
        while len(row) > _BARE and row[-1] == _USUAL[len(row) - 1 - _BARE]:
            row.pop()
        return self._keep("r", row)

    def compare(self, pair: Pair) -> bool:
        """Keep a pair of the shadow phase; true when a batch was written."""
        return self._keep("p", [getattr(pair, name) for name in COLUMNS["pairs"]])

    def outcome(self, value: float, canary: bool, share: float) -> bool:
        """Keep an outcome of an A/B test; true when a batch was written."""
        return self._keep("o", [value, canary, share])

    def polled(self) -> bool:
        """Keep that a poll is over; true when a batch was written."""
        return self._keep("e", [])

    def close(self, summary: dict[str, Any]) -> None:
        """Write the summary and end the record. Safe to repeat.

        Raises:
            RolloutError: The summary can't be written.
        """
        if not self._lines.closed:
            self._flush_seen()
            self._lines.close()
        text = json.dumps({**summary, "record_sha256": self._digest.hexdigest()}, indent=2) + "\n"
        try:
            write_whole(self.folder / SUMMARY, text)
        except OSError as error:
            raise RolloutError(f"{self.folder / SUMMARY} can't be written: {error.strerror}") from error

    def _keep(self, kind: str, row: list[Any]) -> bool:
        self._pending.append((kind, row))
        if len(self._pending) < BATCH:
            return False
        self._flush_seen()
        return not self.failure

    def _flush_seen(self) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        line: dict[str, Any] = {"kind": "seen"}
        for kind, (name, _) in TABLES.items():
            rows = [row for of, row in pending if of == kind]
            if rows:
                line[name] = rows
        if len(line) > 2:
            line["order"] = "".join(of for of, _ in pending)
        self._append(line)

    def _append(self, line: dict[str, Any]) -> None:
        if not self.failure:
            data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
            self._put(data)
            if not self.failure:
                self._digest.update(data)

    def _put(self, data: bytes) -> None:
        """Write all or remember why not; half a line at the end is what a killed writer leaves, too."""
        try:
            while data and not self.failure:
                data = data[self._lines.write(data) :]
        except OSError as error:
            self.failure = error.strerror or str(error)


def seal(digest: str) -> bytes:
    """The last line of a record whose other bytes have this SHA-256."""
    return json.dumps({"kind": "seal", "sha256": digest}, separators=(",", ":")).encode() + b"\n"
