"""One attempt at one task: a process under guard, its log, and the outputs that it leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airworthy.errors import EngineError
from airworthy.local.failures import explain
from airworthy.local.ir import Spec
from airworthy.local.values import Values, cast

_GUARD = Path(__file__).with_name("guard.py")
_DROPPED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "_KFP_RUNTIME")
_SETTINGS = {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONUNBUFFERED": "1"}
_LONGEST_ARGUMENT = 131_071  # bytes; Linux allows no more for one argument (MAX_ARG_STRLEN)
GRACE_SECONDS = 3.0
RUN_VARIABLE = "AIRWORTHY_RUN_DIRECTORY"
VIEWABLE = {"system.HTML": ".html", "system.Markdown": ".md"}
"""Types of artifacts that a browser can show, and the ending that tells it how."""


@dataclass(frozen=True)
class Ending:
    """How an attempt ended.

    Attributes:
        outputs: What it produced, None unless it succeeded.
        stopped: Why the engine ended it (`canceled`, `timeout`), None if it ended by itself.
    """

    outputs: Values | None
    error: str | None = None
    error_kind: str | None = None
    stopped: str | None = None
    peak_memory_bytes: int | None = None


class Attempt:
    """Runs a task's command once.

    Args:
        directory: Own directory of this attempt; gets `log.txt`, `executor_input.json` and the outputs.
        component: The component, for its declared outputs.
        container: Container of the compiled pipeline: command and arguments.
        inputs: Completed inputs.
        environment: Variables of the process, as `child_environment` makes them.
        timeout: Seconds, None for no limit.
        on_line: Gets every log line as it comes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        component: Spec,
        container: Spec,
        inputs: Values,
        environment: Mapping[str, str],
        timeout: float | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self.directory, self.component, self.container, self.inputs = directory, component, container, inputs
        self.environment, self.timeout, self.on_line = environment, timeout, on_line
        self._lock = threading.Lock()
        self._stopped: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def stop(self, reason: str) -> None:
        """Ends the attempt from another thread: everything it started is killed by its guard."""
        with self._lock:
            self._stopped = self._stopped or reason
            if self._process and self._process.stdin and not self._process.stdin.closed:
                self._process.stdin.close()

    def run(self) -> Ending:
        """Runs to the end.

        Raises:
            EngineError: The command can't be started at all.
        """
        self.directory.mkdir(parents=True)
        executor_input = make_executor_input(self.component, self.inputs, self.directory / "outputs")
        text = json.dumps(executor_input)
        (self.directory / "executor_input.json").write_text(text, encoding="utf-8")
        command = [part.replace("{{$}}", text) for part in _command(self.container)]
        if max(len(part.encode()) for part in command) > _LONGEST_ARGUMENT:
            raise EngineError(
                "The task's parameters are longer than the operating system lets a command be (128 KiB)."
            )
        with tempfile.TemporaryDirectory(prefix="airworthy-", ignore_cleanup_errors=True) as temporary:
            returncode = self._supervise(command, temporary)
        peak = _guard_report(self.directory / "exit.json").get("peak_memory_bytes")
        if self._stopped == "timeout":
            return Ending(
                None, f"It ran longer than its timeout of {self.timeout:g} s.", "Timeout", "timeout", peak
            )
        if self._stopped:
            return Ending(None, "It was canceled.", None, self._stopped, peak)
        if returncode != 0:
            kind, error = explain(self.directory / "log.txt", returncode)
            return Ending(None, error, kind or None, None, peak)
        try:
            return Ending(read_outputs(self.component, executor_input), peak_memory_bytes=peak)
        except ValueError as error:
            return Ending(None, f"Its outputs can't be used: {error}.", "Outputs", None, peak)

    def _supervise(self, command: Sequence[str], temporary: str) -> int:
        guard = [sys.executable, "-I", "-S", str(_GUARD), str(self.directory / "exit.json"), temporary]
        environment = {**self.environment, "TMPDIR": temporary}
        with (self.directory / "log.txt").open("wb", buffering=0) as log:
            with self._lock:
                if self._stopped:
                    return 1
                self._process = subprocess.Popen(
                    [*guard, str(GRACE_SECONDS), *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            timer = threading.Timer(self.timeout, self.stop, ["timeout"]) if self.timeout else None
            if timer:
                timer.daemon = True
                timer.start()
            assert self._process.stdout
            try:
                for line in self._process.stdout:
                    log.write(line)
                    if self.on_line:
                        self.on_line(line.decode("utf-8", "replace").rstrip())
                return self._process.wait()
            finally:
                if timer:
                    timer.cancel()
                with self._lock:
                    if self._process.stdin and not self._process.stdin.closed:
                        self._process.stdin.close()
                self._process.wait()
                self._process.stdout.close()


def child_environment(
    python: Path, home: Path, run_directory: Path, extra: Mapping[str, str]
) -> dict[str, str]:
    """Variables of a task's process: the engine's, then `extra`, the interpreter first on the path."""
    environment = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    environment |= _SETTINGS | {"AIRWORTHY_HOME": str(home), RUN_VARIABLE: str(run_directory)}
    environment |= extra
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    return environment


def make_executor_input(component: Spec, inputs: Values, folder: Path) -> dict[str, Any]:
    """The ExecutorInput message of the KFP v2 runtime, with local paths as URIs."""
    declared = component.get("inputDefinitions", {})
    produced = component.get("outputDefinitions", {})

    def place(name: str, kind: Mapping[str, str]) -> str:
        return str(folder / (name + VIEWABLE.get(kind.get("schemaTitle", ""), "")))

    return {
        "inputs": {
            "parameterValues": {
                n: v for n, v in inputs.parameters.items() if n in declared.get("parameters", {})
            },
            "artifacts": {
                name: {"artifacts": artifacts}
                for name, artifacts in inputs.artifacts.items()
                if name in declared.get("artifacts", {})
            },
        },
        "outputs": {
            "parameters": {
                name: {"outputFile": str(folder / name)} for name in produced.get("parameters", {})
            },
            "artifacts": {
                name: {
                    "artifacts": [
                        {
                            "name": name,
                            "type": spec["artifactType"],
                            "uri": place(name, spec["artifactType"]),
                            "metadata": {},
                        }
                    ]
                }
                for name, spec in produced.get("artifacts", {}).items()
            },
            "outputFile": str(folder / "executor_output.json"),
        },
    }


def read_outputs(component: Spec, executor_input: Mapping[str, Any]) -> Values:
    """What a finished task produced, by the rules of the KFP v2 launcher.

    Raises:
        ValueError: An output is unreadable, of another type than declared, or holds NaN or infinity, which
            JSON and Kubeflow don't know.
    """
    expected = executor_input["outputs"]
    written = _read_json(Path(expected["outputFile"]))
    parameters = dict(written.get("parameterValues", {}))
    definitions = component.get("outputDefinitions", {}).get("parameters", {})
    for name, place in expected["parameters"].items():
        file, kind = Path(place["outputFile"]), definitions[name].get("parameterType", "")
        if file.is_file():
            parameters[name] = file.read_text(encoding="utf-8")
        if name in parameters:
            try:
                parameters[name] = cast(parameters[name], kind)
            except ValueError as error:
                raise ValueError(f"the parameter {name!r} is wrong: {error}") from None
    artifacts = {}
    for name, place in expected["artifacts"].items():
        found = written.get("artifacts", {}).get(name, place)["artifacts"]
        artifacts[name] = [{**item, "type": place["artifacts"][0]["type"]} for item in found]
    return Values(parameters, artifacts)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}

    def refuse(word: str) -> None:
        raise ValueError(
            f"{word} in a parameter or in an artifact's metadata; leave it out or write it as text"
        )

    data = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    return data if isinstance(data, dict) else {}


def _command(container: Spec) -> list[str]:
    return [*container.get("command", []), *container.get("args", [])]


def is_python_component(container: Spec) -> bool:
    """Whether the container runs a Python function that travels with the pipeline."""
    text = " ".join(_command(container))
    return "kfp.dsl.executor_main" in text and "--component_module_path" in text


def installs_packages(container: Spec) -> bool:
    """Whether the container installs packages when it starts."""
    command = container.get("command", [])
    return any(re.search(r"\bpip3?\s+install\b", part) for part in command[:3])


def _guard_report(path: Path) -> dict[str, Any]:
    # Missing when the guard itself was killed.
    data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return data if isinstance(data, dict) else {}
