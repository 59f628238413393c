"""Parameters, defaults, placeholders, artifacts and importers."""

# ruff: noqa: UP045, B006 - spellings that kfp reads

import re
from pathlib import Path
from typing import Optional

import pytest
from kfp import dsl
from kfp.dsl import Dataset, Input

from airworthy.errors import ConfigError
from tests.local.engine_steps import (
    by_path,
    describe,
    join,
    maybe,
    number,
    read,
    read_maybe,
    real,
    shape_of,
    text,
    write,
)
from tests.local.results import output


@dsl.pipeline
def kinds(
    whole: int = 2,
    share: float = 1,
    word: str = "w",
    flag: bool = True,
    items: list = [1, 2.5],
    table: dict = {"a": 1},
):
    number(value=whole)
    real(value=share)
    text(value=word)
    join(parts=items)
    shape_of(value=table)


def test_defaults_keep_their_types(run):
    result = run(kinds)
    assert repr(output(result, "number")) == "2"
    assert repr(output(result, "real")) == "1.0"
    assert output(result, "join") == "1+2.5"
    assert output(result, "shape-of") == '{"a": 1}'


def test_whole_numbers_inside_lists_and_dicts_stay_whole(run):
    result = run(kinds, {"items": [1, [2, 3.5]], "table": {"a": {"b": [4]}, "c": 0.5}})
    assert output(result, "join") == "1+[2, 3.5]"
    assert output(result, "shape-of") == '{"a": {"b": [4]}, "c": 0.5}'


@dsl.pipeline
def constants():
    shape_of(value={"a": 1, "b": [2, {"c": 3}], "d": 0.25})


def test_constants_in_the_pipeline_keep_whole_numbers(run):
    assert output(run(constants), "shape-of") == '{"a": 1, "b": [2, {"c": 3}], "d": 0.25}'


@dsl.pipeline
def optional_inputs(count: Optional[int] = None, word: Optional[str] = None):
    maybe(value=count, word=word)


def test_optional_inputs_unset_and_set(run):
    assert output(run(optional_inputs), "maybe") == "None None"
    assert output(run(optional_inputs, {"count": 4, "word": "x"}), "maybe") == "4 x"


@dsl.pipeline
def unset_to_default(word: Optional[str] = None):
    text(value=word)


def test_an_unset_input_falls_to_the_components_default(run):
    assert output(run(unset_to_default), "text") == "default"


@dsl.pipeline
def optional_artifact(data: Optional[Input[Dataset]] = None):
    read_maybe(data=data)


def test_optional_artifact_of_the_pipeline(run, tmp_path):
    (tmp_path / "data").write_text("given")
    assert output(run(optional_artifact), "read-maybe") == "nothing"
    assert output(run(optional_artifact, {"data": str(tmp_path / "data")}), "read-maybe") == "given"


@dsl.pipeline
def inner_defaults(n: int = 7, data: Optional[Input[Dataset]] = None) -> int:
    read_maybe(data=data)
    return number(value=n).output


@dsl.pipeline
def outer_of_defaults() -> int:
    default = inner_defaults()
    given = inner_defaults(n=default.output)
    return given.output


def test_nested_pipeline_defaults_and_outputs(run):
    result = run(outer_of_defaults)
    assert result.outputs == {"Output": 7}
    assert result.tasks["inner-defaults/read-maybe"].outputs["parameters"]["Output"] == "nothing"


@dsl.pipeline
def inner_artifact(content: str) -> Dataset:
    return write(content=content).outputs["out"]


@dsl.pipeline
def outer_artifact() -> Dataset:
    made = inner_artifact(content="deep")
    read(data=made.output)
    return made.output


def test_artifacts_out_of_nested_pipelines_with_metadata(run):
    result = run(outer_artifact)
    assert output(result, "read") == "deep"
    assert result.outputs["Output"]["metadata"] == {"length": 4}
    assert result.outputs["Output"]["type"]["schemaTitle"] == "system.Dataset"


@dsl.pipeline
def mixed_text(word: str, n: int):
    made = number(value=n)
    text(value=f"{word}:{made.output}:{n}")


def test_text_made_of_parameters_and_outputs(run):
    assert output(run(mixed_text, {"word": "a", "n": 2}), "text") == "a:2:2"


def test_placeholders_in_data_are_data(run):
    word = "{{$.inputs.parameters['x']}} {{$}} $(id) `id`"
    assert output(run(mixed_text, {"word": word, "n": 2}), "text") == f"{word}:2:2"


@dsl.pipeline
def run_placeholders():
    text(value=dsl.PIPELINE_JOB_NAME_PLACEHOLDER).set_display_name("name")
    text(value=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    text(value=dsl.PIPELINE_TASK_NAME_PLACEHOLDER)
    text(value=dsl.PIPELINE_ROOT_PLACEHOLDER)
    text(value=dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER)
    text(value=dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER)


def test_run_placeholders(run):
    result = run(run_placeholders, run_id="my-run")
    found = {record.name: record.outputs["parameters"]["Output"] for record in result.tasks.values()}
    assert found["text"] == found["text-2"] == "my-run"
    assert found["text-3"] == "text-3"
    assert found["text-4"] == str(result.directory)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["text-5"])
    assert found["text-6"] == found["text-5"]


@dsl.pipeline
def written_by_path():
    made = by_path()
    text(value=made.outputs["out"])
    number(value=made.outputs["count"])
    join(parts=made.outputs["parts"])


def test_outputs_written_by_path(run):
    result = run(written_by_path)
    assert (output(result, "text"), output(result, "number"), output(result, "join")) == ("line\n", 7, "1+2")


@dsl.pipeline
def imports(uri: str, origin: str):
    found = dsl.importer(
        artifact_uri=uri, artifact_class=Dataset, reimport=False, metadata={"origin": origin, "size": 3}
    )
    describe(data=found.output)
    read(data=found.output)


def test_importer_with_metadata(run, tmp_path):
    (tmp_path / "data").write_text("imported")
    result = run(imports, {"uri": str(tmp_path / "data"), "origin": "here"})
    assert output(result, "read") == "imported"
    assert output(result, "describe") == f"{tmp_path / 'data'} here"
    assert result.tasks["importer"].kind == "importer"


@dsl.component(base_image="test", install_kfp_package=False)
def not_a_number(out: dsl.Output[dsl.Metrics]):
    out.log_metric("auc", float("nan"))


@dsl.pipeline
def bad_metadata():
    not_a_number()


def test_nan_in_metadata_fails_clearly(run):
    result = run(bad_metadata)
    assert "NaN in a parameter or in an artifact's metadata" in (result.failures[0].error or "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wrong": 1}, "has no parameter 'wrong'; it has flag, items, share, table, whole, word"),
        ({"whole": "2"}, "'whole' of the pipeline 'kinds' has a wrong type: '2' is text"),
        ({"whole": 2.5}, "2.5 is not a whole number"),
        ({"whole": True}, "true is not a whole number"),
        ({"flag": 1}, "1 is not a true or false value"),
        ({"word": 1}, "1 is not a text"),
        ({"items": {"a": 1}}, "is not a list"),
        ({"table": [1]}, "is not a dictionary"),
        ({"share": float("nan")}, "wrong type"),
        ({"table": {"when": Path()}}, "wrong type"),
    ],
)
def test_wrong_arguments_are_refused(run, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        run(kinds, arguments)
    assert not (tmp_path / "home" / "runs").exists()


def test_a_missing_argument_is_refused(run):
    with pytest.raises(ConfigError, match="needs a value for its parameter 'word'"):
        run(mixed_text, {"n": 1})
