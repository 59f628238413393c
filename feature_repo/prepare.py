"""What must exist before `feast apply`: here, the demo's Parquet files.

A feature repo over tables that exist already needs no such file.
"""

from __future__ import annotations

from pathlib import Path

import flights


def prepare(home: Path) -> None:
    """Make the sources of `definitions.py` under the state directory `home`; a second call does nothing."""
    flights.build_sources(home / "feast" / "sources")
