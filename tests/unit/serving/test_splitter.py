"""The splitter over real HTTP, between stub model servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, web

from airworthy.errors import ConfigError, ServingError
from airworthy.serving.chaos import ENVIRONMENT, ChaosProxy, Fault
from airworthy.serving.observation import Observation
from airworthy.serving.replay import Traffic
from airworthy.serving.splitter import ARM_HEADER, Splitter, first_score

PATH = "/v1/models/late:predict"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answering(text: str, status: int = 200, wait: float = 0.0) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        await asyncio.sleep(wait)
        return web.Response(text=text, status=status, content_type="application/json")

    return handle


@asynccontextmanager
async def backend(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@asynccontextmanager
async def splitting(
    stable: Handler, canary: Handler | str, *, timeout: float = 5.0
) -> AsyncIterator[tuple[Splitter, list[Observation]]]:
    seen: list[Observation] = []
    async with backend(stable) as first, backend(canary if callable(canary) else stable) as second:
        address = canary if isinstance(canary, str) else second
        splitter = Splitter(first, address, on_request=seen.append, timeout=timeout, seed=1)
        await splitter.start()
        yield splitter, seen
        await splitter.stop()


OK, OTHER = answering('{"predictions": [0.25]}'), answering('{"predictions": [0.75]}')
NOBODY = "http://127.0.0.1:9"


def test_draws_follow_the_weight_and_are_recorded_with_it() -> None:
    async def run() -> list[Observation]:
        async with splitting(OK, OTHER) as (splitter, seen):
            async with Traffic(splitter.url + PATH, [b"{}"], concurrency=8) as traffic:
                await traffic.send(50)
                splitter.set_share(0.3)
                await traffic.send(400)
            return seen

    seen = asyncio.run(run())
    first, later = seen[:50], seen[50:]
    assert {(o.arm, o.share) for o in first} == {("stable", 0.0)}
    assert {o.share for o in later} == {0.3}
    assert 80 <= sum(o.arm == "canary" for o in later) <= 160
    assert {(o.arm, o.score) for o in later} == {("stable", 0.25), ("canary", 0.75)}
    assert [o.index for o in seen] == list(range(450))


def test_a_forced_arm_is_obeyed_and_marked() -> None:
    async def run() -> tuple[list[Observation], int]:
        async with splitting(OK, OTHER) as (splitter, seen), ClientSession() as session:
            async with session.post(splitter.url + PATH, headers={ARM_HEADER: "canary"}) as answer:
                assert (await answer.json()) == {"predictions": [0.75]}
                assert answer.headers[ARM_HEADER] == "canary"
            async with session.post(splitter.url + PATH, headers={ARM_HEADER: "blue"}) as answer:
                return seen, answer.status

    seen, status = asyncio.run(run())
    assert [(o.arm, o.forced) for o in seen] == [("canary", True)]
    assert status == 400


def test_an_unreachable_canary_is_answered_by_stable_but_counted() -> None:
    async def run() -> tuple[list[Observation], list[int]]:
        async with splitting(OK, NOBODY) as (splitter, seen):
            splitter.set_share(1.0)
            async with Traffic(splitter.url + PATH, [b"{}"]) as traffic:
                return seen, [a.status for a in await traffic.send(5)]

    seen, statuses = asyncio.run(run())
    assert statuses == [200] * 5
    assert {(o.arm, o.result) for o in seen} == {("canary", "connection")}
    assert all(o.failed for o in seen)


@pytest.mark.parametrize(
    ("handler", "result"),
    [
        (answering("{}", 500), "error"),
        (answering('{"error": "no"}', 400), "rejected"),
        (answering("<html>"), "invalid"),
        (answering('{"predictions": [NaN]}'), "invalid"),
        (answering('{"predictions": [null]}'), "invalid"),
        (answering('{"predictions": [1.5]}'), "invalid"),
        (answering('{"predictions": []}'), "invalid"),
        (answering('{"predictions": [0.5, 0.5]}'), "invalid"),
        (answering('{"predictions": [0.5]}', 302), "invalid"),
        (answering('{"predictions": [0.5]}', wait=2.0), "timeout"),
    ],
)
def test_bad_answers_are_told_apart(handler: Handler, result: str) -> None:
    async def run() -> list[Observation]:
        async with splitting(OK, handler, timeout=0.3) as (splitter, seen):
            splitter.set_share(1.0)
            async with Traffic(splitter.url + PATH, [b'{"instances": [{}]}']) as traffic:
                await traffic.send(1)
            return seen

    assert [o.result for o in asyncio.run(run())] == [result]


def test_a_canary_that_hangs_costs_its_users_time_but_no_answer() -> None:
    async def run() -> tuple[set[int], list[Observation]]:
        hanging = answering('{"predictions": [0.5]}', wait=3.0)
        async with splitting(OK, hanging, timeout=0.5) as (splitter, seen):
            splitter.set_share(0.5)
            body = b'{"instances": [{}]}'
            async with Traffic(splitter.url + PATH, [body], concurrency=32) as traffic:
                answers = await traffic.send(64)
            return {answer.status for answer in answers}, seen

    statuses, seen = asyncio.run(run())
    assert statuses == {200}
    canary = [o for o in seen if o.arm == "canary"]
    assert len(canary) > 10
    assert {o.result for o in canary} == {"timeout"}
    assert len(seen) == 64, "each request counts once"


def test_a_forced_arm_that_fails_is_not_covered_up() -> None:
    async def run() -> tuple[int, list[Observation]]:
        async with splitting(OK, NOBODY) as (splitter, seen):
            async with Traffic(splitter.url + PATH, [b"{}"]) as traffic:
                (answer,) = await traffic.send(1, headers={ARM_HEADER: "canary"})
            return answer.status, seen

    status, seen = asyncio.run(run())
    assert status == 502
    assert [(o.arm, o.result, o.forced) for o in seen] == [("canary", "connection", True)]


def test_only_predictions_are_drawn_and_observed() -> None:
    async def run() -> tuple[set[str], list[Observation]]:
        async with splitting(OK, OTHER) as (splitter, seen), ClientSession() as session:
            arms = set()
            for share in (0.0, 0.9, 1.0):
                splitter.set_share(share)
                for _ in range(20):
                    async with session.get(splitter.url + "/v2/health/ready") as answer:
                        arms.add(f"{share}: {answer.headers[ARM_HEADER]}")
            return arms, seen

    arms, seen = asyncio.run(run())
    assert arms == {"0.0: stable", "0.9: stable", "1.0: canary"}
    assert not seen


def test_an_observer_that_fails_costs_the_canary_its_traffic_and_no_user_anything() -> None:
    async def run() -> tuple[list[int], Splitter]:
        async with backend(OK) as stable, backend(OTHER) as canary:
            seen: list[Observation] = []

            def observe(one: Observation) -> None:
                seen.append(one)
                if len(seen) == 5:
                    raise OSError("no space left on device")

            splitter = Splitter(stable, canary, on_request=observe)
            await splitter.start()
            splitter.set_share(1.0)
            async with Traffic(splitter.url + PATH, [b"{}"], concurrency=1) as traffic:
                statuses = [a.status for a in await traffic.send(10)]
            with pytest.raises(ServingError, match="what observes it failed: no space left"):
                splitter.set_share(0.5)
            await splitter.stop()
            assert [o.arm for o in seen] == ["canary"] * 5 + ["stable"] * 5
            return statuses, splitter

    statuses, splitter = asyncio.run(run())
    assert statuses == [200] * 10
    assert isinstance(splitter.observer_error, OSError)
    assert splitter.weights.share == 0.0


def test_its_metrics_tell_what_goes_on() -> None:
    async def run() -> str:
        async with splitting(OK, answering("{}", 500)) as (splitter, _), ClientSession() as session:
            for arm in ("stable", "canary", "canary"):
                async with session.post(splitter.url + PATH, headers={ARM_HEADER: arm}):
                    pass
            splitter.set_share(0.25)
            async with session.get(splitter.url + "/splitter/metrics") as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                return await answer.text()

    lines = asyncio.run(run()).splitlines()
    assert 'airworthy_splitter_requests_total{arm="stable",result="ok"} 1' in lines
    assert 'airworthy_splitter_requests_total{arm="canary",result="error"} 2' in lines
    assert "airworthy_splitter_weight 0.25" in lines
    assert "airworthy_splitter_in_flight 0" in lines
    assert "# TYPE airworthy_splitter_shadow_dropped_total counter" in lines


def test_a_request_is_drawn_with_the_weight_at_its_last_byte() -> None:
    async def run() -> list[Observation]:
        async with splitting(OK, OTHER) as (splitter, seen):
            splitter.set_share(1.0)
            reader, writer = await asyncio.open_connection("127.0.0.1", int(splitter.url.rsplit(":", 1)[1]))
            writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{".encode())
            await asyncio.sleep(0.02)
            splitter.set_share(0.0)  # withdrawn while the request is still on its way
            writer.write(b"}")
            await asyncio.wait_for(reader.readuntil(b"]}"), 5)
            writer.close()
            return seen

    assert [(o.arm, o.share) for o in asyncio.run(run())] == [("stable", 0.0)]


def test_weight_changes_and_replacement_under_load_fail_nobody() -> None:
    async def run() -> tuple[list[int], int]:
        async with splitting(OK, OTHER) as (splitter, _), backend(OK) as another:
            async with Traffic(splitter.url + PATH, [b"{}"], concurrency=8) as traffic:
                load = asyncio.create_task(traffic.send(600))
                for number in range(200):
                    splitter.set_share((number % 11) / 10)
                    await asyncio.sleep(0)
                splitter.replace_stable(another)
                splitter.set_share(0.0)
                answers = await load
            return [a.status for a in answers], splitter.weights.version

    statuses, version = asyncio.run(run())
    assert statuses == [200] * 600
    assert version == 201


def test_stop_lets_requests_in_flight_finish() -> None:
    async def run() -> int:
        begun = asyncio.Event()

        async def slow(_: web.Request) -> web.Response:
            begun.set()
            await asyncio.sleep(0.2)
            return web.json_response({"predictions": [0.5]})

        async with splitting(slow, OTHER) as (splitter, seen):
            async with Traffic(splitter.url + PATH, [b"{}"]) as traffic:
                load = asyncio.create_task(traffic.send(1))
                await begun.wait()
                await splitter.stop()
                await load
            return len(seen)

    assert asyncio.run(run()) == 1


def test_impossible_weights_and_ports_are_refused() -> None:
    async def run() -> None:
        splitter = Splitter(NOBODY)
        with pytest.raises(ServingError, match="no server for one of the arms"):
            splitter.set_share(0.5)
        with pytest.raises(ServingError, match="between 0 and 1"):
            splitter.set_share(1.5)
        url = await splitter.start()
        with pytest.raises(ServingError, match="can't be used"):
            await Splitter(NOBODY).start(int(url.rsplit(":", 1)[1]))
        await splitter.stop()
        with pytest.raises(ServingError, match="is no address of a model server"):
            await Splitter("ftp://x").start()
        with pytest.raises(ServingError, match="there is no canary"):
            Splitter(NOBODY).set_shadow(0.5)

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["errors", "nan", "garbage"])
def test_chaos_hits_the_asked_share_of_predictions(kind: str) -> None:
    async def run() -> float:
        async with backend(OK) as target:
            proxy = ChaosProxy(target, Fault(kind, share=0.5, after=20), seed=3)  # type: ignore[arg-type]
            async with Traffic(await proxy.start() + PATH, [b"{}"], concurrency=1) as traffic:
                answers = await traffic.send(220)
            await proxy.stop()
            good = [a.status == 200 and first_score(a.body) is not None for a in answers]
            assert all(good[:20])
            return 1 - sum(good[20:]) / 200

    assert 0.35 < asyncio.run(run()) < 0.65


def test_the_demos_fault_is_read_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert Fault.from_environment() is None
    monkeypatch.setenv(ENVIRONMENT, "slow:0.5")
    assert Fault.from_environment() == Fault("slow", 0.5)
    for wrong in ("fire", "errors:2", "errors:x"):
        monkeypatch.setenv(ENVIRONMENT, wrong)
        with pytest.raises(ConfigError, match="is no fault"):
            Fault.from_environment()
