"""Reading a compiled pipeline (KFP v2 PipelineSpec YAML).

The specification is kept as the plain mapping that the YAML holds. Going through kfp's protobuf classes would
turn every integer inside a list or dict into a float, and importing the SDK costs more than a second per run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from airworthy.errors import ConfigError

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """One task of a DAG, with the component that it runs."""

    name: str
    spec: Spec
    component_name: str
    component: Spec

    @property
    def is_dag(self) -> bool:
        return "dag" in self.component

    @property
    def display_name(self) -> str:
        return str(self.spec.get("taskInfo", {}).get("name", self.name))

    @property
    def is_loop(self) -> bool:
        return "parameterIterator" in self.spec or "artifactIterator" in self.spec

    @property
    def runs_after_failure(self) -> bool:
        """Exit tasks and `ignore_upstream_failure`: wanted however the upstream tasks ended."""
        return self.spec.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"

    @property
    def condition(self) -> str | None:
        condition: str | None = self.spec.get("triggerPolicy", {}).get("condition")
        return condition

    @property
    def cacheable(self) -> bool:
        return bool(self.spec.get("cachingOptions", {}).get("enableCache", False))


@dataclass(frozen=True)
class Pipeline:
    """A compiled pipeline and the platform options that came with it.

    Attributes:
        text: The YAML as read.
        spec: First document, the PipelineSpec.
        kubernetes: `platforms.kubernetes` of the second document, empty without one.
    """

    text: str
    spec: Spec
    kubernetes: Spec

    @property
    def name(self) -> str:
        return str(self.spec.get("pipelineInfo", {}).get("name", "pipeline"))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def root(self) -> Spec:
        root: Spec = self.spec["root"]
        return root

    def executor(self, label: str) -> Spec:
        """The executor (container or importer) behind a component."""
        executor: Spec = self.spec["deploymentSpec"]["executors"][label]
        return executor

    def platform_options(self, label: str) -> Spec:
        """The Kubernetes options of an executor."""
        options: Spec = self.kubernetes.get("deploymentSpec", {}).get("executors", {}).get(label, {})
        return options

    def tasks(self, component: Spec) -> dict[str, Task]:
        """The tasks of a DAG component, upstream before downstream."""
        specs = component["dag"].get("tasks", {})
        components = self.spec.get("components", {})
        return {
            name: Task(
                name,
                specs[name],
                specs[name]["componentRef"]["name"],
                components[specs[name]["componentRef"]["name"]],
            )
            for name in _topological(specs)
        }

    def walk(self) -> Iterator[tuple[str, Task]]:
        """Every task of the pipeline with its path, loop bodies once."""
        yield from self._walk("", self.root)

    def _walk(self, prefix: str, component: Spec) -> Iterator[tuple[str, Task]]:
        for name, task in self.tasks(component).items():
            yield prefix + name, task
            if task.is_dag:
                yield from self._walk(f"{prefix}{name}/", task.component)


def load_pipeline(path: Path) -> Pipeline:
    """Reads a compiled pipeline.

    Args:
        path: The YAML that the KFP compiler wrote; a second document may hold platform options.

    Raises:
        ConfigError: The file is missing, not YAML, or not a KFP v2 pipeline.
    """
    try:
        text = path.read_text(encoding="utf-8")
        documents = [doc for doc in yaml.load_all(text, Loader=_Loader) if doc]
    except OSError as error:
        raise ConfigError(f"{path}: the compiled pipeline can't be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not a YAML file ({' '.join(str(error).split())}).") from None
    spec = documents[0] if documents else {}
    if not isinstance(spec, dict) or not str(spec.get("schemaVersion", "")).startswith("2."):
        raise ConfigError(f"{path}: not a compiled KFP v2 pipeline; compile it with `airworthy compile`.")
    platforms = documents[1].get("platforms", {}) if len(documents) > 1 else {}
    return Pipeline(text, spec, platforms.get("kubernetes", {}))


def dependencies(spec: Spec) -> list[str]:
    """Names of the tasks of the same DAG that a task waits for: ordered ones and producers of its inputs."""
    names = list(spec.get("dependentTasks", []))
    inputs = spec.get("inputs", {})
    for source in [*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()]:
        for kind in ("taskOutputParameter", "taskOutputArtifact", "taskFinalStatus"):
            if kind in source:
                names.append(source[kind]["producerTask"])
    return list(dict.fromkeys(names))


def exit_handler_of(task: Task, siblings: Mapping[str, Task]) -> str | None:
    """Name of the ExitHandler body that `task` closes, or None if it is no exit task."""
    if not task.runs_after_failure:
        return None
    for name in dependencies(task.spec):
        if name in siblings and siblings[name].component_name.startswith("comp-exit-handler"):
            return name
    return None


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _topological(specs: Mapping[str, Spec]) -> list[str]:
    """Orders task names; among free ones the compiler's numbering (insertion order would be alphabetical)."""
    order: list[str] = []
    visiting: set[str] = set()

    def visit(name: str) -> None:
        if name in order or name not in specs:
            return
        if name in visiting:
            raise ConfigError(f"The tasks of the pipeline depend on each other in a circle at {name!r}.")
        visiting.add(name)
        for upstream in sorted(dependencies(specs[name]), key=_age):
            visit(upstream)
        order.append(name)

    for name in sorted(specs, key=_age):
        visit(name)
    return order


def _age(name: str) -> tuple[int, str]:
    number = name.rpartition("-")[2]
    return (int(number) if number.isdigit() else 0, name)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The C loader where PyYAML has it (ten times faster), and dates left as the text they are."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
