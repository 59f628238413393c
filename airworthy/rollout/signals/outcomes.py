"""Outcomes of an A/B test on a cluster: what came of single requests, told by whoever gets to know it.

They come as Parquet parts (`*.parquet`, also in subfolders) of a folder, each read once, when it appears:

| column       | |
| ------------ | --- |
| `request_id` | as in the prediction log: the caller's `X-Request-Id`, or the one in our server's answer |
| the outcome  | boolean, or a number from 0 to 1; its name is the plan's `experiment.outcome` |

The prediction log knows which model had a request, and with which probability; the request id joins the two, in
whatever order they come. What a request's outcome is must not decide when, or whether, it is reported.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy.errors import DataError
from airworthy.rollout.record import Outcome
from airworthy.rollout.signals.silence import Silence
from airworthy.serving.observation import Observation

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

log = logging.getLogger(__name__)

REQUEST_ID = "request_id"
MOST_REQUESTS = 1_000_000
"""Requests that may wait for their outcome; of more, the oldest are forgotten."""
MOST_UNKNOWN = 200_000
"""Outcomes that may wait for their request to be told by the prediction log; of more, the oldest are forgotten."""
CLOCKS_DIFFER = 60.0
"""Seconds that the clocks of file servers may be late."""


@dataclass
class OutcomeCounts:
    """What became of outcomes.

    Attributes:
        matched: Joined with a request; the only ones that are evidence.
        repeated: Another outcome of the same request: the first one counts.
        missing: Null or NaN, or without a request id: ignored.
        outside: Below 0 or above 1: ignored.
        forgotten: Outcomes of requests that nobody told of, and requests without an outcome, beyond the limits.
    """

    matched: int = 0
    repeated: int = 0
    missing: int = 0
    outside: int = 0
    forgotten: int = 0


@dataclass(frozen=True, slots=True)
class _Request:
    at: float
    canary: bool
    share: float


class OutcomeFiles:
    """Joins the outcomes in a folder with the requests of a split.

    Args:
        folder: Where they come. Parts from before now are not read. A part is written under a name that begins with
            `.` or `_`, or ends otherwise, and renamed.
        column: The outcome's.
        patience: Seconds for which the folder or a part of it may be unreadable.
        most_requests: See `MOST_REQUESTS`.
        most_unknown: See `MOST_UNKNOWN`.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        column: str,
        *,
        patience: float = 120.0,
        most_requests: int = MOST_REQUESTS,
        most_unknown: int = MOST_UNKNOWN,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.counts = OutcomeCounts()
        self._folder = folder
        self._column = column
        self._most_requests, self._most_unknown = most_requests, most_unknown
        self._clock = clock
        self._begun = clock()
        self._silence = Silence(f"the outcomes' folder {folder}", patience)
        self._read: set[Path] = set()
        self._drawn: list[tuple[str, _Request]] = []
        # by digest of the request id: how long ids are is the callers' choice; None once there was an outcome
        self._requests: OrderedDict[bytes, _Request | None] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._warned = OutcomeCounts()

    def drawn(self, request_id: str, seen: Observation) -> None:
        """A request whose arm was drawn. It counts from the next `poll` on, unless there is a `skip` before it."""
        if 0.0 < seen.share < 1.0:
            self._drawn.append((request_id, _Request(seen.at, seen.arm == "canary", seen.share)))

    def skip(self) -> None:
        """Forget the requests since the last poll: weights were not what was asked for."""
        self._drawn.clear()

    async def poll(self, since: float) -> list[Outcome]:
        """Outcomes that were joined since the last poll, in the order in which their requests arrived.

        Args:
            since: When the split had settled, seconds since the epoch: earlier requests don't count.

        Raises:
            DataError: A part has other columns than outcomes have.
            ServingError: The folder, or a part, could not be read for too long.
        """
        return await asyncio.to_thread(self._poll, since)

    def close(self) -> None:
        """Say how it went."""
        told, waiting = self.counts, sum(one is not None for one in self._requests.values())
        log.log(
            logging.INFO if told.matched else logging.WARNING,
            "outcomes: %d of requests in the split; %d requests without one; %d of requests that are not known",
            told.matched,
            waiting,
            len(self._unknown),
        )

    def _poll(self, since: float) -> list[Outcome]:
        drawn, self._drawn = self._drawn, []
        found = [pair for name, one in drawn if one.at >= since for pair in self._admit(_key(name), one)]
        trouble = ""
        for part in self._parts():
            try:
                for key, value in self._rows(part):
                    found += self._take(key, value)
            except _UnreadableError as error:
                trouble = str(error)
        if not self._folder.is_dir():
            trouble = f"{self._folder} is no folder"
        self._trim()
        self._warn()
        if trouble:
            log.warning("%s", trouble)
            self._silence.failed(self._clock(), trouble)
        else:
            self._silence.answered()
        found.sort(key=lambda pair: pair[0].at)
        return [Outcome(value, request.canary, request.share) for request, value in found]

    def _admit(self, key: bytes, request: _Request) -> list[tuple[_Request, float]]:
        if key in self._requests:  # a retry after the log has forgotten the first try
            return []
        self._requests[key] = request
        value = self._unknown.pop(key, None)
        return [] if value is None else self._take(key, value)

    def _take(self, key: bytes, value: float) -> list[tuple[_Request, float]]:
        """One outcome; returns it with its request if that waited for it."""
        request = self._requests.get(key)
        if request is not None:
            self._requests[key] = None
            self.counts.matched += 1
            return [(request, value)]
        if key in self._requests or key in self._unknown:
            self.counts.repeated += 1
        else:
            self._unknown[key] = value
        return []

    def _trim(self) -> None:
        while len(self._requests) > self._most_requests:
            self.counts.forgotten += self._requests.popitem(last=False)[1] is not None
        while len(self._unknown) > self._most_unknown:
            self._unknown.popitem(last=False)
            self.counts.forgotten += 1

    def _warn(self) -> None:
        now, before = self.counts, self._warned
        self._warned = OutcomeCounts(**vars(now))
        if now.missing > before.missing or now.outside > before.outside:
            log.warning(
                "outcomes ignored so far: %d null, NaN or without a request id, %d below 0 or above 1",
                now.missing,
                now.outside,
            )
        if now.forgotten > before.forgotten:
            log.warning("%d outcomes or requests waited too long for each other: forgotten", now.forgotten)

    def _parts(self) -> list[Path]:
        """New parts by name; those from before the rollout know nothing of its requests."""
        found = []
        for part in sorted(self._folder.rglob("*.parquet")):
            if part in self._read or part.name.startswith((".", "_")):
                continue
            try:
                old = part.stat().st_mtime < self._begun - CLOCKS_DIFFER
            except FileNotFoundError:
                continue
            if old:
                self._read.add(part)
            else:
                found.append(part)
        return found

    def _rows(self, part: Path) -> Iterator[tuple[bytes, float]]:
        """Valid outcomes of a part, in bounded memory.

        Raises:
            DataError: It has other columns.
            _UnreadableError: It can't be read now.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with part.open("rb") as handle:
                file = pq.ParquetFile(handle)
                self._check(part, file)
                for batch in file.iter_batches(columns=[REQUEST_ID, self._column]):
                    yield from self._valid(batch)
        except FileNotFoundError:
            log.warning("%s was deleted before it was read", part)
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            raise _UnreadableError(f"{part} can't be read: {error}") from None
        self._read.add(part)

    def _check(self, part: Path, file: pq.ParquetFile) -> None:
        import pyarrow.types as types

        schema = file.schema_arrow
        for name in (REQUEST_ID, self._column):
            if schema.names.count(name) != 1:
                raise DataError(
                    f"{part}: has no column {name!r}; an outcome's part has {REQUEST_ID!r} and {self._column!r}"
                )
        kind = schema.field(REQUEST_ID).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if not (types.is_string(kind) or types.is_large_string(kind)):
            raise DataError(f"{part}: column {REQUEST_ID!r} is of type {kind}, but request ids are strings")
        kind = schema.field(self._column).type
        known = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal)
        if not any(of(kind) for of in known):
            raise DataError(
                f"{part}: column {self._column!r} is of type {kind}; it must be boolean or a number"
            )

    def _valid(self, batch: pa.RecordBatch) -> Iterator[tuple[bytes, float]]:
        names = batch.column(REQUEST_ID).to_pylist()
        values = batch.column(self._column).to_pylist()
        for name, value in zip(names, values, strict=True):
            if not name or value is None or math.isnan(value):
                self.counts.missing += 1
            elif not 0 <= value <= 1:
                self.counts.outside += 1
            else:
                yield _key(name), float(value)


def _key(request_id: str) -> bytes:
    return hashlib.blake2b(request_id.encode(), digest_size=16).digest()


class _UnreadableError(Exception):
    """The folder or a part can't be read, for now."""
