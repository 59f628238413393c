"""Cached outputs: found again by content, never when anything that matters has changed."""

# ruff: noqa: PTH123 - steps bring their own imports

import shutil
from pathlib import Path

import pytest
from kfp import dsl

from airworthy.local import environments
from airworthy.local.cache import content_digest
from tests.local.engine_steps import flaky, number, read, read_folder, step, touch, write, write_folder
from tests.local.results import output


@dsl.pipeline
def chain(content: str, trace: str):
    made = write_folder(content=content)
    read_folder(data=made.outputs["out"])
    touch(path=trace)


@pytest.fixture
def cached(run, tmp_path):
    def run_(function, arguments, **options):
        result = run(function, arguments, cache=True, **options)
        return result, {record.name: record.cached for record in result.tasks.values() if record.is_leaf}

    return run_


def _arguments(tmp_path, content="a"):
    return {"content": content, "trace": str(tmp_path / "trace")}


def test_the_same_content_is_a_hit_and_brings_the_files_along(cached, tmp_path):
    first, hits = cached(chain, _arguments(tmp_path))
    assert not any(hits.values())
    second, hits = cached(chain, _arguments(tmp_path))
    assert all(hits.values())
    assert (tmp_path / "trace").read_text() == "x\n"
    assert output(second, "read-folder") == "a"
    uri = second.tasks["write-folder"].outputs["artifacts"]["out"][0]["uri"]
    assert Path(uri).is_relative_to(second.directory)
    shutil.rmtree(first.directory)
    assert (Path(uri) / "nested/part").read_text() == "a"


def test_a_changed_parameter_runs_the_task_and_what_depends_on_it(cached, tmp_path):
    cached(chain, _arguments(tmp_path))
    _, hits = cached(chain, _arguments(tmp_path, "b"))
    assert hits == {"write-folder": False, "read-folder": False, "touch": True}


@dsl.pipeline
def reader(path: str):
    data = dsl.importer(artifact_uri=path, artifact_class=dsl.Dataset, reimport=True)
    read(data=data.output)


def test_changed_content_behind_the_same_name_runs_again(cached, tmp_path):
    (tmp_path / "data").write_text("one")
    cached(reader, {"path": str(tmp_path / "data")})
    (tmp_path / "data").write_text("two")
    result, hits = cached(reader, {"path": str(tmp_path / "data")})
    assert not hits["read"]
    assert output(result, "read") == "two"


def test_the_same_content_elsewhere_is_a_hit(cached, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_text("same")
        _, hits = cached(reader, {"path": str(tmp_path / name)})
    assert hits["read"]


@dsl.pipeline
def uncached(trace: str):
    touch(path=trace).set_caching_options(False)
    number()


def test_set_caching_options_false_is_honoured(cached, tmp_path):
    for _ in range(2):
        _, hits = cached(uncached, {"trace": str(tmp_path / "trace")})
    assert hits == {"touch": False, "number": True}
    assert (tmp_path / "trace").read_text() == "x\nx\n"


@dsl.pipeline
def inner_step(trace: str):
    touch(path=trace)


@dsl.pipeline
def uncached_subpipeline(trace: str):
    inner_step(trace=trace).set_caching_options(False)


def test_caching_turned_off_for_a_subpipeline_is_off_inside(cached, tmp_path):
    for _ in range(2):
        _, hits = cached(uncached_subpipeline, {"trace": str(tmp_path / "trace")})
    assert not hits["touch"]


@dsl.pipeline
def keyed(counter: str, other: int):
    flaky(counter=counter, failures=0).set_caching_options(True, cache_key="mine")
    number(value=other)


def test_a_cache_key_of_the_author_stands_for_the_inputs(cached, tmp_path):
    cached(keyed, {"counter": str(tmp_path / "a"), "other": 1})
    _, hits = cached(keyed, {"counter": str(tmp_path / "b"), "other": 2})
    assert hits == {"flaky": True, "number": False}


def test_no_cache_when_turned_off(cached, run, tmp_path):
    cached(chain, _arguments(tmp_path))
    result = run(chain, _arguments(tmp_path), cache=False)
    assert not any(record.cached for record in result.tasks.values())


def test_a_changed_library_or_environment_runs_again(cached, tmp_path, monkeypatch):
    cached(chain, _arguments(tmp_path))
    monkeypatch.setattr("airworthy.local.leaf.library_digest", lambda: "another version")
    _, hits = cached(chain, _arguments(tmp_path))
    assert not any(hits.values())
    _, hits = cached(chain, _arguments(tmp_path), env={"MODE": "other"})
    assert not any(hits.values())


@pytest.mark.parametrize("damage", ["changed", "removed", "torn"])
def test_a_damaged_entry_is_dropped_and_the_task_runs(cached, tmp_path, damage):
    cached(chain, _arguments(tmp_path))
    (stored,) = (tmp_path / "home/cache").glob("*/files/out/nested/part")
    if damage == "changed":
        stored.write_text("tampered")
    elif damage == "removed":
        stored.unlink()
    else:
        (stored.parents[3] / "entry.json").write_text("{")
    result, hits = cached(chain, _arguments(tmp_path))
    assert not hits["write-folder"]
    assert output(result, "read-folder") == "a"
    _, hits = cached(chain, _arguments(tmp_path))
    assert hits["write-folder"]


@dsl.pipeline
def sometimes(counter: str):
    flaky(counter=counter, failures=1)


def test_failures_are_not_cached(cached, tmp_path):
    arguments = {"counter": str(tmp_path / "counter")}
    assert cached(sometimes, arguments)[0].state == "FAILED"
    result, hits = cached(sometimes, arguments)
    assert (result.state, hits) == ("SUCCEEDED", {"flaky": False})


@step
def tells_its_place(out: dsl.Output[dsl.Dataset]) -> str:
    with open(out.path, "w") as file:
        file.write("x")
    return out.path


@dsl.pipeline
def placed():
    tells_its_place()


def test_outputs_that_name_their_own_place_are_not_cached(cached):
    cached(placed, {})
    _, hits = cached(placed, {})
    assert not hits["tells-its-place"]


@dsl.pipeline
def metadata_only():
    made = write(content="abc")
    read(data=made.outputs["out"])


def test_metadata_comes_back(cached):
    cached(metadata_only, {})
    result, hits = cached(metadata_only, {})
    assert hits["write"]
    assert result.tasks["write"].outputs["artifacts"]["out"][0]["metadata"] == {"length": 3}


def test_content_digests_see_names_and_bytes(tmp_path):
    for name, content in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text(content)
    digests = [content_digest(str(tmp_path / name)) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    (tmp_path / "b/sub/file").rename(tmp_path / "b/sub/other")
    assert content_digest(str(tmp_path / "b")) != digests[0]
    assert content_digest("s3://bucket/a") != content_digest("s3://bucket/b")


def test_the_library_digest_is_stable():
    assert environments.library_digest() == environments.library_digest.__wrapped__()
