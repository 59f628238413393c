"""A gateway that splits traffic between two models and counts it as Istio's proxies do."""

from __future__ import annotations

import bisect
import random
import time
from collections import Counter

from aiohttp import ClientError, ClientSession, ClientTimeout

from airworthy.serving.observation import Arm
from tests.cluster.prometheus_server import Exporter

EDGES = (0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000)
"""Milliseconds: the first of Envoy's default buckets."""
WORKLOADS: dict[Arm, str] = {"stable": "late-predictor", "canary": "late-v2-predictor"}


class Gateway:
    """Sends requests on, to an arm drawn afresh for each."""

    def __init__(self, urls: dict[Arm, str], exporter: Exporter, seed: int = 1) -> None:
        self.share = 0.0
        self.sent: Counter[tuple[str, str]] = Counter()
        """By arm and result."""
        self._urls = urls
        self._exporter = exporter
        self._random = random.Random(seed)
        self._times: dict[tuple[Arm, int], list[int]] = {}

    async def send(self, number: int, body: object) -> None:
        async with ClientSession(timeout=ClientTimeout(total=5)) as session:
            for _ in range(number):
                arm: Arm = "canary" if self._random.random() < self.share else "stable"
                begun = time.perf_counter()
                try:
                    async with session.post(f"{self._urls[arm]}/v1/models/late:predict", json=body) as answer:
                        await answer.read()
                        status = answer.status
                except ClientError:
                    status = 503  # what Envoy answers for a backend that is not there
                self.count(arm, status, time.perf_counter() - begun)
        self.show()

    def count(self, arm: Arm, status: int, seconds: float) -> None:
        times = self._times.setdefault((arm, status), [0] * (len(EDGES) + 1))
        times[bisect.bisect_left(EDGES, seconds * 1000)] += 1
        self.sent[arm, {2: "ok", 4: "rejected"}.get(status // 100, "error")] += 1

    def show(self) -> None:
        """Let the counts be scraped: in one piece."""
        lines = []
        for (arm, status), times in self._times.items():
            labels = (
                f'reporter="source",destination_workload="{WORKLOADS[arm]}",response_code="{status}",'
                'destination_workload_namespace="models"'
            )
            total = 0
            for edge, number in zip([*EDGES, "+Inf"], times, strict=True):
                total += number
                lines.append(f'istio_request_duration_milliseconds_bucket{{{labels},le="{edge}"}} {total}')
            lines.append(f"istio_requests_total{{{labels}}} {total}")
        self._exporter.text = "\n".join(lines) + "\n"
