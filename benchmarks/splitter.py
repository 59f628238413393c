"""What the splitter adds to a request: a bare server alone, and the same server behind the splitter.

    python -m benchmarks.splitter [--seconds 3] [--uvloop]

Load comes from `wrk` (Debian's package): single-row V1 requests over keep-alive connections, by 1 and by 8 clients.
Server, splitter and load are processes of their own, so on two cores they wait for each other at 8 clients.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import psutil

from airworthy.serving.request_log import RequestLog
from airworthy.serving.splitter import Splitter

BODY = '{"instances": [{"hour": 9, "distance": 800.0, "carrier": "AA"}]}'
LUA = f"""
wrk.method = "POST"
wrk.path = "/v1/models/late:predict"
wrk.body = '{BODY}'
wrk.headers["Content-Type"] = "application/json"
"""
REPLY_BODY = b'{"predictions": [0.25]}'
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(REPLY_BODY),
    REPLY_BODY,
)
UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}


class Bare(asyncio.Protocol):
    """The least a server can do: a fixed answer to whatever comes in one piece."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, _: bytes) -> None:
        self._transport.write(REPLY)


async def serve_bare() -> None:
    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


async def serve_splitter(stable: str, canary: str, log: str) -> None:
    """The splitter with what `airworthy serve` has: a request log; half of the requests go to each arm."""
    splitter = Splitter(stable, canary, request_log=RequestLog(Path(log)) if log else None)
    print(await splitter.start(), flush=True)
    splitter.set_share(0.5)
    await asyncio.Event().wait()


@contextmanager
def process(*arguments: str) -> Iterator[str]:
    """This module as a server; gives its address."""
    command = [sys.executable, "-m", "benchmarks.splitter", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def wrk(url: str, clients: int, seconds: float, script: Path) -> tuple[float, float, float]:
    """Median and 99 % latency in µs, requests per second.

    Raises:
        SystemExit: Some answers were no 200, or there is no wrk.
    """
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:.0f}s", "--latency", "-s", str(script), url]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise SystemExit("wrk is not installed (Debian: apt-get install wrk)") from None
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(text)
    found = {p: float(v) * UNITS[u] for p, v, u in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", text)}
    return found["50"], found["99"], float(re.findall(r"Requests/sec:\s+([\d.]+)", text)[0])


def measure(seconds: float, extra: list[str]) -> Iterator[str]:
    """The results, as Markdown."""
    yield f"load average {psutil.getloadavg()[0]:.1f}\n"
    yield "| path | p50 µs, 1 client | p99 µs | added p50 µs | requests/s, 1 client | requests/s, 8 clients |"
    yield "|---|---:|---:|---:|---:|---:|"
    with tempfile.TemporaryDirectory() as folder, process("--serve") as bare, process("--serve") as other:
        script = Path(folder) / "request.lua"
        script.write_text(LUA)

        def row(name: str, url: str, base: float) -> tuple[str, float]:
            wrk(url, 1, 1, script)
            p50, p99, rate = wrk(url, 1, seconds, script)
            _, _, parallel = wrk(url, 8, seconds, script)
            added = f"{p50 - base:.0f}" if base else ""
            return f"| {name} | {p50:.0f} | {p99:.0f} | {added} | {rate:,.0f} | {parallel:,.0f} |", p50

        line, base = row("bare server", bare, 0.0)
        yield line
        with process("--split", bare, other, *extra) as split:
            yield row("behind the splitter", split, base)[0]
        log = str(Path(folder) / "requests.jsonl")
        with process("--split", bare, other, "--log", log, *extra) as split:
            yield row("behind the splitter, with request log", split, base)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--uvloop", action="store_true", help="run the splitter on uvloop")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--split", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--log", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    run = asyncio.run
    if options.uvloop and options.split:
        import uvloop

        run = uvloop.run
    if options.serve:
        asyncio.run(serve_bare())
    elif options.split:
        stable, canary = options.split
        run(serve_splitter(stable, canary, options.log))
    else:
        for line in measure(options.seconds, ["--uvloop"] if options.uvloop else []):
            print(line, flush=True)


if __name__ == "__main__":
    main()
