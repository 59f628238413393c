"""The log of prediction requests: one JSON line each, written by a thread so that no request waits for the disk.

    {"at":1790000000.123456,"arm":"stable","share":0.1,"version":3,"result":"ok","status":200,"seconds":0.000812,
     "score":0.25,"forced":false,"repeat":false}

`share` and `version` are the weights at the draw; `status` is null if the arm did not answer. Files are rotated by
size (`requests.jsonl`, `requests.jsonl.1`, …). What can't be kept (a full queue, a full disk, a folder that can't be
written) is counted and told once; serving goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from pathlib import Path

from airworthy.serving.observation import Observation

log = logging.getLogger(__name__)

MIB = 1024 * 1024
WRITE_SECONDS = 0.2
RETRY_SECONDS = 5.0


class RequestLog:
    """Appends requests to a file. `append` never blocks and never raises; `close` writes the rest.

    Args:
        path: The file; its folder is made if missing.
        max_bytes: Size at which it is rotated.
        files: Files to keep, the current one included.
        queue: Lines that may wait for the disk.
    """

    def __init__(self, path: Path, *, max_bytes: int = 64 * MIB, files: int = 3, queue: int = 10_000) -> None:
        self.path = path
        self._overflowed = 0  # counted by the event loop's thread
        self._lost = 0  # counted by the writer's
        self._max_bytes = max_bytes
        self._files = files
        self._limit = queue
        self._lines: deque[str] = deque()
        self._closing = threading.Event()
        self._told = False
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not kept."""
        return self._overflowed + self._lost

    def append(self, seen: Observation, version: int, status: int | None) -> None:
        """Note one request.

        Args:
            seen: What came of it.
            version: Of the weights at its draw.
            status: HTTP status that the arm answered with; None if it did not answer.
        """
        if len(self._lines) >= self._limit:
            self._overflowed += 1
            return
        score = "null" if seen.score is None else repr(seen.score)
        self._lines.append(
            f'{{"at":{seen.at!r},"arm":"{seen.arm}","share":{seen.share!r},"version":{version},'
            f'"result":"{seen.result}","status":{status or "null"},"seconds":{seen.seconds!r},"score":{score},'
            f'"forced":{"true" if seen.forced else "false"},"repeat":{"true" if seen.repeat else "false"}}}\n'
        )

    def close(self, seconds: float = 5.0) -> None:
        """Write what waits, for at most that long. Safe to repeat."""
        self._closing.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        wait = WRITE_SECONDS
        while not self._closing.wait(wait):
            wait = WRITE_SECONDS if self._write() else RETRY_SECONDS
        self._write()

    def _write(self) -> bool:
        """Append what waits; lines are dropped if that fails. Returns whether it went well."""
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if not lines:
            return True
        data = "".join(lines).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._rotate(len(data))
            _append(self.path, data)
        except OSError as error:
            self._lost += len(lines)
            if not self._told:
                log.warning("requests can't be logged to %s: %s; serving goes on", self.path, error)
            self._told = True
            return False
        self._told = False
        return True

    def _rotate(self, more: int) -> None:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return
        if not size or size + more <= self._max_bytes:
            return
        if self._files == 1:
            self.path.unlink()
        for number in range(self._files - 1, 0, -1):
            source = self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            with contextlib.suppress(FileNotFoundError):
                source.replace(self.path.with_name(f"{self.path.name}.{number}"))


def _append(path: Path, data: bytes) -> None:
    """Append whole lines or nothing; a last line that somebody left unfinished is closed first."""
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                data = b"\n" + data
        view = memoryview(data)
        try:
            while view:
                view = view[file.write(view) or 0 :]
        except OSError:
            file.truncate(size)
            raise
