"""Killed, canceled and resumed runs: the same result, nothing lost, nothing left behind."""

# ruff: noqa: PTH123 - steps bring their own imports

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from kfp import dsl

from airworthy.errors import ConfigError
from airworthy.local import list_runs, load_run, run_pipeline
from airworthy.local.executor import RUN_VARIABLE
from airworthy.local.state import RunResult
from tests.local.engine_steps import final, flaky, hang, join, number, read, step, text, touch, write
from tests.local.results import names, output


@step
def slow(value: int, trace: str) -> int:
    import time

    with open(trace, "a") as file:
        file.write(f"{value}\n")
    time.sleep(0.15)
    return value * 2


@dsl.pipeline
def story(trace: str, status: str):
    with dsl.ExitHandler(final(path=status)):
        made = write(content="data")
        first = slow(value=1, trace=trace)
        with dsl.ParallelFor([10, 20], parallelism=1) as item:
            doubled = slow(value=item, trace=trace)
        found = read(data=made.outputs["out"])
        with dsl.If(first.output == 2):
            text(value=f"{found.output} {first.output}")
        with dsl.Else():
            number()
        join(parts=dsl.Collected(doubled.output))


def _start(path: Path, home: Path, **given: Any) -> subprocess.Popen[bytes]:
    request = json.dumps({"yaml": str(path), "home": str(home), **given})
    return subprocess.Popen(
        [sys.executable, "-m", "tests.local.engine_process", request],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _processes_of(home: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(RUN_VARIABLE, "").startswith(str(home)):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def _until(true: Callable[[], Any], seconds: float = 15.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = true()
        if value:
            return value
        time.sleep(0.01)
    pytest.fail("it did not happen in time")


def _facts(result: RunResult) -> dict[str, Any]:
    """What must be the same however often the engine was killed."""
    return {
        path: (record.state, record.outputs.get("parameters"), sorted(record.outputs.get("artifacts", {})))
        for path, record in sorted(result.tasks.items())
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    from kfp import compiler

    folder = tmp_path_factory.mktemp("undisturbed")
    compiler.Compiler().compile(story, str(folder / "story.yaml"))
    arguments = {"trace": str(folder / "trace"), "status": str(folder / "status")}
    interpreters = {"test": Path(sys.executable)}
    return run_pipeline(folder / "story.yaml", arguments, home=folder, interpreters=interpreters, cache=False)


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random_moments_and_resumed_to_the_same_result(compiled, tmp_path, undisturbed, seed):
    path, home, chance = compiled(story), tmp_path / "killed", random.Random(seed)
    arguments = {"trace": str(tmp_path / "trace"), "status": str(tmp_path / "status")}
    span = undisturbed.ended - undisturbed.started
    kills = 0
    while True:
        began = (home / "runs/it/run.json").exists()
        engine = _start(path, home, run_id="it", arguments=arguments, resume=began)
        try:
            code = engine.wait(timeout=chance.uniform(0.1, 0.7) * span if kills < 3 else 60)
        except subprocess.TimeoutExpired:
            engine.kill()
            engine.wait()
            kills += 1
        else:
            assert code == 0, engine.stderr and engine.stderr.read()
            break
        finally:
            assert engine.stderr
            engine.stderr.close()
    _until(lambda: not _processes_of(home))
    result = load_run(home, "it")
    assert kills >= 1
    assert output(result, "join") == "20+40"
    assert _facts(result) == _facts(undisturbed)
    # The status of the body never reads as a failure because of a kill.
    assert {json.loads(line)[0] for line in (tmp_path / "status").read_text().splitlines()} == {"SUCCEEDED"}


def test_processes_of_a_killed_engine_end_with_it(compiled, tmp_path):
    @dsl.pipeline
    def waits(path: str):
        hang(path=path)

    home = tmp_path / "home"
    engine = _start(compiled(waits), home, run_id="it", arguments={"path": str(tmp_path / "pids")})
    pids = _until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().split())
    assert _processes_of(home)
    engine.kill()
    engine.communicate()
    _until(lambda: not _processes_of(home))
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@dsl.pipeline
def interrupted(path: str, status: str):
    with dsl.ExitHandler(final(path=status)):
        done = number()
        waiting = hang(path=path).after(done)
        text(value="never").after(waiting)


@pytest.mark.parametrize("number_", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_process_and_the_exit_handler_runs(compiled, tmp_path, number_):
    home = tmp_path / "home"
    arguments = {"path": str(tmp_path / "pids"), "status": str(tmp_path / "status")}
    engine = _start(compiled(interrupted), home, run_id="it", arguments=arguments)
    _until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text())
    engine.send_signal(number_)
    engine.communicate(timeout=20)
    assert engine.returncode == 130
    assert not _processes_of(home)
    result = load_run(home, "it")
    assert result.state == "CANCELED"
    assert (names(result), names(result, "CANCELED")) == (["final", "number"], ["hang", "text"])
    assert json.loads((tmp_path / "status").read_text())[0] == "CANCELLED"


def test_a_second_ctrl_c_ends_the_exit_handler_too(compiled, tmp_path):
    @dsl.pipeline
    def stubborn(path: str, exit_path: str):
        with dsl.ExitHandler(hang(path=exit_path)):
            hang(path=path)

    home = tmp_path / "home"
    arguments = {"path": str(tmp_path / "body"), "exit_path": str(tmp_path / "exit")}
    engine = _start(compiled(stubborn), home, run_id="it", arguments=arguments)
    for name in ("body", "exit"):
        _until(lambda name=name: (tmp_path / name).exists() and (tmp_path / name).read_text())
        engine.send_signal(signal.SIGINT)
    engine.communicate(timeout=20)
    assert engine.returncode == 130
    assert not _processes_of(home)


def test_two_engines_on_one_run_are_refused(compiled, tmp_path):
    home = tmp_path / "home"
    arguments = {"path": str(tmp_path / "pids"), "status": str(tmp_path / "status")}
    path = compiled(interrupted)
    first = _start(path, home, run_id="it", arguments=arguments)
    _until(lambda: (tmp_path / "pids").exists())
    second = _start(path, home, run_id="it", resume=True)
    _, message = second.communicate(timeout=20)
    assert b"EngineError: The run 'it' is held by another engine (process " in message
    assert str(first.pid).encode() in message
    first.kill()
    first.communicate()
    _until(lambda: not _processes_of(home))


@dsl.pipeline
def mended(counter: str, trace: str, status: str):
    with dsl.ExitHandler(final(path=status)):
        before = touch(path=trace).set_caching_options(False)
        kept = number()
        flaky(counter=counter, failures=1).after(before, kept)


def test_a_failed_run_resumes_where_it_failed_and_redoes_what_the_exit_handler_may_have_undone(
    run, compiled, tmp_path
):
    arguments = {key: str(tmp_path / key) for key in ("counter", "trace", "status")}
    first = run(mended, arguments, run_id="it")
    assert first.state == "FAILED"
    second = run(mended, {}, run_id="it", resume=True)
    assert second.state == "SUCCEEDED"
    assert second.tasks["exit-handler-1/number"].reused
    assert (tmp_path / "trace").read_text() == "x\nx\n"
    assert second.tasks["exit-handler-1/touch"].attempts == 2
    assert second.tasks["exit-handler-1/flaky"].attempts == 2
    states = [json.loads(line)[0] for line in (tmp_path / "status").read_text().splitlines()]
    assert states == ["FAILED", "SUCCEEDED"]
    assert run(mended, {}, run_id="it", resume=True) == load_run(tmp_path / "home", "it")


def test_resuming_refuses_other_pipelines_arguments_and_runs(run, tmp_path):
    @dsl.pipeline
    def one(word: str):
        text(value=word)

    run(one, {"word": "a"}, run_id="it")
    with pytest.raises(ConfigError, match="with other arguments"):
        run(one, {"word": "b"}, run_id="it", resume=True)
    with pytest.raises(ConfigError, match="The pipeline has changed"):
        run(mended, {}, run_id="it", resume=True)
    with pytest.raises(ConfigError, match="There is no run 'other'"):
        run(one, {}, run_id="other", resume=True)
    with pytest.raises(ConfigError, match="There is a run 'it' already"):
        run(one, {"word": "a"}, run_id="it")


def test_leftovers_whose_guard_was_killed_as_well_are_killed_before_resuming(run, compiled, tmp_path):
    home = tmp_path / "home"
    arguments = {"path": str(tmp_path / "pids"), "status": str(tmp_path / "status")}
    engine = _start(compiled(interrupted), home, run_id="it", arguments=arguments)
    pids = _until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().split())
    guards = [child.pid for child in psutil.Process(engine.pid).children()]
    for pid in [*guards, engine.pid]:
        os.kill(pid, signal.SIGKILL)
    engine.communicate()
    assert any(Path(f"/proc/{pid}").exists() for pid in pids)
    resumed = _start(compiled(interrupted), home, run_id="it", resume=True)
    _until(lambda: (tmp_path / "pids").read_text().split() not in ([], pids))
    assert not any(psutil.pid_exists(int(p)) and psutil.Process(int(p)).status() != "zombie" for p in pids)
    resumed.kill()
    resumed.communicate()
    _until(lambda: not _processes_of(home))


def test_runs_are_listed_newest_first(run, tmp_path):
    @dsl.pipeline
    def one(word: str):
        text(value=word)

    for name in ("first", "second"):
        run(one, {"word": name}, run_id=name)
    (tmp_path / "home/runs/broken").mkdir()
    (tmp_path / "home/runs/broken/run.json").write_text("{")
    assert [result.run_id for result in list_runs(tmp_path / "home")] == ["second", "first"]
    assert output(list_runs(tmp_path / "home")[0], "text") == "second"
