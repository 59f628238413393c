"""What the engine tells its listener while a run goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from airworthy.local.state import TaskRecord

EventKind = Literal[
    "run_started", "environment", "task_added", "task_started", "task_finished", "log_line", "run_finished"
]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: What happened.
        path: Path of the task in the run (`exit-handler-1/train-model`), empty for events of the whole run.
        text: A log line, a sentence about an environment, or the run's final state.
        record: The task's record at that moment; None for events of the whole run and for log lines.
    """

    kind: EventKind
    path: str = ""
    text: str = ""
    record: TaskRecord | None = None


Listener = Callable[[Event], None]
