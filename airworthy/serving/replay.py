"""Dataset rows as prediction requests, and their replay against an address at bounded concurrency."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from airworthy.datasets import iter_batches, read_info
from airworthy.errors import DataError, ServingError
from airworthy.serving.protocol import PREFERRED, FeatureLike
from airworthy.serving.wire import ARM_HEADER

Row = dict[str, Any]


def sample_rows(
    dataset: Path, columns: Sequence[str], limit: int, where: Callable[[Row], bool] | None = None
) -> list[Row]:
    """Up to `limit` rows, spread evenly over the dataset, in its order; NaN becomes None.

    Raises:
        DataError: The dataset has no (such) rows, or lacks a column.
    """
    info = read_info(dataset)
    missing = set(columns) - {*info.feature_names, *info.extra, info.id, info.time, info.label}
    if missing:
        raise DataError(f"{dataset}: column {sorted(missing)[0]!r} is missing")
    step = max(1.0, info.rows / limit)
    wanted = {math.floor(k * step) for k in range(limit)}
    rows: list[Row] = []
    seen = 0
    for batch in iter_batches(dataset, columns):
        positions = [k for k in range(batch.num_rows) if seen + k in wanted]
        seen += batch.num_rows
        rows += [_plain(row) for row in batch.take(positions).to_pylist()] if positions else []
    rows = [row for row in rows if where is None or where(row)]
    if not rows:
        raise DataError(f"{dataset}: no rows to replay")
    return rows


def _plain(row: Row) -> Row:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def v1_body(rows: Iterable[Row], features: Sequence[FeatureLike]) -> bytes:
    """A V1 request for these rows; only the model's features are sent."""
    names = [feature.name for feature in features]
    return json.dumps({"instances": [{name: row[name] for name in names} for row in rows]}).encode()


def v2_body(rows: Sequence[Row], features: Sequence[FeatureLike]) -> bytes:
    """A V2 request for these rows: one tensor per feature; unknown values are null."""
    inputs = [
        {
            "name": feature.name,
            "shape": [len(rows)],
            "datatype": PREFERRED[feature.kind],
            "data": [row[feature.name] for row in rows],
        }
        for feature in features
    ]
    return json.dumps({"inputs": inputs}).encode()


def v1_path(model: str) -> str:
    return f"/v1/models/{model}:predict"


def v2_path(model: str) -> str:
    return f"/v2/models/{model}/infer"


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; `seconds` from sending to the last byte, `arm` if a splitter named it."""

    status: int
    body: bytes
    seconds: float
    arm: str = ""


class Traffic:
    """Sends prepared bodies, over and over, with at most `concurrency` in flight. Use as an async context.

    Args:
        url: Full address to POST to.
        bodies: At least one; they are cycled through.
        concurrency: Requests in flight at a time.
        timeout: Seconds per request.
        on_answer: Called with a body's position and its answer.
    """

    def __init__(
        self,
        url: str,
        bodies: Sequence[bytes],
        *,
        concurrency: int = 2,
        timeout: float = 30.0,
        on_answer: Callable[[int, Answer], None] = lambda position, answer: None,
    ) -> None:
        self._url = url
        self._bodies = itertools.cycle(enumerate(bodies))
        self._on_answer = on_answer
        self._concurrency = concurrency
        self._timeout = ClientTimeout(total=timeout)
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Traffic:
        self._session = ClientSession(connector=TCPConnector(limit=0), timeout=self._timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def send(
        self,
        count: int,
        *,
        headers: Mapping[str, str] | None = None,
        until: Callable[[], bool] = lambda: False,
    ) -> list[Answer]:
        """Send `count` requests, or fewer if `until()` becomes true; returns the answers.

        Raises:
            ServingError: The address can't be reached.
        """
        answers: list[Answer] = []
        left = iter(range(count))

        async def worker() -> None:
            for _ in left:
                if until():
                    return
                position, body = next(self._bodies)
                answer = await self.ask(body, headers)
                self._on_answer(position, answer)
                answers.append(answer)

        workers = [asyncio.create_task(worker()) for _ in range(min(self._concurrency, count))]
        try:
            await asyncio.gather(*workers)
        finally:
            for task in workers:
                task.cancel()
        return answers

    async def ask(self, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """One request.

        Raises:
            ServingError: The address can't be reached.
        """
        assert self._session is not None
        begun = time.perf_counter()
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers={"Content-Type": "application/json", **(headers or {})},
                allow_redirects=False,  # a model that sends its callers elsewhere did not answer
            ) as answer:
                content = await answer.read()
        except (ClientError, TimeoutError, ConnectionError) as error:
            raise ServingError(f"{self._url} can't be reached: {type(error).__name__}") from error
        arm = answer.headers.get(ARM_HEADER, "")
        return Answer(answer.status, content, time.perf_counter() - begun, arm)
