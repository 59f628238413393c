"""What serving costs: the scorer alone, a bare ASGI server around it, our KServe server, and the splitter.

    python -m benchmarks.serving [--bundle DIR --dataset DIR] [--requests 3000]

Single-row V1 requests over keep-alive connections of a minimal client, in one run on one machine, so that the rows
compare; without arguments on a small model (3 features).
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from airworthy.bundle import Scorer
from airworthy.serving.local import ServerOptions, ServerProcess
from airworthy.serving.replay import sample_rows, v1_body, v1_path, v2_body, v2_path
from airworthy.serving.splitter import Splitter

BARE = """
import json, sys
from pathlib import Path
import uvicorn
from airworthy.bundle import Scorer

scorer = Scorer.load(Path(sys.argv[1]))
names = [f.name for f in scorer.info.features]

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    while True:
        part = await receive()
        body += part.get("body", b"")
        if not part.get("more_body"):
            break
    rows = json.loads(body)["instances"]
    scores = scorer.score(scorer.encode({n: [r[n] for r in rows] for n in names})[0])
    content = json.dumps({"predictions": scores.tolist()}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": content})

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="critical")
"""


def post(connection: socket.socket, request: bytes) -> None:
    """One request over a raw connection; anything but a whole 200 answer is an error."""
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    assert head.startswith(b"HTTP/1.1 200"), answer[:300]


def load(
    url: str, path: str, bodies: Sequence[bytes], requests: int, clients: int
) -> tuple[list[float], float]:
    """Sorted latencies in seconds, and requests per second."""
    host, port = url.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: "
    prepared = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]
    times: list[float] = []

    def client(number: int) -> None:
        mine = []
        with socket.create_connection((host, int(port))) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for k in range(requests // clients):
                begun = time.perf_counter()
                post(connection, prepared[(number + k) % len(prepared)])
                mine.append(time.perf_counter() - begun)
        times.extend(mine)

    begun = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(times), len(times) / (time.perf_counter() - begun)


@contextmanager
def bare(bundle: Path) -> Iterator[str]:
    """A bare ASGI server around the same call."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", BARE, str(bundle), str(port)])
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def splitter(stable: str) -> Iterator[str]:
    """The splitter in a thread of its own, in front of one server."""
    started: list[str] = []
    ready, done = threading.Event(), threading.Event()

    async def run() -> None:
        split = Splitter(stable)
        started.append(await split.start())
        ready.set()
        await asyncio.to_thread(done.wait)
        await split.stop()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    ready.wait()
    try:
        yield started[0]
    finally:
        done.set()
        thread.join()


def measure(bundle: Path, dataset: Path, requests: int) -> Iterator[str]:
    """The results, as Markdown."""
    scorer = Scorer.load(bundle)
    features = scorer.info.features
    rows = sample_rows(dataset, [f.name for f in features], 200)
    one, two = [v1_body([r], features) for r in rows], [v2_body([r], features) for r in rows]
    columns = [{f.name: [row[f.name]] for f in features} for row in rows]
    what = f"{len(features)} features, {scorer.info.rounds} rounds, engine {scorer.engine}"
    yield f"{what}; load average {psutil.getloadavg()[0]:.1f}\n"
    yield "| path | p50 µs, 1 client | p99 µs | requests/s, 1 client | requests/s, 8 clients |"
    yield "|---|---:|---:|---:|---:|"
    times = []
    for k in range(requests):
        begun = time.perf_counter()
        scorer.score(scorer.encode(columns[k % len(columns)])[0])
        times.append(time.perf_counter() - begun)
    times.sort()
    p50, p99 = 1e6 * statistics.median(times), 1e6 * times[int(0.99 * len(times))]
    yield f"| encode and score alone | {p50:.0f} | {p99:.0f} | | |"
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(ServerOptions(bundle, "model"), Path(folder) / "log")
        server.start()
        try:
            url = asyncio.run(server.ready())
            with bare(bundle) as plain:
                yield row("bare ASGI server", plain, "/", one, requests)
            yield row("KServe server, V1", url, v1_path("model"), one, requests)
            yield row("KServe server, V2", url, v2_path("model"), two, requests)
            with splitter(url) as split:
                yield row("splitter + KServe, V1", split, v1_path("model"), one, requests)
        finally:
            server.stop()


def row(name: str, url: str, path: str, bodies: Sequence[bytes], requests: int) -> str:
    load(url, path, bodies, 300, 1)
    times, rate = load(url, path, bodies, requests, 1)
    _, parallel = load(url, path, bodies, requests, 8)
    p50, p99 = 1e6 * statistics.median(times), 1e6 * times[int(0.99 * len(times))]
    return f"| {name} | {p50:.0f} | {p99:.0f} | {rate:,.0f} | {parallel:,.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--requests", type=int, default=3000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle, dataset = options.bundle, options.dataset
        if bundle is None or dataset is None:
            from tests.release_evidence import flights, make_bundle, write_flights

            bundle, dataset = Path(folder) / "bundle", Path(folder) / "test"
            make_bundle(bundle)
            write_flights(dataset, flights(500))
        for line in measure(bundle, dataset, options.requests):
            print(line, flush=True)


if __name__ == "__main__":
    main()
