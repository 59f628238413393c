"""Fixtures that several unit tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def flights_repo() -> Path:
    """The demo's feature repo."""
    return ROOT / "feature_repo"


@pytest.fixture(scope="session")
def flights_home(tmp_path_factory: pytest.TempPathFactory, flights_repo: Path) -> Path:
    """A state directory in which the demo's feature repo is prepared and applied (about 10 s, once)."""
    from airworthy.feast_repo import prepare_feature_repo

    home = tmp_path_factory.mktemp("flights_home")
    prepare_feature_repo(flights_repo, home)
    return home
