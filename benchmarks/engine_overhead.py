"""What the local engine adds to each step, next to kfp.local, on the same trivial steps in one run.

Usage: python benchmarks/engine_overhead.py [--steps 20] [--rounds 3]

Each round runs a chain of steps three ways: the bare commands of the compiled steps one after the other (what
no engine can save), this engine, and kfp.local with `SubprocessRunner(use_venv=False)`. Prints one row of a
Markdown table: the median seconds per step of each, and what the two engines add to the bare commands.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kfp import compiler, dsl, local
from kfp.components import load_component_from_file

from airworthy.local import run_pipeline
from airworthy.local.executor import child_environment, make_executor_input
from airworthy.local.ir import load_pipeline
from airworthy.local.values import Values


@dsl.component(base_image="python", install_kfp_package=False)
def step(value: int) -> int:
    return value + 1


def compiled(steps: int, folder: Path) -> Path:
    """A chain of `steps` steps, each taking the previous one's output."""

    @dsl.pipeline(name="chain")
    def chain(value: int = 0):
        made = step(value=value)
        for _ in range(steps - 1):
            made = step(value=made.output)

    path = folder / "chain.yaml"
    compiler.Compiler().compile(chain, str(path))
    return path


def bare(path: Path, folder: Path) -> float:
    """Seconds for the steps' commands alone."""
    pipeline = load_pipeline(path)
    python = Path(sys.executable)
    began = time.perf_counter()
    for number, task in enumerate(pipeline.tasks(pipeline.root).values()):
        container = pipeline.executor(task.component["executorLabel"])["container"]
        request = json.dumps(
            make_executor_input(task.component, Values({"value": number}), folder / f"bare-{number}")
        )
        command = [part.replace("{{$}}", request) for part in container["command"] + container["args"]]
        environment = {**child_environment(python, folder, folder, {}), "TMPDIR": str(folder)}
        subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def engine(path: Path, folder: Path) -> float:
    """Seconds for the whole run with this engine, its state and logs included."""
    began = time.perf_counter()
    result = run_pipeline(
        path, {}, home=folder / "home", interpreters={"python": Path(sys.executable)}, cache=False, workers=1
    )
    seconds = time.perf_counter() - began
    assert result.state == "SUCCEEDED", result.error
    return seconds


def kfp_local(path: Path, folder: Path) -> float:
    """Seconds for the whole run with kfp.local, reading the file included."""
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "kfp"))
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        load_component_from_file(str(path))()
    return time.perf_counter() - began


def main() -> None:
    """Measures and prints the row."""
    parser = argparse.ArgumentParser(description="Overhead of the local engine per step, next to kfp.local.")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    seconds: dict[str, list[float]] = {"bare": [], "engine": [], "kfp": []}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            path = compiled(options.steps, folder)
            seconds["bare"].append(bare(path, folder) / options.steps)
            seconds["engine"].append(engine(path, folder) / options.steps)
            seconds["kfp"].append(kfp_local(path, folder) / options.steps)
    commands, ours, theirs = (statistics.median(seconds[key]) for key in ("bare", "engine", "kfp"))
    print("| Steps | Bare, s/step | Airworthy | kfp.local | Airworthy adds | kfp.local adds |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {options.steps} | {commands:.3f} | {ours:.3f} | {theirs:.3f} "
        f"| {ours - commands:.3f} | {theirs - commands:.3f} |"
    )


if __name__ == "__main__":
    main()
