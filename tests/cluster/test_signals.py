"""Evidence from a real Prometheus that scrapes real model servers behind real traffic."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession

from airworthy.errors import ServingError
from airworthy.rollout.signals.counters import LONGEST
from airworthy.rollout.signals.families import FAMILIES
from airworthy.rollout.signals.prometheus import PrometheusSignals
from airworthy.serving.local import ServerOptions, ServerProcess
from airworthy.serving.metrics import LATENCY_BUCKETS
from airworthy.serving.observation import Arm, Observation
from tests.cluster.prometheus_server import PrometheusServer, needs_prometheus
from tests.release_evidence import make_bundle

pytestmark = needs_prometheus
ARMS: dict[Arm, str] = {"stable": "1", "canary": "2"}
GOOD = {"instances": [{"hour": 14, "distance": 900.0, "carrier": "AA"}]}
BAD = {"instances": [{"hour": 14}]}
Counts = Counter[tuple[str, str]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    make_bundle(folder, rounds=3)
    return folder


@asynccontextmanager
async def servers(bundle: Path, folder: Path) -> AsyncIterator[dict[Arm, ServerProcess]]:
    started: dict[Arm, ServerProcess] = {
        arm: ServerProcess(ServerOptions(bundle, "late", version), folder / f"{arm}.log")
        for arm, version in ARMS.items()
    }
    try:
        for server in started.values():
            server.start()
        await asyncio.gather(*(server.ready() for server in started.values()))
        yield started
    finally:
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in started.values()))


async def send(server: ServerProcess, number: int, body: object = GOOD) -> None:
    async with ClientSession() as session:
        for _ in range(number):
            async with session.post(f"{server.url}/v1/models/late:predict", json=body) as answer:
                await answer.read()


async def gathered(
    signals: PrometheusSignals, prometheus: PrometheusServer, share: float
) -> list[Observation]:
    """What is reported until everything sent so far was scraped; each arm's server is scraped for itself."""
    found: list[Observation] = []
    for _ in range(2):
        await prometheus.scraped(4)
        found += await signals.poll(share, ARMS)
    return found


def counted(found: list[Observation]) -> Counts:
    counts: Counts = Counter()
    for seen in found:
        counts[seen.arm, seen.result] += seen.count
    return counts


def jobs(started: dict[Arm, ServerProcess]) -> dict[str, list[str]]:
    return {"model-servers": [server.url.removeprefix("http://") for server in started.values()]}


def test_counts_are_exact_through_changes_of_weights_and_restarts(bundle: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with servers(bundle, tmp_path) as started:
            with PrometheusServer(tmp_path / "prometheus", jobs(started)) as prometheus:
                await exact_counts(started, prometheus)

    async def exact_counts(started: dict[Arm, ServerProcess], prometheus: PrometheusServer) -> None:
        stable, canary = started["stable"], started["canary"]
        signals = PrometheusSignals(prometheus.url, FAMILIES["airworthy"], scrapes=2)
        await send(stable, 31)  # before anything is watched
        await signals.skip()
        await prometheus.scraped(2)
        await send(stable, 137)
        await send(stable, 4, BAD)
        first = await gathered(signals, prometheus, 0.0)
        assert counted(first) == {("stable", "ok"): 137, ("stable", "rejected"): 4}

        await send(canary, 9)  # weights change: nobody knows under which of them these came
        await signals.skip()
        await prometheus.scraped(2)
        await send(stable, 90)
        await send(canary, 11)
        await send(canary, 2, BAD)
        second = await gathered(signals, prometheus, 0.1)
        assert counted(second) == {("stable", "ok"): 90, ("canary", "ok"): 11, ("canary", "rejected"): 2}

        canary = started["canary"] = await restarted(canary)
        await send(canary, 13)
        await send(stable, 7)
        third = await gathered(signals, prometheus, 0.1)
        assert counted(third) == {("stable", "ok"): 7, ("canary", "ok"): 13}
        assert not await signals.poll(0.1, ARMS)
        edges = {*LATENCY_BUCKETS, LONGEST}
        for seen in [*first, *second, *third]:
            known = {math.nextafter(edge, 9.0) for edge in edges} | {0.0} if seen.arm == "canary" else edges
            assert seen.result != "ok" or seen.seconds in known

    async def restarted(server: ServerProcess) -> ServerProcess:
        port = int(server.url.rpartition(":")[2])
        await asyncio.to_thread(server.stop)
        again = ServerProcess(dataclasses.replace(server.options, port=port), server.log_file)
        again.start()
        await again.ready()
        return again

    asyncio.run(scenario())


def test_silence_is_no_news(tmp_path: Path) -> None:
    async def scenario() -> None:
        prometheus = PrometheusServer(tmp_path, {"nothing": ["127.0.0.1:1"]})
        signals = PrometheusSignals(prometheus.url, FAMILIES["airworthy"], patience=0.2)
        assert await signals.poll(0.1, ARMS) == []  # it is not up yet
        await asyncio.sleep(0.3)
        with pytest.raises(ServingError, match="has not answered for"):
            await signals.poll(0.1, ARMS)
        with prometheus:
            signals = PrometheusSignals(prometheus.url, FAMILIES["airworthy"], patience=0.2)
            assert await signals.poll(0.1, ARMS) == []
            await asyncio.sleep(0.3)
            with pytest.raises(ServingError, match="no data about the stable model"):
                await signals.poll(0.1, ARMS)

    asyncio.run(scenario())


def test_something_else_than_prometheus_is_refused_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        with PrometheusServer(tmp_path, {}) as prometheus:
            signals = PrometheusSignals(f"{prometheus.url}/somewhere", FAMILIES["airworthy"])
            with pytest.raises(ServingError, match=r"can't be used as Prometheus.*404"):
                await signals.poll(0.1, ARMS)

    asyncio.run(scenario())
