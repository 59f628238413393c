"""Which task runs when: DAGs, branches, loops and exit handlers of one run."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from airworthy.errors import AirworthyError
from airworthy.local.binding import (
    Outcome,
    collected,
    dag_outputs,
    for_condition,
    inherited,
    loop_items,
    task_inputs,
    worst,
)
from airworthy.local.conditions import holds
from airworthy.local.control import Control
from airworthy.local.events import Event, Listener
from airworthy.local.ir import Pipeline, Spec, Task, dependencies, exit_handler_of
from airworthy.local.leaf import Call, LeafRunner
from airworthy.local.preflight import effectless
from airworthy.local.state import RunStore, TaskRecord, TaskState
from airworthy.local.values import RunFacts, Values


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
        state, error = worst(outcomes.items())
        return Outcome(state, dag_outputs(component, outcomes), error)

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
            inputs = task_inputs(task, upstream, scope, self.facts)
            if task.condition is not None and not holds(task.condition, for_condition(task, inputs)):
                return self._end(path, Outcome("SKIPPED"))
            if not task.is_dag:
                call = Call(task, path, inputs, scope, place.is_exit, place.cacheable, final=body is not None)
                return self._end(path, await self._run_leaf(call))
            record = self.store.change(path, state="RUNNING", started=time.time(), ended=None, error=None)
            self.tell(Event("task_started", path, record=record))
            run = self._run_loop if task.is_loop else self._run_once
            return self._end(path, await run(task, path, inherited(task, inputs, scope), place))
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
        items = loop_items(task, inputs)
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
        state, error = worst((str(index), outcome) for index, outcome in enumerate(outcomes))
        return Outcome(state, collected(task.component, outcomes), error)

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
