"""The prediction log's writer: what was asked and answered goes to Parquet without ever holding a request up.

A request puts its rows into a bounded queue, or counts them as dropped. A thread takes them out every few seconds,
turns them into columns (in small portions, so that requests get the interpreter in between) and writes one part. What
can't be written is dropped and counted. Files, columns and the reader: `prediction_files`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airworthy.serving.prediction_files import (
    part_prefix,
    read_predictions,
    remove_stale,
    retain,
    write_part,
)
from airworthy.serving.prediction_rows import Entry, LogOptions, Rows

if TYPE_CHECKING:
    from airworthy.bundle import BundleInfo
    from airworthy.serving.predictor import Prediction

__all__ = ["LogOptions", "PredictionLog", "read_predictions"]

log = logging.getLogger("airworthy.serving")

QUEUE_ROWS = 50_000
QUEUE_BYTES = 64 * 1024 * 1024
"""Of request bodies whose rows wait."""
RETAIN_SECONDS = 60.0
RETAIN_PAUSE = 100.0
"""Times what it takes to look through the log, which grows to a million parts: the pause before the next time."""


class PredictionLog:
    """Takes requests from the event loop's thread (`offer`) and writes them from another.

    `close` writes what is left.

    Args:
        options: Where and what.
        info: The bundle's: features, threshold.
        model: Model name, as in the addresses.
        version: Registry version.
        digest: Bundle's digest.
        arm: `stable`, `canary` or "".

    Raises:
        ConfigError: Features are to be hashed, and there is no salt.
    """

    def __init__(
        self, options: LogOptions, info: BundleInfo, *, model: str, version: str, digest: str, arm: str = ""
    ) -> None:
        self.written = 0
        self.dropped: Counter[str] = Counter(queue=0, disk=0, fault=0)
        """Rows by reason."""
        self._options = options
        self._rows = Rows(options, info, (model, version, digest, arm))
        self._queue: deque[Entry] = deque()
        self._offered = self._taken = 0
        self._offered_bytes = self._taken_bytes = 0
        self._prefix, self._parts = part_prefix(), 0
        self._broken = False
        self._retain_from = 0.0
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return self._offered - self._taken

    def offer(
        self, identity: str, at: float, status: int, seconds: float, prediction: Prediction | None, size: int
    ) -> None:
        """Queue one request, or drop and count it if the queue is full. Never waits.

        Args:
            identity: Request id.
            at: When it arrived, seconds since the epoch.
            status: HTTP status of the answer.
            seconds: Time it took.
            prediction: What was answered with 200.
            size: Bytes of its body.
        """
        rows = len(prediction.scores) if prediction else 1
        full = self._offered - self._taken + rows > QUEUE_ROWS
        if full or self._offered_bytes - self._taken_bytes + size > QUEUE_BYTES:
            self.dropped["queue"] += rows
            return
        self._queue.append(Entry(identity, at, status, seconds, prediction, rows, size))
        self._offered += rows
        self._offered_bytes += size
        if self._offered - self._taken >= self._options.flush_rows:
            self._wake.set()

    def close(self, seconds: float = 10.0) -> None:
        """Write what is queued, and end. Safe to repeat."""
        self._closing.set()
        self._wake.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        self._begin()
        while not self._closing.is_set():
            self._wake.wait(self._options.flush_seconds)
            self._wake.clear()
            self._flush()
        self._flush()

    def _begin(self) -> None:
        import pyarrow.parquet  # noqa: F401 (takes a while the first time)

        try:
            remove_stale(self._options.folder)
        except OSError as error:
            self._complain(error)

    def _flush(self) -> None:
        """Write what waits now, at most `flush_rows` or so at a time, by hour; what comes meanwhile is next."""
        left = len(self._queue)
        while left:
            entries, rows = [], 0
            while left and rows < self._options.flush_rows:
                entries.append(self._queue.popleft())
                rows += entries[-1].rows
                left -= 1
            for hour, together in _by_hour(entries).items():
                self._write(hour, together)
            self._taken_bytes += sum(entry.size for entry in entries)
            self._taken += rows
        if time.monotonic() >= self._retain_from:
            self._retain()

    def _write(self, hour: int, entries: list[Entry]) -> None:
        rows = sum(entry.rows for entry in entries)
        self._parts += 1
        try:
            table = self._rows.table(entries)
            write_part(
                self._options.folder,
                datetime.fromtimestamp(hour, UTC),
                f"{self._prefix}-{self._parts}",
                table,
            )
        except OSError as error:
            self.dropped["disk"] += rows
            self._complain(error)
        except Exception:  # whatever it is, the thread has to live
            self.dropped["fault"] += rows
            log.exception("%d rows of the prediction log were dropped", rows)
        else:
            self.written += rows
            if self._broken:
                self._broken = False
                log.info("predictions are written again to %s", self._options.folder)

    def _retain(self) -> None:
        begun = time.monotonic()
        try:
            retain(self._options.folder, self._options.keep_days, self._options.max_bytes)
        except OSError as error:
            self._complain(error)
        now = time.monotonic()
        self._retain_from = now + max(RETAIN_SECONDS, RETAIN_PAUSE * (now - begun))

    def _complain(self, error: OSError) -> None:
        if not self._broken:
            log.warning(
                "predictions can't be written to %s (%s): they are dropped and counted; serving goes on",
                self._options.folder,
                error.strerror or error,
            )
        self._broken = True


def _by_hour(entries: Sequence[Entry]) -> dict[int, list[Entry]]:
    """By the hour's first second."""
    found: dict[int, list[Entry]] = {}
    for entry in entries:
        found.setdefault(int(entry.at) // 3600 * 3600, []).append(entry)
    return found
