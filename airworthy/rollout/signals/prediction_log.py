"""Evidence from our model servers' prediction log: single requests, with their scores.

What the log can't show: requests that never reached a model server, or died with it. If none of the canary's
requests are found where some must have been, that is an error, not good news (`airworthy.rollout.signals.silence`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airworthy.errors import ServingError
from airworthy.rollout.signals import NamedBy
from airworthy.rollout.signals.silence import Silence
from airworthy.serving.observation import Arm, Observation, Result

log = logging.getLogger(__name__)

REMEMBERED = 3600.0
"""Seconds for which request ids are remembered: later retries count again."""
CLOCKS_DIFFER = 60.0
"""Seconds that the clocks of file servers may be late."""
COLUMNS = ("request_id", "row", "at", "model", "model_version", "digest", "status", "seconds", "score")
OnRequest = Callable[[str, Observation], None]


@dataclass(frozen=True)
class _Following:
    since: float
    share: float
    arms: dict[Arm, str]


class PredictionLogSignals:
    """Follows the parts of one model's prediction log as they appear.

    Args:
        folder: The log; several servers may write there.
        model: Only this model's rows, where models share a log; "" for all.
        lag: Seconds to wait for all servers to have written what they answered: more than they take to flush.
        patience: Seconds for which the folder may be unreadable, or the canary unheard of.
        clock: Seconds since the epoch.
        on_request: Told of each request with its id when it is reported; its `index` is not set.
    """

    named_by: NamedBy = "version"

    def __init__(
        self,
        folder: Path,
        *,
        model: str = "",
        lag: float = 15.0,
        patience: float = 120.0,
        clock: Callable[[], float] = time.time,
        on_request: OnRequest | None = None,
    ) -> None:
        self._folder = folder
        self._on_request = on_request
        self._model = model
        self._lag = lag
        self._clock = clock
        self._silence = Silence(f"the prediction log in {folder}", patience)
        self._following: _Following | None = None
        self._since: float | None = None
        self._read: set[Path] = set()
        self._known: dict[str, float] = {}
        self._waiting: list[tuple[str, Observation]] = []
        self._told_until = 0.0
        self._late = 0
        self._index = 0

    async def skip(self) -> None:
        """Forget everything up to now."""
        self._following, self._since = None, self._clock()

    async def poll(self, share: float, arms: Mapping[Arm, str]) -> list[Observation]:
        """See `Signals.poll`. Requests come in the order in which they arrived, `lag` seconds later."""
        if arms["stable"] == arms["canary"]:
            raise ServingError(
                f"both arms are called {arms['canary']!r}: the prediction log can't tell them apart"
            )
        now = self._clock()
        following = self._following
        if following is None or (following.share, following.arms) != (share, arms):
            since = self._since if following is None and self._since is not None else now
            following = self._following = _Following(since, share, dict(arms))
            self._since, self._told_until, self._waiting = None, since, []
            self._silence.begin(now)
        try:
            self._waiting += await asyncio.to_thread(lambda: list(self._new(following)))
        except _UnreadableError as error:
            log.warning("%s", error)
            self._silence.failed(now, str(error))
        else:
            self._silence.answered()
        return self._due(following, now)

    def _due(self, following: _Following, now: float) -> list[Observation]:
        due = [one for one in self._waiting if one[1].at <= now - self._lag]
        self._waiting = [one for one in self._waiting if one[1].at > now - self._lag]
        if self._on_request:
            for name, seen in due:
                self._on_request(name, seen)
        found = [
            replace(seen, index=self._index + place)
            for place, (_, seen) in enumerate(sorted(due, key=lambda one: (one[1].at, one[1].arm)))
        ]
        self._index += len(found)
        self._told_until = max(self._told_until, now - self._lag)
        if self._late:
            log.warning(
                "%d requests were in the log only after %.0f s and are told late", self._late, self._lag
            )
            self._late = 0
        self._known = {name: at for name, at in self._known.items() if at > now - REMEMBERED}
        canary = sum(seen.arm == "canary" for seen in found)
        self._silence.fresh("stable", now)
        self._silence.fresh("canary", now)
        self._silence.counted(len(found) - canary, canary, following.share, now)
        self._silence.check(now, following.share)
        return found

    def _new(self, following: _Following) -> Iterator[tuple[str, Observation]]:
        """What the parts that have appeared since the last look say, with request ids, in any order.

        Raises:
            _UnreadableError: A part or the folder can't be read now.
        """
        rows = sorted(
            (row for part in self._parts(following.since) for row in self._rows(part)),
            key=lambda row: row["at"],
        )
        for row in rows:
            seen = self._observation(row, following)
            if seen and self._known.setdefault(row["request_id"], seen.at) == seen.at:
                yield row["request_id"], seen

    def _parts(self, since: float) -> list[Path]:
        if not self._folder.is_dir():
            raise _UnreadableError(f"{self._folder} is no folder")
        hour = datetime.fromtimestamp(since, UTC) - timedelta(hours=1)
        oldest = f"date={hour:%Y-%m-%d}/hour={hour:%H}"
        return [
            part
            for folder in self._folder.glob("date=*/hour=*")
            if folder.relative_to(self._folder).as_posix() >= oldest
            for part in folder.glob("part-*.parquet")
            if part not in self._read and self._written_since(part, since)
        ]

    def _written_since(self, part: Path, since: float) -> bool:
        """Whether a part can hold rows that count; those of earlier days would take long to read."""
        try:
            old = part.stat().st_mtime < since - CLOCKS_DIFFER
        except FileNotFoundError:
            return False
        if old:
            self._read.add(part)
        return not old

    def _rows(self, part: Path) -> list[dict[str, Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with part.open("rb") as handle:
                rows = pq.ParquetFile(handle).read(columns=list(COLUMNS)).to_pylist()
        except FileNotFoundError:  # too old to be kept
            rows = []
        except (pa.ArrowException, OSError) as error:
            raise _UnreadableError(f"{part} can't be read: {error}") from None
        self._read.add(part)
        return [row for row in rows if row["row"] == 0 and self._model in ("", row["model"])]

    def _observation(self, row: dict[str, Any], following: _Following) -> Observation | None:
        """A request's first row; None if it is not ours or came before the start."""
        names = (row["model_version"], row["digest"])
        arm: Arm | None = next((arm for arm, name in following.arms.items() if name in names), None)
        at = row["at"].timestamp()
        if arm is None or at < following.since:
            return None
        score = row["score"]
        result = _result(row["status"], score)
        self._late += at <= self._told_until
        return Observation(
            index=0,
            at=round(at, 6),
            arm=arm,
            share=following.share,
            result=result,
            seconds=row["seconds"],
            score=score if result == "ok" else None,
        )


def _result(status: int, score: float | None) -> Result:
    if status >= 500:
        return "error"
    if status >= 400:
        return "rejected"
    return "ok" if score is not None and math.isfinite(score) else "invalid"


class _UnreadableError(Exception):
    """The log can't be read, for now."""
