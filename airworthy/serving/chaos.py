"""A proxy that makes a healthy model server misbehave, for `airworthy demo bad-canary` and fault tests.

It stands in front of the canary only when a `Fault` is handed to the rollout, and the rollout's record names
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from dataclasses import dataclass
from typing import Literal, get_args

from aiohttp import ClientSession, web

from airworthy.errors import ConfigError
from airworthy.serving.splitter import HOP_BY_HOP, MAX_BODY, PREDICTIONS

Kind = Literal["errors", "slow", "nan", "garbage", "crash", "hang", "huge", "break"]
ENVIRONMENT = "AIRWORTHY_DEMO_FAULT"


@dataclass(frozen=True)
class Fault:
    """What goes wrong with which share of predictions.

    `seconds` is the delay of `slow`; `after` lets that many predictions through unharmed; `crash` stops
    listening; `hang` never answers; `huge` answers with more than anybody should read; `break` closes in the middle
    of its answer.
    """

    kind: Kind
    share: float = 0.3
    seconds: float = 0.05
    after: int = 0

    @classmethod
    def from_environment(cls) -> Fault | None:
        """The fault that `AIRWORTHY_DEMO_FAULT` asks for: `kind` or `kind:share`, such as `errors:0.3`.

        Raises:
            ConfigError: It names no known fault.
        """
        text = os.environ.get(ENVIRONMENT, "")
        if not text:
            return None
        kind, _, share = text.partition(":")
        try:
            if kind not in get_args(Kind) or not 0 < float(share or 0.3) <= 1:
                raise ValueError
        except ValueError:
            known = ", ".join(get_args(Kind))
            raise ConfigError(
                f"{ENVIRONMENT}: {text!r} is no fault; use KIND:SHARE with one of {known}"
            ) from None
        return cls(kind, float(share or 0.3))  # type: ignore[arg-type]


class ChaosProxy:
    """Forwards everything to `target`, except for the predictions that the fault hits."""

    def __init__(self, target: str, fault: Fault, seed: int | None = None) -> None:
        self._target = target
        self._fault = fault
        self._random = random.Random(seed)  # noqa: S311 (which requests fail is no secret)
        self._predictions = 0
        self._runner: web.AppRunner | None = None
        self._session: ClientSession | None = None
        self._crash: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen on a free port of 127.0.0.1; returns the base URL."""
        self._session = ClientSession()
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop listening. Safe to repeat."""
        if self._crash:
            await self._crash
        await self._close()

    async def _close(self) -> None:
        runner, self._runner = self._runner, None
        if runner:
            await runner.cleanup()
        session, self._session = self._session, None
        if session:
            await session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        prediction = request.method == "POST" and request.path.endswith(PREDICTIONS)
        self._predictions += prediction
        hit = (
            prediction and self._predictions > self._fault.after and self._random.random() < self._fault.share
        )
        if hit:
            answer = await self._misbehave(request)
            if answer is not None:
                return answer
        if self._session is None:
            return web.Response(status=503)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        async with self._session.request(
            request.method, f"{self._target}{request.raw_path}", data=await request.read(), headers=headers
        ) as reply:
            kept = {k: v for k, v in reply.headers.items() if k.lower() not in HOP_BY_HOP}
            return web.Response(status=reply.status, body=await reply.read(), headers=kept)

    async def _misbehave(self, request: web.Request) -> web.StreamResponse | None:
        kind = self._fault.kind
        if kind == "slow":
            await asyncio.sleep(self._fault.seconds)
            return None
        if kind == "nan":
            return web.Response(text='{"predictions": [NaN]}', content_type="application/json")
        if kind == "garbage":
            return web.Response(text="<html>out of order</html>", content_type="text/html")
        if kind == "hang":
            await asyncio.Event().wait()
        if kind == "huge":
            return await _flood(request)
        if kind == "break":
            return _break_off(request)
        if kind == "crash":
            self._crash = self._crash or asyncio.create_task(self._close())
            if request.transport:
                request.transport.abort()
            return web.Response(status=500)  # nobody is left to read it
        return web.json_response({"error": "injected failure"}, status=500)


async def _flood(request: web.Request) -> web.StreamResponse:
    """Twice what the splitter accepts, for as long as it is taken."""
    answer = web.StreamResponse(headers={"Content-Type": "application/json"})
    await answer.prepare(request)
    block = b" " * (1024 * 1024)
    with contextlib.suppress(ConnectionError):
        for _ in range(2 * MAX_BODY // len(block)):
            await answer.write(block)
    return answer


def _break_off(request: web.Request) -> web.Response:
    if request.transport:
        request.transport.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"predictions": [0.')
        request.transport.close()
    return web.Response()  # nobody is left to read it
