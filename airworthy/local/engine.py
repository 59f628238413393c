"""Running a compiled pipeline on this machine from start to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets as random
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airworthy.errors import ConfigError
from airworthy.local.cache import Cache
from airworthy.local.control import Control
from airworthy.local.environments import Environments
from airworthy.local.events import Event, Listener
from airworthy.local.executor import RUN_VARIABLE
from airworthy.local.ir import Pipeline, exit_handler_of, load_pipeline
from airworthy.local.leaf import LeafRunner, Settings
from airworthy.local.preflight import check_arguments, check_pipeline, local_values
from airworthy.local.scheduler import Outcome, Place, Scheduler
from airworthy.local.state import RunResult, RunState, RunStore, TaskRecord, hold, load_run
from airworthy.local.values import RunFacts, Values, complete

logger = logging.getLogger(__name__)


def run_pipeline(
    yaml_path: Path,
    arguments: Mapping[str, Any],
    *,
    home: Path,
    run_id: str | None = None,
    interpreters: Mapping[str, Path] | None = None,
    env: Mapping[str, str] | None = None,
    secrets_file: Path | None = None,
    config_maps_file: Path | None = None,
    workers: int = 2,
    cache: bool = True,
    listener: Listener | None = None,
    resume: bool = False,
) -> RunResult:
    """Runs a compiled pipeline, and returns when it has ended.

    Ctrl-C or SIGTERM cancels: running tasks are killed, exit handlers still run; a second one kills those.

    Args:
        yaml_path: The compiled pipeline. When resuming it may be the copy in the run's directory.
        arguments: The pipeline's parameters by name. When resuming: the same as before, or empty.
        home: State directory; the run's files go to `<home>/runs/<run_id>/`.
        run_id: Name of the run; by default the pipeline's name and the time.
        interpreters: Image name to interpreter; other images get the environments of their groups.
        env: Variables for every task; those that the pipeline sets win.
        secrets_file: YAML `{secret: {key: value}}` in place of the cluster's secrets.
        config_maps_file: The same for config maps.
        workers: How many tasks run at a time.
        cache: Whether outputs of earlier runs may be used and are kept.
        listener: Gets events as they happen, one at a time, from the engine's threads.
        resume: Go on with the run `run_id`: what finished stays, the rest runs.

    Returns:
        The ended run, also when it failed or was canceled.

    Raises:
        ConfigError: The pipeline, its arguments or local files can't be used; no task was started.
        EngineError: Another engine holds the run, or an environment can't be made.
    """
    home = home.absolute()
    pipeline = load_pipeline(yaml_path)
    earlier = _earlier(home, run_id, pipeline, arguments) if resume else None
    arguments = earlier.arguments if earlier else dict(arguments)
    tell = _serialized(listener)
    environments = Environments(home, interpreters or {}, lambda text: tell(Event("environment", text=text)))
    settings = Settings(
        home, workers, dict(env or {}), local_values(secrets_file), local_values(config_maps_file),
        Cache(home / "cache") if cache else None,
    )  # fmt: skip
    check_pipeline(pipeline, environments, settings.secrets, settings.config_maps)
    inputs = check_arguments(pipeline, arguments)
    run_id = run_id or f"{pipeline.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{random.token_hex(2)}"
    directory = home / "runs" / run_id
    if not resume and (directory / "run.json").exists():
        raise ConfigError(f"There is a run {run_id!r} already; resume it, or choose another name.")
    directory.mkdir(parents=True, exist_ok=True)
    with hold(directory):
        if earlier:
            earlier = load_run(home, run_id)  # another engine may have finished it just now
            if earlier.state == "SUCCEEDED":
                return earlier
            _kill_leftovers(directory)
        else:
            shutil.copyfile(yaml_path, directory / "pipeline.yaml")
        store = RunStore(
            RunResult(
                run_id, "RUNNING", {}, {}, directory, pipeline.name, pipeline.digest, arguments,
                started=earlier.started if earlier else time.time(),
            )
        )  # fmt: skip
        work = _Work(
            pipeline, inputs, store, environments, settings, tell, dict(earlier.tasks) if earlier else {}
        )
        return _in_thread(work)


@dataclass(frozen=True)
class _Work:
    """Everything that one run needs."""

    pipeline: Pipeline
    inputs: Values
    store: RunStore
    environments: Environments
    settings: Settings
    tell: Listener
    earlier: Mapping[str, TaskRecord]

    async def run(self, ready: threading.Event, handle: _Handle) -> RunResult:
        control = Control()
        handle.attach(asyncio.get_running_loop(), control)
        ready.set()
        started = datetime.fromtimestamp(self.store.result.started or time.time(), UTC)
        result = self.store.result
        facts = RunFacts(
            result.run_id, self.pipeline.name, str(result.directory), started.isoformat(timespec="seconds")
        )
        leaves = LeafRunner(
            self.pipeline,
            self.store,
            facts,
            self.environments,
            self.settings,
            control,
            self.tell,
            self.earlier,
            _undone(self.pipeline, self.earlier),
        )
        scheduler = Scheduler(self.pipeline, self.store, facts, leaves, control, self.tell)
        self.tell(Event("run_started", text=result.run_id))
        try:
            self._prepare_environments()
            scheduler.register(self.pipeline.root)
            self.store.save()
            with self._deadline(control):
                inputs = complete(self.inputs, self.pipeline.root, self.pipeline.name)
                writer = asyncio.create_task(self._keep_written())
                outcome = await scheduler.run_dag(self.pipeline.root, inputs, Place(""))
                writer.cancel()
            return self._finish(outcome, control)
        except BaseException as error:
            self.store.finish("FAILED", {}, str(error))
            raise
        finally:
            control.cancel("the engine ends")
            control.cancel("the engine ends")
            leaves.close()

    async def _keep_written(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            self.store.flush()

    def _prepare_environments(self) -> None:
        """Makes missing environments now: a broken one should not show after an hour of training."""
        for _, task in self.pipeline.walk():
            if not task.is_dag:
                container = self.pipeline.executor(task.component["executorLabel"]).get("container")
                if container:
                    self.environments.python_for(str(container["image"]))

    @contextlib.contextmanager
    def _deadline(self, control: Control) -> Iterator[None]:
        seconds = float(self.pipeline.kubernetes.get("pipelineConfig", {}).get("activeDeadlineSeconds", 0))
        reason = f"It ran longer than the pipeline's deadline of {seconds:g} s."
        timer = asyncio.get_running_loop().call_later(seconds, control.cancel, reason) if seconds else None
        try:
            yield
        finally:
            if timer:
                timer.cancel()

    def _finish(self, outcome: Outcome, control: Control) -> RunResult:
        state: RunState = "FAILED" if outcome.state == "FAILED" else "SUCCEEDED"
        error = outcome.error
        if outcome.state == "CANCELED":
            state = "CANCELED" if control.reason == _BY_USER else "FAILED"
            error = control.reason
        outputs: dict[str, Any] = dict(outcome.values.parameters)
        definitions = self.pipeline.root.get("outputDefinitions", {}).get("artifacts", {})
        for name, items in outcome.values.artifacts.items():
            outputs[name] = items if definitions.get(name, {}).get("isArtifactList") else items[0]
        result = self.store.finish(state, outputs, error)
        self.tell(Event("run_finished", text=state))
        return result


class _Handle:
    """Reaches the run from signal handlers of the main thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._control: Control | None = None

    def attach(self, loop: asyncio.AbstractEventLoop, control: Control) -> None:
        self._loop, self._control = loop, control

    def cancel(self) -> None:
        if self._loop and self._control:
            with contextlib.suppress(RuntimeError):  # the run ended just now and its loop is closed
                self._loop.call_soon_threadsafe(self._control.cancel, _BY_USER)


_BY_USER = "It was canceled."


def _in_thread(work: _Work) -> RunResult:
    """Runs on an event loop of its own, because the caller may have one running already (a notebook)."""
    results: list[RunResult] = []
    failures: list[BaseException] = []
    ready, handle = threading.Event(), _Handle()

    def body() -> None:
        try:
            results.append(asyncio.run(work.run(ready, handle)))
        except BaseException as error:  # handed to the caller's thread
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=body, name="airworthy-engine")
    with _cancel_on_signals(handle):
        thread.start()
        ready.wait()
        thread.join()
    if failures:
        raise failures[0]
    return results[0]


@contextlib.contextmanager
def _cancel_on_signals(handle: _Handle) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: handle.cancel()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serialized(listener: Listener | None) -> Listener:
    """One event at a time, and a failing listener doesn't fail the run."""
    lock = threading.Lock()
    broken = False

    def tell(event: Event) -> None:
        nonlocal broken
        if listener is None or broken:
            return
        with lock:
            try:
                listener(event)
            except Exception:
                broken = True
                logger.exception("The listener of the run failed and gets no more events.")

    return tell


def _undone(pipeline: Pipeline, earlier: Mapping[str, TaskRecord]) -> list[str]:
    """Path prefixes of the exit handler bodies whose exit task has run already."""
    tasks = pipeline.tasks(pipeline.root)  # the compiler allows exit handlers at the top only
    bodies = {name: exit_handler_of(task, tasks) for name, task in tasks.items()}
    return [f"{body}/" for name, body in bodies.items() if body and name in earlier and earlier[name].started]


def _earlier(home: Path, run_id: str | None, pipeline: Pipeline, arguments: Mapping[str, Any]) -> RunResult:
    if run_id is None:
        raise ConfigError("Name the run to resume; `airworthy runs` lists them.")
    earlier = load_run(home, run_id)
    if earlier.pipeline_digest != pipeline.digest:
        raise ConfigError(f"The pipeline has changed since the run {run_id!r} began; start a new run.")
    if arguments and dict(arguments) != dict(earlier.arguments):
        raise ConfigError(
            f"The run {run_id!r} began with other arguments; resume it without any, or start a new run."
        )
    return earlier


def _kill_leftovers(directory: Path) -> None:
    """Kills processes of an engine that died together with the guards of its tasks."""
    import psutil

    mine = os.getpid()
    for process in psutil.process_iter():
        try:
            if process.pid != mine and process.environ().get(RUN_VARIABLE) == str(directory):
                process.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
