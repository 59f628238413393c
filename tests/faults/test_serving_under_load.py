"""Promotions and rollbacks while requests never stop: nobody is failed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from airworthy.serving.local import ServerOptions, ServerProcess
from airworthy.serving.observation import Observation
from airworthy.serving.replay import v1_path
from airworthy.serving.splitter import Splitter, first_score
from tests.processes import started_here
from tests.release_evidence import make_bundle
from tests.unit.serving.sockets import connect, post, read_message, reply, status

ROUNDS = 100
CLIENTS = 8
PATH = v1_path("late")
BODY = json.dumps({"instances": [{"hour": 9, "distance": 800.0, "carrier": "AA"}]}).encode()


@dataclass
class Server:
    """A model server that is stopped as uvicorn stops: idle connections end at once, answers under way are
    finished."""

    url: str = ""
    stopped: bool = False
    busy: set[asyncio.StreamWriter] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None

    @classmethod
    async def started(cls) -> Server:
        server = cls()
        server._server = await asyncio.start_server(server._serve, "127.0.0.1", 0, backlog=512)
        server.url = f"http://127.0.0.1:{server._server.sockets[0].getsockname()[1]}"
        return server

    def stop(self) -> None:
        assert self._server
        self.stopped = True
        self._server.close()
        for writer in self._writers - self.busy:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while not self.stopped:
                await read_message(reader)
                self.busy.add(writer)
                await asyncio.sleep(0)
                writer.write(reply())
                self.busy.discard(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


@dataclass
class Load:
    """Clients that ask without end; `results` counts what they got."""

    splitter: Splitter
    seen: list[Observation]
    results: Counter[str] = field(default_factory=Counter)

    async def client(self, number: int) -> None:
        reader, writer = await connect(self.splitter)
        asked = 0
        while True:
            asked += 1
            last = asked % 50 == 0  # now and then over a new connection
            writer.write(post(BODY, path=PATH, headers="Connection: close\r\n" if last else ""))
            async with asyncio.timeout(20):
                head, body = await read_message(reader)
            self.results[f"{status(head)}, {'valid' if first_score(body) is not None else 'invalid'}"] += 1
            if last:
                writer.close()
                reader, writer = await connect(self.splitter)

    async def some(self, requests: int) -> None:
        """Wait until that many more were answered."""
        goal = len(self.seen) + requests
        async with asyncio.timeout(30):
            while len(self.seen) < goal:
                await asyncio.sleep(0)


@asynccontextmanager
async def loaded(stable: str, canary: str) -> AsyncIterator[Load]:
    seen: list[Observation] = []
    splitter = Splitter(stable, canary, on_request=seen.append)
    await splitter.start()
    load = Load(splitter, seen)
    clients = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]
    try:
        yield load
        assert not any(client.done() for client in clients), "a client lost its connection"
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await splitter.stop()


async def ramp(load: Load, *percents: int) -> None:
    for percent in percents:
        load.splitter.set_share(percent / 100)
        await load.some(10)


@pytest.mark.parametrize("patient", [True, False], ids=["old server drained", "old server stopped at once"])
def test_a_hundred_promotions_and_rollbacks_fail_nobody(patient: bool) -> None:
    async def retire(load: Load, server: Server) -> None:
        if patient:
            await load.splitter.quiet(server.url)
        server.stop()

    async def run() -> tuple[Counter[str], list[Observation]]:
        stable, canary = await Server.started(), await Server.started()
        async with loaded(stable.url, canary.url) as load:
            for _ in range(ROUNDS):
                await ramp(load, 10, 50, 100)  # promoted
                load.splitter.replace_stable(canary.url)
                load.splitter.set_share(0.0)
                await retire(load, stable)
                stable, canary = canary, await Server.started()
                load.splitter.set_canary(canary.url)
                await ramp(load, 10, 50, 100, 0)  # rolled back
                load.splitter.set_canary(None)
                await retire(load, canary)
                canary = await Server.started()
                load.splitter.set_canary(canary.url)
        stable.stop()
        canary.stop()
        return load.results, load.seen

    results, seen = asyncio.run(run())
    assert set(results) == {"200, valid"}
    assert results.total() > 50 * ROUNDS
    assert {o.arm for o in seen} == {"stable", "canary"}
    if patient:
        assert not [o for o in seen if o.failed]


def test_real_servers_are_exchanged_without_a_failed_request(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    digest = make_bundle(bundle, rounds=3)
    servers = [
        ServerProcess(ServerOptions(bundle, "late", str(number), digest), tmp_path / "log")
        for number in range(3)
    ]

    async def run() -> tuple[Counter[str], list[Observation]]:
        for server in servers:
            server.start()
        stable, *others = await asyncio.gather(*(server.ready() for server in servers))
        async with loaded(stable, others[0]) as load:
            for number, new in enumerate(others):
                load.splitter.set_canary(new)
                await ramp(load, 50, 0, 50, 100)
                load.splitter.replace_stable(new)
                load.splitter.set_share(0.0)
                await load.splitter.quiet(servers[number].url)
                await asyncio.to_thread(servers[number].stop)
                await load.some(50)
        return load.results, load.seen

    try:
        results, seen = asyncio.run(run())
    finally:
        for server in servers:
            server.stop()
    assert set(results) == {"200, valid"}
    assert not [o for o in seen if o.failed]
    assert not started_here()


def test_a_totally_failing_canary_costs_users_nothing_when_it_cannot_be_reached() -> None:
    async def run() -> tuple[Counter[str], list[Observation]]:
        stable, canary = await Server.started(), await Server.started()
        async with loaded(stable.url, canary.url) as load:
            load.splitter.set_share(0.5)
            await load.some(100)
            canary.stop()
            await load.some(500)
        stable.stop()
        return load.results, load.seen

    results, seen = asyncio.run(run())
    assert set(results) == {"200, valid"}
    failed = [o for o in seen if o.failed]
    assert {(o.arm, o.result) for o in failed} == {("canary", "connection")}
    assert len(failed) > 150, "every one of them is evidence against the canary"
