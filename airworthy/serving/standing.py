"""A standing service on this machine: the stable model behind the splitter, until told to stop.

It follows the service's state: when a release or a rollback changes the stable model, the new one is started,
takes over once it is ready, and the old one finishes what it has begun. A new one that can't start changes
nothing: the old one goes on serving. A server that dies is started again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from airworthy.errors import AirworthyError, ConfigError, RolloutError
from airworthy.serving.local import SERVER_MODULE, ServerOptions, ServerProcess
from airworthy.serving.request_log import RequestLog
from airworthy.serving.splitter import Splitter
from airworthy.serving.state import Deployed, Service, ServiceStore, services

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
DRAIN_SECONDS = 15.0
"""How long a replaced server may still answer what it was asked; longer than the splitter waits for an arm."""
UNABLE = (AirworthyError, OSError)
"""Why a server may not start: its bundle, its model or the machine."""


def service_of(model: str, home: Path, service: str | None = None) -> Service:
    """The service that serves a model.

    Args:
        model: Model name.
        home: State directory.
        service: Its name, where it is known; by default the model's only service that has a stable model.

    Raises:
        ConfigError: There is none, it has no stable model yet, or several serve the model and none was named.
        RolloutError: A service's state can't be understood.
    """
    if service is None:
        known = services(home)
    else:
        named = ServiceStore(home, service).read()
        known = [named] if named else []
    found = [one for one in known if one.model == model]
    if not found:
        where = f" by service {service}" if service else ""
        others = ", ".join(sorted({one.model for one in known})) or "none yet"
        raise ConfigError(f"no model {model} has been released to serving{where} (there are: {others})")
    names = ", ".join(one.service for one in found)
    ready = [one for one in found if one.stable]
    if not ready:
        raise ConfigError(f"service {names} has no stable model yet: release one first")
    if len(ready) > 1:
        names = ", ".join(one.service for one in ready)
        raise ConfigError(f"model {model} is served by several services ({names}): name the one to use")
    return ready[0]


async def stand(
    model: str,
    home: Path,
    *,
    port: int,
    tell: Callable[[str], None],
    service: str | None = None,
    stop: asyncio.Event | None = None,
    server_module: str = SERVER_MODULE,
) -> None:
    """Serve a model's stable version on 127.0.0.1 until `stop` is set, SIGINT or SIGTERM.

    Args:
        model: Model name.
        home: State directory.
        port: Port of the splitter; 0 takes a free one.
        tell: Receives sentences for the user.
        service: Which service, see `service_of`.
        stop: Ends the service; by default only a signal does.
        server_module: Module that is run as the model server.

    Raises:
        ConfigError: There is nothing to serve, or it is not clear what.
        ServingError: The port is taken, the server doesn't start, or it died and doesn't start again.
    """
    state = service_of(model, home, service)
    assert state.stable is not None
    store = ServiceStore(home, state.service)
    stop = stop or asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    server = _server(store, state, state.stable, server_module)
    address = await _started(server)
    requests = RequestLog(store.folder / "logs" / "requests.jsonl")
    splitter = Splitter(address, request_log=requests)
    standing = _Standing(store, server_module, splitter, tell, state, state.stable, server)
    tasks = []
    try:
        url = await splitter.start(port)
        tell(
            f"{model} version {state.stable.version} serves at {url} (V1 and V2; metrics at {url}/metrics and "
            f"{url}/splitter/metrics)"
        )
        tasks = [asyncio.create_task(standing.follow()), asyncio.create_task(stop.wait())]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await splitter.stop()
        await _ended(standing.server)
        await asyncio.to_thread(requests.close)


@dataclass
class _Standing:
    """What serves now and how it follows the service's state."""

    store: ServiceStore
    module: str
    splitter: Splitter
    tell: Callable[[str], None]
    state: Service
    """As last read."""
    current: Deployed
    server: ServerProcess
    refused: Deployed | None = None
    """Could not be started: not tried again while it stays the wanted one and `server` lives."""
    told: Deployed | None = None
    """The last one that the user was told about as refused."""
    damage: str = ""
    """What the user was told about an unreadable state."""

    async def follow(self) -> None:
        """Until cancelled. Raises what `_started` raises if the server is dead and can't be started again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._look()
            wanted = self.state.stable or self.current
            if not self.server.alive:
                await self._revive(wanted)
            elif wanted == self.current:
                self.refused = self.told = None
            elif wanted != self.refused:
                await self._try(wanted)

    def _look(self) -> None:
        try:
            self.state = self.store.read() or self.state
            self.damage = ""
        except (RolloutError, OSError) as error:
            if not self.damage:
                self.tell(f"{error}; version {self.current.version} goes on serving")
            self.damage = str(error)

    async def _try(self, wanted: Deployed) -> None:
        try:
            await self._take_over(wanted)
        except UNABLE as error:
            if wanted != self.told:
                self.tell(
                    f"{self.state.model} version {wanted.version} can't be served: {error}; "
                    f"version {self.current.version} goes on serving"
                )
            self.refused = self.told = wanted
        else:
            self.refused = self.told = None

    async def _revive(self, wanted: Deployed) -> None:
        """The server died: first what it served, which has worked; whatever else is wanted can try then."""
        try:
            await self._take_over(self.current)
        except UNABLE as error:
            if wanted == self.current:
                raise
            log.warning("version %s can't be started again: %s", self.current.version, error)
            await self._take_over(wanted)
        self.refused = None

    async def _take_over(self, deployed: Deployed) -> None:
        """Start a server, send requests to it, then stop the old one. A failure leaves everything as it was."""
        new = _server(self.store, self.state, deployed, self.module)
        self.splitter.replace_stable(await _started(new))
        old, self.server, self.current = self.server, new, deployed
        self.tell(f"{self.state.model} version {deployed.version} serves now")
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.splitter.quiet(old.url)
        except TimeoutError:
            log.warning("the old server of %s is stopped before it has answered all", self.state.model)
        finally:
            await _ended(old)


async def _started(server: ServerProcess) -> str:
    """Start a server and wait until it is ready; returns its URL. If it doesn't get there it is stopped."""
    try:
        server.start()
        return await server.ready()
    except BaseException:
        await _ended(server)
        raise


async def _ended(server: ServerProcess) -> None:
    """Stop a server, even if whoever waits for it is cancelled meanwhile."""
    await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, server.stop))


def _server(store: ServiceStore, service: Service, deployed: Deployed, module: str) -> ServerProcess:
    options = ServerOptions(
        bundle=store.path(deployed),
        name=service.model,
        version=deployed.version,
        digest=deployed.digest,
        max_rows=service.serving.max_rows,
        unseen_category=service.serving.unseen_category,
        predictions=store.folder.parents[1] / "predictions" / service.service,
        prediction_log=service.serving.prediction_log,
    )
    return ServerProcess(options, store.folder / "logs" / "stable.log", module)
