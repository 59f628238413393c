"""If, Elif, Else and OneOf do what the DSL says, wherever they stand."""

# ruff: noqa: UP045 - the spelling that kfp reads

from pathlib import Path
from typing import Optional

import pytest
from kfp import dsl
from kfp.dsl import Dataset

from tests.local.engine_steps import fail, gate, number, read, real, text, truth, write
from tests.local.results import names, output, ran


@dsl.pipeline
def three_way(n: int):
    with dsl.If(n > 10, "large"):
        text(value="large").set_display_name("large-step")
    with dsl.Elif(n > 5):
        number(value=n)
    with dsl.Else():
        real(value=0.5)


@pytest.mark.parametrize(("n", "expected"), [(11, "text"), (7, "number"), (5, "real")])
def test_exactly_one_of_three_branches_runs(run, n, expected):
    result = run(three_way, {"n": n})
    assert names(result) == [expected]
    assert sorted(names(result, "SKIPPED")) == sorted({"text", "number", "real"} - {expected})
    assert result.state == "SUCCEEDED"


@dsl.pipeline
def named_gate(score: float):
    verdict = gate(score=score)
    with dsl.If(verdict.outputs["passed"] == True):  # noqa: E712 - the DSL's spelling
        text(value=verdict.outputs["reason"])


@pytest.mark.parametrize(("score", "expected"), [(0.9, ["gate", "text"]), (0.1, ["gate"])])
def test_bare_if_on_a_named_output_of_the_same_dag(run, score, expected):
    result = run(named_gate, {"score": score})
    assert names(result) == expected


@dsl.pipeline
def unnamed(n: int):
    made = number(value=n)
    with dsl.If(made.output == 1):
        text()


@pytest.mark.parametrize(("n", "count"), [(1, 2), (2, 1)])
def test_bare_if_on_a_single_output(run, n, count):
    assert len(ran(run(unnamed, {"n": n}))) == count


@dsl.pipeline
def nested(n: int, word: str):
    with dsl.If(n > 1):
        with dsl.If(word == "yes"):
            text(value="inner")
        with dsl.Else():
            number()


def test_nested_if(run):
    assert names(run(nested, {"n": 2, "word": "yes"})) == ["text"]
    assert names(run(nested, {"n": 2, "word": "no"})) == ["number"]
    assert names(run(nested, {"n": 1, "word": "yes"})) == []


@dsl.pipeline
def inside_exit_handler(score: float):
    with dsl.ExitHandler(text(value="end").set_display_name("end")):
        verdict = gate(score=score)
        with dsl.If(verdict.outputs["passed"] == True):  # noqa: E712
            number()


@pytest.mark.parametrize(("score", "expected"), [(0.9, ["gate", "number", "text"]), (0.1, ["gate", "text"])])
def test_if_inside_an_exit_handler(run, score, expected):
    assert names(run(inside_exit_handler, {"score": score})) == expected


@dsl.pipeline
def inside_loop():
    with dsl.ParallelFor([1, 2, 3]) as item:
        made = number(value=item)
        with dsl.If(made.output > 1):
            text(value=f"{made.output}")


def test_if_inside_a_loop_is_decided_per_item(run):
    result = run(inside_loop)
    assert [path.split("/")[1] for path in sorted(ran(result)) if path.endswith("text")] == ["1", "2"]


@dsl.pipeline
def chosen(n: int) -> str:
    with dsl.If(n == 1):
        one = text(value="one")
    with dsl.Elif(n == 2):
        two = text(value="two")
    with dsl.Else():
        other = text(value="other")
    picked = dsl.OneOf(one.output, two.output, other.output)
    text(value=picked).set_display_name("consumer")
    return picked


@pytest.mark.parametrize(("n", "expected"), [(1, "one"), (2, "two"), (3, "other")])
def test_one_of_takes_the_branch_that_ran(run, n, expected):
    result = run(chosen, {"n": n})
    assert result.outputs == {"Output": expected}
    consumer = next(record for record in result.tasks.values() if record.display_name == "consumer")
    assert consumer.outputs["parameters"]["Output"] == expected


@dsl.pipeline
def chosen_artifact(n: int) -> Dataset:
    with dsl.If(n == 1):
        one = write(content="one")
    with dsl.Else():
        other = write(content="other")
    picked = dsl.OneOf(one.outputs["out"], other.outputs["out"])
    read(data=picked)
    return picked


@pytest.mark.parametrize(("n", "expected"), [(1, "one"), (2, "other")])
def test_one_of_on_artifacts(run, n, expected):
    result = run(chosen_artifact, {"n": n})
    assert output(result, "read") == expected
    assert Path(result.outputs["Output"]["uri"]).read_text() == expected


@dsl.pipeline
def branch_of_subpipeline(n: int):
    unnamed(n=n)
    three_way(n=n)


def test_if_inside_nested_pipelines(run):
    assert sorted(ran(run(branch_of_subpipeline, {"n": 1}))) == [
        "three-way/condition-branches-1/condition-4/real",
        "unnamed/condition-1/text",
        "unnamed/number",
    ]


@dsl.pipeline
def compares_text(word: str):
    with dsl.If(word == 'say "hi"'):
        text(value="matched")
    with dsl.Else():
        number()


@pytest.mark.parametrize(
    ("word", "expected"),
    [('say "hi"', "text"), ("it's", "number"), ("x' == 'x' || 'x", "number"), ("' or true or '", "number")],
)
def test_values_with_quotes_are_data(run, word, expected):
    assert names(run(compares_text, {"word": word})) == [expected]


@dsl.pipeline
def kinds(flag: bool, share: float, count: int):
    with dsl.If(flag == False):  # noqa: E712
        text(value="flag off")
    with dsl.If(share >= 1):
        number()
    with dsl.If(count < 2.5):
        real(value=1.0)


def test_bool_float_and_mixed_numbers(run):
    assert names(run(kinds, {"flag": False, "share": 1.0, "count": 2})) == ["number", "real", "text"]
    assert names(run(kinds, {"flag": True, "share": 0.99, "count": 3})) == []


@dsl.pipeline
def unset_input(word: Optional[str] = None):
    with dsl.If(word == "x"):
        text()
    with dsl.Else():
        number()


def test_an_unset_input_equals_nothing(run):
    assert names(run(unset_input)) == ["number"]


@dsl.pipeline
def compares_two(n: int):
    first, second = number(value=n), number(value=2)
    with dsl.If(first.output == second.output):
        text()


def test_two_outputs_compared(run):
    assert "text" in names(run(compares_two, {"n": 2}))
    assert "text" not in names(run(compares_two, {"n": 3}))


@dsl.pipeline
def gate_fails():
    broken = fail()
    with dsl.If(broken.output > 1):
        text(value="opened")
    with dsl.Else():
        number()


def test_no_branch_opens_when_the_gate_itself_fails(run):
    result = run(gate_fails)
    assert result.state == "FAILED"
    assert names(result, "NOT_RUN") == ["number", "text"]


@dsl.pipeline
def flag_output(flag: bool):
    made = truth(value=flag)
    with dsl.If(made.output == True):  # noqa: E712
        text()


def test_boolean_output(run):
    assert names(run(flag_output, {"flag": True})) == ["text", "truth"]
    assert names(run(flag_output, {"flag": False})) == ["truth"]
