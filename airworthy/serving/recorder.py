"""Where the splitter's observations go: to counters, to the request log and to whoever judges."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from airworthy.serving.observation import Arm, Observation, Pair, Result
from airworthy.serving.request_log import RequestLog

log = logging.getLogger(__name__)

_Seen = TypeVar("_Seen", Observation, Pair)


class Recorder:
    """Passes on what was seen; nothing that goes wrong here reaches a user.

    Args:
        on_request: Called with every observation.
        request_log: Gets every observation.
        on_error: Called when an observer raised.

    Attributes:
        completed: Observations so far.
        results: The same by drawn arm and result.
        error: What an observer raised last.
        on_pair: Called with every pair.
    """

    def __init__(
        self,
        on_request: Callable[[Observation], None] | None,
        request_log: RequestLog | None,
        on_error: Callable[[], None],
    ) -> None:
        self.completed = 0
        self.results: Counter[tuple[Arm, Result]] = Counter()
        self.error: Exception | None = None
        self.on_pair: Callable[[Pair], None] | None = None
        self._on_request = on_request
        self._log = request_log
        self._on_error = on_error

    @property
    def log_dropped(self) -> int:
        """Requests that could not be logged."""
        return self._log.dropped if self._log else 0

    def record(self, seen: Observation, version: int, status: int | None) -> None:
        """One observation; see `RequestLog.append`."""
        self.completed += 1
        self.results[seen.arm, seen.result] += 1
        if self._log:
            self._log.append(seen, version, status)
        if self._on_request:
            self._tell(self._on_request, seen)

    def compare(self, pair: Pair) -> None:
        """One pair."""
        if self.on_pair:
            self._tell(self.on_pair, pair)

    def _tell(self, observer: Callable[[_Seen], None], seen: _Seen) -> None:
        try:
            observer(seen)
        except Exception as error:
            if self.error is None:
                log.exception("what observes requests failed; the canary gets no more traffic")
            self.error = error
            self._on_error()
