"""Reading a finished run in tests."""

from __future__ import annotations

from typing import Any

from airworthy.local import RunResult


def ran(result: RunResult) -> set[str]:
    """Paths of the tasks that did run and succeed, without the DAGs around them."""
    return {path for path, record in result.tasks.items() if record.is_leaf and record.state == "SUCCEEDED"}


def names(result: RunResult, state: str = "SUCCEEDED") -> list[str]:
    """Sorted names of the single tasks in a state."""
    return sorted(record.name for record in result.tasks.values() if record.is_leaf and record.state == state)


def output(result: RunResult, name: str, key: str = "Output") -> Any:
    """An output parameter of the only task with this name."""
    found = [record for record in result.tasks.values() if record.name == name]
    (record,) = [record for record in found if record.state == "SUCCEEDED"]
    return record.outputs["parameters"][key]
