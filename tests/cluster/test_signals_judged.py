"""From requests through a gateway's metrics and Prometheus to the judge's decision."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from airworthy.rollout.judge import Judge, Settings
from airworthy.rollout.signals.families import FAMILIES
from airworthy.rollout.signals.prometheus import PrometheusSignals
from airworthy.serving.chaos import ChaosProxy, Fault
from airworthy.serving.local import ServerOptions, ServerProcess
from airworthy.serving.observation import Arm
from tests.cluster.gateway import WORKLOADS, Gateway
from tests.cluster.prometheus_server import Exporter, PrometheusServer, needs_prometheus
from tests.release_evidence import make_bundle

pytestmark = needs_prometheus
ROW = {"instances": [{"hour": 14, "distance": 900.0, "carrier": "AA"}]}
SHARE = 0.3


async def roll(gateway: Gateway, prometheus: PrometheusServer, judge: Judge, most: int) -> None:
    """Requests, scrapes and polls until the judge has decided or so many requests were sent at this share."""
    signals = PrometheusSignals(prometheus.url, FAMILIES["istio"], namespace="models")
    gateway.share = SHARE
    await gateway.send(20, ROW)  # under nobody knows which share
    await prometheus.scraped(2)
    await signals.skip()
    await prometheus.scraped(2)
    before = gateway.sent.copy()
    for _ in range(most // 100):
        await gateway.send(100, ROW)
        await prometheus.scraped(2)
        for seen in await signals.poll(SHARE, dict(WORKLOADS)):
            judge.observe(seen)
        if judge.complete():
            break
    sent = gateway.sent - before
    for arm, counts in judge.counts.items():
        assert counts.requests == sum(n for (to, _), n in sent.items() if to == arm)
        assert counts.failed == sent[arm, "error"]


@pytest.fixture
def server(tmp_path: Path) -> ServerProcess:
    digest = make_bundle(tmp_path / "bundle", rounds=1)
    options = ServerOptions(tmp_path / "bundle", "late", "1", digest)
    return ServerProcess(options, tmp_path / "server.log", module="tests.light_server")


def test_a_failing_canary_is_failed_and_a_good_one_certified(server: ServerProcess, tmp_path: Path) -> None:
    """Both arms are asked of one server; the bad canary is it behind a proxy that fails."""

    async def scenario() -> tuple[Judge, Judge]:
        good, bad = Judge(Settings()), Judge(Settings())
        server.start()
        proxy: ChaosProxy | None = None
        try:
            url = await server.ready()
            proxy = ChaosProxy(url, Fault("errors", share=0.3), seed=1)
            urls: dict[Arm, str] = {"stable": url, "canary": await proxy.start()}
            with Exporter() as exporter, PrometheusServer(tmp_path, {"gw": [exporter.address]}) as prometheus:
                await roll(Gateway(urls, exporter), prometheus, bad, most=1500)
                await roll(Gateway({"stable": url, "canary": url}, exporter), prometheus, good, most=500)
        finally:
            if proxy:
                await proxy.stop()
            await asyncio.to_thread(server.stop)
        return good, bad

    good, bad = asyncio.run(scenario())
    assert bad.failure is not None
    assert bad.failure.process == "errors"
    assert not bad.certified
    assert good.failure is None
    assert good.certified
    assert good.counts["canary"].requests > 100
