"""ExitHandler, final status, ignore_upstream_failure and what a failure leaves running."""

import json

from kfp import dsl

from tests.local.engine_steps import fail, final, number, refuse, text, touch
from tests.local.results import names


@dsl.pipeline
def handled(path: str, broken: bool):
    with dsl.ExitHandler(final(path=path), name="body"):
        number()
        with dsl.If(broken == True):  # noqa: E712
            fail(message="the reason")


def test_exit_task_gets_the_status_of_success(run, tmp_path):
    result = run(handled, {"path": str(tmp_path / "status"), "broken": False})
    assert result.state == "SUCCEEDED"
    assert json.loads((tmp_path / "status").read_text()) == ["SUCCEEDED", None, "exit-handler-1"]


def test_exit_task_gets_the_status_and_the_reason_of_failure(run, tmp_path):
    result = run(handled, {"path": str(tmp_path / "status"), "broken": True})
    assert result.state == "FAILED"
    state, message, _ = json.loads((tmp_path / "status").read_text())
    assert state == "FAILED"
    assert message == "condition-2: fail: RuntimeError: the reason"


@dsl.pipeline
def plain_exit(path: str):
    with dsl.ExitHandler(touch(path=path)):
        fail()


def test_exit_task_without_status_runs_after_a_failure(run, tmp_path):
    result = run(plain_exit, {"path": str(tmp_path / "trace")})
    assert (tmp_path / "trace").read_text() == "x\n"
    assert result.state == "FAILED"


@dsl.pipeline
def failing_exit():
    with dsl.ExitHandler(fail(message="exit broke")):
        number()


def test_a_failing_exit_task_fails_the_run(run):
    result = run(failing_exit)
    assert (result.state, names(result)) == ("FAILED", ["number"])


@dsl.pipeline
def ignoring():
    broken = fail()
    number(value=broken.output).ignore_upstream_failure()
    text(value="strict").after(broken)


def test_ignore_upstream_failure_runs_with_the_default(run):
    result = run(ignoring)
    assert result.tasks["number"].outputs["parameters"]["Output"] == 3
    assert result.tasks["text"].state == "NOT_RUN"
    assert result.state == "FAILED"


@dsl.pipeline
def independent():
    broken = fail()
    text(value="after").after(broken)
    number()


def test_independent_tasks_run_after_a_failure_and_dependent_ones_do_not(run):
    result = run(independent)
    assert names(result) == ["number"]
    assert names(result, "FAILED") == ["fail"]
    assert names(result, "NOT_RUN") == ["text"]
    assert result.error == "fail: RuntimeError: broken on purpose"


@dsl.pipeline
def refusing():
    refuse()


def test_own_errors_surface_as_their_sentence_with_their_exit_code(run):
    result = run(refusing)
    (failure,) = result.failures
    assert (failure.error, failure.error_kind) == ("The challenger is not good enough.", "GateError")
    assert result.exit_code == 3


@dsl.pipeline
def two_handlers(path: str):
    with dsl.ExitHandler(touch(path=path, line="first"), name="one"):
        fail()
    with dsl.ExitHandler(touch(path=path, line="second"), name="two"):
        number()


def test_two_exit_handlers_are_independent(run, tmp_path):
    run(two_handlers, {"path": str(tmp_path / "trace")})
    assert sorted((tmp_path / "trace").read_text().split()) == ["first", "second"]


@dsl.pipeline
def inner_with_failure():
    fail(message="deep")


@dsl.pipeline
def failing_subpipeline(path: str):
    with dsl.ExitHandler(final(path=path)):
        inner_with_failure()


def test_the_reason_comes_up_from_nested_pipelines(run, tmp_path):
    run(failing_subpipeline, {"path": str(tmp_path / "status")})
    assert json.loads((tmp_path / "status").read_text())[1] == "inner-with-failure: fail: RuntimeError: deep"


@dsl.pipeline
def status_without_handler(path: str):
    broken = fail(message="early")
    final(path=path).after(broken).ignore_upstream_failure()


def test_final_status_of_an_ignored_upstream_failure(run, tmp_path):
    run(status_without_handler, {"path": str(tmp_path / "status")})
    state, message, name = json.loads((tmp_path / "status").read_text())
    assert (state, message, name) == ("FAILED", "RuntimeError: early", "fail")
