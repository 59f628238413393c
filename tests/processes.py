"""The processes that a test has started and not ended."""

from __future__ import annotations

import psutil


def started_here() -> list[psutil.Process]:
    """Descendants of this test process, without those that Python's multiprocessing keeps for itself."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "multiprocessing" not in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue  # ended while we looked
    return found
