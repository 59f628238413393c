"""Where local state lives: `$AIRWORTHY_HOME`, by default `.airworthy/` under the current directory."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The state directory, absolute, created if missing."""
    path = Path(os.environ.get("AIRWORTHY_HOME", ".airworthy")).absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path
