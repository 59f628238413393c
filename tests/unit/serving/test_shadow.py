"""The shadow: pairs are right, users neither wait for it nor see it, and it drops what it has no time for."""

from __future__ import annotations

import asyncio
import time

import pytest

from airworthy.serving import shadow
from airworthy.serving.observation import Pair
from airworthy.serving.shadow import QUEUE, WORKERS
from tests.unit.serving.sockets import (
    OK,
    OTHER,
    Handler,
    ask,
    connect,
    post,
    read_message,
    reply,
    saying,
    splitting,
)


def test_the_canary_is_asked_what_stable_answered() -> None:
    asked: dict[str, list[bytes]] = {"stable": [], "canary": []}

    def noting(arm: str, body: bytes) -> Handler:
        async def handle(head: bytes, content: bytes, writer: asyncio.StreamWriter) -> None:
            assert b"X-Id" in head
            asked[arm].append(content)
            writer.write(reply(body))

        return handle

    async def run() -> list[Pair]:
        pairs: list[Pair] = []
        async with splitting(noting("stable", OK), noting("canary", OTHER)) as (splitter, seen):
            splitter.set_shadow(1.0, pairs.append)
            for k in range(20):
                _, body = await ask(splitter, post(b"%d" % k, headers="X-Id: 1\r\n"))
                assert body == OK
            await ask(splitter, post(headers="X-Id: 1\r\nX-Canary-Arm: stable\r\n"))  # a probe is not copied
            await ask(
                splitter, post(headers="X-Id: 1\r\n", path="/v2/repository/load")
            )  # nor what is no prediction
            await splitter.stop()
            assert {o.arm for o in seen} == {"stable"}
            assert (splitter.shadow_sent, splitter.shadow_dropped) == (20, 0)
            assert [(p.at, p.stable_seconds) for p in pairs] == [(o.at, o.seconds) for o in seen[:20]]
        return pairs

    pairs = asyncio.run(run())
    assert asked["canary"] == [b"%d" % k for k in range(20)]
    assert [p.index for p in pairs] == list(range(20))
    assert {(p.result, p.stable_result, p.score, p.stable_score) for p in pairs} == {("ok", "ok", 0.75, 0.25)}
    assert all(p.seconds > 0 for p in pairs)


@pytest.mark.parametrize(
    ("canary", "result"),
    [
        (saying(b"", close=True), "connection"),
        (saying(reply(status="500 No")), "error"),
        (saying(reply(b"<html>")), "invalid"),
        (saying(reply(), wait=5), "timeout"),
        ("http://127.0.0.1:9", "connection"),
    ],
)
def test_what_is_wrong_with_the_canary_is_only_in_the_pair(canary: Handler | str, result: str) -> None:
    async def run() -> list[Pair]:
        pairs: list[Pair] = []
        async with splitting(saying(reply()), canary, timeout=0.2) as (splitter, seen):
            splitter.set_shadow(1.0, pairs.append)
            assert (await ask(splitter, post()))[1] == OK
            while not pairs:
                await asyncio.sleep(0.01)
            assert [(o.arm, o.result) for o in seen] == [("stable", "ok")]
        return pairs

    (pair,) = asyncio.run(asyncio.wait_for(run(), 10))
    assert (pair.result, pair.score, pair.stable_result, pair.stable_score) == (result, None, "ok", 0.25)


def test_a_share_of_requests_is_copied() -> None:
    async def run() -> int:
        async with splitting(saying(reply()), saying(reply())) as (splitter, _):
            splitter.set_shadow(0.3)
            reader, writer = await connect(splitter)
            for _ in range(400):
                writer.write(post())
                await asyncio.wait_for(read_message(reader), 10)
            splitter.set_shadow(0.0)
            sent = splitter.shadow_sent + splitter.shadow_dropped
            for _ in range(20):
                writer.write(post())
                await asyncio.wait_for(read_message(reader), 10)
            writer.close()
            await splitter.stop()
            assert splitter.shadow_sent + splitter.shadow_dropped == sent
            return sent

    assert 75 <= asyncio.run(run()) <= 165


def test_what_waits_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "QUEUE_BYTES", 2500)

    async def run() -> tuple[int, int]:
        async with splitting(saying(reply()), saying(reply(), wait=60)) as (splitter, _):
            splitter.set_shadow(1.0)
            for _ in range(WORKERS + 5):
                await ask(splitter, post(b" " * 1000))
            return splitter.shadow_sent, splitter.shadow_dropped

    assert asyncio.run(run()) == (WORKERS, 3)


def test_a_canary_that_cannot_keep_up_delays_nobody_and_is_dropped_and_counted() -> None:
    open_at_once = [0]
    most = [0]

    async def slow(_: bytes, __: bytes, writer: asyncio.StreamWriter) -> None:
        open_at_once[0] += 1
        most[0] = max(most[0], open_at_once[0])
        await asyncio.sleep(0.2)
        open_at_once[0] -= 1
        writer.write(reply())

    async def run() -> tuple[int, int, float, float]:
        async with splitting(saying(reply()), slow) as (splitter, _):
            splitter.set_shadow(1.0)
            reader, writer = await connect(splitter)
            begun = time.perf_counter()
            for _ in range(200):
                writer.write(post())
                await asyncio.wait_for(read_message(reader), 10)
            took = time.perf_counter() - begun
            writer.close()
            begun = time.perf_counter()
            await splitter.stop(drain=0.3)
            return splitter.shadow_sent, splitter.shadow_dropped, took, time.perf_counter() - begun

    sent, dropped, took, stopping = asyncio.run(run())
    assert sent + dropped == 200, "what waited when it was stopped is counted as dropped"
    assert dropped >= 200 - QUEUE - WORKERS - 20
    assert most[0] <= WORKERS
    assert took < 2, "the copies alone take 20 s"
    assert stopping < 2
