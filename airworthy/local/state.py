"""What is kept about a run: `run.json`, rewritten as a whole at every change, and how it is read."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from airworthy import errors
from airworthy.errors import ConfigError, EngineError

FORMAT = 1
RunState = Literal["RUNNING", "SUCCEEDED", "FAILED", "CANCELED"]
TaskState = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "SKIPPED", "NOT_RUN", "CANCELED"]


@dataclass(frozen=True)
class TaskRecord:
    """What is known about one task, branch, loop or iteration.

    Attributes:
        path: Place in the run, unique: `exit-handler-1/for-loop-2/0/train-model`.
        name: Last part of the path, the task's name in the compiled pipeline.
        display_name: Name for people.
        kind: `task`, `importer`, `dag` (branch, exit handler body, nested pipeline), `loop` or `iteration`.
        parent: Path of the enclosing DAG, empty at the top.
        depends_on: Paths of the tasks that it waits for.
        state: NOT_RUN means that something upstream failed; SKIPPED that a condition was false.
        started, ended: Seconds since the epoch.
        attempts: How often it was started, over all engines that worked on the run.
        cached: Outputs came from the cache of an earlier run.
        reused: Outputs came from this run before it was resumed.
        error: One sentence or the exception's text.
        error_kind: Class of the exception, bare for Airworthy's own (`GateError`), else with its module;
            `Timeout` and `Killed` for those ends.
        log: Log file of the last attempt, relative to the run's directory.
        inputs, outputs: `{"parameters": {name: value}, "artifacts": {name: [{name, type, uri, metadata}]}}`.
        peak_memory_bytes: Highest resident memory of the task's largest process.
        image: Image of the compiled pipeline.
        notes: Options of the pipeline that have no effect on this machine, or how the task was treated.
        fingerprint: Digest of the inputs, to reuse the outputs when the run is resumed.
    """

    path: str
    name: str
    display_name: str
    kind: str = "task"
    parent: str = ""
    depends_on: tuple[str, ...] = ()
    state: TaskState = "PENDING"
    started: float | None = None
    ended: float | None = None
    attempts: int = 0
    cached: bool = False
    reused: bool = False
    error: str | None = None
    error_kind: str | None = None
    log: str | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    image: str | None = None
    notes: tuple[str, ...] = ()
    fingerprint: str | None = None

    @property
    def seconds(self) -> float | None:
        """Duration so far, None if it never started."""
        return None if self.started is None else (self.ended or time.time()) - self.started

    @property
    def is_leaf(self) -> bool:
        return self.kind in ("task", "importer")


@dataclass(frozen=True)
class RunResult:
    """A run as it stands.

    Attributes:
        run_id: Name of the run and of its directory.
        state: RUNNING also for a run whose engine died; `resume` it.
        tasks: Records by path, upstream first.
        outputs: The pipeline's own outputs, parameters as values, artifacts as in `TaskRecord.outputs`.
        directory: Where logs and artifacts lie.
        error: Why the run failed, when no single task is to blame (a deadline).
    """

    run_id: str
    state: RunState
    tasks: Mapping[str, TaskRecord]
    outputs: Mapping[str, Any]
    directory: Path
    pipeline: str = ""
    pipeline_digest: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    started: float | None = None
    ended: float | None = None
    error: str | None = None

    @property
    def failures(self) -> list[TaskRecord]:
        """Failed tasks in the order in which they failed, DAGs left out when a task inside is to blame."""
        failed = [record for record in self.tasks.values() if record.state == "FAILED"]
        parents = {record.parent for record in failed}
        return sorted((r for r in failed if r.path not in parents), key=lambda record: record.ended or 0.0)

    @property
    def exit_code(self) -> int:
        """0 success, 130 canceled; a failure counts as what its first failed task raised (see errors.py)."""
        if self.state == "SUCCEEDED":
            return 0
        if self.state == "CANCELED":
            return 130
        return exit_code_of(self.failures[0].error_kind) if self.failures else 1


class RunStore:
    """The run that this engine works on. Not for use from several threads.

    Writing a long record takes time, so it is put off to at most a tenth of the engine's time; `flush`,
    called now and then, writes what was put off. A kill in between costs no more than a task run again.
    """

    def __init__(self, result: RunResult) -> None:
        self.result = result
        self.tasks: dict[str, TaskRecord] = dict(result.tasks)
        self._next_write = 0.0
        self._unwritten = False

    def put(self, record: TaskRecord, *, save: bool = True) -> TaskRecord:
        """Adds or replaces a record."""
        self.tasks[record.path] = record
        if save:
            self.save()
        return record

    def change(self, path: str, **values: Any) -> TaskRecord:
        """Replaces fields of a record."""
        return self.put(dataclasses.replace(self.tasks[path], **values))

    def finish(self, state: RunState, outputs: Mapping[str, Any], error: str | None) -> RunResult:
        """Ends the run."""
        self.result = dataclasses.replace(
            self.result, state=state, outputs=dict(outputs), ended=time.time(), error=error
        )
        self._unwritten = True
        self.flush()
        return self.result

    def save(self) -> None:
        """Writes run.json, now or with the next `flush`."""
        self._unwritten = True
        if time.monotonic() >= self._next_write:
            self.flush()

    def flush(self) -> None:
        """Writes run.json if it lags behind; a reader sees the old file or the new one, never half of one."""
        if not self._unwritten:
            return
        began = time.monotonic()
        self.result = dataclasses.replace(self.result, tasks=dict(self.tasks))
        data = {f.name: getattr(self.result, f.name) for f in dataclasses.fields(self.result)}
        data["directory"] = None
        data["tasks"] = [vars(record) for record in self.tasks.values()]
        write_atomically(self.result.directory / "run.json", json.dumps({"format": FORMAT, **data}))
        self._unwritten = False
        self._next_write = time.monotonic() + 9 * (time.monotonic() - began)


def exit_code_of(error_kind: str | None) -> int:
    """Exit code for a `TaskRecord.error_kind`: that of Airworthy's own errors, 1 for all others."""
    error = getattr(errors, error_kind or "", None)
    return error.exit_code if isinstance(error, type) and issubclass(error, errors.AirworthyError) else 1


def load_run(home: Path, run_id: str) -> RunResult:
    """Reads a run.

    Args:
        home: The state directory.
        run_id: A name that `list_runs` gives.

    Raises:
        ConfigError: There is no such run, or a newer version of the engine wrote it.
    """
    directory = home / "runs" / run_id
    try:
        data = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no run {run_id!r} in {home / 'runs'}.") from None
    except ValueError:
        raise ConfigError(f"{directory / 'run.json'}: not readable as JSON; the run can't be used.") from None
    if data.pop("format", None) != FORMAT:
        raise ConfigError(f"{directory / 'run.json'}: written by another version of the engine.")
    tasks = {}
    for item in data.pop("tasks"):
        item["depends_on"], item["notes"] = tuple(item["depends_on"]), tuple(item["notes"])
        tasks[item["path"]] = TaskRecord(**item)
    return RunResult(**{**data, "directory": directory, "tasks": tasks})


def list_runs(home: Path) -> list[RunResult]:
    """All runs of a state directory, the newest first, without those whose run.json can't be read."""
    results = []
    for file in (home / "runs").glob("*/run.json"):
        try:
            results.append(load_run(home, file.parent.name))
        except ConfigError:
            continue
    return sorted(results, key=lambda result: result.started or 0.0, reverse=True)


def write_atomically(path: Path, text: str) -> None:
    """Writes a file under a temporary name and renames it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Keeps a run to one engine; the operating system frees it when the engine dies.

    Raises:
        EngineError: Another engine holds the run.
    """
    with (directory / "engine.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise EngineError(
                f"The run {directory.name!r} is held by another engine (process {holder})."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
