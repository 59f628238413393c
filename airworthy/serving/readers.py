"""Making messages of bytes, for the splitter: requests of clients, replies of model servers.

Parsing is llhttp's (through httptools), in its strict mode: ambiguous framing, which request smuggling lives of,
is refused. Heads are bounded by `MAX_HEAD`, bodies by `MAX_BODY`.
"""

from __future__ import annotations

from collections import deque

import httptools

from airworthy.serving.wire import ARM_HEADER, HOP_BY_HOP, MAX_BODY, MAX_HEAD, Reply, Request

_ARM = ARM_HEADER.lower().encode()
_DROPPED = frozenset(name.encode() for name in HOP_BY_HOP) | {b"accept-encoding"}
"""Not sent on; compressed answers, which nobody needs on this machine, could not be read as evidence."""
_FRAMING = (b"content-length", b"expect", b"transfer-encoding")
_PLAIN = (b"close", b"keep-alive")


class Refused(Exception):  # noqa: N818 (an answer, not a fault)
    """A request that gets `status` and then the end of the connection."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BrokenReplyError(Exception):
    """A model server's reply that is not HTTP, or too large."""


class Body:
    """A body in the making. Most come in one piece; of a million tiny ones, none is kept as an object."""

    __slots__ = ("_first", "_more", "size")

    def __init__(self) -> None:
        self.size = 0
        self._first = b""
        self._more: bytearray | None = None

    def add(self, part: bytes) -> None:
        self.size += len(part)
        if not self._first:
            self._first = part
        elif self._more is None:
            self._more = bytearray(self._first + part)
        else:
            self._more += part

    @property
    def whole(self) -> bytes:
        return self._first if self._more is None else bytes(self._more)


class RequestReader:
    """Makes requests of one connection's bytes.

    Args:
        sticky: Lower-case name of the header whose value is kept as `Request.key`.

    Attributes:
        ready: Whole requests, oldest first; the reader's owner takes them out.
        refused: Why nothing more can be read.
        reading: Whether a request has begun and is not whole yet.
        awaits_continue: Whether its client waits for `100 Continue` before it sends the body.
    """

    def __init__(self, sticky: bytes | None = None) -> None:
        self.ready: deque[Request] = deque()
        self.refused: Refused | None = None
        self.reading = False
        self.awaits_continue = False
        self._sticky = sticky
        self._parser = httptools.HttpRequestParser(self)
        self._quiet = 0
        self._in_body = False
        self._begin()

    def _begin(self) -> None:
        self._url = b""
        self._lines: list[bytes] = []
        self._body = Body()
        self._head = 0
        self._hosts = 0
        self._arm: bytes | None = None
        self._key: bytes | None = None
        self._options: bytes = b""
        self._framing: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Read on; never raises: see `refused`."""
        if self.refused:
            return
        try:
            self._quiet += len(data)  # callbacks that show progress set it back
            self._parse(data)
            if self._quiet > MAX_HEAD:
                raise Refused(431, f"the head of a request may have {MAX_HEAD} bytes")
        except Refused as refused:
            self.refused = refused
        except httptools.HttpParserError as error:
            cause = error.__context__
            self.refused = (
                cause if isinstance(cause, Refused) else Refused(400, f"not an HTTP request: {error}")
            )

    def _parse(self, data: bytes) -> None:
        view = data
        while view:
            try:
                self._parser.feed_data(view)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # an upgrade may be ignored (RFC 9110, 7.8): go on in HTTP/1.1 behind the head that asked
                view = self._head_again() + view[upgrade.args[0] :]

    def _head_again(self) -> bytes:
        """The head of a request that asks for an upgrade and has a body, without asking: llhttp skips the body."""
        if not self._framing:
            return b""
        request = self.ready.pop()
        arm = (b"X-Canary-Arm: ", request.arm, b"\r\n") if request.arm is not None else ()
        start = b"%b %b HTTP/1.1\r\nHost: -\r\n" % (request.method, request.target)
        return b"".join((start, *request.lines, *arm, *self._framing, b"\r\n"))

    def on_message_begin(self) -> None:
        self._begin()
        self.reading = True
        self._in_body = False

    def on_url(self, part: bytes) -> None:
        self._url += part
        if len(self._url) > MAX_HEAD:
            raise Refused(414, f"the target of a request may have {MAX_HEAD} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        if self._head > MAX_HEAD:
            raise Refused(431, f"the head of a request may have {MAX_HEAD} bytes")
        if self._in_body:
            return  # a trailer: belongs to the framing that ends here
        lower = name.lower()
        if lower == self._sticky:
            self._key = value
        if lower in _DROPPED:
            self._note(lower, value)
        elif lower == _ARM:
            self._arm = value if self._arm is None else self._arm + b"," + value
        else:
            self._lines += (name, b": ", value, b"\r\n")

    def _note(self, name: bytes, value: bytes) -> None:
        if name in _FRAMING:
            self._framing += (name, b": ", value, b"\r\n")
        if name == b"host":
            self._hosts += 1
        elif name == b"connection" and value.lower() not in _PLAIN:
            self._options = value.lower()
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise Refused(501, "no transfer encoding but chunked is supported")
        elif name == b"content-length" and int(value) > MAX_BODY:
            raise Refused(413, f"the body of a request may have {MAX_BODY} bytes")
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise Refused(417, "no expectation but 100-continue is supported")
            self.awaits_continue = True

    def on_headers_complete(self) -> None:
        self._in_body = True
        self._quiet = 0
        self._old = self._parser.get_http_version() == "1.0"
        if not self._old:
            if self._parser.get_http_version() != "1.1":
                raise Refused(505, "HTTP/1.1 is spoken here")
            if self._hosts != 1:
                raise Refused(400, "a request has one Host header")
        if self._parser.get_method() == b"CONNECT":
            raise Refused(405, "CONNECT is not supported")
        if self._options:
            self._lines = _without(self._lines, self._options)
        self._keep_alive = self._parser.should_keep_alive()

    def on_body(self, part: bytes) -> None:
        self._quiet = 0
        self.awaits_continue = False
        self._body.add(part)
        if self._body.size > MAX_BODY:
            raise Refused(413, f"the body of a request may have {MAX_BODY} bytes")

    def on_message_complete(self) -> None:
        self.ready.append(
            Request(
                self._parser.get_method(),
                self._url if self._url.startswith((b"/", b"*")) else _origin(self._url),
                self._lines,
                self._body.whole,
                self._arm,
                self._key,
                self._keep_alive,
                self._old,
            )
        )
        self._quiet = 0
        self.reading = self.awaits_continue = self._in_body = False


def _origin(url: bytes) -> bytes:
    """Path and query of a target in absolute form (`http://host/path`)."""
    try:
        parsed = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        raise Refused(400, "the target of the request can't be understood") from None
    return (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")


def _without(lines: list[bytes], options: bytes) -> list[bytes]:
    """Header lines without those that the Connection header names."""
    named = {option.strip() for option in options.split(b",")}
    kept: list[bytes] = []
    for k in range(0, len(lines), 4):
        if lines[k].lower() not in named:
            kept += lines[k : k + 4]
    return kept


class ReplyReader:
    """Makes replies of one model server connection's bytes; `expect` before each request."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.keep_alive = False
        self.expect(head_only=False)

    def expect(self, *, head_only: bool) -> None:
        """A request was sent; a reply to HEAD ends with its head."""
        self._head_only = head_only
        self._quiet = 0
        self._reply: Reply | None = None
        self._clear()

    def _clear(self) -> None:
        self._reason = b""
        self._lines: list[bytes] = []
        self._body = Body()
        self._head = 0
        self._length: bytes | None = None
        self._framed = False
        self._status = 0

    def feed(self, data: bytes) -> Reply | None:
        """The reply, once it is whole.

        Raises:
            BrokenReplyError: It is not HTTP, or too large.
        """
        self._quiet += len(data)  # callbacks that show progress set it back
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._reply is None:
                raise BrokenReplyError(str(error)) from None
            self.keep_alive = False  # something came behind the reply
        if self._reply is None and self._quiet > MAX_HEAD:
            raise BrokenReplyError("its head is too large")
        return self._reply

    def at_end(self) -> Reply | None:
        """The reply, if the end of the connection is what makes it whole."""
        if self._status >= 200 and not self._framed and self._reply is None:
            self._finish()
        return self._reply

    def on_message_begin(self) -> None:
        if self._reply is not None:
            raise BrokenReplyError("a second reply")
        self._clear()

    def on_status(self, part: bytes) -> None:
        self._reason += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        if self._head > MAX_HEAD:
            raise BrokenReplyError("its head is too large")
        if self._status:
            return  # a trailer
        lower = name.lower()
        if lower in _DROPPED:
            if lower == b"content-length":
                self._length, self._framed = value, True
            elif lower == b"transfer-encoding":
                self._framed = True
        elif lower != _ARM:
            self._lines += (name, b": ", value, b"\r\n")

    def on_headers_complete(self) -> None:
        self._quiet = 0
        self._status = self._parser.get_status_code()
        self.keep_alive = self._parser.should_keep_alive()
        if self._head_only and self._status >= 200:
            self._finish()
            self.keep_alive = False  # llhttp would take what comes next for the body
        elif self._length and int(self._length) > MAX_BODY:
            raise BrokenReplyError("its body is too large")

    def on_body(self, part: bytes) -> None:
        self._quiet = 0
        self._body.add(part)
        if self._body.size > MAX_BODY:
            raise BrokenReplyError("its body is too large")

    def on_message_complete(self) -> None:
        if self._status < 200:
            self._clear()
        elif self._reply is None:
            self._finish()

    def _finish(self) -> None:
        self._reply = Reply(self._status, self._reason, self._lines, self._body.whole, self._length)
