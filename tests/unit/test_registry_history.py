"""The history of a model: complete, linear, and honest about moves that did not come about."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from airworthy.errors import ConfigError, GateError, RegistryError
from airworthy.registry import Registry, Version, history
from airworthy.verdict import AppliedOverride, Check, read_verdict, write_verdict
from tests.release_evidence import Evidence, make_evidence, new_store, spec

# MLflow 3.17 uses an option of SQLAlchemy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

SPEC, _ = spec()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(new_store(tmp_path / "store"), wait_seconds=0.2, by="anna@desk")


@pytest.fixture
def first(tmp_path: Path) -> Evidence:
    return make_evidence(tmp_path / "first", rounds=2)


def register(registry: Registry, evidence: Evidence, run: str = "") -> Version:
    lineage = {"pipeline_run": run} if run else {}
    return registry.register(SPEC, verdict=evidence.verdict, bundle=evidence.bundle, lineage=lineage)


def promote(registry: Registry, version: str, evidence: Evidence, expected: str | None = None) -> str:
    return registry.promote(
        "late",
        version,
        verdict=evidence.verdict,
        bundle=evidence.bundle,
        rollout=evidence.rollout,
        expected_champion=expected,
    )


def told(registry: Registry) -> list[tuple[str, str, str | None, str]]:
    return [(e.action, e.version, e.before, e.by) for e in registry.history("late") if not e.void]


def test_it_tells_who_moved_what_over_what_and_why(
    registry: Registry, first: Evidence, tmp_path: Path
) -> None:
    register(registry, first, run="r1")
    promote(registry, "1", first)
    second = make_evidence(tmp_path / "second", rounds=3, champion=("1", first.digest))
    register(registry, second)
    promote(registry, "2", second, "1")
    registry.rollback("late", "users complain")
    assert told(registry) == [
        ("registered", "1", None, "run r1"),
        ("promoted", "1", None, "run r1"),
        ("registered", "2", None, "anna@desk"),
        ("promoted", "2", "1", "anna@desk"),
        ("rolled back", "1", "2", "anna@desk"),
    ]
    assert registry.history("late")[-1].reason == "users complain"


def test_who_is_at_work_may_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRWORTHY_USER", "bo")
    assert history.whoami() == "bo"
    monkeypatch.delenv("AIRWORTHY_USER")
    monkeypatch.setenv("LOGNAME", "carl")
    assert history.whoami().startswith("carl@")


def test_overrides_of_the_gate_stand_in_it(registry: Registry, first: Evidence) -> None:
    from datetime import date

    override = AppliedOverride(by="bo", reason="the slice is a test airline", until=date(2999, 1, 1))
    check = Check(
        name="slice_auc", family="slices", outcome="fail", reason="AUC of ZZ is 0.5.", override=override
    )
    verdict = read_verdict(first.verdict)
    write_verdict(verdict.model_copy(update={"checks": (*verdict.checks, check)}), first.verdict)
    register(registry, first)
    entry = registry.history("late")[0]
    assert (entry.action, entry.by) == ("override used", "bo")
    assert entry.reason == "slice_auc, until 2999-01-01: the slice is a test airline"
    register(registry, first)
    assert [e.action for e in registry.history("late")] == ["override used", "registered"]


def test_a_move_that_was_cut_short_is_marked_not_believed(
    registry: Registry, first: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(registry, first)

    def lost(*_: object) -> None:
        raise OSError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(registry.client, "set_registered_model_alias", lost)
        with pytest.raises(RegistryError, match="connection lost"):
            promote(registry, "1", first)
    assert registry.withdraw_challenger("late", reason="settled") == "1"
    assert [(e.action, bool(e.void)) for e in registry.history("late")] == [
        ("registered", False),
        ("promoted", True),
        ("withdrawn", False),
    ]
    assert [e.action for e in registry.moves("late")] == ["registered", "withdrawn"]


def test_a_rollback_that_was_cut_short_bars_nothing(
    registry: Registry, first: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(registry, first)
    promote(registry, "1", first)
    second = make_evidence(tmp_path / "second", rounds=3, champion=("1", first.digest))
    register(registry, second)
    promote(registry, "2", second, "1")

    def lost(*_: object) -> None:
        raise OSError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(registry.client, "set_registered_model_alias", lost)
        with pytest.raises(RegistryError, match="connection lost"):
            registry.rollback("late", "users complain")
    assert promote(registry, "2", second, "1") == "already"
    assert "rolled_back" not in registry.version("late", "2").tags
    assert registry.rollback("late", "users complain").version == "1"


def test_an_alias_that_a_hand_moved_is_told_at_the_next_change(
    registry: Registry, first: Evidence, tmp_path: Path
) -> None:
    register(registry, first)
    promote(registry, "1", first)
    second = make_evidence(tmp_path / "second", rounds=3, champion=("1", first.digest))
    register(registry, second)
    registry.client.set_registered_model_alias("late", "champion", "2")
    registry.withdraw_challenger("late", reason="settled")
    assert ("moved by hand", "2", "1", "unknown") in told(registry)


def test_times_rise_whatever_the_clock_says(
    registry: Registry, first: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(registry, first)
    monkeypatch.setattr(history, "now", lambda: "2013-01-01T00:00:00.000000+00:00")
    promote(registry, "1", first)
    times = [entry.time for entry in registry.history("late")]
    assert times == sorted(set(times))
    assert [entry.action for entry in registry.history("late")] == ["registered", "promoted"]


def test_anything_may_be_kept_with_a_version_and_comes_back_verified(
    registry: Registry, first: Evidence, tmp_path: Path
) -> None:
    version = register(registry, first)
    record = tmp_path / "record"
    record.mkdir()
    (record / "rollout.json").write_text("{}")
    for content in ("one", "two"):
        (record / "record.jsonl").write_text(content)
        version = registry.attach(version, "rollout_tried", record)
    assert set(registry.evidence(version)) == {"verdict", "rollout_tried"}
    back = registry.fetch_evidence(version, "rollout_tried", tmp_path / "back")
    assert back is not None
    assert (back / "record.jsonl").read_text() == "two"
    assert registry.fetch_evidence(version, "dossier", tmp_path / "none") is None
    with pytest.raises(ConfigError, match="small letters"):
        registry.attach(version, "../verdict", record)
    with pytest.raises(ConfigError, match="taken by the registry"):
        registry.attach(version, "bundle_digest", record)
    with pytest.raises(RegistryError, match="does not exist"):
        registry.attach(version, "smoke", tmp_path / "missing")


def test_the_record_of_the_rollout_stays_with_the_champion(
    registry: Registry, first: Evidence, tmp_path: Path
) -> None:
    version = register(registry, first)
    promote(registry, "1", first)
    kept = registry.fetch_evidence(registry.version("late", version.version), "rollout", tmp_path / "back")
    assert kept is not None
    assert kept.read_bytes() == first.rollout.read_bytes()


WRITES = (
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_registered_model_tag",
    "set_model_version_tag",
    "delete_model_version_tag",
    "log_artifact",
)


@pytest.mark.parametrize("change", ["promote", "roll back", "withdraw"])
def test_a_change_that_ends_before_any_of_its_writes_can_be_repeated(
    registry: Registry, first: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The third version is about to replace the second; whatever is lost, one line of champions is left."""
    register(registry, first)
    promote(registry, "1", first)
    second = make_evidence(tmp_path / "second", rounds=3, champion=("1", first.digest))
    register(registry, second)
    promote(registry, "2", second, "1")
    third = make_evidence(tmp_path / "third", rounds=4, champion=("2", second.digest))
    register(registry, third)
    database = Path(registry.uri.removeprefix("sqlite:///"))
    changes: dict[str, Callable[[Registry], object]] = {
        "promote": lambda one: promote(one, "3", third, "2"),
        "roll back": lambda one: one.rollback("late", "users complain", expected_champion="2"),
        "withdraw": lambda one: one.withdraw_challenger("late", "3", reason="the canary failed"),
    }
    champion = {"promote": "3", "roll back": "1", "withdraw": "2"}[change]
    for lost in range(20):
        copy = tmp_path / str(lost) / "mlflow.db"
        copy.parent.mkdir()
        for file in (database, database.with_name(f"{database.name}.schema")):
            shutil.copy(file, copy.with_name(file.name))
        broken = Registry(f"sqlite:///{copy}", by="anna@desk")
        calls = _break(broken, lost, monkeypatch)
        try:
            changes[change](broken)
        except RegistryError:
            assert len(calls) == lost + 1
        after = Registry(f"sqlite:///{copy}", by="anna@desk")
        after.withdraw_challenger("late", "7", reason="take the lock")
        serving = after.champion("late")
        assert serving
        assert "rolled_back" not in serving.tags, "what serves was not rolled back"
        assert _line(after)[-1] == _alias(after, "champion")
        with contextlib.suppress(GateError):  # a rollback that was done is not done twice
            changes[change](after)
        assert _line(after)[-1] == _alias(after, "champion") == champion
        assert [entry for entry in after.history("late") if entry.action == "moved by hand"] == []
        if len(calls) <= lost:
            return
    pytest.fail("it never came to its end")


def _break(registry: Registry, lost: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let all writes from that number on fail; returns the list of those that were tried."""
    calls: list[str] = []

    def writing(name: str) -> Callable[..., object]:
        real = getattr(registry.client, name)

        def call(*arguments: object, **named: object) -> object:
            calls.append(name)
            if len(calls) > lost:
                raise OSError("the process ended here")
            return real(*arguments, **named)

        return call

    for name in WRITES:
        monkeypatch.setattr(registry.client, name, writing(name))
    return calls


def _line(registry: Registry) -> list[str]:
    """Champions in the order of the history, which must name each one's predecessor."""
    moves = [move for move in registry.moves("late") if move.alias == "champion"]
    assert [move.before for move in moves] == [None, *(move.version for move in moves[:-1])]
    return [move.version for move in moves]


def _alias(registry: Registry, alias: str) -> str | None:
    return next((v.version for v in registry.versions("late") if alias in v.aliases), None)
