"""The shadow: the canary is asked what stable has just answered, and only the pair of results is kept.

It begins after the user's answer was sent, and when the canary can't keep up, copies are dropped and counted: the
answer is neither changed nor delayed.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from airworthy.serving.observation import Observation, Pair, Result
from airworthy.serving.results import result_of
from airworthy.serving.upstream import Call, Failure, Pool
from airworthy.serving.wire import Reply, Request

QUEUE = 100
QUEUE_BYTES = 64 * 1024 * 1024
"""Of the bodies of copies that wait."""
WORKERS = 2


@dataclass(slots=True)
class _Copy:
    pool: Pool
    request: Request
    stable: Observation


class Shadow:
    """Asks copies of requests, a bounded number at a time.

    Args:
        on_pair: Called with every pair, in order of completion.
        timeout: Seconds that the canary may take.
        seed: For reproducible draws; None draws from the system's entropy.

    Attributes:
        share: Share of the requests that are copied, 0..1.
        sent: Copies that were asked.
        dropped: Copies that found the queue full (of copies or of bytes), or were left when it was closed.
    """

    def __init__(self, on_pair: Callable[[Pair], None], timeout: float, seed: int | None) -> None:
        self.share = 0.0
        self.sent = 0
        self.dropped = 0
        self._on_pair = on_pair
        self._timeout = timeout
        self._random = random.Random(seed)  # noqa: S311 (which requests are copied is no secret)
        self._queue: deque[_Copy] = deque()
        self._bytes = 0
        self._active = 0
        self._pairs = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._closed = False

    def offer(self, pool: Pool, request: Request, stable: Observation) -> None:
        """A request that stable has answered; it is copied with probability `share`.

        Args:
            pool: The canary's.
            request: The request.
            stable: What came of it on stable.
        """
        if self._closed or self._random.random() >= self.share:
            return
        size = len(request.body)
        if len(self._queue) >= QUEUE or self._bytes + size > QUEUE_BYTES:
            self.dropped += 1
            return
        self._bytes += size
        self._queue.append(_Copy(pool, request, stable))
        self._empty.clear()
        self._work()

    def _work(self) -> None:
        while self._queue and self._active < WORKERS and not self._closed:
            copy = self._queue.popleft()
            self._bytes -= len(copy.request.body)
            self._active += 1
            self.sent += 1
            done = functools.partial(self._answered, copy, time.perf_counter())
            copy.pool.ask(copy.request.wire(copy.pool.host, copy.pool.prefix), done, timeout=self._timeout)

    def _answered(
        self, copy: _Copy, begun: float, _: Call, reply: Reply | None, failure: Failure | None
    ) -> None:
        seconds = round(time.perf_counter() - begun, 6)
        self._active -= 1
        result: Result = "timeout" if failure == "timeout" else "connection"
        score = None
        if reply is not None:
            result, score = result_of(reply.status, reply.evidence, copy.request.body)
        if not self._closed:
            stable = copy.stable
            pair = Pair(
                self._pairs, stable.at, result, stable.result, score, stable.score, seconds, stable.seconds
            )
            self._pairs += 1
            self._on_pair(pair)
        self._work()
        if not self._active:
            self._empty.set()

    async def drained(self) -> None:
        """Wait until every copy was answered."""
        await self._empty.wait()

    def close(self) -> None:
        """Ask nothing more; copies that wait are dropped."""
        self._closed = True
        self.dropped += len(self._queue)
        self._queue.clear()
