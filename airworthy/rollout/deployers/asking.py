"""Asking one arm of a service directly, past the split: probes, and our own mirror client for the shadow phase."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, TCPConnector

from airworthy.serving.observation import Pair, Result
from airworthy.serving.replay import v1_path
from airworthy.serving.results import result_of

Reach = Callable[[str], tuple[str, dict[str, str]]]
"""From an arm's base URL to the one that is asked, and further headers."""


def directly(url: str) -> tuple[str, dict[str, str]]:
    """Ask the address itself."""
    return url, {}


def through(gateway: str) -> Reach:
    """Ask a gateway, naming the arm's host: where its name can't be resolved."""

    def reach(url: str) -> tuple[str, dict[str, str]]:
        return gateway.rstrip("/"), {"Host": urlsplit(url).netloc}

    return reach


def within(namespace: str) -> Reach:
    """Ask an arm by the name that it has inside the cluster: the first label of its host, in its namespace."""

    def reach(url: str) -> tuple[str, dict[str, str]]:
        label = (urlsplit(url).hostname or "").partition(".")[0]
        return f"http://{label}.{namespace}.svc.cluster.local", {}

    return reach


@dataclass(frozen=True)
class Reply:
    """One answer. `status` is 0 where there was none; `detail` says why."""

    status: int
    result: Result
    score: float | None
    seconds: float
    detail: str = ""


class Asker:
    """Sends prepared V1 bodies to arms. Use as an async context.

    Args:
        model: Name of the model in addresses.
        bodies: At least one; they are cycled through.
        reach: See `Reach`.
        timeout: Seconds per request.
        concurrency: Requests (or pairs) in flight at a time.
    """

    def __init__(
        self,
        model: str,
        bodies: Sequence[bytes],
        reach: Reach,
        timeout: float = 30.0,
        concurrency: int = 2,
    ) -> None:
        self._path = v1_path(model)
        self._bodies = itertools.cycle(bodies)
        self._reach = reach
        self._timeout = ClientTimeout(total=timeout)
        self._concurrency = concurrency
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Asker:
        self._session = ClientSession(connector=TCPConnector(limit=0), timeout=self._timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        session, self._session = self._session, None
        if session:
            await session.close()

    async def probe(self, address: str, count: int) -> tuple[int, Reply]:
        """Ask `count` times; returns how many answers were valid, and the last one that was not (or the last)."""
        valid, last = 0, Reply(0, "connection", None, 0.0, "it was not asked")
        for _ in range(count):
            reply = await self.ask(address, next(self._bodies))
            valid += reply.result == "ok"
            last = reply if reply.result != "ok" or last.result == "ok" or not last.status else last
        return valid, last

    async def pairs(
        self,
        stable: str,
        canary: str,
        count: int,
        until: Callable[[], bool],
        compare: Callable[[Pair], None],
    ) -> None:
        """Ask both arms the same `count` times, or fewer once `until()` is true."""
        left, done = iter(range(count)), itertools.count()

        async def worker() -> None:
            for _ in left:
                if until():
                    return
                body, at = next(self._bodies), round(time.time(), 6)
                one, other = await asyncio.gather(self.ask(stable, body), self.ask(canary, body))
                compare(
                    Pair(
                        index=next(done),
                        at=at,
                        result=other.result,
                        stable_result=one.result,
                        score=other.score,
                        stable_score=one.score,
                        seconds=other.seconds,
                        stable_seconds=one.seconds,
                    )
                )

        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(worker())

    async def ask(self, address: str, body: bytes) -> Reply:
        """One request; never raises for what the network does."""
        assert self._session is not None
        base, headers = self._reach(address)
        begun = time.perf_counter()

        def reply(status: int, result: Result, score: float | None = None, detail: str = "") -> Reply:
            return Reply(status, result, score, round(time.perf_counter() - begun, 6), detail)

        try:
            async with self._session.post(
                f"{base.rstrip('/')}{self._path}",
                data=body,
                headers={"Content-Type": "application/json", **headers},
                allow_redirects=False,  # a model that sends its callers elsewhere did not answer
            ) as answer:
                content = await answer.read()
        except TimeoutError:
            return reply(0, "timeout", detail=f"no answer within {self._timeout.total:.0f} s")
        except (ClientConnectorError, ClientError, ConnectionError) as error:
            return reply(0, "connection", detail=f"{base} can't be reached ({type(error).__name__})")
        result, score = result_of(answer.status, content, body)
        told = {"ok": "", "invalid": "no finite prediction within 0..1"}
        return reply(answer.status, result, score, told.get(result, f"HTTP {answer.status}"))
