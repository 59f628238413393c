"""Fixtures of the engine's tests: compile a pipeline function, run it, look at what ran."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airworthy.local import RunResult, run_pipeline

INTERPRETERS = {"test": Path(sys.executable)}


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[Any], Path]:
    """Compiles a pipeline function to a YAML file."""
    from kfp import compiler

    def compile_(function: Any) -> Path:
        path = tmp_path / f"{function.name}.yaml"
        compiler.Compiler().compile(function, str(path))
        return path

    return compile_


@pytest.fixture
def run(compiled: Callable[[Any], Path], tmp_path: Path) -> Callable[..., RunResult]:
    """Compiles and runs a pipeline function; without caching unless asked for."""

    def run_(function: Any, arguments: dict[str, Any] | None = None, **options: Any) -> RunResult:
        options = {"home": tmp_path / "home", "interpreters": INTERPRETERS, "cache": False, **options}
        return run_pipeline(compiled(function), arguments or {}, **options)

    return run_
