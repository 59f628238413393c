"""One asyncio loop in a thread, on which all HTTP servers of a test cluster live."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for other threads; `stop` ends it with everything that is left."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-cluster-http", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T], timeout: float = 30) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def stop(self) -> None:
        self.call(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    @staticmethod
    async def _cancel_all() -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@web.middleware
async def no_aborts(request: web.Request, handler: Any) -> web.StreamResponse:
    """Handlers that broke the connection off have nothing to answer."""
    try:
        return await handler(request)
    except ConnectionAbortedError:
        return web.Response()


def abort(request: web.Request) -> None:
    """Break the connection off without an answer."""
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionAbortedError


async def serve(app: web.Application, port: int = 0) -> tuple[web.AppRunner, int]:
    """Listen on 127.0.0.1; returns the runner, to be cleaned up, and the port."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    return runner, runner.addresses[0][1]
