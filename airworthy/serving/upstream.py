"""Keep-alive connections to one model server, and the calls that go over them.

A connection that the server may have closed meanwhile is not used again: neither one that was idle for
`IDLE_SECONDS` (servers keep them for two seconds or more) nor one on which something has arrived. So a connection
that breaks under a call is a failure of the server, not of the pool, on both arms alike: no call is repeated here.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Callable
from typing import Literal, cast
from urllib.parse import urlsplit

from airworthy.errors import ServingError
from airworthy.serving.reply_reader import BrokenReplyError, ReplyReader
from airworthy.serving.wire import Reply

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.5
Failure = Literal["timeout", "refused", "broken"]
"""`refused`: nothing was sent. `broken`: the connection or the reply broke, at any point."""
Done = Callable[["Call", Reply | None, Failure | None], None]


class Call:
    """One request on its way; `done` is called once, with the reply or what went wrong.

    Attributes:
        reused: Whether it went over a connection that had carried other calls.
    """

    __slots__ = ("_done", "_pool", "_timer", "connection", "data", "head_only", "over", "reused")

    def __init__(self, pool: Pool, data: bytes, head_only: bool, timeout: float, done: Done) -> None:
        self.data = data
        self.head_only = head_only
        self.connection: Connection | None = None
        self.reused = False
        self.over = False
        self._pool = pool
        self._done = done
        self._timer = pool.loop.call_later(timeout, self._expire)

    def finish(self, reply: Reply | None, failure: Failure | None) -> None:
        if self.over:
            return
        self.over = True
        self._timer.cancel()
        self._pool.finished()
        self._done(self, reply, failure)

    def _expire(self) -> None:
        if self.connection:
            self.connection.abandon()
        self.finish(None, "timeout")


class Connection(asyncio.Protocol):
    """One connection to the server; carries one call at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._call: Call | None = None
        self._reader = ReplyReader()
        self._transport: asyncio.Transport
        self._poll = select.poll()
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLHUP)
        self._pool.connections.add(self)

    def carry(self, call: Call) -> None:
        self._call = call
        call.connection = self
        self._reader.expect(head_only=call.head_only)
        self._transport.write(call.data)

    def data_received(self, data: bytes) -> None:
        call = self._call
        if call is None:
            self.abandon()  # nobody asked
            return
        try:
            reply = self._reader.feed(data)
        except BrokenReplyError as error:
            log.debug("broken reply of %s: %s", self._pool.address, error)
            self.abandon()
            call.finish(None, "broken")
            return
        if reply is None:
            return
        self._call = None
        if self._reader.keep_alive and not self._transport.get_write_buffer_size():
            self._pool.release(self)
        else:
            self._transport.close()
        call.finish(reply, None)

    def connection_lost(self, _: Exception | None) -> None:
        self._pool.forget(self)
        call, self._call = self._call, None
        if call:
            reply = self._reader.at_end()
            call.finish(reply, None if reply else "broken")

    @property
    def usable(self) -> bool:
        """Whether it is still open and nothing has arrived on it."""
        return not self._transport.is_closing() and not self._poll.poll(0)

    def abandon(self) -> None:
        """Close it at once; its call hears nothing more of it."""
        self._call = None
        self._transport.abort()

    def abort(self) -> None:
        """Close it at once; its call fails."""
        self._transport.abort()


class Pool:
    """Calls to one model server, in the running event loop.

    Args:
        address: Its base URL; http only.

    Raises:
        ServingError: The address can't be used.
    """

    def __init__(self, address: str) -> None:
        parsed = urlsplit(address)
        try:
            host, port = parsed.hostname, parsed.port or 80
        except ValueError:
            host, port = None, 0
        if parsed.scheme != "http" or not host:
            raise ServingError(f"{address!r} is no address of a model server; use http://HOST:PORT")
        self.address = address
        self.loop = asyncio.get_running_loop()
        self.host = parsed.netloc.encode()
        self.prefix = parsed.path.rstrip("/").encode()
        self.connections: set[Connection] = set()
        self.in_flight = 0
        self._where = (host, port)
        self._idle: list[Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self._retired = False

    def ask(
        self, data: bytes, done: Done, *, timeout: float, head_only: bool = False, fresh: bool = False
    ) -> None:
        """Send a request.

        Args:
            data: Its bytes.
            done: Called once, later.
            timeout: Seconds until it fails, connecting included.
            head_only: It is a HEAD request.
            fresh: Over a new connection, which can't have been closed meanwhile.
        """
        self.in_flight += 1
        call = Call(self, data, head_only, timeout, done)
        connection = None if fresh else self._take()
        if connection is not None:
            call.reused = True
            connection.carry(call)
            return
        task = self.loop.create_task(self._connect(call))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, call: Call) -> None:
        try:
            _, connection = await self.loop.create_connection(lambda: Connection(self), *self._where)
        except OSError:
            call.finish(None, "refused")
            return
        except asyncio.CancelledError:
            call.finish(None, "broken")
            raise
        if call.over:
            connection.abandon()
        else:
            connection.carry(call)

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if self.loop.time() - connection.idle_since < IDLE_SECONDS and connection.usable:
                return connection
            connection.abandon()
        return None

    def release(self, connection: Connection) -> None:
        """Take a connection back."""
        if self._retired:
            connection.abandon()
            return
        connection.idle_since = self.loop.time()
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def finished(self) -> None:
        """A call is over."""
        self.in_flight -= 1
        if not self.in_flight and self._waiters:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()

    def sweep(self) -> None:
        """Close what has been idle for too long."""
        before = self.loop.time() - IDLE_SECONDS
        while self._idle and self._idle[0].idle_since < before:
            self._idle.pop(0).abandon()

    def retire(self) -> None:
        """Keep no connections any more, until `revive`; calls in flight finish."""
        self._retired = True
        while self._idle:
            self._idle.pop().abandon()

    def revive(self) -> None:
        """Keep connections again."""
        self._retired = False

    async def quiet(self) -> None:
        """Wait until no call is in flight."""
        if self.in_flight:
            waiter = self.loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def close(self) -> None:
        """End everything at once; calls in flight fail."""
        self.retire()
        for task in self._connecting:
            task.cancel()
        for connection in list(self.connections):
            connection.abort()
