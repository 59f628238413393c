"""The local engine: runs a compiled KFP v2 pipeline on this machine, one interpreter per image.

Names are loaded on first use, so that importing this package stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airworthy.local.engine import run_pipeline
    from airworthy.local.environments import Environments
    from airworthy.local.events import Event
    from airworthy.local.progress import Progress
    from airworthy.local.state import RunResult, TaskRecord, list_runs, load_run

_HOMES = {
    "run_pipeline": "engine",
    "Environments": "environments",
    "Event": "events",
    "Progress": "progress",
    "RunResult": "state",
    "TaskRecord": "state",
    "list_runs": "state",
    "load_run": "state",
}
__all__ = [
    "Environments",
    "Event",
    "Progress",
    "RunResult",
    "TaskRecord",
    "list_runs",
    "load_run",
    "run_pipeline",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
