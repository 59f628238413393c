"""Shared windows and the inferred schema; TFDV is loaded once, before warnings become errors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import validation_windows as flights
from validation_windows import Change, Validated

from airworthy.validation import infer_schema, validate
from airworthy.validation.tfdv import require_tfdv

HAS_TFDV = importlib.util.find_spec("tensorflow_data_validation") is not None
if HAS_TFDV:
    require_tfdv()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Elsewhere than in the validation environment, say so instead of failing."""
    if HAS_TFDV:
        return
    here = Path(__file__).parent
    skip = pytest.mark.skip(reason="needs TFDV: runs in the validation environment")
    for item in items:
        if here in item.path.parents:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def windows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three good windows."""
    return flights.write(tmp_path_factory.mktemp("windows"), {"train": 4000, "tune": 500, "test": 2000})


@pytest.fixture(scope="session")
def schema(windows: dict[str, Path]) -> str:
    """The schema that the training window suggests."""
    return infer_schema(windows["train"])


@pytest.fixture
def check(windows: dict[str, Path], schema: str, tmp_path: Path) -> Callable[..., Validated]:
    """Validate the windows, some of them changed: `check(test=lambda table: …)`."""
    runs: list[Path] = []

    def run(
        *,
        schema_text: str = schema,
        accepted: Path | None = None,
        policy: dict[str, object] | None = None,
        datasets: dict[str, Path] | None = None,
        **changes: Change,
    ) -> Validated:
        folder = tmp_path / f"run-{len(runs)}"
        folder.mkdir()
        runs.append(folder)
        paths = windows | (datasets or {})
        for name, change in changes.items():
            paths[name] = flights.changed(paths[name], folder, change)
        result = validate(
            flights.spec(**(policy or {})),
            schema_text,
            **paths,
            accepted_statistics=accepted,
            statistics_out=folder / "statistics",
            anomalies_out=folder / "anomalies.json",
            report_out=folder / "report.html",
        )
        return Validated(result, folder)

    return run
