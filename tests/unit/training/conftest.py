"""Windows of the small world, and the model trained on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airworthy.model_spec import load_spec
from airworthy.training import TrainingResult
from tests.late_world import SPEC, World, rows, run, write


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    tune = rows(1500, seed=2)
    tune["carrier"][:20] = ["NEW"] * 20
    return World(
        write(folder / "train", rows(6000, seed=1), 0, 60),
        write(folder / "tune", tune, 60, 14),
        load_spec(SPEC),
        SPEC,
    )


@pytest.fixture
def broken(world: World, tmp_path: Path) -> Callable[..., World]:
    """The same world with another training or tuning window."""

    def make(window: str, change: Callable[[dict[str, Any]], Any] = lambda _: None, **options: Any) -> World:
        columns = rows(400, seed=4)
        change(columns)
        first, days = (0, 60) if window == "train" else (60, 14)
        path = write(tmp_path / window, columns, options.pop("first_day", first), days, **options)
        return replace(world, **{window: path})

    return make


@pytest.fixture(scope="session")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingResult]:
    """The world's bundle."""
    out = tmp_path_factory.mktemp("trained") / "bundle"
    return out, run(world, out)
