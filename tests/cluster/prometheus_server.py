"""A real Prometheus on loopback, and exporters for it to scrape."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

PROGRAM = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(
    PROGRAM is None, reason="needs the program prometheus (Debian: apt-get install prometheus)"
)
INTERVAL = 0.2
"""Seconds between scrapes."""


class PrometheusServer:
    """Scrapes `targets` (job to addresses `host:port`) into a temporary folder."""

    def __init__(
        self, folder: Path, targets: Mapping[str, Sequence[str]], interval: float = INTERVAL
    ) -> None:
        self._folder = folder
        self._interval = interval
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.scrape(targets)

    def scrape(self, targets: Mapping[str, Sequence[str]]) -> None:
        """Name the targets; takes effect with the next start."""
        every = f"{round(self._interval * 1000)}ms"
        jobs = [
            {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
            for job, addresses in targets.items()
        ]
        config = {"global": {"scrape_interval": every, "scrape_timeout": every}, "scrape_configs": jobs}
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML

    def __enter__(self) -> PrometheusServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        assert PROGRAM is not None
        with (self._folder / "log").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    PROGRAM,
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1):
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError((self._folder / "log").read_text()[-2000:])

    def stop(self) -> None:
        process, self._process = self._process, None
        if process:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def ask(self, query: str) -> list[Any]:
        """The result of an instant query."""
        form = urllib.parse.urlencode({"query": query}).encode()
        with urllib.request.urlopen(f"{self.url}/api/v1/query", form, timeout=5) as answer:
            return list(json.load(answer)["data"]["result"])

    async def scraped(self, times: int = 1) -> None:
        """Wait until every target was scraped so many times from now on, successfully or not."""
        now = time.time()
        await self.until(
            lambda: self.ask(f"count_over_time(up[{max(1, round((time.time() - now) * 1000))}ms])"),
            lambda found: bool(found) and min(int(series["value"][1]) for series in found) >= times,
        )

    async def until(self, look: Any, good: Any, seconds: float = 15) -> Any:
        """Ask until the answer is good."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = await asyncio.to_thread(look)
            if good(found):
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"did not come about: {found}")


class Exporter:
    """Serves what `lines` says as metrics, on a free port."""

    def __init__(self) -> None:
        self.text = ""
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = exporter.text.encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
