"""The double's data plane: a small real model server per revision or Deployment, and a gateway before them.

The gateway routes by the weights that were APPLIED to it, which lag those that a status or an HTTPRoute shows, which
lag those that were asked for.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from tests.cluster.loop import LoopThread, no_aborts, serve
from tests.cluster.metrics import ISTIO_EDGES, Requests
from tests.cluster.models import Backend, ModelServer
from tests.cluster.script import Script


@dataclass(frozen=True)
class Passed:
    """One prediction that the gateway passed on (or could not: status 503, no score)."""

    at: float
    host: str
    service: str
    workload: str
    uri: str
    share: float
    direct: bool
    status: int
    seconds: float
    score: float | None


class Gateway:
    """One address for all services, as an ingress gateway has: hosts are told apart by the Host header.

    - Hosts in `direct` (tags, in-cluster names of a predictor's Service) go to one backend.
    - Hosts in `split` (a service's public host) are drawn by weight, afresh for each request.
    - With its own address as host, the model's name in the path says which service is meant.

    Attributes:
        log: Every prediction, in order of completion.
        rates: Istio's view of the same (`/metrics`); `/targets` is a service discovery for Prometheus (`http_sd`).
    """

    def __init__(self, draw: random.Random) -> None:
        self.url = ""
        self.log: list[Passed] = []
        self.metrics = Requests("istio_requests_total", "istio_request_duration_milliseconds", ISTIO_EDGES)
        self.split: dict[str, dict[str, float]] = {}
        self.direct: dict[str, str] = {}
        self.services: dict[str, str] = {}
        self.servers: dict[str, ModelServer] = {}
        self.endpoints: set[str] = set()
        self.backends: dict[str, Backend] = {}
        """Whatever was behind a workload last; its failures are told as its own."""
        self._draw = draw
        self._session: ClientSession | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(middlewares=[no_aborts], client_max_size=8 << 20)
        app.router.add_get("/metrics", self._expose)
        app.router.add_get("/targets", self._targets)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._session = ClientSession(timeout=ClientTimeout(total=10), connector=TCPConnector(limit=0))
        self._runner, port = await serve(app)
        self.url = f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        if self._session:
            await self._session.close()
        if self._runner:
            await self._runner.cleanup()

    async def _expose(self, _: web.Request) -> web.Response:
        return web.Response(text=self.metrics.expose())

    async def _targets(self, _: web.Request) -> web.Response:
        servers = [server.address.removeprefix("http://") for server in list(self.servers.values())]
        groups = [
            {"targets": [self.url.removeprefix("http://")], "labels": {"job": "istio"}},
            {"targets": servers, "labels": {"job": "queue-proxy"}},
        ]
        return web.json_response(groups)

    async def _handle(self, request: web.Request) -> web.Response:
        host = request.headers.get("Host", "").lower()
        if host == self.url.removeprefix("http://"):
            parts = request.path.split("/")
            model = parts[3].partition(":")[0] if len(parts) > 3 else ""
            host = self.services.get(model, host)
        host = host.partition(":")[0]
        workload, share, direct = self.direct.get(host, ""), 1.0, True
        if host in self.split:
            workload, share = self._draw_from(self.split[host])
            direct = False
        elif not workload:
            return web.Response(status=404, text="no route for this host")
        return await self._forward(request, host, workload, share, direct)

    def _draw_from(self, weights: dict[str, float]) -> tuple[str, float]:
        total = sum(weights.values())
        if total <= 0:
            return "", 1.0
        workload = self._draw.choices(list(weights), list(weights.values()))[0]
        return workload, weights[workload] / total

    async def _forward(
        self, request: web.Request, host: str, workload: str, share: float, direct: bool
    ) -> web.Response:
        assert self._session is not None
        server, begun, at = self.servers.get(workload), time.monotonic(), time.time()
        if workload not in self.endpoints:
            server = None
        status, body, headers = 503, b"no healthy upstream", {}
        if server is not None:
            try:
                url, sent = server.address + request.path_qs, await request.read()
                async with self._session.request(request.method, url, data=sent or None) as answer:
                    status, body = answer.status, await answer.read()
                    headers = {k: v for k, v in answer.headers.items() if k.startswith("X-")}
            except (ClientError, TimeoutError, OSError):
                status, body = 503, b"upstream connect error or disconnect/reset before headers"
        if request.method == "POST":
            seconds = time.monotonic() - begun
            its = self.backends.get(workload)
            service, uri = (its.service, its.uri) if its else ("", "")
            self._count(workload, its, status, seconds)
            score = _first_score(body) if status == 200 else None
            self.log.append(Passed(at, host, service, workload, uri, share, direct, status, seconds, score))
        return web.Response(body=body, status=status, headers=headers, content_type="application/json")

    def _count(self, workload: str, backend: Backend | None, status: int, seconds: float) -> None:
        name = f"{workload}-deployment" if backend and backend.knative else workload
        namespace = backend.namespace if backend else "unknown"
        self.metrics.add(
            seconds,
            reporter="source",
            source_workload="gateway",
            destination_workload=name or "unknown",
            destination_workload_namespace=namespace,
            destination_service=f"{workload}.{namespace}.svc.cluster.local",
            destination_service_name=workload,
            request_protocol="http",
            response_code=str(status),
            response_flags="UF" if status == 503 else "-",
        )


def _first_score(body: bytes) -> float | None:
    try:
        document = json.loads(body)
        found = document["predictions"][0] if "predictions" in document else document["outputs"][0]["data"][0]
        return float(found)
    except (ValueError, KeyError, TypeError, IndexError):
        return None


class DataPlane:
    """Starts and stops model servers for the controllers, whose thread isn't the loop's."""

    def __init__(self, loop: LoopThread, script: Script, seed: int = 0) -> None:
        self.gateway = Gateway(random.Random(seed))
        self._loop, self._script, self._seed = loop, script, seed
        self._replaced: list[ModelServer] = []
        loop.call(self.gateway.start())

    def up(self, backend: Backend) -> None:
        """Answer for this backend; replaces the server of the same workload, whose requests may finish."""
        self.gateway.endpoints.add(backend.workload)
        self.gateway.backends[backend.workload] = backend
        present = self.gateway.servers.get(backend.workload)
        if present is not None and present.backend == backend:
            return
        server = ModelServer(backend, self._script, random.Random(f"{self._seed}{backend.workload}"))
        self._loop.call(server.start())
        self.gateway.servers[backend.workload] = server
        if present is not None:
            self._replaced.append(present)

    def down(self, workload: str) -> None:
        """No pod is ready: new requests get 503, those under way finish, as with a grace period."""
        self.gateway.endpoints.discard(workload)

    def gone(self, workload: str) -> None:
        """The workload was deleted."""
        self.down(workload)
        server = self.gateway.servers.pop(workload, None)
        if server is not None:
            self._replaced.append(server)

    def stop(self) -> None:
        for server in [*self.gateway.servers.values(), *self._replaced]:
            self._loop.call(server.stop())
        self._loop.call(self.gateway.stop())
