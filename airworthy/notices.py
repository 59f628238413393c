"""Lines in a step's output that a person should see at once, such as what it waits for."""

from __future__ import annotations

import sys

MARK = "notice: "


def notice(text: str) -> None:
    """Say something to whoever watches the run: a line of the step's log that the local engine shows in full."""
    sys.stdout.write(f"{MARK}{text}\n")
    sys.stdout.flush()
