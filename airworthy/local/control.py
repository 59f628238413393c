"""Stopping a run: who must end now, and who may still start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from airworthy.local.executor import Attempt


class Control:
    """Level 0: everything runs. 1: canceled, only exit tasks run. 2: canceled again, nothing runs.

    Lives on the engine's event loop; other threads go through `call_soon_threadsafe`.
    """

    def __init__(self) -> None:
        self.level = 0
        self.reason: str | None = None
        self._running: dict[Attempt, bool] = {}
        self._changed = asyncio.Event()

    def cancel(self, reason: str) -> None:
        """Goes one level up and stops the attempts that may not go on."""
        self.level += 1
        self.reason = self.reason or reason
        for attempt, is_exit in self._running.items():
            if not self.allows(is_exit):
                attempt.stop("canceled")
        self._changed.set()

    def allows(self, is_exit: bool) -> bool:
        """Whether a task (of an exit handler, or not) may start or go on."""
        return self.level < (2 if is_exit else 1)

    @asynccontextmanager
    async def running(self, attempt: Attempt, is_exit: bool) -> AsyncIterator[None]:
        """Keeps an attempt within reach of `cancel`."""
        self._running[attempt] = is_exit
        if not self.allows(is_exit):
            attempt.stop("canceled")
        try:
            yield
        finally:
            del self._running[attempt]

    async def sleep(self, seconds: float, is_exit: bool) -> None:
        """Waits, but no longer than until the caller is canceled."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self.allows(is_exit):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return
