"""What is checked before the first task starts: everything that this engine can't run is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from airworthy.errors import ConfigError
from airworthy.local.conditions import compiled
from airworthy.local.environments import Environments
from airworthy.local.executor import installs_packages, is_python_component
from airworthy.local.ir import Pipeline, Spec, Task, dependencies
from airworthy.local.values import Values, cast, known_placeholders, known_selector, whole_numbers

LocalValues = Mapping[str, Mapping[str, str]]  # {secret or config map: {key: value}}

_TASK_FIELDS = {
    "taskInfo", "inputs", "dependentTasks", "cachingOptions", "componentRef", "triggerPolicy",
    "parameterIterator", "artifactIterator", "retryPolicy", "iteratorPolicy",
}  # fmt: skip
_COMPONENT_FIELDS = {"inputDefinitions", "outputDefinitions", "dag", "executorLabel"}
_CONTAINER_FIELDS = {"image", "command", "args", "env", "resources"}
_SPEC_FIELDS = {
    "components", "defaultPipelineRoot", "deploymentSpec", "pipelineInfo", "root", "schemaVersion",
    "sdkVersion",
}  # fmt: skip
_IMPORTER_FIELDS = {"artifactUri", "typeSchema", "metadata", "reimport"}
_PIPELINE_OPTIONS = {"activeDeadlineSeconds"}
_PIPELINE_OPTIONS_WITHOUT_EFFECT = {"resourceTtlOnCompletion", "resourceTtlOnSuccess", "resourceTtlOnFailure"}
_PLATFORM_OPTIONS = {"secretAsEnv", "configMapAsEnv", "activeDeadlineSeconds"}
_PLATFORM_OPTIONS_WITHOUT_EFFECT = {
    "nodeSelector": "node selector",
    "nodeAffinity": "node affinity",
    "podAffinity": "pod affinity",
    "tolerations": "tolerations",
    "podMetadata": "pod labels and annotations",
    "imagePullSecret": "image pull secret",
    "imagePullPolicy": "image pull policy",
    "enabledSharedMemory": "shared memory",
    "securityContext": "security context",
}
_REFUSED_OPTIONS = {
    "pvcMount": "a persistent volume mount (mount_pvc)",
    "secretAsVolume": "a secret mounted as a volume (use_secret_as_volume)",
    "configMapAsVolume": "a config map mounted as a volume (use_config_map_as_volume)",
    "genericEphemeralVolume": "an ephemeral volume (add_ephemeral_volume)",
    "emptyDirMounts": "an emptyDir mount (empty_dir_mount)",
    "fieldPathAsEnv": "a pod field as a variable (use_field_path_as_env)",
}


def check_pipeline(
    pipeline: Pipeline, environments: Environments, secrets: LocalValues, maps: LocalValues
) -> None:
    """Refuses a pipeline that this engine would not run as its author means it.

    Raises:
        ConfigError: Names the task and what about it can't be done here, one line per finding.
    """
    problems = list(_pipeline_problems(pipeline))
    seen: set[tuple[str, str]] = set()
    for path, task in pipeline.walk():
        for problem in _task_problems(pipeline, task, environments, secrets, maps):
            if (path, problem) not in seen:
                seen.add((path, problem))
                problems.append(f"{path}: {problem}")
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise ConfigError(f"The pipeline {pipeline.name!r} can't be run on this machine:\n{lines}")


def check_arguments(pipeline: Pipeline, arguments: Mapping[str, Any]) -> Values:
    """The pipeline's inputs from the caller's arguments.

    Args:
        arguments: Parameter values by name; for an input artifact, the path or URI of it.

    Raises:
        ConfigError: An argument is unknown, missing, or of a wrong type.
    """
    definitions = pipeline.root.get("inputDefinitions", {})
    expected, artifacts = definitions.get("parameters", {}), definitions.get("artifacts", {})
    unknown = sorted(set(arguments) - set(expected) - set(artifacts))
    if unknown:
        raise ConfigError(
            f"The pipeline {pipeline.name!r} has no parameter {unknown[0]!r}; "
            f"it has {', '.join(sorted({**expected, **artifacts})) or 'none'}."
        )
    parameters = {
        name: _argument(pipeline.name, name, definition, arguments[name])
        for name, definition in expected.items()
        if arguments.get(name) is not None
    }
    for name, definition in {**expected, **artifacts}.items():
        if arguments.get(name) is None and not definition.get("isOptional"):
            raise ConfigError(f"The pipeline {pipeline.name!r} needs a value for its parameter {name!r}.")
    given = {
        name: [
            {"name": name, "type": spec["artifactType"], "uri": _uri(str(arguments[name])), "metadata": {}}
        ]
        for name, spec in artifacts.items()
        if arguments.get(name) is not None
    }
    return Values(parameters, given)


def effectless(pipeline: Pipeline, task: Task) -> tuple[str, ...]:
    """Options of a task that matter on a cluster only, in words."""
    label = task.component.get("executorLabel", "")
    resources = pipeline.executor(label).get("container", {}).get("resources", {}) if label else {}
    options = [
        words
        for key, words in _PLATFORM_OPTIONS_WITHOUT_EFFECT.items()
        if key in pipeline.platform_options(label)
    ]
    if set(resources) - {"accelerator"}:
        options.insert(0, "CPU and memory requests")
    return tuple(f"{option}: no effect on this machine" for option in options)


def local_values(path: Path | None) -> LocalValues:
    """Reads a YAML file `{name: {key: value}}` that stands for the cluster's secrets or config maps.

    Raises:
        ConfigError: It can't be read or has another shape.
    """
    if path is None:
        return {}
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}.") from None
    except yaml.YAMLError:
        raise ConfigError(f"{path}: not a YAML file.") from None
    if not isinstance(data, dict) or not all(isinstance(item, dict) for item in data.values()):
        raise ConfigError(f"{path}: expected `name: {{key: value}}`, one entry per secret or config map.")
    return {str(name): {str(key): str(value) for key, value in item.items()} for name, item in data.items()}


def environment_from(entry: Spec, kind: str, name: str, values: LocalValues) -> dict[str, str]:
    """Variables that one `secretAsEnv` or `configMapAsEnv` entry sets.

    Args:
        kind: `secret` or `config map`, for messages.
        name: Resolved name of it.

    Raises:
        ConfigError: It isn't optional and the local file lacks it or one of its keys.
    """
    field = "secretKey" if kind == "secret" else "configMapKey"
    variables = {}
    for item in entry.get("keyToEnv", []):
        value = values.get(name, {}).get(item[field])
        if value is None and not entry.get("optional"):
            raise ConfigError(
                f"needs the key {item[field]!r} of the {kind} {name!r}, which the local file lacks"
            )
        if value is not None:
            variables[item["envVar"]] = value
    return variables


def _pipeline_problems(pipeline: Pipeline) -> Iterator[str]:
    for field in sorted(set(pipeline.spec) - _SPEC_FIELDS):
        yield f"the field {field!r} of the specification is not known to this engine"
    for field in sorted(set(pipeline.kubernetes) - {"deploymentSpec", "pipelineConfig"}):
        yield f"the platform field {field!r} is not known to this engine"
    for field in sorted(set(pipeline.kubernetes.get("pipelineConfig", {}))):
        if field not in _PIPELINE_OPTIONS | _PIPELINE_OPTIONS_WITHOUT_EFFECT:
            yield f"the pipeline option {field!r} (PipelineConfig) is not available on this machine"
    for component in [pipeline.root, *pipeline.spec.get("components", {}).values()]:
        tasks = component.get("dag", {}).get("tasks", {})
        for name, spec in tasks.items():
            for upstream in set(dependencies(spec)) - set(tasks):
                yield f"{name}: it depends on the task {upstream!r}, which doesn't exist"


def _task_problems(
    pipeline: Pipeline, task: Task, environments: Environments, secrets: LocalValues, maps: LocalValues
) -> Iterator[str]:
    for field in sorted(set(task.spec) - _TASK_FIELDS):
        yield f"the task field {field!r} is not known to this engine"
    for field in sorted(set(task.component) - _COMPONENT_FIELDS):
        yield f"the component field {field!r} is not known to this engine"
    yield from _input_problems(task)
    if task.condition is not None:
        try:
            compiled(task.condition)
        except ConfigError as error:
            yield str(error).rstrip(".")
    if task.is_dag:
        if "retryPolicy" in task.spec:
            yield "a retry of a whole sub-pipeline (set_retry) is not available; set it on its tasks"
        return
    label = task.component["executorLabel"]
    yield from _executor_problems(pipeline.executor(label), task, environments)
    yield from _platform_problems(pipeline.platform_options(label), secrets, maps)


def _input_problems(task: Task) -> Iterator[str]:
    inputs = task.spec.get("inputs", {})
    for name, source in inputs.get("parameters", {}).items():
        selector = source.get("parameterExpressionSelector")
        if selector and not known_selector(selector):
            yield f"the selector {selector!r} of the input {name!r} is not known to this engine"
        constant = source.get("runtimeValue", {}).get("constant")
        for found in known_placeholders(json.dumps(constant)):
            yield f"the placeholder {{{{$.{found}}}}} in the input {name!r} is not available on this machine"
        kinds = {"runtimeValue", "taskOutputParameter", "componentInputParameter", "taskFinalStatus"}
        if not kinds & set(source):
            yield f"the source of the input {name!r} is not known to this engine"
    strategy = task.spec.get("triggerPolicy", {}).get("strategy", "ALL_UPSTREAM_TASKS_SUCCEEDED")
    if strategy not in ("ALL_UPSTREAM_TASKS_SUCCEEDED", "ALL_UPSTREAM_TASKS_COMPLETED"):
        yield f"the trigger strategy {strategy!r} is not known to this engine"


def _executor_problems(executor: Spec, task: Task, environments: Environments) -> Iterator[str]:
    if "importer" in executor:
        if executor["importer"].get("downloadToWorkspace"):
            yield "a workspace (importer with download_to_workspace) is not available"
        for field in sorted(set(executor["importer"]) - _IMPORTER_FIELDS - {"downloadToWorkspace"}):
            yield f"the importer field {field!r} is not known to this engine"
        return
    container = executor.get("container")
    if container is None:
        yield f"an executor of the kind {next(iter(executor), 'none')!r} is not available"
        return
    image = str(container.get("image", ""))
    if image.startswith("argostub/"):
        yield f"creating and deleting volumes ({image.partition('/')[2]}) is not available"
        return
    if not is_python_component(container):
        yield "container components and containerized Python components are not available"
        return
    if installs_packages(container):
        yield (
            "it installs packages when it starts (packages_to_install, or install_kfp_package left on); "
            "put them into the image's dependency group"
        )
    for field in sorted(set(container) - _CONTAINER_FIELDS):
        yield f"the container field {field!r} is not available"
    for name, spec in task.component.get("outputDefinitions", {}).get("artifacts", {}).items():
        if spec.get("isArtifactList"):
            yield f"the output {name!r} is a list of artifacts, which a component can't write here"
    try:
        environments.check(image)
    except ConfigError as error:
        yield str(error).rstrip(".")


def _platform_problems(options: Spec, secrets: LocalValues, maps: LocalValues) -> Iterator[str]:
    for field in sorted(set(options) - _PLATFORM_OPTIONS - set(_PLATFORM_OPTIONS_WITHOUT_EFFECT)):
        yield f"{_REFUSED_OPTIONS.get(field, f'the platform option {field!r}')} is not available"
    for kind, values in (("secret", secrets), ("config map", maps)):
        key, name_key = (
            ("secretAsEnv", "secretName") if kind == "secret" else ("configMapAsEnv", "configMapName")
        )
        for entry in options.get(key, []):
            name = (
                entry.get(f"{name_key}Parameter", {})
                .get("runtimeValue", {})
                .get("constant", entry.get(name_key))
            )
            if name is None:  # comes from a parameter: checked when the task starts
                continue
            try:
                environment_from(entry, kind, name, values)
            except ConfigError as error:
                yield str(error)


def _argument(pipeline: str, name: str, definition: Spec, value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
        # Only what is meant: the text "3" is no number when a caller passes it from Python.
        if isinstance(value, str) and definition.get("parameterType") != "STRING":
            raise ValueError(f"{value!r} is text")
        value = cast(value, definition.get("parameterType", ""))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The parameter {name!r} of the pipeline {pipeline!r} has a wrong type: {error}."
        ) from None
    allowed = whole_numbers(definition.get("literals", []))
    if allowed and value not in allowed:
        raise ConfigError(
            f"The parameter {name!r} of the pipeline {pipeline!r} must be one of "
            f"{', '.join(map(repr, allowed))}, not {value!r}."
        )
    return value


def _uri(text: str) -> str:
    return text if "://" in text else str(Path(text).absolute())
