"""What serving costs: the scorer alone, a bare ASGI server around it, our server, and others around the same call.

    python -m benchmarks.serving [--bundle DIR] [--requests 400] [--rounds 15] [--only bare,ours]

Single-row requests over keep-alive connections. All servers run at once, on one core; the client has the other. They
take turns, round after round, so that a disturbance hits all alike; the medians of the rounds are told. Without
`--bundle`: the newest model that serves here, else a small one (3 features). Rows are drawn from the ranges and
categories that the bundle names.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from airworthy.bundle import Scorer
from airworthy.encoding import Feature
from airworthy.serving.replay import Row, v1_body, v1_path, v2_body, v2_path

ROOT = Path(__file__).resolve().parents[1]
RIVALS = ROOT / "benchmarks" / "rivals"
CLIENTS = 8
WARM_UP = 100
SPLITTER = """
import asyncio, sys
from airworthy.serving.splitter import Splitter

async def main():
    splitter = Splitter(sys.argv[1])
    await splitter.start(int(sys.argv[2]))
    await asyncio.Event().wait()

asyncio.run(main())
"""


@dataclass
class Way:
    """One way to a score.

    `times` are a round's p50, p99 (µs) and requests/s with 1 and 8 clients.
    """

    name: str
    url: str
    path: str
    bodies: list[bytes]
    times: list[tuple[float, float, float, float]] = field(default_factory=list)

    def measure(self, requests: int) -> None:
        """One round."""
        load(self.url, self.path, self.bodies, WARM_UP, 1)
        times, rate = load(self.url, self.path, self.bodies, requests, 1)
        _, parallel = load(self.url, self.path, self.bodies, requests, CLIENTS)
        self.times.append(
            (1e6 * statistics.median(times), 1e6 * times[int(0.99 * len(times))], rate, parallel)
        )

    def medians(self) -> list[float]:
        """Of the rounds."""
        return [statistics.median(column) for column in zip(*self.times, strict=True)]


def load(
    url: str, path: str, bodies: Sequence[bytes], requests: int, clients: int
) -> tuple[list[float], float]:
    """Closed loop of `clients` connections from one thread: sorted latencies in seconds, and requests per second."""
    host, port = url.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: "
    prepared = itertools.cycle([f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies])
    times: list[float] = []
    begun: dict[socket.socket, float] = {}
    left = requests
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        started = time.perf_counter()
        for _ in range(clients):
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ)
            begun[connection] = time.perf_counter()
            connection.sendall(next(prepared))
            left -= 1
        while len(times) < requests:
            for key, _ in selector.select(30):
                connection = key.fileobj  # type: ignore[assignment]
                read_answer(connection)
                now = time.perf_counter()
                times.append(now - begun[connection])
                if left > 0:
                    left -= 1
                    begun[connection] = time.perf_counter()
                    connection.sendall(next(prepared))
        return sorted(times), requests / (time.perf_counter() - started)


def read_answer(connection: socket.socket) -> None:
    """One whole answer; anything but 200 is an error."""
    answer = connection.recv(65536)
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(answer[:300].decode(errors="replace"))


def rows_like(features: Sequence[Feature], count: int) -> list[Row]:
    """Rows within what training saw, one value in twenty unknown."""
    draw = random.Random(1)

    def value(feature: Feature) -> Any:
        if draw.random() < 0.05:
            return None
        if feature.kind == "category":
            return draw.choice(feature.categories)
        if feature.kind == "bool":
            return draw.random() < 0.5
        low, high = feature.minimum or 0.0, feature.maximum or 1.0
        return draw.randint(int(low), int(high)) if feature.kind == "integer" else draw.uniform(low, high)

    return [{feature.name: value(feature) for feature in features} for _ in range(count)]


class Servers:
    """Processes on one core, stopped at the end."""

    def __init__(self, core: int, folder: Path) -> None:
        self._core = core
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, cwd: Path | None = None, port: int = 0) -> str:
        """Start one; `{port}` in its command is replaced by a free port. Returns its address once it listens."""
        port = port or free_port()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"}
        log = (self._folder / f"{port}.log").open("wb")
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in command],
            cwd=cwd or ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: os.sched_setaffinity(0, {self._core}),
        )
        self._processes.append(process)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                return f"http://127.0.0.1:{port}"
            time.sleep(0.1)
        raise SystemExit(f"{command}: does not listen: {(self._folder / f'{port}.log').read_text()[-2000:]}")

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ways(servers: Servers, bundle: Path, folder: Path, only: set[str]) -> Iterator[Way]:
    """Starts the servers."""
    scorer = Scorer.load(bundle)
    rows = rows_like(scorer.info.features, 200)
    one = [v1_body([row], scorer.info.features) for row in rows]
    two = [v2_body([row], scorer.info.features) for row in rows]
    v1, v2 = v1_path("model"), v2_path("model")
    python, given = sys.executable, str(bundle)

    def rival(name: str, *more: str) -> str:
        return servers.start(python, str(RIVALS / name), given, "{port}", *more)

    ours = [python, "-m", "airworthy.serving.server", "--bundle", given, "--model_name", "model"]
    if "bare" in only:
        yield Way("bare ASGI server", rival("bare.py"), "/", one)
    if "ours" in only:
        url = servers.start(*ours, "--http_port", "{port}")
        yield Way("**ours**, V1", url, v1, one)
        yield Way("**ours**, V2", url, v2, two)
        logged = servers.start(
            *ours, "--http_port", "{port}", "--prediction_log", str(folder / "predictions")
        )
        yield Way("ours with prediction log, V1", logged, v1, one)
        if "splitter" in only:
            split = servers.start(python, "-c", SPLITTER, url, "{port}")
            yield Way("splitter + ours, V1", split, v1, one)
    if "kserve" in only:
        for engine in ["onnx", "xgboost"] if scorer.engine == "onnx" else ["xgboost"]:
            url = rival("kserve_stock.py", engine)
            call = "ONNX Runtime" if engine == "onnx" else "inplace_predict"
            yield Way(f"stock KServe, {call}, V1", url, v1, one)
            yield Way(f"stock KServe, {call}, V2", url, v2, two)
    if "fastapi" in only:
        yield Way("FastAPI", rival("fastapi_server.py"), "/predict", one)
    if "mlserver" in only:
        yield Way("MLServer, custom runtime, V2", mlserver(servers, bundle, folder), v2, two)


def mlserver(servers: Servers, bundle: Path, folder: Path) -> str:
    """MLServer in an environment of its own, scoring in its own process (`parallel_workers: 0`)."""
    from airworthy.local.environments import Environments

    home = Path(os.environ.get("AIRWORTHY_HOME", ROOT / ".airworthy"))
    python = Environments(home, say=lambda text: print(text, file=sys.stderr)).python_of_group("mlserver")
    place = folder / "mlserver"
    place.mkdir()
    ports = {"http_port": free_port(), "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", **ports, "parallel_workers": 0, "debug": False}
    (place / "settings.json").write_text(json.dumps(settings))
    model = {
        "name": "model",
        "implementation": "benchmarks.rivals.mlserver_runtime.ScorerRuntime",
        "parameters": {"uri": str(bundle.resolve())},
    }
    (place / "model-settings.json").write_text(json.dumps(model))
    return servers.start(str(python.parent / "mlserver"), "start", ".", cwd=place, port=ports["http_port"])


def alone(bundle: Path, requests: int) -> str:
    """The scorer in this process."""
    scorer = Scorer.load(bundle)
    columns = [{name: [v] for name, v in row.items()} for row in rows_like(scorer.info.features, 200)]
    times = []
    for k in range(WARM_UP + requests):
        begun = time.perf_counter()
        scorer.score(scorer.encode(columns[k % len(columns)])[0])
        times.append(time.perf_counter() - begun)
    times = sorted(times[WARM_UP:])
    p50, p99 = 1e6 * statistics.median(times), 1e6 * times[int(0.99 * len(times))]
    return f"| encode and score alone | {p50:.0f} | {p99:.0f} | | | |"


def measure(bundle: Path, requests: int, rounds: int, only: set[str]) -> Iterator[str]:
    """The results, as Markdown."""
    scorer = Scorer.load(bundle)
    what = f"{len(scorer.info.features)} features, {scorer.info.rounds} rounds, engine {scorer.engine}"
    yield (
        f"{what}; servers on one core, client on another; load average {psutil.getloadavg()[0]:.1f} "
        f"before the servers started; medians of {rounds} rounds of {requests} requests\n"
    )
    yield "| path | p50 µs, 1 client | p99 µs | requests/s, 1 client | requests/s, 8 clients | p50 to bare |"
    yield "|---|---:|---:|---:|---:|---:|"
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        servers = Servers(cores[0], Path(folder))
        try:
            found = list(ways(servers, bundle, Path(folder), only))
            os.sched_setaffinity(0, {cores[-1]})
            yield alone(bundle, requests)
            for _ in range(rounds):
                for way in found:
                    way.measure(requests)
        finally:
            os.sched_setaffinity(0, cores)
            servers.stop()
    base = next((way.medians()[0] for way in found if way.name.startswith("bare")), None)
    for way in found:
        p50, p99, rate, parallel = way.medians()
        ratio = f"{p50 / base:.2f}" if base else ""
        yield f"| {way.name} | {p50:.0f} | {p99:.0f} | {rate:,.0f} | {parallel:,.0f} | {ratio} |"


def newest_bundle() -> Path | None:
    """The one that was last brought to serving here."""
    home = Path(os.environ.get("AIRWORTHY_HOME", ROOT / ".airworthy"))
    return max(home.glob("serving/*/models/*"), key=lambda path: path.stat().st_mtime, default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--small", action="store_true", help="a small model, whatever serves here")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="bare,ours,splitter,kserve,fastapi,mlserver")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or (None if options.small else newest_bundle())
        if bundle is None:
            from tests.release_evidence import make_bundle

            bundle = Path(folder) / "bundle"
            make_bundle(bundle)
        for line in measure(bundle, options.requests, options.rounds, set(options.only.split(","))):
            print(line, flush=True)


if __name__ == "__main__":
    main()
