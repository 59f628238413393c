"""Making replies of a model server's bytes, for the splitter. Parsing is llhttp's, as for requests."""

from __future__ import annotations

import httptools

from airworthy.serving.wire import (
    ARM,
    MAX_BODY,
    MAX_HEAD,
    MAX_REPLY_HEAD,
    MAX_REPLY_LINES,
    NOT_SENT_ON,
    Body,
    Reply,
)


class BrokenReplyError(Exception):
    """A model server's reply that is not HTTP, or too large."""


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
        self._framed = self._coded = False
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
        if self._head > MAX_REPLY_HEAD or len(self._lines) > 4 * MAX_REPLY_LINES:
            raise BrokenReplyError("its head is too large")
        if self._status:
            return  # a trailer
        lower = name.lower()
        if lower in NOT_SENT_ON:
            if lower == b"content-length":
                self._length, self._framed = value, True
            elif lower == b"transfer-encoding":
                self._framed = True
        elif lower != ARM:
            self._coded |= lower == b"content-encoding" and value.lower() != b"identity"
            self._lines += (name, b": ", value, b"\r\n")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status >= 200:
            self._quiet = 0  # interim replies are no progress: a server could send them for ever
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
        reason = self._reason if self._reason.decode("latin-1").isprintable() else b""
        self._reply = Reply(self._status, reason, self._lines, self._body.whole, self._length, self._coded)
