"""Making requests of a client's bytes, for the splitter.

Parsing is llhttp's (through httptools), in its strict mode: ambiguous framing, which request smuggling lives of,
is refused. Heads are bounded by `MAX_HEAD`, bodies by `MAX_BODY`.
"""

from __future__ import annotations

from collections import deque

import httptools

from airworthy.serving.wire import ARM, MAX_BODY, MAX_HEAD, NOT_SENT_ON, Body, Request

_FRAMING = (b"content-length", b"expect", b"transfer-encoding")
_PLAIN = (b"close", b"keep-alive")


class Refused(Exception):  # noqa: N818 (an answer, not a fault)
    """A request that gets `status` and then the end of the connection."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


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
        if lower in NOT_SENT_ON:
            self._note(lower, value)
        elif lower == ARM:
            self._arm = value if self._arm is None else self._arm + b"," + value
        else:
            self._lines += (name, b": ", value, b"\r\n")

    def _note(self, name: bytes, value: bytes) -> None:
        if name in _FRAMING:
            self._framing += (name, b": ", value, b"\r\n")
        if name == b"host":
            self._hosts += 1
        elif name == b"connection" and value.lower() not in _PLAIN:
            self._options += b"," + value.lower()
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
