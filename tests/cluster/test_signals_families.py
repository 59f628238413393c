"""Each metric family, under the names that its exporter really uses, through a real Prometheus."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from airworthy.rollout.signals.families import FAMILIES
from airworthy.rollout.signals.prometheus import PrometheusSignals
from airworthy.serving.observation import Arm, Observation
from tests.cluster.prometheus_server import Exporter, PrometheusServer, needs_prometheus

pytestmark = needs_prometheus
REVISIONS: dict[Arm, str] = {"stable": "late-predictor-00003", "canary": "late-predictor-00004"}
WORKLOADS: dict[Arm, str] = {"stable": "late-predictor", "canary": "late-v2-predictor"}
VERSIONS: dict[Arm, str] = {"stable": "1", "canary": "2"}
NAMES = {"knative": REVISIONS, "knative-otel": REVISIONS, "airworthy": VERSIONS}
BEGUN = {"stable": (40, 2, 1), "canary": (4, 1, 0)}
"""Answers, refusals, errors."""
LATER = {"stable": (70, 5, 2), "canary": (9, 3, 4)}


def knative(name: str, ok: int, refused: int, failed: int) -> list[str]:
    labels = (
        f'configuration_name="late-predictor",container_name="queue-proxy",namespace_name="models",'
        f'pod_name="{name}-deployment-1",revision_name="{name}",service_name="late-predictor"'
    )
    return [
        line
        for code, number in ((200, ok), (400, refused), (502, failed))
        for split in [f'{labels},response_code="{code}",response_code_class="{code // 100}xx"']
        for line in [
            f"revision_request_count{{{split}}} {number}",
            f'revision_request_latencies_bucket{{{split},le="5"}} {number // 2}',
            f'revision_request_latencies_bucket{{{split},le="10"}} {number}',
            f'revision_request_latencies_bucket{{{split},le="+Inf"}} {number}',
        ]
    ]


def knative_otel(name: str, ok: int, refused: int, failed: int) -> list[str]:
    labels = (
        f'http_request_method="POST",namespace="models",pod="{name}-deployment-7d9-x2x",url_scheme="http"'
    )
    return [
        f'http_server_request_duration_seconds_bucket{{{labels},http_response_status_code="{code}",le="{edge}"}} {up}'
        for code, number in ((200, ok), (400, refused), (504, failed))
        for edge, up in (("0.005", number // 2), ("0.01", number), ("+Inf", number))
    ]


def istio(name: str, ok: int, refused: int, failed: int) -> list[str]:
    return [
        f'istio_request_duration_milliseconds_bucket{{reporter="{reporter}",destination_workload="{name}",'
        f'destination_workload_namespace="{space}",response_code="{code}",source_workload="gw",le="{edge}"}} {up}'
        for reporter, space in (("source", "models"), ("destination", "models"), ("source", "elsewhere"))
        for code, number in ((200, ok), (400, refused), (0, failed))
        for edge, up in (("5", number // 2), ("10", number), ("+Inf", number))
    ]


def gateway(name: str, ok: int, refused: int, failed: int) -> list[str]:
    labels = f'envoy_cluster_name="models/{name}:80"'
    total = ok + refused + failed
    return [
        *(
            f'envoy_cluster_upstream_rq_xx{{envoy_response_code_class="{kind}",{labels}}} {number}'
            for kind, number in ((2, ok), (4, refused), (5, failed))
        ),
        f'envoy_cluster_upstream_rq_time_bucket{{{labels},le="5"}} {total // 2}',
        f'envoy_cluster_upstream_rq_time_bucket{{{labels},le="10"}} {total}',
        f'envoy_cluster_upstream_rq_time_bucket{{{labels},le="+Inf"}} {total}',
    ]


def airworthy(name: str, ok: int, refused: int, failed: int) -> list[str]:
    total = ok + refused + failed
    return [
        *(
            f'airworthy_requests_total{{model_version="{name}",status="{status}"}} {number}'
            for status, number in ((200, ok), (400, refused), (500, failed))
        ),
        f'airworthy_request_seconds_bucket{{model_version="{name}",le="0.005"}} {total // 2}',
        f'airworthy_request_seconds_bucket{{model_version="{name}",le="0.01"}} {total}',
        f'airworthy_request_seconds_bucket{{model_version="{name}",le="+Inf"}} {total}',
    ]


EXPORTED = {
    "knative": knative,
    "knative-otel": knative_otel,
    "istio": istio,
    "gateway": gateway,
    "airworthy": airworthy,
}


def test_every_family_counts_exactly(tmp_path: Path) -> None:
    async def scenario() -> dict[str, list[Observation]]:
        with ExitStack() as stack:
            exporters = {name: stack.enter_context(Exporter()) for name in FAMILIES}
            show(exporters, BEGUN)
            targets = {name: [exporter.address] for name, exporter in exporters.items()}
            prometheus = stack.enter_context(PrometheusServer(tmp_path, targets))
            sources = {
                name: PrometheusSignals(prometheus.url, family, namespace="models")
                for name, family in FAMILIES.items()
            }
            await prometheus.scraped(2)
            for source in sources.values():
                await source.skip()
            await prometheus.scraped(2)
            show(exporters, LATER)
            await prometheus.scraped(2)
            return {name: await source.poll(0.1, names(name)) for name, source in sources.items()}

    def show(exporters: dict[str, Exporter], numbers: dict[str, tuple[int, int, int]]) -> None:
        for name, exporter in exporters.items():
            lines = [line for arm in WORKLOADS for line in EXPORTED[name](names(name)[arm], *numbers[arm])]
            exporter.text = "\n".join(lines) + "\n"

    def names(family: str) -> dict[Arm, str]:
        return NAMES.get(family, WORKLOADS)

    found = asyncio.run(scenario())
    for name, observations in found.items():
        counts: Counter[tuple[str, str]] = Counter()
        for seen in observations:
            counts[seen.arm, seen.result] += seen.count
        failed = "connection" if name == "istio" else "error"
        assert counts == {
            ("stable", "ok"): 30,
            ("stable", "rejected"): 3,
            ("stable", failed): 1,
            ("canary", "ok"): 5,
            ("canary", "rejected"): 2,
            ("canary", failed): 4,
        }, name
        ok = [seen for seen in observations if seen.result == "ok"]
        assert {seen.seconds for seen in ok if seen.arm == "stable"} == {0.005, 0.01}, name
        slowest = max(seen.seconds for seen in ok if seen.arm == "canary")
        assert slowest < 0.0051, f"{name}: in milliseconds, or above its bucket"
