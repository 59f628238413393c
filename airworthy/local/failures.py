"""Why a task failed: read from the end of its log."""

from __future__ import annotations

import re
import signal
from pathlib import Path

_TAIL_BYTES = 64_000
_EXCEPTION = re.compile(r"([A-Za-z_][\w.]*)(?:: (.*))?")
_LOGGED = re.compile(r"\[|\d{4}[-/]\d\d|(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_OWN = "airworthy.errors."
_LINES = 6


def explain(log: Path, returncode: int | None) -> tuple[str, str]:
    """Kind and text of a failure.

    Args:
        log: The attempt's log.
        returncode: Exit code of its process; 128 + n for signal n, None if it is unknown.

    Returns:
        The exception's class (bare for Airworthy's own, else with its module, empty without an exception)
        and its text; for Airworthy's own errors the text alone, which is a sentence for the user.
    """
    lines = _tail(log)
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    for index in range(starts[-1] + 1 if starts else len(lines), len(lines)):
        match = None if lines[index].startswith((" ", "\t")) else _EXCEPTION.fullmatch(lines[index])
        if match:
            text = "\n".join([match[2] or "", *_continued(lines[index + 1 : index + _LINES])]).strip()
            if match[1].startswith(_OWN):
                return match[1].removeprefix(_OWN), text
            return match[1], f"{match[1].rpartition('.')[2]}: {text}" if text else match[1]
    if returncode is not None and returncode > 128:
        name = _signal_name(returncode - 128)
        hint = "; perhaps the machine ran out of memory" if name == "SIGKILL" else ""
        return "Killed", f"The process was killed by {name}{hint}."
    ending = "\n".join(line for line in lines[-_LINES:] if line.strip())
    return "", f"The process ended with exit code {returncode}." + (
        f" It last wrote:\n{ending}" if ending else ""
    )


def _continued(lines: list[str]) -> list[str]:
    """Further lines of a message: up to an empty line or one that a logger wrote."""
    end = next((i for i, line in enumerate(lines) if not line or _LOGGED.match(line)), len(lines))
    return lines[:end]


def _tail(log: Path) -> list[str]:
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        return file.read().decode("utf-8", "replace").splitlines()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
