"""Small real model servers with made-up scores, which misbehave as a `Script` says."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from dataclasses import dataclass

from aiohttp import web

from tests.cluster.loop import abort, no_aborts, serve
from tests.cluster.metrics import KNATIVE_EDGES, Requests
from tests.cluster.script import Script


@dataclass(frozen=True)
class Backend:
    """Pods that answer: of a Knative revision, or of a Deployment's generation.

    `workload` is the name that metrics and routes know; `uri` says which model; `cold_start` is what the first
    request after a pause costs where pods scale to zero (0: they don't).
    """

    workload: str
    service: str
    namespace: str
    uri: str
    knative: bool
    cold_start: float = 0.0


def score_of(row: object) -> float:
    """The score (0.05..0.95) that a healthy model gives a row: made up, but the same for all models."""
    digest = hashlib.blake2b(json.dumps(row, sort_keys=True).encode(), digest_size=6).digest()
    return 0.05 + 0.9 * int.from_bytes(digest, "big") / (1 << 48)


class ModelServer:
    """Answers V1 and V2 predictions of any model name as its URI's `Behaviour` says; also queue-proxy's metrics."""

    def __init__(self, backend: Backend, script: Script, draw: random.Random) -> None:
        self.backend = backend
        self.address = ""
        self.metrics = Requests("revision_app_request_count", "revision_request_latencies", KNATIVE_EDGES)
        self._script, self._draw = script, draw
        self._used = 0.0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(middlewares=[no_aborts])
        app.router.add_get("/metrics", self._expose)
        app.router.add_get("/v2/models/{model}/ready", self._ready)
        app.router.add_get("/v1/models/{model}", self._ready)
        app.router.add_post("/v1/models/{model}:predict", self._predict)
        app.router.add_post("/v2/models/{model}/infer", self._predict)
        self._runner, port = await serve(app)
        self.address = f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _expose(self, _: web.Request) -> web.Response:
        counts = "".join(
            f"revision_request_count{line.removeprefix('revision_app_request_count')}\n"
            for line in self.metrics.expose().splitlines()
            if line.startswith("revision_app_request_count")
        )
        return web.Response(text=self.metrics.expose() + "# TYPE revision_request_count counter\n" + counts)

    async def _ready(self, request: web.Request) -> web.Response:
        if self._script.behaviour(self.backend.uri).dead:
            abort(request)
        return web.json_response({"name": request.match_info["model"], "ready": True})

    async def _predict(self, request: web.Request) -> web.Response:
        begun, behaviour = time.monotonic(), self._script.behaviour(self.backend.uri)
        if behaviour.dead:
            abort(request)
        body = await request.read()
        if self.backend.cold_start and begun - self._used > 1.0:
            await asyncio.sleep(self.backend.cold_start)
        self._used = begun
        wait = behaviour.seconds + (self._draw.expovariate(1 / behaviour.jitter) if behaviour.jitter else 0.0)
        if wait:
            await asyncio.sleep(wait)
        status, text = self._answer(request.path.endswith("/infer"), body)
        self._script.served(self.backend.uri)
        self._count(status, time.monotonic() - begun)
        headers = {"X-Model-Version": self.backend.uri.rstrip("/").rsplit("/", 1)[-1]}
        headers["X-Served-By"] = self.backend.workload
        return web.Response(text=text, status=status, headers=headers, content_type="application/json")

    def _answer(self, v2: bool, body: bytes) -> tuple[int, str]:
        behaviour, draw = self._script.behaviour(self.backend.uri), self._draw
        try:
            document = json.loads(body)
            rows = document["instances"] if not v2 else [document["inputs"]]
            scores = [min(1.0, max(0.0, score_of(row) + behaviour.shift)) for row in rows]
        except (ValueError, KeyError, TypeError):
            return 400, '{"error": "not a prediction request"}'
        if draw.random() < behaviour.error_rate:
            return 500, '{"error": "scripted"}'
        if draw.random() < behaviour.garbage_rate:
            return 200, '{"oops": '
        if draw.random() < behaviour.nan_rate:
            scores = [float("nan")] * len(scores)
        if not v2:
            return 200, json.dumps({"predictions": scores})
        output = {"name": "score", "shape": [len(scores)], "datatype": "FP64", "data": scores}
        return 200, json.dumps({"model_name": self.backend.service, "outputs": [output]})

    def _count(self, status: int, seconds: float) -> None:
        its = self.backend
        self.metrics.add(
            seconds,
            configuration_name=f"{its.service}-predictor",
            container_name="queue-proxy",
            namespace_name=its.namespace,
            pod_name=f"{its.workload}-deployment-0",
            response_code=str(status),
            response_code_class=f"{status // 100}xx",
            revision_name=its.workload,
            service_name=f"{its.service}-predictor",
        )
