"""Retries, timeouts, variables, secrets, workers and the environment of single tasks."""

import json
import os
import sys
from pathlib import Path

import pytest
from kfp import dsl, kubernetes

from airworthy.errors import ConfigError
from airworthy.local import load_run
from tests.local.engine_steps import fail, flaky, hang, number, refuse, span, step, text, variable, write
from tests.local.results import names, output


@dsl.pipeline
def retried(counter: str, failures: int):
    flaky(counter=counter, failures=failures).set_retry(2, backoff_duration="0s")


def test_retries_until_it_works_each_in_its_own_directory(run, tmp_path):
    result = run(retried, {"counter": str(tmp_path / "counter"), "failures": 2})
    record = result.tasks["flaky"]
    assert (record.state, record.attempts) == ("SUCCEEDED", 3)
    attempts = sorted(path.name for path in (result.directory / "tasks/flaky").iterdir())
    assert attempts == ["attempt-1", "attempt-2", "attempt-3"]
    assert "RuntimeError: try 2" in (result.directory / "tasks/flaky/attempt-2/log.txt").read_text()


def test_retries_end(run, tmp_path):
    result = run(retried, {"counter": str(tmp_path / "counter"), "failures": 9})
    assert (result.tasks["flaky"].state, result.tasks["flaky"].attempts) == ("FAILED", 3)
    assert result.tasks["flaky"].error == "RuntimeError: try 3"


@dsl.pipeline
def slow_retry(counter: str):
    flaky(counter=counter, failures=2).set_retry(2, backoff_duration="1s", backoff_factor=1)


def test_backoff_waits_between_attempts(run, tmp_path):
    result = run(slow_retry, {"counter": str(tmp_path / "counter")})
    assert (result.tasks["flaky"].seconds or 0) > 2


@dsl.pipeline
def refused_twice():
    refuse().set_retry(2, backoff_duration="60s")


def test_negative_evidence_is_not_tried_again(run):
    record = run(refused_twice).tasks["refuse"]
    assert (record.state, record.attempts, record.error_kind) == ("FAILED", 1, "GateError")


@dsl.pipeline
def timed_out(path: str):
    kubernetes.set_timeout(hang(path=path), 2)


def test_timeout_kills_the_task_and_everything_it_started(run, tmp_path):
    result = run(timed_out, {"path": str(tmp_path / "pids")})
    record = result.tasks["hang"]
    assert (record.state, record.error_kind) == ("FAILED", "Timeout")
    assert record.error == "It ran longer than its timeout of 2 s."
    for pid in (tmp_path / "pids").read_text().split():
        assert not Path(f"/proc/{pid}").exists()


@dsl.pipeline
def variables():
    variable(name="CHOSEN").set_env_variable("CHOSEN", "by the pipeline").set_display_name("set")
    variable(name="GIVEN")
    variable(name="DO_NOT_TRACK")
    variable(name="PYTHONPATH")


def test_variables_of_pipeline_caller_and_engine(run, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    result = run(variables, env={"GIVEN": "by the caller", "CHOSEN": "by the caller"})
    found = [record.outputs["parameters"]["Output"] for record in result.tasks.values()]
    assert found == ["by the pipeline", "by the caller", "1", "unset"]


@dsl.pipeline
def secretive(vault: str = "vault"):
    task = variable(name="TOKEN")
    kubernetes.use_secret_as_env(task, "vault", {"token": "TOKEN"})
    kubernetes.use_secret_as_env(task, "absent", {"key": "OTHER"}, optional=True)
    settings = variable(name="MODE")
    kubernetes.use_config_map_as_env(settings, "settings", {"mode": "MODE"})


def test_secrets_and_config_maps_come_from_local_files(run, tmp_path):
    (tmp_path / "secrets.yaml").write_text("vault: {token: sesame}")
    (tmp_path / "maps.yaml").write_text("settings: {mode: fast}")
    result = run(secretive, secrets_file=tmp_path / "secrets.yaml", config_maps_file=tmp_path / "maps.yaml")
    assert output(result, "variable") == "sesame"
    assert output(result, "variable-2") == "fast"
    recorded = (result.directory / "run.json").read_text() + (result.directory / "pipeline.yaml").read_text()
    assert recorded.count("sesame") == 1  # the task's own output, nowhere else


def test_a_missing_secret_is_refused_before_anything_runs(run, tmp_path):
    (tmp_path / "secrets.yaml").write_text("vault: {other: x}")
    with pytest.raises(ConfigError, match="variable: needs the key 'token' of the secret 'vault'"):
        run(secretive, secrets_file=tmp_path / "secrets.yaml")


@dsl.pipeline
def two_spans(path: str):
    span(path=path, seconds=0.6)
    span(path=path, seconds=0.6)


@dsl.pipeline
def two_accelerated(path: str):
    span(path=path, seconds=0.2).set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)
    span(path=path, seconds=0.2).set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)


def _overlap(path: Path) -> bool:
    first, second = sorted(tuple(map(float, line.split())) for line in path.read_text().splitlines())
    return first[1] > second[0]


def test_independent_tasks_run_side_by_side_within_the_worker_limit(run, tmp_path):
    run(two_spans, {"path": str(tmp_path / "two")}, workers=2)
    assert _overlap(tmp_path / "two")
    run(two_spans, {"path": str(tmp_path / "one")}, workers=1, run_id="one")
    assert not _overlap(tmp_path / "one")


def test_tasks_that_ask_for_an_accelerator_run_one_at_a_time(run, tmp_path):
    result = run(two_accelerated, {"path": str(tmp_path / "spans")}, workers=2)
    assert not _overlap(tmp_path / "spans")
    assert "accelerator request nvidia.com/gpu x1" in result.tasks["span"].notes[0]


@dsl.pipeline
def ordered(path: str):
    first = span(path=path, seconds=0.0)
    text().after(first)


def test_after_orders_tasks_without_data(run, tmp_path):
    result = run(ordered, {"path": str(tmp_path / "spans")})
    assert (result.tasks["text"].started or 0) >= (result.tasks["span"].ended or 1e12)


@dsl.pipeline
def with_cluster_options():
    task = number().set_cpu_limit("2").set_memory_request("1G").set_display_name("Named step")
    kubernetes.add_node_selector(task, "disk", "fast")
    kubernetes.add_toleration(task, key="gpu", operator="Exists")
    kubernetes.add_pod_label(task, "team", "a")
    kubernetes.set_image_pull_policy(task, "Always")


def test_options_of_the_cluster_are_noted_and_have_no_effect(run):
    record = run(with_cluster_options).tasks["number"]
    assert (record.state, record.display_name) == ("SUCCEEDED", "Named step")
    assert [note.split(":")[0] for note in record.notes] == [
        "CPU and memory requests", "node selector", "tolerations", "pod labels and annotations",
        "image pull policy",
    ]  # fmt: skip


@dsl.pipeline
def measured():
    write(content="x")
    fail(message="two\nlines")


def test_the_run_is_recorded_for_readers(run, tmp_path):
    events = []
    result = run(measured, listener=events.append)
    assert load_run(tmp_path / "home", result.run_id) == result
    record = result.tasks["write"]
    assert (record.peak_memory_bytes or 0) > 5_000_000
    assert 0 < (record.started or 0) < (record.ended or 0)
    assert "Wrote executor output" in (result.directory / (record.log or "")).read_text()
    assert result.tasks["fail"].error == "RuntimeError: two\nlines"
    assert {event.kind for event in events} == {
        "run_started", "task_added", "task_started", "task_finished", "log_line", "run_finished",
    }  # fmt: skip
    assert any("RuntimeError: two" in event.text for event in events if event.kind == "log_line")


def test_a_failing_listener_does_not_fail_the_run(run, caplog):
    def listener(event):
        raise ValueError("no screen")

    assert run(with_cluster_options, listener=listener).state == "SUCCEEDED"
    assert "The listener of the run failed" in caplog.text


@step
def killed_by_the_system() -> int:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@dsl.pipeline
def dies():
    killed_by_the_system()


def test_a_killed_process_is_named_as_such(run):
    (failure,) = run(dies).failures
    assert failure.error_kind == "Killed"
    assert "SIGKILL; perhaps the machine ran out of memory" in (failure.error or "")


@step
def leaves_things_behind() -> str:
    import os
    import subprocess
    import tempfile

    tempfile.mkdtemp()
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    return f"{other.pid} {os.environ['TMPDIR']}"


@dsl.pipeline
def untidy():
    leaves_things_behind()


def test_nothing_outlives_a_task(run):
    pid, folder = output(run(untidy), "leaves-things-behind").split()
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(folder).exists()


@step
def where() -> str:
    import sys

    return sys.prefix


@dsl.pipeline
def located():
    where()


def test_the_image_decides_the_interpreter(run, tmp_path):
    # A link to another prefix: the process must be started from there.
    other = tmp_path / "other"
    other.mkdir()
    (other / "bin").symlink_to(Path(sys.executable).parent)
    (other / "lib").symlink_to(Path(sys.prefix) / "lib")
    (other / "pyvenv.cfg").write_text((Path(sys.prefix) / "pyvenv.cfg").read_text())
    result = run(located, interpreters={"test": other / "bin" / "python"})
    assert output(result, "where") == str(other)


@dsl.pipeline
def long_text(word: str):
    text(value=word)


def test_parameters_longer_than_a_command_fail_clearly(run):
    result = run(long_text, {"word": "x" * 200_000})
    assert "128 KiB" in (result.failures[0].error or "")


@dsl.pipeline(pipeline_config=dsl.PipelineConfig(active_deadline_seconds=1))
def with_deadline(path: str):
    hang(path=path)


def test_the_pipelines_deadline_ends_the_run(run, tmp_path):
    result = run(with_deadline, {"path": str(tmp_path / "pids")})
    assert result.state == "FAILED"
    assert result.error == "It ran longer than the pipeline's deadline of 1 s."
    assert names(result, "CANCELED") == ["hang"]


def test_the_environment_of_the_engine_is_left_alone(run):
    before = dict(os.environ)
    run(with_cluster_options)
    assert json.dumps(before) == json.dumps(dict(os.environ))


@dsl.pipeline
def accelerated(path: str, count: str):
    for _ in range(2):
        span(path=path, seconds=0.6).set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(count)


def test_a_parameter_turns_the_accelerator_request_off(run, tmp_path):
    result = run(accelerated, {"path": str(tmp_path / "off"), "count": "0"})
    assert result.tasks["span"].notes == ()
    assert _overlap(tmp_path / "off")
    result = run(accelerated, {"path": str(tmp_path / "on"), "count": "1"}, run_id="on")
    assert "accelerator request nvidia.com/gpu x1" in result.tasks["span"].notes[0]
    assert not _overlap(tmp_path / "on")
