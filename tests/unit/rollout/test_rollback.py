"""`airworthy rollback`: the registry's alias and the served model go back together."""

from __future__ import annotations

from pathlib import Path

import pytest

from airworthy.operations import main
from airworthy.registry import Registry
from airworthy.rollout import deploy
from airworthy.serving.state import ServiceStore
from tests.release_evidence import make_evidence, new_store, spec

# MLflow 3.17 uses an option of SQLAlchemy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def test_the_previous_champion_serves_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = new_store(tmp_path / "store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path / "home"))
    registry = Registry(uri)
    champion: tuple[str, str] | None = None
    for rounds in (2, 3):
        given = make_evidence(tmp_path / f"v{rounds}", rounds=rounds, champion=champion)
        version = registry.register(spec()[0], verdict=given.verdict, bundle=given.bundle).version
        registry.promote(
            "late",
            version,
            verdict=given.verdict,
            bundle=given.bundle,
            rollout=given.rollout,
            expected_champion=champion[0] if champion else None,
        )
        deploy("late", model="late", bundle=given.bundle, version=version, home=tmp_path / "home")
        champion = (version, given.digest)
    assert main(["rollback", "late", "--reason", "late flights go unseen"]) == 0
    assert "version 1 is champion again" in capsys.readouterr().out
    state = ServiceStore(tmp_path / "home", "late").read()
    assert state is not None
    assert state.stable is not None
    assert state.stable.version == "1"
    assert main(["rollback", "late", "--reason", "again"]) == 1
