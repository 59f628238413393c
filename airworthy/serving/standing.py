"""A standing service on this machine: the stable model behind the splitter, until told to stop.

It follows the service's state: when a release or a rollback changes the stable model, the new one is started,
takes over once it is ready, and the old one finishes what it has begun. A server that dies is started again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import IO

from airworthy.errors import ServingError
from airworthy.serving.local import SERVER_MODULE, ServerOptions, ServerProcess
from airworthy.serving.observation import Observation
from airworthy.serving.splitter import Splitter
from airworthy.serving.state import Deployed, Service, ServiceStore, services

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5


def service_of(model: str, home: Path) -> Service:
    """The service that serves a model.

    Raises:
        ServingError: There is none, or it has no stable model yet.
    """
    found = [service for service in services(home) if service.model == model]
    if not found:
        known = ", ".join(sorted({s.model for s in services(home)})) or "none yet"
        raise ServingError(f"no model {model} has been released to serving (there are: {known})")
    if found[0].stable is None:
        raise ServingError(f"service {found[0].service} has no stable model yet: release one first")
    return found[0]


async def stand(
    model: str,
    home: Path,
    *,
    port: int,
    tell: Callable[[str], None],
    stop: asyncio.Event | None = None,
    server_module: str = SERVER_MODULE,
) -> None:
    """Serve a model's stable version on 127.0.0.1 until `stop` is set, SIGINT or SIGTERM.

    Args:
        model: Model name.
        home: State directory.
        port: Port of the splitter; 0 takes a free one.
        tell: Receives sentences for the user.
        stop: Ends the service; by default only a signal does.
        server_module: Module that is run as the model server.

    Raises:
        ServingError: Nothing to serve, the port is taken, or the server doesn't start.
    """
    service = service_of(model, home)
    assert service.stable is not None
    store = ServiceStore(home, service.service)
    stop = stop or asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    (store.folder / "logs").mkdir(parents=True, exist_ok=True)
    current = service.stable
    server = _server(store, service, current, server_module)
    splitter: Splitter | None = None
    with (store.folder / "logs" / "requests.jsonl").open("a") as requests:
        try:
            server.start()
            splitter = Splitter(await server.ready(), on_request=_logger(requests))
            url = await splitter.start(port)
            tell(f"{model} version {current.version} serves at {url} (V1 and V2; metrics at {url}/metrics)")
            while not await _stopped(stop):
                service = store.read() or service
                wanted = service.stable or current
                if wanted != current or not server.alive:
                    old, server = server, _server(store, service, wanted, server_module)
                    server.start()
                    splitter.replace_stable(await server.ready())
                    await asyncio.to_thread(old.stop)
                    current = wanted
                    tell(f"{model} version {current.version} serves now")
        finally:
            if splitter:
                await splitter.stop()
            await asyncio.to_thread(server.stop)


async def _stopped(stop: asyncio.Event) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), LOOK_SECONDS)
    except TimeoutError:
        return False
    return True


def _logger(file: IO[str]) -> Callable[[Observation], None]:
    """Appends one line per request; the file's buffer keeps the disk out of the request's way."""

    def write(seen: Observation) -> None:
        line = {
            "at": seen.at,
            "arm": seen.arm,
            "result": seen.result,
            "seconds": seen.seconds,
            "score": seen.score,
        }
        file.write(json.dumps(line, separators=(",", ":")) + "\n")

    return write


def _server(store: ServiceStore, service: Service, deployed: Deployed, module: str) -> ServerProcess:
    options = ServerOptions(
        bundle=store.path(deployed),
        name=service.model,
        version=deployed.version,
        digest=deployed.digest,
        max_rows=service.serving.max_rows,
        unseen_category=service.serving.unseen_category,
    )
    return ServerProcess(options, store.folder / "logs" / "stable.log", module)
