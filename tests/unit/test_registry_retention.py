"""Old versions go; nothing that an alias, a dossier or a way back refers to goes with them."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airworthy.errors import AirworthyError, GateError, RegistryError
from airworthy.model_spec import Retention
from airworthy.operations import main
from airworthy.registry import Registry, Version, approval, retention
from airworthy.serving.state import Deployed, Service, ServiceStore
from tests.release_evidence import Evidence, make_evidence, new_store, spec

# MLflow 3.17 uses an option of SQLAlchemy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

SPEC, _ = spec()
ROLLOUT = "rollout: {service: late}"
ASKING, _ = spec(**{ROLLOUT: f"approval: {{required: true}}\n{ROLLOUT}"})
NEWEST_ONLY = Retention(versions=1, days=0)
NOW = datetime(2013, 9, 1, tzinfo=UTC)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(new_store(tmp_path / "store"), wait_seconds=0.2)


class Releases:
    """Releases of one model after each other, and what they left."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self.registry, self.folder, self.made = registry, folder, dict[str, Evidence]()

    def register(self) -> str:
        """A challenger that was compared with the present champion."""
        champion = self.registry.champion("late")
        place = len(self.made) + 1
        compared = (champion.version, champion.digest) if champion else None
        found = make_evidence(self.folder / str(place), rounds=place, champion=compared)
        version = self.registry.register(SPEC, verdict=found.verdict, bundle=found.bundle).version
        self.made[version] = found
        return version

    def promote(self, version: str) -> None:
        found, champion = self.made[version], self.registry.champion("late")
        self.registry.promote(
            "late",
            version,
            verdict=found.verdict,
            bundle=found.bundle,
            rollout=found.rollout,
            expected_champion=champion.version if champion else None,
        )

    def release(self) -> str:
        version = self.register()
        self.promote(version)
        return version


@pytest.fixture
def releases(registry: Registry, tmp_path: Path) -> Releases:
    return Releases(registry, tmp_path / "releases")


def numbers(registry: Registry) -> set[str]:
    return {version.version for version in registry.versions("late")}


def stored(tmp_path: Path) -> set[Path]:
    return {path for path in (tmp_path / "store" / "artifacts").rglob("*") if path.is_file()}


def test_what_never_went_live_goes_with_its_files_and_the_champions_stay(
    registry: Registry, releases: Releases, tmp_path: Path
) -> None:
    releases.release()
    before = stored(tmp_path)
    releases.register()
    registry.withdraw_challenger("late", reason="the canary failed")
    size = sum(path.stat().st_size for path in stored(tmp_path) - before)
    kept = stored(tmp_path)
    releases.release()
    ahead = retention.look_ahead(registry, "late", NEWEST_ONLY)
    assert [version.version for version in ahead.doomed] == ["2"]
    assert ahead.kept == {"1": "alias previous_champion", "3": "alias champion"}
    assert retention.sizes(registry, "late", ahead) == {"2": size}
    assert numbers(registry) == {"1", "2", "3"}
    done = retention.prune(registry, "late", NEWEST_ONLY)
    assert [(pruned.version.version, pruned.freed_bytes) for pruned in done] == [("2", size)]
    assert numbers(registry) == {"1", "3"}
    assert not (kept - before) & stored(tmp_path)
    assert before <= stored(tmp_path)
    last = registry.history("late")[-1]
    assert (last.action, last.version) == ("deleted", "2")
    assert done[0].version.digest[:12] in last.reason
    assert retention.prune(registry, "late", NEWEST_ONLY) == []


def test_the_policy_comes_from_the_spec_of_the_newest_version(
    registry: Registry, releases: Releases, tmp_path: Path
) -> None:
    policy, _ = spec(**{ROLLOUT: f"retention: {{versions: 2, days: 0}}\n{ROLLOUT}"})
    for _ in range(3):
        releases.register()
    assert retention.look_ahead(registry, "late").doomed == (), "registered under the default"
    fourth = make_evidence(tmp_path / "4", rounds=9)
    registry.register(policy, verdict=fourth.verdict, bundle=fourth.bundle)
    assert [v.version for v in retention.look_ahead(registry, "late").doomed] == ["1", "2"]


def test_what_a_stored_dossier_refers_to_stays(
    registry: Registry, releases: Releases, tmp_path: Path
) -> None:
    for _ in range(2):
        releases.register()
    dossier = tmp_path / "dossier"
    dossier.mkdir()
    (dossier / "dossier.json").write_text(json.dumps({"references": [{"role": "compared", "version": "1"}]}))
    registry.attach(registry.version("late", releases.register()), "dossier", dossier)
    ahead = retention.look_ahead(registry, "late", NEWEST_ONLY)
    assert ahead.kept["1"] == "version 3 refers to it"
    assert [version.version for version in ahead.doomed] == ["2"]


def test_what_waits_for_approval_or_serves_somewhere_stays(
    registry: Registry, releases: Releases, tmp_path: Path
) -> None:
    first = make_evidence(tmp_path / "first", rounds=9)
    registry.register(ASKING, verdict=first.verdict, bundle=first.bundle)
    approval.ask(registry, "late", "1", run="r1")
    for _ in range(3):
        releases.register()
    ahead = retention.look_ahead(registry, "late", NEWEST_ONLY, in_use={"2"})
    assert ahead.kept == {"1": "waits for approval", "2": "serves or rolls out", "4": "alias challenger"}


def test_a_bundle_that_was_rolled_back_stays_barred(registry: Registry, releases: Releases) -> None:
    releases.release()
    bad = releases.release()
    registry.rollback("late", "late flights go unseen")
    releases.release()
    retention.prune(registry, "late", NEWEST_ONLY)
    assert bad not in numbers(registry)
    evidence = releases.made[bad]
    with pytest.raises(
        GateError, match=r"rolled back .* \(late flights go unseen\).*tag airworthy\.rolled_back\."
    ):
        registry.register(SPEC, verdict=evidence.verdict, bundle=evidence.bundle)


def test_a_deletion_that_was_cut_short_is_completed(
    registry: Registry, releases: Releases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    doomed = releases.register()
    releases.release()

    def lost(*_: object) -> None:
        raise OSError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(registry.client, "delete_model_version", lost)
        with pytest.raises(RegistryError, match="could not delete old versions of late: connection lost"):
            retention.prune(registry, "late", NEWEST_ONLY)
    again = releases.made[doomed]
    fresh = registry.register(SPEC, verdict=again.verdict, bundle=again.bundle)
    assert fresh.version != doomed, "a version without its files counts no longer"
    with pytest.raises(GateError, match="is being deleted"):
        releases.promote(doomed)
    assert [p.version.version for p in retention.prune(registry, "late", NEWEST_ONLY)] == [doomed]
    registry.fetch_bundle(registry.version("late", fresh.version), tmp_path / "back")


def test_files_that_two_versions_share_stay_for_the_other(registry: Registry, tmp_path: Path) -> None:
    from airworthy.mlflow_store import experiment_id

    run = registry.client.create_run(experiment_id(registry.client, "late")).info.run_id
    statistics = tmp_path / "statistics"
    statistics.write_bytes(b"statistics")
    for place in (1, 2):
        found = make_evidence(tmp_path / str(place), rounds=place)
        registry.register(
            SPEC, verdict=found.verdict, bundle=found.bundle, run_id=run, evidence={"statistics": statistics}
        )
    assert [p.version.version for p in retention.prune(registry, "late", NEWEST_ONLY)] == ["1"]
    left = registry.version("late", "2")
    registry.fetch_bundle(left, tmp_path / "back")
    for name in ("statistics", "verdict"):
        assert registry.fetch_evidence(left, name, tmp_path / "out" / name) is not None


@pytest.mark.parametrize("seed", range(4))
def test_after_any_history_the_way_back_and_all_references_are_whole(
    registry: Registry, releases: Releases, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    releases.release()
    for _ in range(6):
        act = chance.choice(["release", "release", "withdraw", "register", "roll back", "promote old"])
        try:
            if act == "release":
                releases.release()
            elif act == "register":
                releases.register()
            elif act == "withdraw":
                releases.register()
                registry.withdraw_challenger("late", reason="the canary failed")
            elif act == "roll back":
                registry.rollback("late", "users complain")
            else:
                releases.promote(chance.choice(list(releases.made)))
        except AirworthyError:
            continue  # refused: no champion before, barred, or stale
    barred = {v.version for v in registry.versions("late") if "rolled_back" in v.tags}
    way_back = _way_back(registry)
    gone = {p.version.version for p in retention.prune(registry, "late", NEWEST_ONLY)}
    assert gone.isdisjoint(way_back)
    standing = registry.versions("late")
    for version in standing:
        for referred in (version.tags.get("replaced_version"), version.tags["champion_compared"]):
            assert not referred or referred in numbers(registry)
        for name in registry.evidence(version):
            registry.fetch_evidence(version, name, tmp_path / "out" / version.version / name)
    for number in barred:
        evidence = releases.made[number]
        with pytest.raises(GateError, match="rolled back"):
            registry.register(SPEC, verdict=evidence.verdict, bundle=evidence.bundle)
    for expected in way_back[1:]:
        assert registry.rollback("late", "drill").version == expected


def _way_back(registry: Registry) -> list[str]:
    """Champions from the present one backwards, as far as `rollback` goes."""
    version = registry.champion("late")
    found: list[str] = []
    while version is not None:
        found.append(version.version)
        before = version.tags.get("replaced_version")
        version = registry.version("late", before) if before else None
        if version is not None and "rolled_back" in version.tags:
            break
    return found


def version_of(number: int, days: int, alias: bool) -> Version:
    return Version(
        model="late",
        version=str(number),
        digest=f"{number}",
        source="",
        run_id=None,
        tags={},
        aliases=("champion",) if alias else (),
        created=NOW - timedelta(days=days),
    )


@given(st.data())
def test_the_plan_keeps_what_it_must_and_everything_that_refers(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 12))
    versions = [
        version_of(n, data.draw(st.integers(0, 30)), data.draw(st.booleans())) for n in range(count, 0, -1)
    ]
    known = [version.version for version in versions]
    references = {v: data.draw(st.lists(st.sampled_from([*known, "77"]), max_size=3)) for v in known}
    policy = Retention(versions=data.draw(st.integers(1, 5)), days=data.draw(st.integers(0, 20)))
    in_use = data.draw(st.sets(st.sampled_from(known or ["1"])))
    found = retention.plan(
        versions, policy, references=lambda v: references[v.version], in_use=in_use, now=NOW
    )
    doomed = {version.version for version in found.doomed}
    assert doomed | set(found.kept) == set(known)
    assert doomed.isdisjoint(found.kept)
    assert doomed.isdisjoint(in_use | set(known[: policy.versions]))
    for version in versions:
        if version.aliases or version.created >= NOW - timedelta(days=policy.days):
            assert version.version in found.kept
        if version.version in found.kept:
            assert doomed.isdisjoint(references[version.version])


def test_the_command_says_first_and_deletes_only_when_told(
    registry: Registry,
    releases: Releases,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path / "home"))
    for _ in range(3):
        releases.register()
    serving = Deployed(version="1", digest="1" * 64, bundle="models/1")
    ServiceStore(tmp_path / "home", "late").update(
        lambda _: Service(service="late", model="late", stable=serving)
    )
    assert main(["prune", "late", "--keep", "1", "--days", "0"]) == 0
    text = capsys.readouterr().out
    assert "keep    version 1: serves or rolls out" in text
    assert "delete  version 2" in text
    assert "nothing was deleted; --yes would free" in text
    assert numbers(registry) == {"1", "2", "3"}
    assert main(["prune", "late", "--keep", "1", "--days", "0", "--yes"]) == 0
    assert "deleted version 2" in capsys.readouterr().out
    assert numbers(registry) == {"1", "3"}
    assert main(["prune", "late", "--keep", "1", "--days", "0", "--yes"]) == 0
    assert "nothing to delete" in capsys.readouterr().out
    for wrong in (["--keep", "0"], ["--days", "nan"], ["--days", "1e12"]):
        assert main(["prune", "late", *wrong]) == 2
        assert "--days between 0 and 36500" in capsys.readouterr().err
    assert main(["prune", "early"]) == 2
    assert "no such model" in capsys.readouterr().err
