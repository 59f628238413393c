"""`airworthy rollback`: the registry's alias and the served model go back together."""

from __future__ import annotations

from pathlib import Path

import pytest

from airworthy.operations import main
from airworthy.registry import Registry
from airworthy.rollout import deploy
from airworthy.serving.state import Service, ServiceStore, new_rollout
from tests.release_evidence import make_evidence, new_store, spec

# MLflow 3.17 uses an option of SQLAlchemy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def test_the_previous_champion_serves_again_as_far_back_as_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _three_champions(tmp_path, monkeypatch)
    assert main(["rollback", "late", "--reason", "late flights go unseen"]) == 0
    assert "version 2 is champion again" in capsys.readouterr().out
    assert main(["rollback", "late", "--reason", "late flights go unseen"]) == 0
    assert "version 1 is champion again" in capsys.readouterr().out
    state = ServiceStore(tmp_path / "home", "late").read()
    assert state is not None
    assert state.stable is not None
    assert state.stable.version == "1"
    assert main(["rollback", "late", "--reason", "again"]) == 1


def test_a_rollback_that_was_cut_short_is_completed_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = _three_champions(tmp_path, monkeypatch)
    registry.rollback("late", "killed before the service followed")
    assert main(["rollback", "late", "--reason", "once more"]) == 0
    assert "had been cut short" in capsys.readouterr().out
    champion, state = registry.champion("late"), ServiceStore(tmp_path / "home", "late").read()
    assert champion is not None
    assert state is not None
    assert state.stable is not None
    assert champion.version == state.stable.version == "2"


def test_a_rollback_calls_off_a_rollout_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = _three_champions(tmp_path, monkeypatch)
    store = ServiceStore(tmp_path / "home", "late")

    def begin(current: Service | None) -> Service:
        assert current is not None
        return current.model_copy(
            update={"canary": current.stable, "traffic_percent": 50, "rollout": new_rollout(600)}
        )

    store.update(begin)
    assert main(["rollback", "late", "--reason", "users complain"]) == 0
    assert "was called off" in capsys.readouterr().out
    champion, state = registry.champion("late"), store.read()
    assert champion is not None
    assert state is not None
    assert state.stable is not None
    assert state.canary is None
    assert champion.version == state.stable.version == "2"


def test_a_rollback_from_where_the_service_never_was_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = _three_champions(tmp_path, monkeypatch)
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path / "another machine"))
    assert main(["rollback", "late", "--reason", "users complain"]) == 2
    assert "never served on this machine" in capsys.readouterr().err
    champion = registry.champion("late")
    assert champion is not None
    assert champion.version == "3"


def _three_champions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    uri = new_store(tmp_path / "store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path / "home"))
    registry = Registry(uri)
    champion: tuple[str, str] | None = None
    for rounds in (2, 3, 4):
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
    return registry
