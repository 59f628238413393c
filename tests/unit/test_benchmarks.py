"""Benchmarks are run by hand and rarely; they must not rot meanwhile."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "__main__"))
def test_a_benchmark_still_finds_what_it_measures(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


def test_the_whole_run_knows_every_step_of_the_pipeline() -> None:
    from benchmarks.bare_steps import STEPS

    components = {path.parent.name for path in (FOLDER.parent / "components").glob("*/component.py")}
    assert components == {step.__name__ for step in STEPS}
