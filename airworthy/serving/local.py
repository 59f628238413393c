"""Model servers as processes of this machine, on loopback, tied to the life of the process that starts
them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout

from airworthy.errors import ServingError
from airworthy.model_spec import PredictionLog

log = logging.getLogger(__name__)

READY_SECONDS = 120.0  # importing kserve alone takes many seconds on a small machine
SOURCES = str(Path(__file__).parents[2])
"""Where this package lies: a server must run the code that starts it, whatever its working directory."""
SERVER_MODULE = "airworthy.serving.server"
QUIET = {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class ServerOptions:
    """What a model server is started with."""

    bundle: Path
    name: str
    version: str = ""
    digest: str = ""
    """Expected digest; the server refuses another bundle."""
    max_rows: int = 1000
    unseen_category: str = "missing"
    port: int = 0
    ignored: tuple[str, ...] = ()
    """Inputs to accept and not read: those of the other arm, when two versions read different features."""
    predictions: Path | None = None
    """Folder of the prediction log; None writes none."""
    prediction_log: PredictionLog = field(default_factory=PredictionLog)
    """What is written there."""

    @property
    def arguments(self) -> list[str]:
        """The same for the server's command line."""
        return [
            *("--bundle", str(self.bundle), "--model_name", self.name),
            *("--model_version", self.version, "--http_port", str(self.port)),
            *("--max_rows", str(self.max_rows), "--unseen_category", self.unseen_category),
            *("--ignore", ",".join(self.ignored)),
            *(("--expected_digest", self.digest) if self.digest else ()),
            *self._logging,
        ]

    @property
    def _logging(self) -> tuple[str, ...]:
        wanted = self.prediction_log
        if self.predictions is None or not wanted.enabled:
            return ()
        return (
            *("--prediction_log", str(self.predictions)),
            *("--log_drop", ",".join(wanted.drop), "--log_hash", ",".join(wanted.hash)),
            *("--log_keep_days", str(wanted.keep_days), "--log_max_mib", str(wanted.max_mib)),
        )


class ServerProcess:
    """One model server process. `start` it, await `ready`, always `stop` it; it also ends if we die.

    Args:
        options: What to serve.
        log_file: Where its output goes (appended).
        module: Module that is run as the server.
    """

    def __init__(self, options: ServerOptions, log_file: Path, module: str = SERVER_MODULE) -> None:
        self._module = module
        self.options = options
        self.log_file = log_file
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process, again if it was stopped; returns at once."""
        self.url = ""
        self._folder = tempfile.TemporaryDirectory(prefix="airworthy-server-")
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", self._module, "--follow_parent", *self.options.arguments]
        command += ["--announce", str(self._address_file)]
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, **QUIET, "PYTHONPATH": _first(SOURCES, os.environ.get("PYTHONPATH", ""))},
                start_new_session=True,  # Ctrl-C is ours to handle: first drain, then stop it
            )

    async def ready(self, seconds: float = READY_SECONDS) -> str:
        """Wait until the model answers as ready; returns the base URL.

        Raises:
            ServingError: It ended, or was not ready in time; the message quotes the end of its log.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._ready()
        except TimeoutError:
            raise ServingError(
                f"{self._what} was not ready after {seconds:.0f} s ({self._log_tail()})"
            ) from None

    async def _ready(self) -> str:
        async with ClientSession(timeout=ClientTimeout(total=5)) as session:
            while True:
                if not self.alive:
                    raise ServingError(f"{self._what} ended before it was ready: {self._log_tail()}")
                if not self.url and self._address_file.exists():
                    self.url = json.loads(self._address_file.read_text())["url"]
                if self.url and await self._answers(session):
                    return self.url
                await asyncio.sleep(0.05)

    async def _answers(self, session: ClientSession) -> bool:
        try:
            async with session.get(f"{self.url}/v2/models/{self.options.name}/ready") as answer:
                return answer.status == 200
        except (ClientError, TimeoutError, ConnectionError):
            return False

    def stop(self, seconds: float = 8.0) -> None:
        """Stop it politely, then by force. Safe to repeat."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(seconds)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if process.stdin:
                process.stdin.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @property
    def _address_file(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / "address.json"

    @property
    def _what(self) -> str:
        return f"the server of {self.options.name} version {self.options.version or '-'}"

    def _log_tail(self) -> str:
        try:
            lines = self.log_file.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        last = lines[-1] if lines else "it wrote nothing"
        return f"{last} (log: {self.log_file})"


def _first(path: str, others: str) -> str:
    return os.pathsep.join([path, *(other for other in others.split(os.pathsep) if other)])
