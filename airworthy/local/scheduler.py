"""Which task runs when: DAGs, branches, loops and exit handlers of one run."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airworthy.errors import AirworthyError, EngineError
from airworthy.local.conditions import holds
from airworthy.local.control import Control
from airworthy.local.events import Event, Listener
from airworthy.local.ir import Pipeline, Spec, Task, dependencies, exit_handler_of
from airworthy.local.leaf import Call, LeafRunner
from airworthy.local.preflight import effectless
from airworthy.local.state import RunStore, TaskRecord, TaskState
from airworthy.local.values import Artifact, RunFacts, Values, cast, complete, fill, select, whole_numbers

_CHANNEL = "pipelinechannel--"


@dataclass(frozen=True)
class Outcome:
    """How a task or DAG ended, and what it handed on."""

    state: TaskState
    values: Values = field(default_factory=Values)
    error: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a DAG runs: its path and what it passes on to everything inside."""

    prefix: str
    is_exit: bool = False
    cacheable: bool = True

    def inside(self, path: str, task: Task) -> Place:
        """The place of a DAG task's own tasks."""
        # The compiler leaves cachingOptions out for branches and loops; only an explicit "off" counts.
        off = "cachingOptions" in task.spec and not task.cacheable
        return Place(f"{path}/", self.is_exit, self.cacheable and not off)


class Scheduler:
    """Runs the DAGs of one run; single tasks go to the leaf runner."""

    def __init__(
        self,
        pipeline: Pipeline,
        store: RunStore,
        facts: RunFacts,
        leaves: LeafRunner,
        control: Control,
        tell: Listener,
    ) -> None:
        self.pipeline, self.store, self.facts = pipeline, store, facts
        self.leaves, self.control, self.tell = leaves, control, tell

    def register(self, component: Spec, prefix: str = "") -> None:
        """Adds records for a DAG's tasks, so that what never runs is seen as well; loop bodies come later."""
        tasks = self.pipeline.tasks(component)
        for name, task in tasks.items():
            path = prefix + name
            kind = "loop" if task.is_loop else "dag" if task.is_dag else "task"
            image = None
            if not task.is_dag:
                executor = self.pipeline.executor(task.component["executorLabel"])
                kind = "importer" if "importer" in executor else "task"
                image = executor.get("container", {}).get("image")
            fresh = TaskRecord(
                path=path,
                name=name,
                display_name=task.display_name,
                kind=kind,
                parent=prefix.rstrip("/"),
                depends_on=tuple(prefix + upstream for upstream in dependencies(task.spec)),
                image=image,
                notes=effectless(self.pipeline, task),
            )
            self.store.put(self.leaves.carry_over(fresh), save=False)
            self.tell(Event("task_added", path, record=self.store.tasks[path]))
            if kind == "dag":
                self.register(task.component, f"{path}/")

    async def run_dag(self, component: Spec, inputs: Values, place: Place) -> Outcome:
        """Runs all tasks of a DAG as soon as their upstream tasks allow.

        Args:
            component: The DAG component.
            inputs: Its completed inputs.
            place: Where it stands in the run.
        """
        tasks = self.pipeline.tasks(component)
        running: dict[str, asyncio.Task[Outcome]] = {}
        for name, task in tasks.items():
            running[name] = asyncio.create_task(self._run_node(task, tasks, running, inputs, place))
        if running:
            await asyncio.gather(*running.values())
        outcomes = {name: future.result() for name, future in running.items()}
        state, error = _worst(outcomes.items())
        return Outcome(state, _dag_outputs(component, outcomes), error)

    async def _run_node(
        self,
        task: Task,
        siblings: Mapping[str, Task],
        running: Mapping[str, asyncio.Task[Outcome]],
        scope: Values,
        place: Place,
    ) -> Outcome:
        path = place.prefix + task.name
        upstream = {name: await running[name] for name in dependencies(task.spec)}
        body = exit_handler_of(task, siblings)
        if body:
            place = dataclasses.replace(place, is_exit=True)
        refusal = self._refusal(task, upstream.values(), place, body)
        if refusal:
            return self._end(path, Outcome(refusal))
        try:
            inputs = self._inputs(task, upstream, scope)
            if task.condition is not None and not holds(task.condition, _for_condition(task, inputs)):
                return self._end(path, Outcome("SKIPPED"))
            if not task.is_dag:
                call = Call(task, path, inputs, scope, place.is_exit, place.cacheable, final=body is not None)
                return self._end(path, await self._run_leaf(call))
            record = self.store.change(path, state="RUNNING", started=time.time(), ended=None, error=None)
            self.tell(Event("task_started", path, record=record))
            run = self._run_loop if task.is_loop else self._run_once
            return self._end(path, await run(task, path, _inherited(task, inputs, scope), place))
        except (AirworthyError, OSError) as error:
            return self._end(path, Outcome("FAILED", error=str(error)), kind=type(error).__name__)

    def _refusal(
        self, task: Task, upstream: Iterable[Outcome], place: Place, body: str | None
    ) -> TaskState | None:
        """Why a task doesn't start, None if it does."""
        states = {outcome.state for outcome in upstream}
        if not self.control.allows(place.is_exit):
            return "CANCELED"
        if body:  # an exit task runs for a body that began, however that ended
            began = self.store.tasks[place.prefix + body].started is not None
            return None if began else "CANCELED" if "CANCELED" in states else "NOT_RUN"
        if task.runs_after_failure:
            return None
        if states & {"FAILED", "NOT_RUN", "CANCELED"}:
            return "NOT_RUN"
        return "SKIPPED" if "SKIPPED" in states else None

    async def _run_leaf(self, call: Call) -> Outcome:
        record = await self.leaves.run(call)
        values = Values(**record.outputs) if record.state == "SUCCEEDED" else Values()
        return Outcome(record.state, values, record.error)

    async def _run_once(self, task: Task, path: str, inputs: Values, place: Place) -> Outcome:
        return await self.run_dag(task.component, inputs, place.inside(path, task))

    async def _run_loop(self, task: Task, path: str, inputs: Values, place: Place) -> Outcome:
        items = _loop_items(task, inputs)
        limit = asyncio.Semaphore(
            int(task.spec.get("iteratorPolicy", {}).get("parallelismLimit", 0)) or len(items) or 1
        )
        inner = place.inside(path, task)

        async def iterate(index: int, item: Values) -> Outcome:
            here = f"{path}/{index}"
            async with limit:
                self.register_iteration(here, index, path, task)
                if not self.control.allows(place.is_exit):
                    return self._end(here, Outcome("CANCELED"))
                record = self.store.change(here, state="RUNNING", started=time.time())
                self.tell(Event("task_started", here, record=record))
                one = Values({**inputs.parameters, **item.parameters}, {**inputs.artifacts, **item.artifacts})
                place_of_one = dataclasses.replace(inner, prefix=f"{here}/")
                return self._end(here, await self.run_dag(task.component, one, place_of_one))

        outcomes = await asyncio.gather(*(iterate(index, item) for index, item in enumerate(items)))
        state, error = _worst((str(index), outcome) for index, outcome in enumerate(outcomes))
        return Outcome(state, _collected(task.component, outcomes), error)

    def register_iteration(self, path: str, index: int, loop: str, task: Task) -> None:
        """Adds the records of one pass of a loop."""
        self.store.put(
            TaskRecord(path, str(index), f"{task.display_name} [{index}]", kind="iteration", parent=loop)
        )
        self.tell(Event("task_added", path, record=self.store.tasks[path]))
        self.register(task.component, f"{path}/")

    def _end(self, path: str, outcome: Outcome, kind: str | None = None) -> Outcome:
        """Writes down how a task ended, and everything inside it that never began."""
        record = self.store.tasks[path]
        if record.state in ("PENDING", "RUNNING"):
            outputs = {"parameters": outcome.values.parameters, "artifacts": outcome.values.artifacts}
            record = self.store.change(
                path,
                state=outcome.state,
                ended=time.time() if record.started or outcome.state == "FAILED" else None,
                error=outcome.error,
                error_kind=kind,
                outputs=outputs if outcome.state == "SUCCEEDED" else {},
            )
        if outcome.state in ("SKIPPED", "NOT_RUN", "CANCELED", "FAILED"):
            for other in list(self.store.tasks.values()):
                if other.path.startswith(f"{path}/") and other.state == "PENDING":
                    state = "NOT_RUN" if outcome.state == "FAILED" else outcome.state
                    self.store.put(dataclasses.replace(other, state=state), save=False)
            self.store.save()
        self.tell(Event("task_finished", path, record=record))
        return outcome

    def _inputs(self, task: Task, upstream: Mapping[str, Outcome], scope: Values) -> Values:
        sources = task.spec.get("inputs", {})
        parameters: dict[str, Any] = {}
        constants: dict[str, Any] = {}
        for name, source in sources.get("parameters", {}).items():
            if "runtimeValue" in source:
                constants[name] = source["runtimeValue"].get("constant")
                continue
            value = self._parameter(source, upstream, scope)
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
        names = self.facts.placeholders(task.display_name, f"{self.facts.run_id}-{task.name}")
        for name, constant in constants.items():
            parameters[name] = fill(whole_numbers(constant), Values(parameters, artifacts), names)
        return complete(Values(parameters, artifacts), task.component, task.name)

    def _parameter(self, source: Spec, upstream: Mapping[str, Outcome], scope: Values) -> Any:
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
            "pipelineJobResourceName": self.facts.run_id,
            "pipelineTaskName": producer,
            "error": error,
        }


def _inherited(task: Task, inputs: Values, scope: Values) -> Values:
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


def _worst(outcomes: Iterable[tuple[str, Outcome]]) -> tuple[TaskState, str | None]:
    """State of a DAG from those of its tasks; the error is the first one met, with its task's name."""
    found = list(outcomes)
    for name, outcome in found:
        if outcome.state == "FAILED":
            return "FAILED", f"{name}: {outcome.error}"
    if any(outcome.state == "CANCELED" for _, outcome in found):
        return "CANCELED", "The run was canceled."
    return "SUCCEEDED", None


def _dag_outputs(component: Spec, outcomes: Mapping[str, Outcome]) -> Values:
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


def _collected(component: Spec, outcomes: Sequence[Outcome]) -> Values:
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


def _loop_items(task: Task, inputs: Values) -> list[Values]:
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


def _for_condition(task: Task, inputs: Values) -> dict[str, Any]:
    declared = task.component.get("inputDefinitions", {}).get("parameters", {})
    return {**dict.fromkeys(declared), **inputs.parameters}
