"""Single tasks: reuse, cache, importer, attempts with backoff, and their places among the workers."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airworthy.errors import EngineError
from airworthy.local.cache import Cache, cache_key
from airworthy.local.control import Control
from airworthy.local.environments import Environments, library_digest
from airworthy.local.events import Event, Listener
from airworthy.local.executor import Attempt, Ending, child_environment
from airworthy.local.ir import Pipeline, Spec, Task, digest_of
from airworthy.local.preflight import LocalValues, environment_from
from airworthy.local.state import RunStore, TaskRecord, exit_code_of
from airworthy.local.values import RunFacts, Values, fill, whole_numbers


@dataclass(frozen=True)
class Settings:
    """How single tasks run.

    Attributes:
        home: State directory.
        workers: Tasks at a time; of those that ask for an accelerator, one at a time.
        environment: Variables for every task; the pipeline's own win.
        secrets, config_maps: Local stand-ins for the cluster's.
        cache: None turns caching off.
    """

    home: Path
    workers: int
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: LocalValues = field(default_factory=dict)
    config_maps: LocalValues = field(default_factory=dict)
    cache: Cache | None = None


@dataclass(frozen=True)
class Call:
    """One task to run.

    Attributes:
        inputs: Its completed inputs.
        scope: Inputs of the enclosing DAG.
        is_exit: Belongs to an exit handler and so runs after a cancel.
        cacheable: No enclosing DAG turned caching off.
        final: Must run again when the run is resumed.
    """

    task: Task
    path: str
    inputs: Values
    scope: Values
    is_exit: bool = False
    cacheable: bool = True
    final: bool = False


class LeafRunner:
    """Runs single tasks of one run. Lives on the engine's event loop; the work is done in threads."""

    def __init__(
        self,
        pipeline: Pipeline,
        store: RunStore,
        facts: RunFacts,
        environments: Environments,
        settings: Settings,
        control: Control,
        tell: Listener,
        earlier: Mapping[str, TaskRecord],
        undone: Sequence[str],
    ) -> None:
        self.pipeline, self.store, self.facts, self.environments = pipeline, store, facts, environments
        self.settings, self.control, self.tell, self.earlier = settings, control, tell, earlier
        self._undone = tuple(undone)
        self._workers = asyncio.Semaphore(settings.workers)
        self._accelerator = asyncio.Lock()
        # Exit tasks start while canceled ones still end, so threads are no limit of their own.
        self._threads = ThreadPoolExecutor(settings.workers + 4, thread_name_prefix="airworthy-task")

    def close(self) -> None:
        """Waits for the threads."""
        self._threads.shutdown(wait=True)

    def carry_over(self, fresh: TaskRecord) -> TaskRecord:
        """A new record that goes on counting the attempts of an earlier engine."""
        before = self.earlier.get(fresh.path)
        return dataclasses.replace(fresh, attempts=before.attempts) if before else fresh

    async def run(self, call: Call) -> TaskRecord:
        """Runs a task to its end and returns its record.

        Raises:
            AirworthyError: The task can't be started.
        """
        inputs = {"parameters": call.inputs.parameters, "artifacts": call.inputs.artifacts}
        fingerprint = digest_of(inputs)
        before = self.earlier.get(call.path)
        if before and before.fingerprint == fingerprint and self._stands(before, call):
            return self.store.put(dataclasses.replace(before, reused=True))
        executor = self.pipeline.executor(call.task.component["executorLabel"])
        accelerator = _accelerator(executor.get("container", {}), call.inputs)
        notes = self.store.tasks[call.path].notes
        if accelerator:
            notes = (f"accelerator request {accelerator}: taken if this machine has one", *notes)
        self.store.put(
            dataclasses.replace(
                self.store.tasks[call.path], inputs=inputs, fingerprint=fingerprint, notes=notes
            )
        )
        if "importer" in executor:
            return self._import(call, executor["importer"])
        return await self._run_container(call, executor["container"], bool(accelerator))

    def _stands(self, before: TaskRecord, call: Call) -> bool:
        """Whether a task of the interrupted run still counts.

        Its outputs must be there. And where the exit handler has run already, it may have undone what the steps
        of its body did to the world: those that may not be cached are done again.
        """
        cacheable = call.cacheable and call.task.cacheable
        undone = call.path.startswith(self._undone) and not cacheable
        found = before.outputs.get("artifacts", {}).values()
        uris = [artifact["uri"] for artifacts in found for artifact in artifacts]
        there = all(Path(uri).exists() for uri in uris if uri.startswith("/"))
        return before.state == "SUCCEEDED" and there and not call.final and not undone

    def _import(self, call: Call, importer: Spec) -> TaskRecord:
        source = importer["artifactUri"]
        uri = call.inputs.parameters["uri"] if "runtimeParameter" in source else source["constant"]
        placeholders = self.facts.placeholders(call.task.display_name, call.path)
        metadata = fill(whole_numbers(importer.get("metadata", {})), call.inputs, placeholders)
        local = uri.removeprefix("file://")
        uri = uri if "://" in local else str(Path(local).absolute())
        artifact = {"name": "artifact", "type": importer["typeSchema"], "uri": uri, "metadata": metadata}
        self._start(call.path)
        return self._succeed(call.path, Values({}, {"artifact": [artifact]}))

    async def _run_container(self, call: Call, container: Spec, accelerator: bool) -> TaskRecord:
        retries, wait, factor, longest = _retry_policy(call.task.spec.get("retryPolicy", {}))
        attempt = 0
        while True:
            async with AsyncExitStack() as slots:
                if accelerator:
                    await slots.enter_async_context(self._accelerator)
                await slots.enter_async_context(self._workers)
                if not self.control.allows(call.is_exit):
                    return self.store.change(
                        call.path, state="CANCELED", error="It was canceled.", ended=time.time()
                    )
                if attempt == 0:
                    self._start(call.path)
                ending = await self._attempt(call, container, first=attempt == 0)
            if isinstance(ending, TaskRecord):
                return ending
            peak = (
                max(self.store.tasks[call.path].peak_memory_bytes or 0, ending.peak_memory_bytes or 0) or None
            )
            record = self.store.change(call.path, peak_memory_bytes=peak)
            if ending.outputs is not None:
                return self._succeed(call.path, ending.outputs)
            # Wrong input and negative evidence would be the same again.
            lasting = exit_code_of(ending.error_kind) in (2, 3)
            if ending.stopped != "canceled" and attempt < retries and not lasting:
                self.tell(Event("log_line", call.path, f"Attempt {record.attempts} failed: {ending.error}"))
                await self.control.sleep(wait, call.is_exit)
                wait, attempt = min(wait * factor, longest), attempt + 1
                continue
            state = "CANCELED" if ending.stopped == "canceled" else "FAILED"
            return self.store.change(
                call.path, state=state, error=ending.error, error_kind=ending.error_kind, ended=time.time()
            )

    async def _attempt(self, call: Call, container: Spec, *, first: bool) -> Ending | TaskRecord:
        """One attempt, or the record of a task whose outputs came from the cache."""
        loop = asyncio.get_running_loop()
        key = None
        caching = self.settings.cache is not None and call.cacheable and call.task.cacheable
        if caching:
            key = await loop.run_in_executor(self._threads, self._key, call, container)
        place = self.folder(call.path)
        if key and first:
            values = await loop.run_in_executor(
                self._threads, self._look_up, key, place / "cached" / "outputs"
            )
            if values:
                return self._succeed(call.path, values, cached=True)
        number = self.store.tasks[call.path].attempts + 1
        # An engine may have been killed before it could write the number down.
        while (place / f"attempt-{number}").exists():
            number += 1
        directory = place / f"attempt-{number}"
        relative = str((directory / "log.txt").relative_to(self.store.result.directory))
        self.store.change(call.path, attempts=number, log=relative)
        attempt = self._make_attempt(call, container, directory)
        async with self.control.running(attempt, call.is_exit):
            ending = await loop.run_in_executor(self._threads, attempt.run)
        if key and ending.outputs is not None and self.settings.cache:
            outputs = directory / "outputs"
            try:
                store = self.settings.cache.store
                await loop.run_in_executor(self._threads, store, key, outputs, ending.outputs)
            except OSError as error:  # the task has succeeded all the same
                self.tell(Event("log_line", call.path, f"not kept in the cache: {error}"))
        return ending

    def _make_attempt(self, call: Call, container: Spec, directory: Path) -> Attempt:
        options = self.pipeline.platform_options(call.task.component["executorLabel"])
        placeholders = self.facts.placeholders(call.task.display_name, call.path)
        extra = dict(self.settings.environment)
        extra |= {
            item["name"]: fill(item.get("value", ""), call.inputs, placeholders)
            for item in container.get("env", [])
        }
        for entry in options.get("secretAsEnv", []):
            name = _reference(entry, "secretName", call)
            extra |= environment_from(entry, "secret", name, self.settings.secrets)
        for entry in options.get("configMapAsEnv", []):
            name = _reference(entry, "configMapName", call)
            extra |= environment_from(entry, "config map", name, self.settings.config_maps)
        python = self.environments.python_for(str(container["image"]))
        timeout = float(options.get("activeDeadlineSeconds", 0)) or None
        return Attempt(
            directory,
            component=call.task.component,
            container=container,
            inputs=call.inputs,
            environment=child_environment(python, self.settings.home, self.store.result.directory, extra),
            timeout=timeout,
            on_line=lambda line: self.tell(Event("log_line", call.path, line)),
        )

    def folder(self, path: str) -> Path:
        """Where a task's attempts lie."""
        return self.store.result.directory / "tasks" / path

    def _key(self, call: Call, container: Spec) -> str:
        environment: dict[str, Any] = {
            "packages": self.environments.digest(str(container["image"])),
            "library": library_digest(),
            "variables": dict(self.settings.environment),
        }
        return cache_key(
            caching=call.task.spec.get("cachingOptions", {}),
            component=call.task.component,
            container=container,
            inputs=call.inputs,
            environment=environment,
        )

    def _look_up(self, key: str, folder: Path) -> Values | None:
        shutil.rmtree(folder, ignore_errors=True)  # left by an engine that was killed right here
        return self.settings.cache.look_up(key, folder) if self.settings.cache else None

    def _start(self, path: str) -> None:
        record = self.store.change(path, state="RUNNING", started=time.time(), ended=None, error=None)
        self.tell(Event("task_started", path, record=record))

    def _succeed(self, path: str, values: Values, *, cached: bool = False) -> TaskRecord:
        outputs = {"parameters": values.parameters, "artifacts": values.artifacts}
        return self.store.change(path, state="SUCCEEDED", ended=time.time(), outputs=outputs, cached=cached)


def _retry_policy(policy: Spec) -> tuple[int, float, float, float]:
    """Retries, first wait in seconds, growth factor, longest wait in seconds."""
    return (
        int(policy.get("maxRetryCount", 0)),
        _seconds(policy.get("backoffDuration", "0s")),
        float(policy.get("backoffFactor", 2.0)) or 2.0,
        _seconds(policy.get("backoffMaxDuration", "3600s")),
    )


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def _accelerator(container: Spec, inputs: Values) -> str:
    """What accelerator a container asks for, empty for none; a parameter may say zero."""
    wanted = container.get("resources", {}).get("accelerator", {})
    count = fill(str(wanted.get("resourceCount", wanted.get("count", ""))), inputs, {})
    kind = fill(str(wanted.get("resourceType", wanted.get("type", ""))), inputs, {})
    return f"{kind} x{count}" if kind and count not in ("", "0") else ""


def _reference(entry: Spec, key: str, call: Call) -> str:
    """Name of a secret or config map, which may come from a parameter."""
    source = entry.get(f"{key}Parameter", {})
    if "componentInputParameter" in source:
        name = source["componentInputParameter"]
        value = call.inputs.parameters.get(name, call.scope.parameters.get(name))
    else:
        value = source.get("runtimeValue", {}).get("constant", entry.get(key))
    if not isinstance(value, str):
        raise EngineError(f"{call.task.name}: the name of a secret or config map has no value.")
    return value
