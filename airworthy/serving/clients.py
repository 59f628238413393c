"""The splitter's side towards its clients: one object per connection.

Requests of one connection are answered one after the other, also when they come at once (pipelining). A client
that is too slow, in sending or in taking, loses its connection; one that only closes its sending half gets what it
has asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from airworthy.serving.request_reader import RequestReader
from airworthy.serving.wire import REFUSING, Reply, Request, own_reply

KEEP_ALIVE_SECONDS = 75.0
LINGER_SECONDS = 1.0
"""How long a refused client may go on sending, unread, so that it gets to read the refusal."""


class Router(Protocol):
    """What answers requests: each is `handle`d and then answered by one call of `Client.answer`."""

    @property
    def draining(self) -> bool:
        """Whether connections end with the answer under way."""

    def handle(self, client: Client, request: Request) -> None: ...


class Client(asyncio.Protocol):
    """One client connection.

    Args:
        router: Answers the requests.
        clients: The open connections; this one is there while it is open.
        gone: Called after it has left `clients`.
        sticky: See `RequestReader`.
    """

    def __init__(
        self, router: Router, clients: set[Client], gone: Callable[[], None], sticky: bytes | None
    ) -> None:
        self._router = router
        self._clients = clients
        self._gone = gone
        self._reader = RequestReader(sticky)
        self._transport: asyncio.Transport
        self._current: Request | None = None
        self._advancing = False
        self._ended = False
        self._partial = False
        self._lingering = False
        self._reading_paused = False
        self._writing_paused = False
        self._since = 0.0
        self._unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._since = asyncio.get_running_loop().time()
        self._clients.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._clients.discard(self)
        self._gone()

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        reader = self._reader
        reader.feed(data)
        if reader.reading != self._partial:
            self._partial = reader.reading
            self._since = asyncio.get_running_loop().time()
        self._advance()

    def eof_received(self) -> bool:
        self._ended = True
        if self._lingering:
            self._transport.close()
        self._advance()
        return True  # we close it, after the answers

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._advance()

    @property
    def idle(self) -> bool:
        """Whether nothing is asked or under way, and nothing is left to send."""
        return not (
            self._current
            or self._lingering
            or self._reader.reading
            or self._reader.ready
            or self._transport.get_write_buffer_size()
        )

    def answer(self, reply: Reply, arm: bytes = b"") -> None:
        """Answer the request that was handled; `arm` was drawn for it."""
        request, self._current = self._current, None
        assert request is not None
        if self._transport.is_closing():
            return
        keep_alive = request.keep_alive and (not self._router.draining or bool(self._reader.ready))
        self._transport.write(reply.wire(request, arm, keep_alive))
        if not keep_alive:
            self._transport.close()

    def advance(self) -> None:
        """Go on to the next request, after an answer."""
        self._since = asyncio.get_running_loop().time()
        self._advance()

    def close(self) -> None:
        """Close it, after what is written."""
        self._transport.close()

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()

    def sweep(self, now: float, patience: float) -> None:
        """End the connection if its client is too slow.

        Args:
            now: Time of the event loop, s.
            patience: For a whole request, and for any part of an answer, s.
        """
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._since = unsent, now
        if self._current or self._lingering:
            return
        waited = now - self._since
        if unsent:
            if waited > patience:
                self.abort()
        elif self._reader.reading:
            if waited > patience:
                self._refuse(408, "the request did not arrive in time")
        elif waited > KEEP_ALIVE_SECONDS:
            self.close()

    def _advance(self) -> None:
        """Take up what can be taken up; a loop, because some requests are answered on the spot."""
        if self._advancing:
            return
        self._advancing = True
        reader = self._reader
        try:
            while not (
                self._current or self._writing_paused or self._lingering or self._transport.is_closing()
            ):
                if reader.ready:
                    self._current = reader.ready.popleft()
                    self._router.handle(self, self._current)
                else:
                    self._wait()
                    break
        finally:
            self._advancing = False
        self._bound()

    def _wait(self) -> None:
        reader = self._reader
        if reader.refused:
            self._refuse(reader.refused.status, str(reader.refused))
        elif self._ended:
            self._transport.close()
        elif reader.awaits_continue:
            reader.awaits_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse(self, status: int, message: str) -> None:
        self._transport.write(own_reply(status, message).wire(REFUSING, b"", keep_alive=False))
        if self._ended:
            self._transport.close()
            return
        # closing now, with something unread, would reset the connection under the answer
        self._lingering = True
        self._transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.close)

    def _bound(self) -> None:
        """Read no further ahead than needed, so that nobody can fill our memory."""
        reader = self._reader
        enough = not self._lingering and (
            bool(reader.ready) or self._writing_paused or reader.refused is not None
        )
        if enough == self._reading_paused or self._transport.is_closing():
            return
        self._reading_paused = enough
        if enough:
            self._transport.pause_reading()
        elif not self._ended:
            self._transport.resume_reading()
