"""Users of a service: requests at a bounded rate through the gateway, and what came of each."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from tests.cluster.loop import LoopThread


@dataclass(frozen=True)
class Sample:
    """One request: `status` 0 where there was no answer; `valid` if it had a finite prediction."""

    at: float
    status: int
    workload: str
    version: str
    seconds: float
    valid: bool


def some_row(draw: random.Random) -> dict[str, object]:
    return {
        "hour": draw.randrange(24),
        "distance": round(draw.uniform(50, 2500), 1),
        "carrier": draw.choice("ABC"),
    }


@dataclass
class Traffic:
    """A context: while it is open, about `rate` requests per second are sent, at most 32 at a time.

    `samples` has them in order of completion. A request fails when its answer isn't 200 with a finite prediction.
    """

    loop: LoopThread
    url: str
    service: str
    rate: float = 200.0
    seed: int = 0
    row: Callable[[random.Random], dict[str, object]] = some_row
    samples: list[Sample] = field(default_factory=list)
    _stopping: bool = False
    _task: object = None

    def __enter__(self) -> Traffic:
        self._stopping = False
        self._task = asyncio.run_coroutine_threadsafe(self._send(), self.loop.loop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._task.result(15)  # type: ignore[attr-defined]

    @property
    def failed(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.status != 200 or not sample.valid]

    def answered(self, since: float = 0.0) -> Counter[str]:
        """Valid answers by version (last part of the storage address), of requests since a `time.time()`."""
        return Counter(one.version for one in self.samples if one.valid and one.at >= since)

    async def _send(self) -> None:
        draw, due, running = random.Random(self.seed), time.monotonic(), set()
        async with ClientSession(timeout=ClientTimeout(total=5), connector=TCPConnector(limit=32)) as session:
            while not self._stopping:
                body = json.dumps({"instances": [self.row(draw)]}).encode()
                task = asyncio.ensure_future(self._one(session, body))
                running.add(task)
                task.add_done_callback(running.discard)
                due = max(due + 1 / self.rate, time.monotonic() - 0.1)  # never catches up by a flood
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if len(running) >= 32:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            if running:
                await asyncio.wait(running)

    async def _one(self, session: ClientSession, body: bytes) -> None:
        at, begun = time.time(), time.monotonic()
        status, headers, valid = 0, {}, False
        try:
            url = f"{self.url}/v1/models/{self.service}:predict"
            async with session.post(url, data=body) as answer:
                status, headers = answer.status, dict(answer.headers)
                score = json.loads(await answer.read())["predictions"][0]
                valid = status == 200 and 0.0 <= score <= 1.0
        except (ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
            valid = False
        workload, version = headers.get("X-Served-By", ""), headers.get("X-Model-Version", "")
        self.samples.append(Sample(at, status, workload, version, time.monotonic() - begun, valid))
