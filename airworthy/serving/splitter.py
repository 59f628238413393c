"""The weighted traffic splitter: one HTTP address in front of a stable and a canary model server.

Every request draws its arm afresh and independently, with a probability that is recorded with it: this is
what makes the rollout judge's evidence valid. Proxies such as nginx or HAProxy report neither.

- `X-Canary-Arm: stable|canary` forces an arm (probes); such requests are never evidence.
- A canary that can't be connected to is answered by the stable arm, but counted as the canary's failure.
- Weights change atomically, with a version.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, TCPConnector, web

from airworthy.errors import ServingError
from airworthy.serving.observation import Arm, Observation, Result

log = logging.getLogger(__name__)

ARM_HEADER = "X-Canary-Arm"
HOP_BY_HOP = frozenset(
    ["connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host", "content-length", "trailer"]
)
PREDICTIONS = (":predict", "/infer")
MAX_BODY = 64 * 1024 * 1024


@dataclass(frozen=True)
class Weights:
    """The canary's share of traffic (0..1); `version` counts the changes."""

    share: float
    version: int


class Splitter:
    """An HTTP server that forwards each request to one of two model servers.

    Lives in the running asyncio loop: `start`, then `set_share` at will, then `stop`, which lets requests in
    flight finish. Addresses are base URLs such as `http://127.0.0.1:8001`.

    Args:
        stable: Address of the stable server; None while there is none (first release: canary only).
        canary: Address of the canary, if any.
        on_request: Called with every prediction request's observation, in order of completion.
        timeout: Seconds an arm may take before it counts as failed.
        seed: For reproducible draws in tests; None draws from the system.
    """

    def __init__(
        self,
        stable: str | None,
        canary: str | None = None,
        *,
        on_request: Callable[[Observation], None] | None = None,
        timeout: float = 10.0,
        seed: int | None = None,
    ) -> None:
        self.addresses: dict[Arm, str | None] = {"stable": stable, "canary": canary}
        self.in_flight = 0
        self._weights = Weights(0.0 if stable else 1.0, 0)
        self._on_request = on_request
        self._timeout = ClientTimeout(total=timeout)
        self._random: random.Random = random.SystemRandom()
        if seed is not None:
            self._random = random.Random(seed)  # noqa: S311 (tests only)
        self._completed = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._session: ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self.url = ""

    @property
    def weights(self) -> Weights:
        return self._weights

    def set_share(self, share: float) -> Weights:
        """Send this share (0..1) of the requests that arrive from now on to the canary.

        Raises:
            ServingError: There is no server for an arm that would get traffic.
        """
        if not 0.0 <= share <= 1.0:
            raise ServingError(f"a share of traffic lies between 0 and 1, not {share}")
        if (share > 0 and self.addresses["canary"] is None) or (
            share < 1 and self.addresses["stable"] is None
        ):
            raise ServingError(f"no server for one of the arms that a share of {share:.0%} needs")
        self._weights = Weights(share, self._weights.version + 1)
        return self._weights

    def replace_stable(self, address: str) -> None:
        """Send requests from now on to another stable server; those in flight finish where they are."""
        self.addresses["stable"] = address

    async def start(self, port: int = 0) -> str:
        """Listen on 127.0.0.1 (port 0: a free one); returns the base URL.

        Raises:
            ServingError: The port is taken.
        """
        self._session = ClientSession(
            connector=TCPConnector(limit=0, keepalive_timeout=30),
            timeout=self._timeout,
            auto_decompress=False,
        )
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            listener.close()
            await self.stop()
            raise ServingError(f"port {port} on 127.0.0.1 can't be used: {error.strerror}") from None
        await web.SockSite(self._runner, listener, backlog=512).start()
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        return self.url

    async def stop(self, drain: float = 10.0) -> None:
        """Wait up to `drain` seconds for requests in flight, then stop listening. Safe to repeat."""
        try:
            await asyncio.wait_for(self._idle.wait(), drain)
        except TimeoutError:
            log.warning("%d requests were still in flight after %.0f s", self.in_flight, drain)
        if self._runner:
            await self._runner.cleanup()
            self._runner = None
        if self._session:
            await self._session.close()
            self._session = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self._idle.clear()
        try:
            return await self._route(request)
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def _route(self, request: web.Request) -> web.StreamResponse:
        at = time.time()
        weights = self._weights
        body = await request.read()
        forced = request.headers.get(ARM_HEADER)
        if forced is not None and self.addresses.get(forced) is None:  # type: ignore[call-overload]
            return web.json_response(
                {"error": f"{ARM_HEADER}: no arm named {forced!r} is being served"}, status=400
            )
        arm: Arm = forced or ("canary" if self._random.random() < weights.share else "stable")  # type: ignore[assignment]
        begun = time.perf_counter()
        result, response, score = await self._ask(arm, request, body)
        seconds = time.perf_counter() - begun
        if result == "connection" and arm == "canary" and self.addresses["stable"]:
            _, response, _ = await self._ask("stable", request, body)
        if request.method == "POST" and request.path.endswith(PREDICTIONS):
            self._record(at, arm, weights.share, result, seconds, score, forced is not None)
        response.headers[ARM_HEADER] = arm
        return response

    def _record(
        self,
        at: float,
        arm: Arm,
        share: float,
        result: Result,
        seconds: float,
        score: float | None,
        forced: bool,
    ) -> None:
        seen = Observation(
            self._completed, round(at, 6), arm, share, result, round(seconds, 6), score, forced
        )
        self._completed += 1
        if self._on_request:
            self._on_request(seen)

    async def _ask(
        self, arm: Arm, request: web.Request, body: bytes
    ) -> tuple[Result, web.Response, float | None]:
        """One arm's answer, and what it is worth as evidence."""
        assert self._session is not None
        url = f"{self.addresses[arm]}{request.raw_path}"
        headers = {
            k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP and k != ARM_HEADER
        }
        try:
            async with self._session.request(
                request.method, url, data=body or None, headers=headers, allow_redirects=False
            ) as answer:
                content = await answer.read()
                kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
                response = web.Response(status=answer.status, body=content, headers=kept)
        except TimeoutError:
            return "timeout", _failure(504, f"the {arm} model server did not answer in time"), None
        except ClientConnectorError:
            return "connection", _failure(502, f"the {arm} model server can't be reached"), None
        except (ClientError, ConnectionError, asyncio.IncompleteReadError):
            return "connection", _failure(502, f"the {arm} model server broke the connection"), None
        if response.status >= 500:
            return "error", response, None
        if response.status >= 400:
            return "rejected", response, None
        score = first_score(content)
        return ("ok" if score is not None else "invalid"), response, score


def _failure(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)


def first_score(content: bytes) -> float | None:
    """The first prediction of a V1 or V2 answer; None unless all predictions are finite and within 0..1."""
    try:
        answer: Any = json.loads(content)
        scores = answer["predictions"] if "predictions" in answer else answer["outputs"][0]["data"]
        values = [float(score) for score in scores if not isinstance(score, (bool, str))]
    except (ValueError, TypeError, KeyError, IndexError):
        return None
    if (
        not values
        or len(values) != len(scores)
        or not all(math.isfinite(v) and 0.0 <= v <= 1.0 for v in values)
    ):
        return None
    return values[0]
