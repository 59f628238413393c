"""The splitter against clients and servers that are slow, odd or hostile, over bare sockets."""

from __future__ import annotations

import asyncio
import random
from itertools import chain, pairwise
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airworthy.serving.observation import Observation
from airworthy.serving.request_reader import RequestReader
from airworthy.serving.wire import MAX_BODY, Request
from tests.unit.serving.sockets import (
    OK,
    OTHER,
    PATH,
    ask,
    connect,
    model_server,
    post,
    read_message,
    reply,
    saying,
    splitting,
    status,
)

STREAM = (
    post(b'{"a": 1}', headers="X-Canary-Arm: canary\r\nX-User: 7\r\n")
    + b"GET /v2/health/ready?x=1 HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n\r\n"
    + b"POST /a:predict HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n"
    + b"PUT http://h:1/b?c HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nxy"
    + b"POST /c HTTP/1.0\r\nContent-Length: 0\r\n\r\n"
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=30))
def test_requests_are_the_same_however_their_bytes_arrive(cuts: list[int]) -> None:
    def read(pieces: list[bytes]) -> list[Request]:
        reader = RequestReader(b"x-user")
        for piece in pieces:
            reader.feed(piece)
        assert reader.refused is None
        assert not reader.reading
        return list(reader.ready)

    edges = [0, *sorted(set(cuts)), len(STREAM)]
    found = read([STREAM[a:b] for a, b in pairwise(edges)])
    assert found == read([STREAM])
    assert [(r.method, r.target, r.body) for r in found] == [
        (b"POST", PATH.encode(), b'{"a": 1}'),
        (b"GET", b"/v2/health/ready?x=1", b""),
        (b"POST", b"/a:predict", b"abcde"),
        (b"PUT", b"/b?c", b"xy"),
        (b"POST", b"/c", b""),
    ]
    assert (found[0].arm, found[0].key) == (b"canary", b"7")
    assert b"".join(found[1].lines) == b"X-End: 2\r\n", "headers of the connection are not sent on"
    assert found[2].lines == found[3].lines == []
    assert [r.keep_alive for r in found] == [True, True, True, True, False]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(STREAM) - 1), st.integers(0, 40), st.binary(max_size=40), st.integers(1, 200))
def test_no_bytes_break_the_reader(at: int, cut: int, noise: bytes, size: int) -> None:
    damaged = STREAM[:at] + noise + STREAM[at + cut :]
    reader = RequestReader()
    for k in range(0, len(damaged), size):
        reader.feed(damaged[k : k + size])
    assert len(reader.ready) <= 6
    assert reader.refused is None or 400 <= reader.refused.status <= 505


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", 400),
        (post(b"{}", headers="Transfer-Encoding: chunked\r\n"), 400),
        (post(b"{}", headers="Content-Length: 3\r\n"), 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1), 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"y" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: y\r\n" % k for k in range(9000)), 431),
        (b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"0\r\n"
            + b"".join(b"T: " + b"y" * 900 + b"\r\n" for _ in range(100)),
            431,
        ),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;" + b"y" * 400_000,
            431,
        ),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 1\r\n\r\n", 417),
    ],
)
def test_what_is_no_request_gets_4xx_and_the_end(request_bytes: bytes, expected: int) -> None:
    async def run() -> tuple[int, bytes]:
        async with splitting(saying(reply())) as (splitter, seen):
            reader, writer = await connect(splitter)
            writer.write(request_bytes)
            head, body = await asyncio.wait_for(read_message(reader), 10)
            assert b"Connection: close" in head
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
            assert not seen
            assert status((await ask(splitter, post()))[0]) == 200, "others are served on"
            return status(head), body

    got, body = asyncio.run(run())
    assert got == expected, body
    assert b'"error"' in body


def test_a_refused_client_that_goes_on_sending_still_reads_why() -> None:
    async def run() -> int:
        async with splitting(saying(reply())) as (splitter, _):
            reader, writer = await connect(splitter)
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1))
            for _ in range(50):
                writer.write(b"x" * 100_000)
            return status((await asyncio.wait_for(read_message(reader), 10))[0])

    assert asyncio.run(run()) == 413


def test_chunked_bodies_pass_both_ways_in_single_bytes() -> None:
    got = []

    async def echo(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        got.append((head, body))
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for byte in body:
            await writer.drain()
            writer.write(b"1\r\n%c\r\n" % byte)
        writer.write(b"0\r\nX-Trailer: 1\r\n\r\n")

    async def run() -> tuple[bytes, bytes]:
        async with splitting(echo) as (splitter, _):
            reader, writer = await connect(splitter)
            for byte in (
                f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n17\r\n".encode()
                + OK
                + b"\r\n0\r\n\r\n"
            ):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            answer = await asyncio.wait_for(read_message(reader), 10)
            writer.close()
            return answer

    head, body = asyncio.run(run())
    assert body == OK
    assert b"Transfer-Encoding" not in head
    assert got[0][1] == OK
    assert b"Transfer-Encoding" not in got[0][0]


def test_a_body_in_a_million_pieces_is_put_together() -> None:
    async def echo(_: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")

    async def run() -> bytes:
        async with splitting(echo) as (splitter, _):
            head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            return (await ask(splitter, head + b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n"))[1]

    assert asyncio.run(run()) == b"x" * 200_000


def test_expect_100_continue_is_answered_before_the_body_is_sent() -> None:
    async def run() -> list[bytes]:
        async with splitting(saying(reply())) as (splitter, _):
            reader, writer = await connect(splitter)
            asking = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n".encode()
            answers = []
            for _ in range(2):
                writer.write(post() + asking)  # the second waits for its turn
                for _ in range(2):
                    answers.append(
                        (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).split(b"\r\n")[0]
                    )
                    if b"100" not in answers[-1]:
                        await reader.readexactly(len(OK))
                writer.write(b"{}")
                head, _ = await asyncio.wait_for(read_message(reader), 10)
                answers.append(head.split(b"\r\n")[0])
            writer.close()
            return answers

    assert asyncio.run(run()) == [b"HTTP/1.1 200 OK", b"HTTP/1.1 100 Continue", b"HTTP/1.1 200 OK"] * 2


def test_head_has_no_body_and_keeps_the_connection() -> None:
    async def handle(head: bytes, _: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply().partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head.startswith(b"HEAD") else reply())

    async def run() -> list[bytes]:
        async with splitting(handle) as (splitter, _):
            reader, writer = await connect(splitter)
            heads = []
            for _ in range(3):
                writer.write(b"HEAD /v2 HTTP/1.1\r\nHost: x\r\n\r\n" + post())
                heads.append((await asyncio.wait_for(read_message(reader, body=False), 10))[0])
                assert (await asyncio.wait_for(read_message(reader), 10))[1] == OK
            writer.close()
            return heads

    assert all(b"Content-Length: 23\r\n" in head for head in asyncio.run(run()))


@pytest.mark.parametrize("status_line", ["204 No Content", "304 Not Modified"])
def test_answers_without_a_body_have_none(status_line: str) -> None:
    async def run() -> bytes:
        handler = saying(f"HTTP/1.1 {status_line}\r\nX-A: 1\r\n\r\n".encode())
        async with splitting(handler) as (splitter, _):
            reader, writer = await connect(splitter)
            writer.write(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
            first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10) == first
            writer.close()
            return first

    head = asyncio.run(run())
    assert status_line.encode() in head
    assert b"Content-Length" not in head


def test_pipelined_requests_are_answered_in_order() -> None:
    dice = random.Random(1)

    async def echo(_: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(dice.uniform(0, 0.004))
        writer.write(reply(body))

    async def run() -> list[bytes]:
        async with splitting(echo, echo) as (splitter, seen):
            splitter.set_share(0.5)
            reader, writer = await connect(splitter)
            writer.write(b"".join(post(b"%d" % k) for k in range(100)))
            bodies = [(await asyncio.wait_for(read_message(reader), 10))[1] for _ in range(100)]
            writer.close()
            assert len(seen) == 100
            return bodies

    assert asyncio.run(run()) == [b"%d" % k for k in range(100)]


def test_thousands_of_pipelined_refusals_do_not_pile_up() -> None:
    async def run() -> int:
        async with splitting(saying(reply())) as (splitter, _):
            reader, writer = await connect(splitter)
            count = 5000
            writer.write(b"GET /splitter/metrics HTTP/1.1\r\nHost: x\r\n\r\n" * count)
            for _ in range(count):
                await asyncio.wait_for(read_message(reader), 10)
            writer.close()
            return count

    assert asyncio.run(run()) == 5000


@pytest.mark.parametrize(
    ("request_bytes", "kept"),
    [
        (post(), True),
        (post(headers="Connection: close\r\n"), False),
        (post().replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (post(headers="Connection: keep-alive\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"), True),
    ],
)
def test_the_client_decides_whether_its_connection_is_kept(request_bytes: bytes, kept: bool) -> None:
    async def run() -> bool:
        async with splitting(saying(reply())) as (splitter, _):
            reader, writer = await connect(splitter)
            writer.write(request_bytes)
            head, _ = await asyncio.wait_for(read_message(reader), 10)
            assert (b"Connection: close" in head) == (not kept)
            writer.write(request_bytes)
            again = await asyncio.wait_for(reader.read(5), 10)
            writer.close()
            return again == b"HTTP/"

    assert asyncio.run(run()) == kept


def test_headers_of_a_connection_and_the_arm_are_not_sent_on() -> None:
    heads = []

    async def handle(head: bytes, _: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(reply(headers="Keep-Alive: timeout=5\r\nX-Canary-Arm: liar\r\nX-Model-Version: 7\r\n"))

    async def run() -> bytes:
        async with splitting(handle) as (splitter, _):
            asked = "X-Canary-Arm: stable\r\nTE: trailers\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-Id: 9\r\n"
            asked += "Connection: X-Second\r\nX-Second: 1\r\n"
            return (await ask(splitter, post(headers=asked + "Accept-Encoding: gzip\r\n")))[0]

    answered = asyncio.run(run()).lower()
    for gone in (b"x-canary-arm", b"\r\nte:", b"x-hop", b"x-second", b"accept-encoding", b"connection"):
        assert gone not in heads[0].lower()
    assert b"x-id: 9" in heads[0].lower()
    assert b"x-model-version: 7" in answered
    assert b"keep-alive" not in answered
    assert answered.count(b"x-canary-arm: stable") == 1
    assert b"liar" not in answered


def test_a_client_that_closes_its_sending_half_gets_its_answers() -> None:
    async def run() -> int:
        async with splitting(saying(reply(), wait=0.02)) as (splitter, _):
            reader, writer = await connect(splitter)
            writer.write(post() + post())
            writer.write_eof()
            everything = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            return everything.count(b"HTTP/1.1 200 OK")

    assert asyncio.run(run()) == 2


def test_a_request_whose_client_has_gone_is_counted() -> None:
    async def run() -> list[str]:
        asked = asyncio.Event()
        answer = asyncio.Event()

        async def handle(_: bytes, __: bytes, writer: asyncio.StreamWriter) -> None:
            asked.set()
            await answer.wait()
            writer.write(reply())

        async with splitting(handle) as (splitter, seen):
            _, writer = await connect(splitter)
            writer.write(post())
            await asked.wait()
            writer.transport.abort()
            await asyncio.sleep(0.01)
            answer.set()
            while not seen:
                await asyncio.sleep(0.005)
            assert splitter.in_flight == 0
            return [o.result for o in seen]

    assert asyncio.run(asyncio.wait_for(run(), 10)) == ["ok"]


@pytest.mark.parametrize("sent", [b"POST /a:predict HTTP/1.1\r\nHo", post(b"{}")[:-1]])
def test_a_client_that_does_not_finish_its_request_is_sent_away(sent: bytes) -> None:
    async def run() -> tuple[int, int]:
        async with splitting(saying(reply()), client_timeout=0.2) as (splitter, _):
            reader, writer = await connect(splitter)
            slow, slow_writer = await connect(splitter)
            slow_writer.write(sent)
            statuses = []
            for _ in range(10):  # a patient client's pauses are its own business
                writer.write(post())
                statuses.append(status((await asyncio.wait_for(read_message(reader), 10))[0]))
                await asyncio.sleep(0.05)
            assert set(statuses) == {200}
            head, _ = await asyncio.wait_for(read_message(slow), 10)
            slow_writer.close()
            writer.close()
            return status(head), len(statuses)

    assert asyncio.run(run()) == (408, 10)


def test_a_client_that_does_not_take_its_answer_is_cut_off() -> None:
    async def run() -> bool:
        big = b'{"predictions": [0.5], "x": "' + b"x" * 30_000_000 + b'"}'
        async with splitting(saying(reply(big)), client_timeout=0.3) as (splitter, seen):
            _, writer = await connect(splitter)
            cast(asyncio.Transport, writer.transport).pause_reading()
            writer.write(post() + post())
            while splitter.clients:
                await asyncio.sleep(0.02)
            assert len(seen) == 1, "nothing more is asked for it"
            writer.transport.abort()
            return True

    assert asyncio.run(asyncio.wait_for(run(), 20))


def test_a_client_that_takes_its_answer_slowly_gets_it_all() -> None:
    async def run() -> int:
        big = b'{"predictions": [0.5], "x": "' + b"x" * 12_000_000 + b'"}'
        async with splitting(saying(reply(big)), client_timeout=0.4) as (splitter, _):
            port = int(splitter.url.rsplit(":", 1)[1])
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
            writer.write(post())
            taken = 0
            while taken < len(big):
                taken += len(await asyncio.wait_for(reader.read(400_000), 5))
                await asyncio.sleep(0.01)
            writer.close()
            return taken

    assert asyncio.run(run()) >= 12_000_000


@pytest.mark.parametrize("idle", [0.0, 0.002, 0.01])
def test_servers_that_close_idle_connections_fail_nobody(idle: float) -> None:
    """They don't announce it: the answer says keep-alive."""
    dice = random.Random(2)

    async def handle(_: bytes, __: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply())
        asyncio.get_running_loop().call_later(idle, writer.close)

    async def run() -> list[int]:
        async with splitting(handle, handle) as (splitter, seen):
            splitter.set_share(0.5)

            async def client() -> list[int]:
                reader, writer = await connect(splitter)
                statuses = []
                for _ in range(60):
                    writer.write(post())
                    statuses.append(status((await asyncio.wait_for(read_message(reader), 10))[0]))
                    await asyncio.sleep(dice.uniform(0, 0.012))
                writer.close()
                return statuses

            found = await asyncio.gather(*(client() for _ in range(4)))
            assert len(seen) == 240
            return list(chain.from_iterable(found))

    assert set(asyncio.run(run())) == {200}


BREAKS = {
    "no answer": b"",
    "garbage": b"\x00\x01 hello\r\n\r\n",
    "in the head": b"HTTP/1.1 200 OK\r\nContent-",
    "in the body": reply()[:-5],
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nabc",
    "too large": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1),
    "endless header": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2_000_000,
    "endless chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;" + b"y" * 2_000_000,
    "large head": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 9_000 + b"\r\nContent-Length: 23\r\n\r\n" + OK,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 99 + b"Content-Length: 23\r\n\r\n" + OK,
    "huge head": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000 + b"\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_canary_that_breaks_off_is_answered_by_stable_and_counted(how: str) -> None:
    async def run() -> None:
        async with splitting(saying(reply()), saying(BREAKS[how], close=True)) as (splitter, seen):
            splitter.set_share(1.0)
            for _ in range(3):
                head, body = await ask(splitter, post())
                assert (status(head), body) == (200, OK)
                assert b"X-Canary-Arm: canary" in head, "the draw"
            assert {(o.arm, o.result, o.score) for o in seen} == {("canary", "connection", None)}
            head, _ = await ask(splitter, post(headers="X-Canary-Arm: canary\r\n"))
            assert status(head) == 502, "a probe wants to know"
            assert (seen[-1].result, seen[-1].forced) == ("connection", True)

    asyncio.run(run())


def test_a_server_that_is_always_about_to_answer_is_given_up() -> None:
    async def run() -> list[Observation]:
        async with splitting(saying(b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000), timeout=60) as (
            splitter,
            seen,
        ):
            head, _ = await ask(splitter, post())
            assert status(head) == 502
            return seen

    assert [o.result for o in asyncio.run(run())] == ["connection"]


@pytest.mark.parametrize("how", BREAKS)
def test_a_stable_server_that_breaks_off_is_told_as_502(how: str) -> None:
    async def run() -> None:
        async with splitting(saying(BREAKS[how], close=True)) as (splitter, seen):
            head, body = await ask(splitter, post())
            assert status(head) == 502
            assert b"the stable model server broke the connection" in body
            assert [o.result for o in seen] == ["connection"]

    asyncio.run(run())


def test_a_kept_connection_that_breaks_costs_the_user_nothing_but_is_counted_on_both_arms() -> None:
    async def run() -> list[tuple[str, str]]:
        async def handle(_: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
            if body == b"die" and writer not in fresh:
                writer.transport.abort()
            else:
                fresh.discard(writer)
                writer.write(reply())

        fresh: set[asyncio.StreamWriter] = set()
        async with splitting(handle, handle) as (splitter, seen):
            for arm in ("stable", "canary"):
                splitter.set_share(0.0 if arm == "stable" else 1.0)
                assert status((await ask(splitter, post()))[0]) == 200
                fresh.clear()
                reader, writer = await connect(splitter)
                writer.write(post(b"die"))
                # over the kept connection it breaks; over a new one, it breaks again for stable
                await asyncio.wait_for(read_message(reader), 10)
                writer.close()
            return [(o.arm, o.result) for o in seen]

    assert asyncio.run(run()) == [
        ("stable", "ok"),
        ("stable", "connection"),
        ("canary", "ok"),
        ("canary", "connection"),
    ]


def test_an_answer_that_ends_with_the_connection_is_whole() -> None:
    async def run() -> tuple[bytes, bytes]:
        handler = saying(b"HTTP/1.0 200 OK\r\nX-A: 1\r\n\r\n" + OK, close=True)
        async with splitting(handler) as (splitter, seen):
            answer = await ask(splitter, post())
            assert [o.result for o in seen] == ["ok"]
            return answer

    head, body = asyncio.run(run())
    assert body == OK
    assert b"X-A: 1" in head


@pytest.mark.parametrize("coding", ["gzip", "br, gzip", "none"])
def test_a_compressed_answer_that_nobody_asked_for_is_passed_on_but_not_believed(coding: str) -> None:
    async def run() -> list[str]:
        coded = saying(reply(headers=f"Content-Encoding: {coding}\r\n"))
        async with splitting(coded) as (splitter, seen):
            head, body = await ask(splitter, post(headers="Accept-Encoding: gzip\r\n"))
            assert (status(head), body) == (200, OK)
            assert coding.encode() in head
            return [o.result for o in seen]

    assert asyncio.run(run()) == ["invalid"]


def test_what_the_status_is_called_cannot_upset_clients() -> None:
    async def run() -> bytes:
        async with splitting(saying(reply(status="200 a\x01b"))) as (splitter, _):
            return (await ask(splitter, post()))[0]

    assert asyncio.run(run()).startswith(b"HTTP/1.1 200 \r\n")


def test_a_server_that_says_more_than_it_was_asked_is_not_believed() -> None:
    async def run() -> list[bytes]:
        async with splitting(saying(reply() + reply(OTHER))) as (splitter, _):
            return [(await ask(splitter, post()))[1] for _ in range(5)]

    assert set(asyncio.run(run())) == {OK}


def test_thousands_of_mixed_concurrent_requests_are_never_mixed_up() -> None:
    async def echo(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        kind = head.split(b"X-Kind: ")[1].split(b"\r\n")[0]
        if len(body) % 7 == 0:
            await asyncio.sleep(0.001)
        if kind == b"500":
            writer.write(reply(body, status="500 Internal Server Error"))
        elif kind == b"chunked":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        elif kind == b"close":
            writer.write(reply(body, status="201 Created", headers="Connection: close\r\n"))
            writer.close()
        else:
            writer.write(reply(body))

    expected = {"200": 200, "500": 500, "chunked": 200, "close": 201}

    async def run() -> int:
        async with splitting(echo, echo) as (splitter, seen):
            splitter.set_share(0.4)

            async def client(number: int) -> int:
                dice = random.Random(number)
                reader, writer = await connect(splitter)
                done = 0
                while done < 100:
                    kinds = dice.choices(list(expected), k=dice.randint(1, 5))
                    bodies = [
                        b"%d/%d " % (number, done + k) * dice.randint(1, 400) for k in range(len(kinds))
                    ]
                    for kind, body in zip(kinds, bodies, strict=True):
                        writer.write(post(body, headers=f"X-Kind: {kind}\r\n"))
                    for kind, body in zip(kinds, bodies, strict=True):
                        head, answer = await asyncio.wait_for(read_message(reader), 30)
                        assert (status(head), answer) == (expected[kind], body)
                    done += len(kinds)
                    if dice.random() < 0.1:
                        splitter.set_share(dice.random())
                writer.close()
                return done

            total = sum(await asyncio.gather(*(client(number) for number in range(50))))
            assert len(seen) == total
            assert splitter.in_flight == 0
            return total

    assert asyncio.run(run()) >= 5000


def test_stop_finishes_uploads_and_answers_and_closes_the_rest() -> None:
    async def run() -> tuple[list[int], bytes]:
        async with splitting(saying(reply(), wait=0.05)) as (splitter, _):
            idle, idle_writer = await connect(splitter)
            busy, busy_writer = await connect(splitter)
            uploading, upload_writer = await connect(splitter)
            idle_writer.write(post())
            await asyncio.wait_for(read_message(idle), 10)
            busy_writer.write(post())
            upload_writer.write(post(b"{}")[:-2])
            await asyncio.sleep(0.01)
            stopping = asyncio.create_task(splitter.stop(drain=10))
            await asyncio.sleep(0.01)
            with pytest.raises(OSError, match=r"refused|Connect call failed"):
                await connect(splitter)
            end = await asyncio.wait_for(idle.read(), 10)
            upload_writer.write(b"{}")
            answers = [await asyncio.wait_for(read_message(r), 10) for r in (busy, uploading)]
            await asyncio.wait_for(stopping, 10)
            for writer in (idle_writer, busy_writer, upload_writer):
                writer.close()
            assert all(b"Connection: close" in head for head, _ in answers)
            return [status(head) for head, _ in answers], end

    assert asyncio.run(run()) == ([200, 200], b"")


def test_stop_does_not_wait_for_ever() -> None:
    async def run() -> float:
        async with splitting(saying(reply(), wait=30)) as (splitter, seen):
            _, writer = await connect(splitter)
            writer.write(post())
            while not splitter.in_flight:
                await asyncio.sleep(0.005)
            begun = asyncio.get_running_loop().time()
            await splitter.stop(drain=0.1)
            writer.close()
            assert splitter.in_flight == 0
            assert not seen, "what was cut off by us is nobody's failure"
            return asyncio.get_running_loop().time() - begun

    assert asyncio.run(run()) < 2


def test_many_new_connections_at_once_are_all_served() -> None:
    async def run() -> list[int]:
        async with model_server(saying(reply())) as url, splitting(url) as (splitter, _):
            answers = await asyncio.gather(*(ask(splitter, post()) for _ in range(300)))
            return [status(head) for head, _ in answers]

    assert asyncio.run(run()) == [200] * 300
