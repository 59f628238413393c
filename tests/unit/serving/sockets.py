"""Bare HTTP over sockets for the splitter's tests: servers and clients that say exactly what a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from airworthy.serving.observation import Observation
from airworthy.serving.splitter import Splitter

PATH = "/v1/models/late:predict"
OK = b'{"predictions": [0.25]}'
OTHER = b'{"predictions": [0.75]}'

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[bytes, bytes, asyncio.StreamWriter], Awaitable[None]]
"""Gets the head and the body of a request and writes what it likes."""


def reply(body: bytes = OK, *, status: str = "200 OK", headers: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def post(body: bytes = b"{}", *, headers: str = "", path: str = PATH) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def saying(data: bytes, *, close: bool = False, wait: float = 0.0) -> Handler:
    """A handler that answers every request with these bytes."""

    async def handle(_: bytes, __: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(wait)
        writer.write(data)
        if close:
            writer.close()

    return handle


async def read_message(reader: asyncio.StreamReader, *, body: bool = True) -> tuple[bytes, bytes]:
    """Head and body of one message with `Content-Length`."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].split(b":")[1]) if lengths and body else 0
    return head, await reader.readexactly(length)


@asynccontextmanager
async def model_server(handler: Handler) -> AsyncIterator[str]:
    """A server on loopback; its address."""
    writers = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            while not writer.is_closing():
                await handler(*await read_message(reader), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writers.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for writer in list(writers):
        writer.transport.abort()
    await asyncio.sleep(0)


@asynccontextmanager
async def splitting(
    stable: Handler | str | None, canary: Handler | str | None = None, **options: Any
) -> AsyncIterator[tuple[Splitter, list[Observation]]]:
    """A splitter between two servers, and what it sees."""
    seen: list[Observation] = []

    @asynccontextmanager
    async def address(arm: Handler | str | None) -> AsyncIterator[str | None]:
        if arm is None or isinstance(arm, str):
            yield arm
            return
        async with model_server(arm) as url:
            yield url

    async with address(stable) as first, address(canary) as second:
        splitter = Splitter(first, second, on_request=seen.append, seed=1, **options)
        await splitter.start()
        try:
            yield splitter, seen
        finally:
            await splitter.stop(drain=2.0)


async def connect(splitter: Splitter) -> Streams:
    return await asyncio.open_connection("127.0.0.1", int(splitter.url.rsplit(":", 1)[1]), limit=2**26)


async def ask(splitter: Splitter, request: bytes, *, body: bool = True) -> tuple[bytes, bytes]:
    """One request over a connection of its own; head and body of the answer."""
    reader, writer = await connect(splitter)
    writer.write(request)
    try:
        return await asyncio.wait_for(read_message(reader, body=body), 10)
    finally:
        writer.close()


def status(head: bytes) -> int:
    return int(head.split(b" ", 2)[1])
