"""What flows between tasks: inputs taken from upstream, outputs of branches, loops and nested pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airworthy.errors import EngineError
from airworthy.local.ir import Spec, Task
from airworthy.local.state import TaskState
from airworthy.local.values import Artifact, RunFacts, Values, cast, complete, fill, select, whole_numbers

_CHANNEL = "pipelinechannel--"


@dataclass(frozen=True)
class Outcome:
    """How a task or DAG ended, and what it handed on."""

    state: TaskState
    values: Values = field(default_factory=Values)
    error: str | None = None


def task_inputs(task: Task, upstream: Mapping[str, Outcome], scope: Values, facts: RunFacts) -> Values:
    """Takes a task's inputs from where the pipeline says, and completes them with the component's defaults.

    Args:
        upstream: Outcomes of the tasks of the same DAG that this one waits for.
        scope: Inputs of the enclosing DAG.
        facts: For placeholders in constants.

    Raises:
        EngineError: A required input has no value, or one is of a wrong type.
    """
    sources = task.spec.get("inputs", {})
    parameters: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    for name, source in sources.get("parameters", {}).items():
        if "runtimeValue" in source:
            constants[name] = source["runtimeValue"].get("constant")
            continue
        value = _parameter(source, upstream, scope, facts)
        if value is not None and "parameterExpressionSelector" in source:
            value = select(value, source["parameterExpressionSelector"])
        parameters[name] = value
    artifacts: dict[str, list[Artifact]] = {}
    for name, source in sources.get("artifacts", {}).items():
        if "taskOutputArtifact" in source:
            wanted = source["taskOutputArtifact"]
            found = upstream[wanted["producerTask"]].values.artifacts.get(wanted["outputArtifactKey"])
        else:
            found = scope.artifacts.get(source["componentInputArtifact"])
        if found is not None:
            artifacts[name] = found
    names = facts.placeholders(task.display_name, f"{facts.run_id}-{task.name}")
    for name, constant in constants.items():
        parameters[name] = fill(whole_numbers(constant), Values(parameters, artifacts), names)
    return complete(Values(parameters, artifacts), task.component, task.name)


def inherited(task: Task, inputs: Values, scope: Values) -> Values:
    """Adds the channels of the enclosing DAG for branches, loops and exit handlers.

    The compiler doesn't pass the item of a static loop on to groups nested inside it. Channel names are
    unique within one pipeline, so the search ends where a nested pipeline begins.
    """
    if not task.component_name.startswith(("comp-for-loop", "comp-condition", "comp-exit-handler")):
        return inputs
    parameters = {name: value for name, value in scope.parameters.items() if name.startswith(_CHANNEL)}
    artifacts = {name: value for name, value in scope.artifacts.items() if name.startswith(_CHANNEL)}
    return Values({**parameters, **inputs.parameters}, {**artifacts, **inputs.artifacts})


def _from_scope(name: str, scope: Values) -> Any:
    """An input of the enclosing DAG; fields of loop items are looked up in the item."""
    item, found, part = name.rpartition("-subvar-")
    if name not in scope.parameters and found and item in scope.parameters:
        return select(scope.parameters[item], f'parseJson(string_value)["{part}"]')
    return scope.parameters.get(name)


def worst(outcomes: Iterable[tuple[str, Outcome]]) -> tuple[TaskState, str | None]:
    """State of a DAG from those of its tasks; the error is the first one met, with its task's name."""
    found = list(outcomes)
    for name, outcome in found:
        if outcome.state == "FAILED":
            return "FAILED", f"{name}: {outcome.error}"
    if any(outcome.state == "CANCELED" for _, outcome in found):
        return "CANCELED", "The run was canceled."
    return "SUCCEEDED", None


def dag_outputs(component: Spec, outcomes: Mapping[str, Outcome]) -> Values:
    """Outputs of a DAG; of alternatives (OneOf) the one whose task ran."""
    selected = component["dag"].get("outputs", {})
    parameters: dict[str, Any] = {}
    for name, spec in selected.get("parameters", {}).items():
        choices = (
            spec["valueFromOneof"]["parameterSelectors"]
            if "valueFromOneof" in spec
            else [spec["valueFromParameter"]]
        )
        for choice in choices:
            values = outcomes[choice["producerSubtask"]].values.parameters
            if choice["outputParameterKey"] in values:
                parameters[name] = values[choice["outputParameterKey"]]
                break
    artifacts: dict[str, list[Artifact]] = {}
    for name, spec in selected.get("artifacts", {}).items():
        for choice in spec["artifactSelectors"]:
            found = outcomes[choice["producerSubtask"]].values.artifacts
            if choice["outputArtifactKey"] in found:
                artifacts[name] = found[choice["outputArtifactKey"]]
                break
    return Values(parameters, artifacts)


def collected(component: Spec, outcomes: Sequence[Outcome]) -> Values:
    """Outputs of a loop: per output the list of what the iterations gave, in their order."""
    outputs = component["dag"].get("outputs", {})
    parameters = {
        name: [o.values.parameters[name] for o in outcomes if name in o.values.parameters]
        for name in outputs.get("parameters", {})
    }
    artifacts = {
        name: [item for o in outcomes for item in o.values.artifacts.get(name, [])]
        for name in outputs.get("artifacts", {})
    }
    return Values(parameters, artifacts)


def loop_items(task: Task, inputs: Values) -> list[Values]:
    """What a loop adds to the inputs of each of its iterations.

    Raises:
        EngineError: The items are no list, or of another type than declared.
    """
    if "artifactIterator" in task.spec:
        iterator = task.spec["artifactIterator"]
        found = inputs.artifacts.get(iterator["items"]["inputArtifact"], [])
        return [Values({}, {iterator["itemInput"]: [item]}) for item in found]
    iterator = task.spec["parameterIterator"]
    items = iterator["items"]
    try:
        values = cast(
            items["raw"] if "raw" in items else inputs.parameters.get(items["inputParameter"]), "LIST"
        )
        if values is None:
            raise ValueError("it has no value")
        name = iterator["itemInput"]
        kind = (
            task.component.get("inputDefinitions", {})
            .get("parameters", {})
            .get(name, {})
            .get("parameterType", "")
        )
        # Text items stay as they are: a loop over ["1"] gives "1".
        return [Values({name: value if isinstance(value, str) else cast(value, kind)}) for value in values]
    except ValueError as error:
        raise EngineError(f"{task.name}: the loop's items can't be used: {error}.") from None


def for_condition(task: Task, inputs: Values) -> dict[str, Any]:
    """Parameters that a condition may refer to; None for unset ones."""
    declared = task.component.get("inputDefinitions", {}).get("parameters", {})
    return {**dict.fromkeys(declared), **inputs.parameters}


def _parameter(source: Spec, upstream: Mapping[str, Outcome], scope: Values, facts: RunFacts) -> Any:
    if "taskOutputParameter" in source:
        wanted = source["taskOutputParameter"]
        return upstream[wanted["producerTask"]].values.parameters.get(wanted["outputParameterKey"])
    if "componentInputParameter" in source:
        return _from_scope(source["componentInputParameter"], scope)
    producer = source["taskFinalStatus"]["producerTask"]
    outcome = upstream[producer]
    # The spelling of the SDK's PipelineTaskFinalStatus.
    state = "CANCELLED" if outcome.state == "CANCELED" else outcome.state
    error = {"code": 1, "message": outcome.error} if outcome.error else {}
    return {
        "state": state,
        "pipelineJobResourceName": facts.run_id,
        "pipelineTaskName": producer,
        "error": error,
    }
