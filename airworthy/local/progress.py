"""Showing a run while it goes on: a live tree in a terminal, one line per finished task elsewhere."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from airworthy.local.events import Event
from airworthy.local.state import TaskRecord
from airworthy.notices import MARK

_MARKS = {
    "PENDING": ("·", "dim"),
    "RUNNING": ("▶", "bold cyan"),
    "SUCCEEDED": ("✔", "green"),
    "FAILED": ("✘", "bold red"),
    "SKIPPED": ("–", "dim"),
    "NOT_RUN": ("–", "dim"),
    "CANCELED": ("■", "yellow"),
}
_PREFIX = re.compile(r"^\[KFP Executor [^\]]*\]: ")
"""Of KFP's own log lines: longer than what a terminal has room for."""
_WORDS = {"SKIPPED": "skipped", "NOT_RUN": "not run", "CANCELED": "canceled", "FAILED": "failed"}


class Progress:
    """A listener for `run_pipeline`; use it as a context manager around the run.

    Args:
        console: Where to show it; by default standard error. Without a terminal it prints plain lines.
        log_lines: Show the last log line of running tasks.
    """

    def __init__(self, console: Console | None = None, *, log_lines: bool = True) -> None:
        self.console = console or Console(stderr=True)
        self.log_lines = log_lines
        self._records: dict[str, TaskRecord] = {}
        self._lines: dict[str, str] = {}
        self._lock = threading.Lock()
        self._live = (
            Live(console=self.console, get_renderable=self.tree, refresh_per_second=4)
            if self.console.is_terminal
            else None
        )

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Takes an event of the run."""
        with self._lock:
            if event.record:
                self._records[event.path] = event.record
            if event.kind == "log_line" and event.text.strip():
                self._lines[event.path] = _PREFIX.sub("", event.text).removeprefix(MARK)
        if event.kind == "environment":
            self.console.print(event.text, highlight=False)
        if event.kind == "log_line" and event.text.startswith(MARK):
            self.console.print(event.text.removeprefix(MARK), highlight=False, markup=False, soft_wrap=True)
        if self._live is None and event.kind == "task_finished" and event.record and event.record.is_leaf:
            self.console.print(_plain(event.record), highlight=False, markup=False, soft_wrap=True)

    def tree(self) -> Table:
        """The tree as it stands: tasks in the order of their dependencies, DAGs with their tasks below."""
        table = Table.grid(padding=(0, 2))
        with self._lock:
            for depth, record in self._ordered("", 0):
                mark, style = _MARKS[record.state]
                name = Text(f"{'  ' * depth}{mark} {record.display_name}", style=style)
                table.add_row(name, Text(_duration(record), style=style), Text(_remark(record), style="dim"))
                if self.log_lines and record.state == "RUNNING" and record.path in self._lines:
                    line = self._lines[record.path][: max(20, self.console.width - 2 * depth - 8)]
                    table.add_row(Text(f"{'  ' * depth}    {line}", style="dim", no_wrap=True), "", "")
        return table

    def _ordered(self, parent: str, depth: int) -> Iterator[tuple[int, TaskRecord]]:
        """Records under a parent; registration was upstream first."""
        for record in self._records.values():
            if record.parent == parent:
                yield depth, record
                if record.state not in ("SKIPPED", "NOT_RUN"):
                    yield from self._ordered(record.path, depth + 1)


def _plain(record: TaskRecord) -> str:
    parts = [_MARKS[record.state][0], record.display_name, _duration(record), _remark(record)]
    return " ".join(part for part in parts if part)


def _duration(record: TaskRecord) -> str:
    return "" if record.seconds is None or record.cached or record.reused else f"{record.seconds:.1f} s"


def _remark(record: TaskRecord) -> str:
    """Whatever else is worth a word: cached, a second attempt, the first line of an error."""
    remarks = [_WORDS[record.state]] if record.state in _WORDS else []
    if record.cached:
        remarks.append("cached")
    elif record.reused:
        remarks.append("finished earlier")
    elif record.attempts > 1:
        remarks.append(f"attempt {record.attempts}")
    if record.error and record.state == "FAILED":
        remarks.append(record.error.splitlines()[0] if record.is_leaf else "")
    return ", ".join(remark for remark in remarks if remark)
