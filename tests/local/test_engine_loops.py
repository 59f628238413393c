"""ParallelFor and Collected."""

# ruff: noqa: UP006, UP035, SIM117 - spellings that kfp reads

from itertools import pairwise
from typing import Dict, List

from kfp import dsl
from kfp.dsl import Dataset, Input

from tests.local.engine_steps import (
    fail,
    flaky,
    join,
    number,
    numbers,
    pairs,
    read,
    read_all,
    span,
    text,
    write,
)
from tests.local.results import names, output, ran


@dsl.pipeline
def static_items():
    with dsl.ParallelFor([1, 2, 3]) as item:
        number(value=item)


def test_static_list(run):
    result = run(static_items)
    assert [result.tasks[f"for-loop-2/{i}/number"].outputs["parameters"]["Output"] for i in range(3)] == [
        1,
        2,
        3,
    ]


@dsl.pipeline
def list_parameter(items: List[str]):
    with dsl.ParallelFor(items) as item:
        text(value=item)


def test_list_parameter_keeps_text_as_text(run):
    result = run(list_parameter, {"items": ["1", "two"]})
    found = [r.outputs["parameters"]["Output"] for r in result.tasks.values() if r.name == "text"]
    assert found == ["1", "two"]


def test_an_empty_list_runs_nothing_and_succeeds(run):
    result = run(list_parameter, {"items": []})
    assert (result.state, names(result)) == ("SUCCEEDED", [])


@dsl.pipeline
def list_from_task(count: int) -> list:
    with dsl.ParallelFor(numbers(count=count).output) as item:
        made = number(value=item)
    return dsl.Collected(made.output)


def test_list_from_a_task_collected_as_pipeline_output_in_order(run):
    assert run(list_from_task, {"count": 4}, workers=4).outputs == {"Output": [0, 1, 2, 3]}


def test_collecting_nothing_gives_an_empty_list(run):
    assert run(list_from_task, {"count": 0}).outputs == {"Output": []}


@dsl.pipeline
def fields_of_items():
    with dsl.ParallelFor([{"a": 1, "b": 8}, {"a": 2, "b": 9}]) as item:
        number(value=item.a)
        text(value=f"b{item.b}")


def test_fields_of_static_items(run):
    result = run(fields_of_items)
    assert result.tasks["for-loop-2/1/number"].outputs["parameters"]["Output"] == 2
    assert result.tasks["for-loop-2/0/text"].outputs["parameters"]["Output"] == "b8"


@dsl.pipeline
def fields_of_output():
    with dsl.ParallelFor(pairs().output) as item:
        number(value=item.b)


def test_fields_of_items_from_a_task(run):
    result = run(fields_of_output)
    assert [r.outputs["parameters"]["Output"] for r in result.tasks.values() if r.name == "number"] == [
        10,
        20,
    ]


@dsl.pipeline
def static_fields_in_exit_handler():
    with dsl.ExitHandler(text(value="end")):
        with dsl.ParallelFor([{"a": 1}, {"a": 2}]) as item:
            number(value=item.a)


def test_fields_of_static_items_inside_an_exit_handler(run):
    # The compiler adds a reference to an input that nothing has; it must not matter.
    assert names(run(static_fields_in_exit_handler)) == ["number", "number", "text"]


@dsl.pipeline
def collected_by_task():
    with dsl.ParallelFor([1, 2, 3]) as item:
        made = number(value=item)
    join(parts=dsl.Collected(made.output))


def test_collected_parameters_consumed_by_a_task(run):
    assert output(run(collected_by_task), "join") == "1+2+3"


@dsl.pipeline
def collected_artifacts() -> List[Dataset]:
    with dsl.ParallelFor(["a", "b"]) as item:
        made = write(content=item)
    read_all(data=dsl.Collected(made.outputs["out"]))
    return dsl.Collected(made.outputs["out"])


def test_collected_artifacts_consumed_by_a_task_and_returned(run):
    result = run(collected_artifacts)
    assert output(result, "read-all") == "a+b"
    assert [item["metadata"]["length"] for item in result.outputs["Output"]] == [1, 1]


@dsl.pipeline
def nested_loops() -> list:
    with dsl.ParallelFor([1, 2]) as outer:
        with dsl.ParallelFor([10, 20]) as inner:
            made = text(value=f"{outer}-{inner}")
    return dsl.Collected(made.output)


def test_nested_loops_collect_nested_lists(run):
    assert run(nested_loops).outputs == {"Output": [["1-10", "1-20"], ["2-10", "2-20"]]}


@dsl.pipeline
def outer_value_in_loop(word: str):
    before = text(value=word)
    with dsl.ParallelFor([1, 2]) as item:
        text(value=f"{before.output}{item}").set_display_name("inside")


def test_outer_outputs_reach_into_a_loop(run):
    result = run(outer_value_in_loop, {"word": "w"})
    found = [r.outputs["parameters"]["Output"] for r in result.tasks.values() if r.display_name == "inside"]
    assert found == ["w1", "w2"]


@dsl.pipeline
def limited(path: str):
    with dsl.ParallelFor([1, 2, 3], parallelism=1):
        span(path=path, seconds=0.1)


@dsl.pipeline
def unlimited(path: str):
    with dsl.ParallelFor([1, 2]):
        span(path=path, seconds=0.6)


def _overlaps(path) -> bool:
    spans = sorted(tuple(map(float, line.split())) for line in path.read_text().splitlines())
    return any(first[1] > second[0] for first, second in pairwise(spans))


def test_parallelism_limit(run, tmp_path):
    run(limited, {"path": str(tmp_path / "spans")}, workers=3)
    assert not _overlaps(tmp_path / "spans")


def test_iterations_run_side_by_side(run, tmp_path):
    run(unlimited, {"path": str(tmp_path / "spans")}, workers=2)
    assert _overlaps(tmp_path / "spans")


@dsl.pipeline
def one_item_fails(counter: str):
    with dsl.ParallelFor([1, 2, 3], parallelism=1) as item:
        made = flaky(counter=counter, failures=1)
        number(value=item).after(made)
    text(value="after")


def test_other_items_go_on_when_one_fails(run, tmp_path):
    result = run(one_item_fails, {"counter": str(tmp_path / "counter")})
    assert result.state == "FAILED"
    assert names(result, "NOT_RUN") == ["number"]
    assert names(result) == ["flaky", "flaky", "number", "number", "text"]
    assert result.tasks["for-loop-2"].error == "0: flaky: RuntimeError: try 1"


@dsl.pipeline
def collected_of_failed():
    with dsl.ParallelFor([1]):
        made = fail()
    join(parts=dsl.Collected(made.output))


def test_a_collector_does_not_run_after_a_failed_loop(run):
    assert names(run(collected_of_failed), "NOT_RUN") == ["join"]


@dsl.pipeline
def artifact_per_item():
    with dsl.ParallelFor(["a", "b"]) as item:
        made = write(content=item)
        read(data=made.outputs["out"])


def test_artifacts_stay_within_their_iteration(run):
    result = run(artifact_per_item)
    assert result.tasks["for-loop-2/0/read"].outputs["parameters"]["Output"] == "a"
    assert result.tasks["for-loop-2/1/read"].outputs["parameters"]["Output"] == "b"


@dsl.pipeline
def each(data: Input[List[Dataset]]):
    with dsl.ParallelFor(data) as one:
        read(data=one)


@dsl.pipeline
def loop_over_artifacts():
    with dsl.ParallelFor(["a", "b"]) as item:
        made = write(content=item)
    each(data=dsl.Collected(made.outputs["out"]))


def test_loop_over_collected_artifacts(run):
    result = run(loop_over_artifacts)
    assert [r.outputs["parameters"]["Output"] for r in result.tasks.values() if r.name == "read"] == [
        "a",
        "b",
    ]


@dsl.pipeline
def loop_over_dicts(items: List[Dict[str, int]]):
    with dsl.ParallelFor(items) as item:
        number(value=item.a)


def test_fields_of_items_of_a_parameter(run):
    result = run(loop_over_dicts, {"items": [{"a": 5}]})
    assert output(result, "number") == 5
    assert ran(result) == {"for-loop-1/0/number"}


@dsl.pipeline
def conditions_on_items(items: List[Dict[str, int]]):
    with dsl.ParallelFor([1, 2]) as outer:
        with dsl.ParallelFor(items) as item:
            with dsl.If(item.a == outer):
                text(value=f"{outer}{item.b}")


def test_conditions_on_fields_of_items_in_nested_loops(run):
    result = run(conditions_on_items, {"items": [{"a": 1, "b": 5}, {"a": 2, "b": 6}]})
    found = sorted(
        r.outputs["parameters"]["Output"] for r in result.tasks.values() if r.is_leaf and r.outputs
    )
    assert (result.state, found) == ("SUCCEEDED", ["15", "26"])


@dsl.pipeline
def item_twice(words: List[str]):
    with dsl.ParallelFor(words) as word:
        with dsl.If(word == "b"):
            text(value=word)


def test_condition_on_the_item_itself(run):
    assert output(run(item_twice, {"words": ["a", "b"]}), "text") == "b"


@dsl.pipeline
def optional_loop(n: int):
    with dsl.If(n > 0):
        with dsl.ParallelFor([1, 2]) as item:
            made = number(value=item)
        join(parts=dsl.Collected(made.output))


def test_loop_and_collector_inside_a_branch(run):
    assert output(run(optional_loop, {"n": 1}), "join") == "1+2"
    assert names(run(optional_loop, {"n": 0})) == []
