"""Versions, aliases and the lock that the gate puts on them, on a real MLflow store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from airworthy.errors import BundleError, DataError, GateError, RegistryError
from airworthy.registry import (
    Registry,
    Version,
    champion_digest,
    export_champion,
    lineage,
    read_champion,
)
from airworthy.verdict import Check, SmokeRecord, read_verdict, write_verdict
from tests.release_evidence import Evidence, flights, make_evidence, new_store, spec, write_flights

# MLflow 3.17 uses an option of SQLAlchemy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

SPEC, SPEC_TEXT = spec()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(new_store(tmp_path / "store"), wait_seconds=0.2)


@pytest.fixture
def first(tmp_path: Path) -> Evidence:
    return make_evidence(tmp_path / "first", rounds=2)


def register(registry: Registry, evidence: Evidence) -> Version:
    return registry.register(SPEC, verdict=evidence.verdict, bundle=evidence.bundle)


def promote(registry: Registry, version: str, evidence: Evidence, expected: str | None) -> str:
    return registry.promote(
        "late",
        version,
        verdict=evidence.verdict,
        bundle=evidence.bundle,
        rollout=evidence.rollout,
        expected_champion=expected,
    )


@pytest.fixture
def champion(registry: Registry, first: Evidence) -> Version:
    version = register(registry, first)
    assert promote(registry, version.version, first, None) == "promoted"
    return registry.version("late", version.version)


@pytest.fixture
def second(tmp_path: Path, champion: Version) -> Evidence:
    return make_evidence(tmp_path / "second", rounds=3, champion=(champion.version, champion.digest))


def aliases(registry: Registry) -> dict[str, str]:
    return {alias: v.version for v in registry.versions("late") for alias in v.aliases}


def test_an_empty_registry_has_nothing_and_says_so_without_an_error(registry: Registry) -> None:
    assert registry.models() == []
    assert (
        registry.champion("late") is registry.challenger("late") is registry.previous_champion("late") is None
    )
    assert registry.versions("late") == []
    assert champion_digest(registry, "late") is None
    assert registry.withdraw_challenger("late", reason="nothing there") is None


def test_registration_makes_a_challenger_with_lineage(
    registry: Registry, first: Evidence, tmp_path: Path
) -> None:
    train = write_flights(tmp_path / "train", flights(50))
    version = registry.register(
        SPEC,
        verdict=first.verdict,
        bundle=first.bundle,
        lineage=lineage(SPEC_TEXT, as_of="2013-08-01", train=train) | {"pipeline_digest": "abc"},
    )
    assert (version.version, version.digest, version.aliases) == ("1", first.digest, ("challenger",))
    assert version.tags["as_of"] == "2013-08-01"
    assert version.tags["pipeline_digest"] == "abc"
    assert version.tags["training_rows"] == "50"
    assert version.tags["training_fingerprint"] == "1" * 64
    assert version.tags["test_fingerprint"] == "4" * 64
    assert version.tags["verdict.status"] == "passed"
    assert registry.models() == ["late"]


def test_the_same_bundle_again_is_the_same_version(registry: Registry, first: Evidence) -> None:
    assert register(registry, first) == register(registry, first)
    assert len(registry.versions("late")) == 1
    assert [move.action for move in registry.moves("late")] == ["registered"]


def test_the_bundle_comes_back_as_it_was(registry: Registry, first: Evidence, tmp_path: Path) -> None:
    version = register(registry, first)
    out = registry.fetch_bundle(version, tmp_path / "back")
    assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} == {
        p.relative_to(first.bundle): p.read_bytes() for p in first.bundle.rglob("*") if p.is_file()
    }
    verdict = registry.fetch_evidence(version, "verdict", tmp_path / "verdict.json")
    assert verdict is not None
    assert read_verdict(verdict) == read_verdict(first.verdict)
    assert registry.fetch_evidence(version, "statistics", tmp_path / "statistics") is None


def test_a_training_run_that_holds_the_bundle_is_the_source(registry: Registry, first: Evidence) -> None:
    from airworthy.mlflow_store import experiment_id

    client = registry._client
    run = client.create_run(experiment_id(client, "late")).info
    client.log_artifacts(run.run_id, str(first.bundle), "model")
    version = registry.register(SPEC, verdict=first.verdict, bundle=first.bundle, run_id=run.run_id)
    assert version.run_id == run.run_id
    assert version.source == f"{run.artifact_uri}/model"


def test_a_training_run_with_another_bundle_is_not_believed(
    registry: Registry, first: Evidence, tmp_path: Path
) -> None:
    from airworthy.mlflow_store import experiment_id

    other = make_evidence(tmp_path / "other", rounds=5)
    client = registry._client
    run = client.create_run(experiment_id(client, "late")).info
    client.log_artifacts(run.run_id, str(other.bundle), "model")
    version = registry.register(SPEC, verdict=first.verdict, bundle=first.bundle, run_id=run.run_id)
    assert registry.fetch_bundle(version, tmp_path / "back").exists()
    assert not version.source.endswith("/model")


@pytest.mark.parametrize("form", ["file", "folder"])
def test_statistics_are_kept_with_the_version(
    registry: Registry, first: Evidence, tmp_path: Path, form: str
) -> None:
    statistics = tmp_path / "accepted"
    file = statistics / "train.pb" if form == "folder" else statistics
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"statistics")
    version = registry.register(
        SPEC, verdict=first.verdict, bundle=first.bundle, evidence={"statistics": statistics}
    )
    back = registry.fetch_evidence(version, "statistics", tmp_path / "out" / "statistics")
    assert back is not None
    assert (back / "train.pb" if form == "folder" else back).read_bytes() == b"statistics"


def test_stored_files_that_were_changed_are_refused(
    registry: Registry, first: Evidence, tmp_path: Path
) -> None:
    version = register(registry, first)
    stored = Path(version.source.removeprefix("file://"))
    with (stored / "model.ubj").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"late version 1: .*model\.ubj was changed"):
        registry.fetch_bundle(version, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_model_that_did_not_pass_is_not_registered(registry: Registry, tmp_path: Path) -> None:
    rejected = make_evidence(tmp_path / "rejected", outcome="fail")
    with pytest.raises(GateError, match="did not pass late: AUC"):
        register(registry, rejected)
    assert registry.versions("late") == []


@pytest.mark.parametrize(
    "what", ["verdict missing", "verdict of another bundle", "other model", "bundle changed"]
)
def test_registration_without_proper_evidence_is_refused(
    registry: Registry, first: Evidence, tmp_path: Path, what: str
) -> None:
    other = make_evidence(tmp_path / "other", rounds=5, model="early" if what == "other model" else "late")
    verdict, bundle = first.verdict, first.bundle
    kind: type[Exception] = GateError
    if what == "verdict missing":
        verdict, words = tmp_path / "none.json", "there is no verdict"
    elif what == "verdict of another bundle":
        bundle, words = other.bundle, "judges bundle"
    elif what == "other model":
        verdict, bundle, words = other.verdict, other.bundle, "about early, not late"
    else:
        (bundle / "model.ubj").write_bytes(b"other")
        kind, words = BundleError, "was changed"
    with pytest.raises(kind, match=words):
        registry.register(SPEC, verdict=verdict, bundle=bundle)
    assert registry.models() == []


def test_promotion_moves_the_aliases_and_keeps_the_way_back(
    registry: Registry, champion: Version, second: Evidence
) -> None:
    version = register(registry, second)
    assert aliases(registry) == {"champion": "1", "challenger": "2"}
    assert promote(registry, version.version, second, "1") == "promoted"
    assert aliases(registry) == {"champion": "2", "previous_champion": "1"}
    assert champion_digest(registry, "late") == second.digest


def test_promotion_again_changes_nothing(registry: Registry, champion: Version, first: Evidence) -> None:
    before = registry.moves("late"), aliases(registry)
    assert promote(registry, "1", first, None) == "already"
    assert (registry.moves("late"), aliases(registry)) == before


def test_registering_the_champion_again_leaves_it_alone(
    registry: Registry, champion: Version, first: Evidence
) -> None:
    assert register(registry, first).aliases == ("champion",)


def test_a_champion_judged_again_keeps_the_evidence_it_became_champion_by(
    registry: Registry, champion: Version, first: Evidence
) -> None:
    again = _judged_against(first, "1", champion.digest)
    found = registry.register(SPEC, verdict=again, bundle=first.bundle)
    assert found.tags == champion.tags
    assert registry.challenger("late") is None


def test_a_former_champion_released_again_starts_anew(
    registry: Registry, champion: Version, first: Evidence, second: Evidence
) -> None:
    register(registry, second)
    promote(registry, "2", second, "1")
    again = _judged_against(first, "2", second.digest)
    found = registry.register(SPEC, verdict=again, bundle=first.bundle)
    assert (found.version, found.aliases) == ("1", ("challenger", "previous_champion"))
    assert "promotion_verdict_sha256" not in found.tags, "that verdict is not on record any more"
    assert "rollout" not in registry.evidence(found)


def _judged_against(evidence: Evidence, version: str, digest: str) -> Path:
    verdict = read_verdict(evidence.verdict)
    path = evidence.verdict.with_name("again.json")
    write_verdict(verdict.model_copy(update={"champion_version": version, "champion_digest": digest}), path)
    return path


@pytest.mark.parametrize("what", ["passed", "broken budget", "another bundle", "missing"])
def test_a_smoke_test_that_says_no_is_no_registration(
    registry: Registry, first: Evidence, tmp_path: Path, what: str
) -> None:
    slow = what == "broken budget"
    check = Check(name="p50", family="budget", outcome="fail" if slow else "pass", reason="p50 is 9 ms.")
    digest = "9" * 64 if what == "another bundle" else first.digest
    record = SmokeRecord(model="late", bundle_digest=digest, passed=not slow, checks=(check,), metrics={})
    smoke = tmp_path / "smoke.json"
    if what != "missing":
        smoke.write_text(record.model_dump_json())

    def registered() -> Version:
        return registry.register(SPEC, verdict=first.verdict, bundle=first.bundle, evidence={"smoke": smoke})

    if what == "passed":
        assert "smoke" in registry.evidence(registered())
        return
    words = {"broken budget": "p50 is 9 ms", "another bundle": "served bundle 999", "missing": "no record"}
    with pytest.raises(GateError, match=words[what]):
        registered()
    assert registry.models() == []


@pytest.mark.parametrize("decision", ["FAIL", "INCONCLUSIVE"])
def test_a_rollout_that_did_not_pass_is_no_promotion(
    registry: Registry, tmp_path: Path, decision: str
) -> None:
    evidence = make_evidence(tmp_path / "e", decision=decision)
    register(registry, evidence)
    with pytest.raises(GateError, match=f"ended in {decision}"):
        promote(registry, "1", evidence, None)
    assert registry.champion("late") is None


def test_a_missing_or_foreign_or_damaged_rollout_record_is_no_promotion(
    registry: Registry, first: Evidence, tmp_path: Path
) -> None:
    register(registry, first)
    other = make_evidence(tmp_path / "other", rounds=5)
    (tmp_path / "damaged.json").write_text("{}")
    for rollout, words in (
        (tmp_path / "none.json", "no rollout record"),
        (other.rollout, "is about bundle"),
        (tmp_path / "damaged.json", "not a rollout record"),
    ):
        with pytest.raises(GateError, match=words):
            promote(registry, "1", Evidence(first.bundle, first.digest, first.verdict, rollout), None)
    assert registry.champion("late") is None


def test_a_version_of_another_bundle_is_not_promoted(
    registry: Registry, first: Evidence, tmp_path: Path
) -> None:
    register(registry, first)
    other = make_evidence(tmp_path / "other", rounds=5)
    with pytest.raises(GateError, match="late version 1 is bundle"):
        promote(registry, "1", other, None)
    with pytest.raises(RegistryError, match="could not read late version 7"):
        promote(registry, "7", first, None)


def test_evidence_against_a_champion_that_changed_is_stale(
    registry: Registry, champion: Version, second: Evidence, tmp_path: Path
) -> None:
    third = make_evidence(tmp_path / "third", rounds=4, champion=(champion.version, champion.digest))
    register(registry, second)
    register(registry, third)
    assert promote(registry, "3", third, "1") == "promoted"
    with pytest.raises(GateError, match="stale: the champion of late is version 3 by now"):
        promote(registry, "2", second, "1")
    with pytest.raises(GateError, match="stale: the gate compared with champion version 1, not 3"):
        promote(registry, "2", second, "3")
    assert aliases(registry)["champion"] == "3"


def test_a_canary_against_another_stable_model_is_stale(
    registry: Registry, champion: Version, second: Evidence
) -> None:
    register(registry, second)
    record = json.loads(second.rollout.read_text())
    second.rollout.write_text(json.dumps(record | {"stable_digest": None}))
    with pytest.raises(GateError, match="stale: the canary ran against bundle none"):
        promote(registry, "2", second, "1")


def test_rollback_brings_the_previous_champion_back_and_bars_the_other(
    registry: Registry, champion: Version, second: Evidence
) -> None:
    register(registry, second)
    promote(registry, "2", second, "1")
    assert registry.rollback("late", "late flights go unseen").version == "1"
    assert aliases(registry) == {"champion": "1"}
    for again in (lambda: register(registry, second), lambda: promote(registry, "2", second, "1")):
        with pytest.raises(GateError, match=r"rolled back .* UTC .late flights go unseen"):
            again()
    assert registry.moves("late")[-1].action == "rolled back"
    assert len(registry.versions("late")) == 2


def test_a_damaged_mark_of_a_rollback_still_bars(
    registry: Registry, champion: Version, first: Evidence
) -> None:
    registry.client.delete_registered_model_alias("late", "champion")
    registry.client.set_model_version_tag("late", "1", "airworthy.rolled_back", "{")
    with pytest.raises(GateError, match=r"is late version 1, rolled back once"):
        register(registry, first)


def test_rollback_needs_a_way_back(registry: Registry, first: Evidence) -> None:
    with pytest.raises(RegistryError, match="no champion"):
        registry.rollback("late", "why not")
    register(registry, first)
    promote(registry, "1", first, None)
    with pytest.raises(RegistryError, match="first champion"):
        registry.rollback("late", "why not")
    with pytest.raises(GateError, match="serves by now, not 9"):
        registry.rollback("late", "why not", expected_champion="9")


def test_rollback_does_not_bring_back_what_was_rolled_back(
    registry: Registry, champion: Version, second: Evidence, first: Evidence, tmp_path: Path
) -> None:
    register(registry, second)
    promote(registry, "2", second, "1")
    third = make_evidence(tmp_path / "third", rounds=4, champion=("2", second.digest))
    register(registry, third)
    promote(registry, "3", third, "2")
    registry.rollback("late", "once")
    assert registry.rollback("late", "twice").version == "1"
    # A release of version 1 over 2 that died before the alias moved leaves such a tag.
    registry._client.set_model_version_tag("late", "1", "airworthy.replaced_version", "2")
    with pytest.raises(RegistryError, match="late version 2 came before, but was rolled back itself"):
        registry.rollback("late", "thrice")
    assert aliases(registry)["champion"] == "1"


def test_rollback_to_a_damaged_bundle_changes_nothing(
    registry: Registry, champion: Version, second: Evidence
) -> None:
    register(registry, second)
    promote(registry, "2", second, "1")
    shutil.rmtree(Path(champion.source.removeprefix("file://")))
    with pytest.raises((BundleError, RegistryError)):
        registry.rollback("late", "why not")
    assert aliases(registry) == {"champion": "2", "previous_champion": "1"}


def test_a_withdrawn_challenger_keeps_its_version_and_may_come_again(
    registry: Registry, first: Evidence
) -> None:
    register(registry, first)
    assert registry.withdraw_challenger("late", "8", reason="another one") is None
    assert registry.withdraw_challenger("late", "1", reason="the canary failed") == "1"
    assert registry.withdraw_challenger("late", reason="again") is None
    assert registry.challenger("late") is None
    assert "the canary failed" in registry.version("late", "1").tags["withdrawn"]
    assert register(registry, first).aliases == ("challenger",)
    assert "withdrawn" not in registry.version("late", "1").tags


@pytest.mark.parametrize(
    ("broken", "answer"),
    [
        ("set_registered_model_tag", "promoted"),
        ("set_registered_model_alias", "promoted"),
        ("delete_registered_model_alias", "already"),
    ],
)
def test_a_crash_in_the_middle_of_a_promotion_is_repaired_by_repeating_it(
    registry: Registry,
    champion: Version,
    second: Evidence,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    answer: str,
) -> None:
    register(registry, second)

    def lost(*_: object) -> None:
        raise OSError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(registry._client, broken, lost)
        with pytest.raises(RegistryError, match="could not promote late: connection lost"):
            promote(registry, "2", second, "1")
    assert aliases(registry)["champion"] == ("1" if answer == "promoted" else "2")
    assert promote(registry, "2", second, "1") == answer
    assert aliases(registry) == {"champion": "2", "previous_champion": "1"}
    assert [(m.action, m.version) for m in registry.moves("late")][-1] == ("promoted", "2")
    assert len([m for m in registry.moves("late") if m.action == "promoted"]) == 2


def test_the_champion_travels_as_a_folder(
    registry: Registry, champion: Version, first: Evidence, tmp_path: Path
) -> None:
    found = export_champion(registry, "late", tmp_path / "champion")
    assert (found.version, found.digest) == ("1", first.digest)
    assert found.bundle is not None
    assert read_champion(tmp_path / "champion") == found
    none = export_champion(registry, "other", tmp_path / "none")
    assert (none.version, none.bundle, none.statistics) == (None, None, None)
    with pytest.raises(DataError, match="not an exported champion"):
        read_champion(tmp_path)


def test_an_unreachable_server_is_no_empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match="could not read the champion of late"):
        Registry("http://127.0.0.1:9").champion("late")


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be read as one" * 10)
    with pytest.raises(RegistryError, match=r"mlflow\.db: the MLflow database can't be prepared"):
        Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_models_are_listed_beyond_the_first_page(registry: Registry) -> None:
    names = [f"m{number:03}" for number in range(102)]
    for name in names:
        registry.client.create_registered_model(name)
    assert registry.models() == names
