"""An engine in a process of its own, for tests that kill it: `python -m tests.local.engine_process JSON`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airworthy.errors import AirworthyError
from airworthy.local import run_pipeline

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    try:
        result = run_pipeline(
            Path(given["yaml"]),
            given.get("arguments", {}),
            home=Path(given["home"]),
            run_id=given["run_id"],
            interpreters={"test": Path(sys.executable)},
            cache=given.get("cache", False),
            resume=given.get("resume", False),
        )
    except AirworthyError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.exit(result.exit_code)
