"""What this engine can't run it refuses before any task starts, naming task and construct."""

# ruff: noqa: UP045 - the spelling that kfp reads

import re
from typing import Optional

import pytest
import yaml
from kfp import dsl, kubernetes

from airworthy.errors import ConfigError
from airworthy.local import run_pipeline
from tests.local.engine_steps import number, text, touch


@dsl.container_component
def a_container():
    return dsl.ContainerSpec(image="test", command=["echo"], args=["hello"])


@dsl.component(base_image="test", install_kfp_package=False, packages_to_install=["left-pad"])
def installing() -> int:
    return 1


@dsl.component(base_image="registry/somewhere:1", install_kfp_package=False)
def foreign() -> int:
    return 1


@dsl.pipeline
def container(trace: str):
    touch(path=trace)
    a_container()


@dsl.pipeline
def volume(trace: str):
    touch(path=trace)
    kubernetes.mount_pvc(number(), pvc_name="claim", mount_path="/data")


@dsl.pipeline
def made_volume(trace: str):
    touch(path=trace)
    made = kubernetes.CreatePVC(pvc_name="claim", access_modes=["ReadWriteOnce"], size="1Gi")
    kubernetes.DeletePVC(pvc_name=made.outputs["name"])


@dsl.pipeline
def secret_volume(trace: str):
    touch(path=trace)
    kubernetes.use_secret_as_volume(number(), secret_name="vault", mount_path="/vault")


@dsl.pipeline
def empty_dir(trace: str):
    touch(path=trace)
    kubernetes.empty_dir_mount(number(), volume_name="scratch", mount_path="/scratch")


@dsl.pipeline
def field_path(trace: str):
    touch(path=trace)
    kubernetes.use_field_path_as_env(number(), env_name="NODE", field_path="spec.nodeName")


@dsl.pipeline
def installs(trace: str):
    touch(path=trace)
    installing()


@dsl.pipeline
def foreign_image(trace: str):
    touch(path=trace)
    foreign()


@dsl.pipeline
def inner():
    number()


@dsl.pipeline
def retried_subpipeline(trace: str):
    touch(path=trace)
    inner().set_retry(2)


@dsl.pipeline
def broken_condition(trace: str, word: str):
    touch(path=trace)
    with dsl.If(word == "it's"):
        number()


@dsl.pipeline(pipeline_config=dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size="1Gi")))
def workspace(trace: str):
    touch(path=trace)
    text(value=dsl.WORKSPACE_PATH_PLACEHOLDER)


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (container, "a-container: container components"),
        (volume, "number: a persistent volume mount (mount_pvc) is not available"),
        (made_volume, "createpvc: creating and deleting volumes"),
        (secret_volume, "number: a secret mounted as a volume"),
        (empty_dir, "number: an emptyDir mount"),
        (field_path, "number: a pod field as a variable"),
        (installs, "installing: it installs packages when it starts"),
        (foreign_image, "foreign: The image 'registry/somewhere:1' is not known here"),
        (retried_subpipeline, "inner: a retry of a whole sub-pipeline"),
        (broken_condition, "condition-1: The condition"),
        (workspace, "the pipeline option 'workspace'"),
        (workspace, "text: the placeholder {{$.workspace_path}} in the input 'value'"),
    ],
)
def test_refused_by_name_and_nothing_ran(run, tmp_path, pipeline, message):
    arguments = {"trace": str(tmp_path / "trace")} | ({"word": "x"} if pipeline is broken_condition else {})
    with pytest.raises(ConfigError, match=re.escape(message)):
        run(pipeline, arguments)
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "home/runs").exists()


@dsl.pipeline
def fine(trace: str):
    with dsl.If(trace != ""):
        touch(path=trace)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda spec: spec.update(extra=1), "the field 'extra' of the specification"),
        (
            lambda spec: spec["root"]["dag"]["tasks"]["condition-1"].update(extra=1),
            "condition-1: the task field 'extra'",
        ),
        (lambda spec: spec["components"]["comp-touch"].update(extra=1), "touch: the component field 'extra'"),
        (
            lambda spec: spec["root"]["dag"]["tasks"]["condition-1"]["triggerPolicy"].update(
                condition="size(inputs.parameter_values['a']) == 1"
            ),
            "uses 'size', which this engine doesn't know",
        ),
        (
            lambda spec: spec["root"]["dag"]["tasks"]["condition-1"]["triggerPolicy"].update(strategy="ODD"),
            "the trigger strategy 'ODD'",
        ),
        (
            lambda spec: spec["root"]["dag"]["tasks"]["condition-1"].update(dependentTasks=["ghost"]),
            "it depends on the task 'ghost'",
        ),
        (
            lambda spec: spec["deploymentSpec"]["executors"]["exec-touch"]["container"].update(lifecycle={}),
            "touch: the container field 'lifecycle'",
        ),
    ],
)
def test_unknown_fields_are_refused(compiled, tmp_path, edit, message):
    path = compiled(fine)
    spec = yaml.safe_load(path.read_text())
    edit(spec)
    path.write_text(yaml.safe_dump(spec))
    with pytest.raises(ConfigError, match=re.escape(message)):
        run_pipeline(
            path, {"trace": str(tmp_path / "trace")}, home=tmp_path / "home", interpreters={"test": "/x"}
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read: No such file"),
        ("a: [", "not a YAML file"),
        ("a: 1", "not a compiled KFP v2 pipeline"),
        ("", "not a compiled KFP v2 pipeline"),
    ],
)
def test_files_that_are_no_pipelines(tmp_path, content, message):
    path = tmp_path / "pipeline.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        run_pipeline(path, {}, home=tmp_path / "home")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "can't be read"), ("- a", "expected `name:"), ("{", "not a YAML")]
)
def test_secret_files_of_another_shape(run, tmp_path, content, message):
    path = tmp_path / "secrets.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        run(fine, {"trace": str(tmp_path / "trace")}, secrets_file=path)


@dsl.pipeline
def undecidable(value: Optional[float] = None):
    with dsl.If(value > 0.5):
        number()
    with dsl.Else():
        text()


def test_a_condition_that_cannot_be_evaluated_fails_the_run(compiled, tmp_path, run):
    # Not skipped: a gate that can't be read must not look like a decision.
    result = run(undecidable)
    assert result.state == "FAILED"
    assert [record.name for record in result.tasks.values() if record.state == "SUCCEEDED"] == []
