"""HTTP/1.1 messages as the splitter passes them on, and their bytes.

Bodies are held whole, whichever way they were framed, and sent on with `Content-Length`; headers that belong to one
connection are not sent on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus

ARM_HEADER = "X-Canary-Arm"
HOP_BY_HOP = frozenset(
    ("connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer")
) | {"transfer-encoding", "upgrade"}
"""Headers of one connection, and those that are written anew."""
MAX_BODY = 64 * 1024 * 1024
MAX_HEAD = 64 * 1024
MAX_REPLY_HEAD = 8000
MAX_REPLY_LINES = 64
"""Many clients accept no more of a reply (8190 bytes a line, 100 lines), so one with more is no answer to them."""
IDEMPOTENT = frozenset([b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"])

ARM = ARM_HEADER.lower().encode()
NOT_SENT_ON = frozenset(name.encode() for name in HOP_BY_HOP) | {b"accept-encoding"}
"""Compressed answers, which nobody needs on this machine, could not be read as evidence."""
_BODILESS = (204, 304)


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


@dataclass(slots=True)
class Request:
    """One request of a client.

    Attributes:
        method: Upper case.
        target: Path and query, as sent on.
        lines: Pieces of the header lines that are sent on.
        body: Whole.
        arm: Value of `X-Canary-Arm`, if there is one.
        key: Value of the sticky header, if there is one.
        keep_alive: Whether the client wants to keep its connection.
        old: Whether it speaks HTTP/1.0 (and is told about keep-alive).
    """

    method: bytes
    target: bytes
    lines: list[bytes]
    body: bytes
    arm: bytes | None
    key: bytes | None
    keep_alive: bool
    old: bool

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    def wire(self, host: bytes, prefix: bytes) -> bytes:
        """The bytes to send to a model server.

        Args:
            host: Value of its Host header.
            prefix: Path before the target, mostly empty.
        """
        head = (b"%b %b%b HTTP/1.1\r\nHost: %b\r\n" % (self.method, prefix, self.target, host), *self.lines)
        if self.body or self.method not in (b"GET", b"HEAD"):
            return b"".join((*head, b"Content-Length: %d\r\n\r\n" % len(self.body), self.body))
        return b"".join((*head, b"\r\n"))


@dataclass(slots=True)
class Reply:
    """One reply of a model server.

    Attributes:
        status: HTTP status.
        reason: What it is called.
        lines: Pieces of the header lines that are sent on.
        body: Whole.
        length: Its Content-Length header, which a HEAD reply keeps.
        coded: Whether it says that its body is compressed, although nobody asked for that.
    """

    status: int
    reason: bytes
    lines: list[bytes]
    body: bytes
    length: bytes | None = None
    coded: bool = False

    @property
    def evidence(self) -> bytes:
        """The body as its reader understands it; nothing where that can't be told."""
        return b"" if self.coded else self.body

    def wire(self, request: Request, arm: bytes, keep_alive: bool) -> bytes:
        """The bytes to send to the client, with the arm that was drawn."""
        head = [b"HTTP/1.1 %d %b\r\n" % (self.status, self.reason), *self.lines]
        if arm:
            head.append(b"X-Canary-Arm: %b\r\n" % arm)
        if not keep_alive:
            head.append(b"Connection: close\r\n")
        elif request.old:
            head.append(b"Connection: keep-alive\r\n")
        if request.method == b"HEAD":
            if self.length is not None:
                head.append(b"Content-Length: %b\r\n" % self.length)
            head.append(b"\r\n")
        elif self.status in _BODILESS:
            head.append(b"\r\n")
        else:
            head += (b"Content-Length: %d\r\n\r\n" % len(self.body), self.body)
        return b"".join(head)


def own_reply(status: int, message: str) -> Reply:
    """The splitter's own answer: one sentence as JSON."""
    body = json.dumps({"error": message}).encode()
    return Reply(status, HTTPStatus(status).phrase.encode(), [b"Content-Type: application/json\r\n"], body)


REFUSING = Request(b"GET", b"/", [], b"", None, None, keep_alive=False, old=False)
"""Stands for a request that was not understood, when it is answered."""
