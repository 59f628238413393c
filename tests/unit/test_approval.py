"""A person's word before traffic moves: who may give it, what it is about, and how long it is waited for."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from airworthy.errors import ConfigError, GateError, RegistryError
from airworthy.registry import Approval, Registry, Version, approval, wait_for_approval
from tests.release_evidence import Evidence, make_evidence, new_store, spec

# MLflow 3.17 uses an option of SQLAlchemy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

ROLLOUT = "rollout: {service: late}"
ASKING, ASKING_TEXT = spec(
    **{ROLLOUT: f"approval: {{required: true, approvers: [anna, bo@firm]}}\n{ROLLOUT}"}
)
SILENT, _ = spec()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(new_store(tmp_path / "store"), wait_seconds=0.2, by="anna@laptop")


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return make_evidence(tmp_path / "first", rounds=2)


@pytest.fixture
def version(registry: Registry, evidence: Evidence) -> Version:
    return register(registry, evidence)


def register(registry: Registry, evidence: Evidence) -> Version:
    return registry.register(
        ASKING, verdict=evidence.verdict, bundle=evidence.bundle, lineage={"pipeline_run": "r1"}
    )


def promote(registry: Registry, evidence: Evidence, version: str = "1", expected: str | None = None) -> str:
    return registry.promote(
        "late",
        version,
        verdict=evidence.verdict,
        bundle=evidence.bundle,
        rollout=evidence.rollout,
        expected_champion=expected,
    )


def answer(registry: Registry, approved: bool, by: str = "anna", version: str = "1") -> Approval:
    return approval.answer(
        registry,
        "late",
        version,
        approved=approved,
        reason="slices are fine" if approved else "recall",
        by=by,
    )


def wait(
    registry: Registry,
    evidence: Evidence,
    *,
    run: str = "r1",
    version: str = "1",
    told: list[str] | None = None,
    pause: Callable[[float], object] = lambda seconds: pytest.fail("it went on waiting"),
) -> Approval:
    return wait_for_approval(
        registry,
        "late",
        version,
        run=run,
        verdict=evidence.verdict,
        bundle=evidence.bundle,
        dossier="/runs/1/dossier.html",
        tell=(told if told is not None else []).append,
        pause=pause,
    )


def make_due(registry: Registry, version: Version) -> None:
    """As if the deadline of the question had passed."""
    asked = json.loads(registry.version("late", version.version).tags["approval_asked"])
    registry.client.set_model_version_tag(
        "late",
        version.version,
        "airworthy.approval_asked",
        json.dumps(asked | {"deadline": "2013-08-01T00:00:00.000000+00:00"}),
    )


def test_a_spec_that_asks_for_none_waits_for_nobody(registry: Registry, evidence: Evidence) -> None:
    registry.register(SILENT, verdict=evidence.verdict, bundle=evidence.bundle)
    told: list[str] = []
    assert wait(registry, evidence, told=told).state == "not required"
    assert told == [], "nobody has to know"
    with pytest.raises(ConfigError, match="late version 1 needs no approval"):
        answer(registry, True)
    assert promote(registry, evidence) == "promoted"


def test_an_answer_is_recorded_with_who_when_why_and_about_what(
    registry: Registry, evidence: Evidence, version: Version
) -> None:
    approval.ask(registry, "late", "1", run="r1")
    found = answer(registry, True, by="bo@firm")
    assert (found.state, found.by, found.reason) == ("approved", "bo@firm", "slices are fine")
    assert found.bundle_digest == evidence.digest
    assert found.verdict_sha256 == registry.evidence(version)["verdict"]
    assert found == approval.read(registry.version("late", "1"))
    last = registry.history("late")[-1]
    assert (last.action, last.version, last.by, last.reason) == (
        "approved",
        "1",
        "bo@firm",
        "slices are fine",
    )
    assert promote(registry, evidence) == "promoted"


def test_promotion_without_an_approval_is_refused_whoever_calls(
    registry: Registry, evidence: Evidence, version: Version
) -> None:
    with pytest.raises(GateError, match=r"needs an approval .* has not been asked for"):
        promote(registry, evidence)
    approval.ask(registry, "late", "1", run="r1")
    with pytest.raises(GateError, match=r"needs an approval .* waits for an answer until"):
        promote(registry, evidence)
    answer(registry, False)
    with pytest.raises(GateError, match=r"was rejected by anna on .*: recall"):
        promote(registry, evidence)
    assert registry.champion("late") is None


def test_a_damaged_record_of_an_approval_is_none(
    registry: Registry, evidence: Evidence, version: Version
) -> None:
    answer(registry, True)
    registry.client.set_model_version_tag("late", "1", "airworthy.approval_answer", "{")
    with pytest.raises(GateError, match=r"needs an approval"):
        promote(registry, evidence)
    registry.client.set_model_version_tag("late", "1", "airworthy.approval_required", "{")
    with pytest.raises(
        RegistryError, match=r"its tag airworthy.approval_required is not what was registered"
    ):
        answer(registry, True)


def test_no_traffic_moves_to_it_even_in_a_pipeline_without_the_waiting_step(
    registry: Registry, evidence: Evidence, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kfp import dsl

    from airworthy.registry import export_champion
    from components.rollout_canary.component import rollout_canary

    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path / "home"))
    export_champion(registry, "late", tmp_path / "champion")
    paths = {
        "verdict": evidence.verdict, "model": evidence.bundle, "champion": tmp_path / "champion",
        "test": tmp_path / "test", "record": tmp_path / "record", "metrics": tmp_path / "m", "report": tmp_path / "r",
    }  # fmt: skip
    with pytest.raises(GateError, match=r"needs an approval before traffic moves .* has not been asked for"):
        rollout_canary.python_func(
            spec=ASKING_TEXT,
            version="1",
            pipeline_run="r1",
            **{name: dsl.Artifact(uri=str(path)) for name, path in paths.items()},
        )
    assert not (tmp_path / "record").exists()


def test_a_rejection_takes_an_approval_back_until_the_version_is_champion(
    registry: Registry, evidence: Evidence, version: Version
) -> None:
    answer(registry, True)
    assert answer(registry, False).state == "rejected"
    with pytest.raises(GateError, match="was rejected"):
        promote(registry, evidence)
    with pytest.raises(GateError, match=r"was rejected by anna .* that stands"):
        answer(registry, True)


def test_a_champion_is_rolled_back_not_rejected(
    registry: Registry, evidence: Evidence, version: Version
) -> None:
    answer(registry, True)
    promote(registry, evidence)
    with pytest.raises(GateError, match="champion already; `airworthy rollback late`"):
        answer(registry, False)


def test_the_first_answer_counts_and_is_not_overwritten(
    registry: Registry, evidence: Evidence, version: Version
) -> None:
    first = answer(registry, True, by="anna")
    assert answer(registry, True, by="bo@firm") == first


@pytest.mark.parametrize(
    ("who", "may"), [("anna", True), ("anna@desk", True), ("bo@firm", True), ("bo", False)]
)
def test_only_named_approvers_answer(registry: Registry, version: Version, who: str, may: bool) -> None:
    if may:
        assert answer(registry, True, by=who).by == who
    else:
        with pytest.raises(ConfigError, match=f"{who} may not answer .* names anna, bo@firm"):
            answer(registry, True, by=who)


@pytest.mark.parametrize("reason", ["", "  ", "x" * 2001])
def test_a_reason_must_be_given(registry: Registry, version: Version, reason: str) -> None:
    with pytest.raises(ConfigError, match="say why"):
        approval.answer(registry, "late", "1", approved=True, reason=reason, by="anna")


def test_no_approval_is_used_for_another_bundle_or_verdict(
    registry: Registry, evidence: Evidence, version: Version, tmp_path: Path
) -> None:
    answer(registry, True)
    other = make_evidence(tmp_path / "other", rounds=3)
    register(registry, other)
    with pytest.raises(GateError, match="late version 2 needs an approval"):
        promote(registry, other, "2")
    changed = json.loads(evidence.verdict.read_text()) | {"data_fingerprint": "5" * 64}
    evidence.verdict.write_text(json.dumps(changed))
    with pytest.raises(GateError, match="under another verdict"):
        promote(registry, evidence)
    register(registry, evidence)
    assert approval.read(registry.version("late", "1")).state == "not asked"
    with pytest.raises(GateError, match="has not been asked for"):
        promote(registry, evidence)


def test_a_release_that_was_overtaken_by_another_verdict_asks_no_more(
    registry: Registry, evidence: Evidence, version: Version, tmp_path: Path
) -> None:
    again = tmp_path / "again.json"
    again.write_text(json.dumps(json.loads(evidence.verdict.read_text()) | {"data_fingerprint": "5" * 64}))

    def register_again(seconds: float) -> None:
        registry.register(ASKING, verdict=again, bundle=evidence.bundle)

    for _ in range(2):  # while it waits, and when it starts again after that
        with pytest.raises(GateError, match="registered again under another verdict"):
            wait(registry, evidence, pause=register_again)
    assert approval.read(registry.version("late", "1")).state == "not asked"
    assert registry.challenger("late"), "the other release goes on"


def test_what_serves_already_needs_no_second_approval(
    registry: Registry, evidence: Evidence, version: Version
) -> None:
    answer(registry, True)
    promote(registry, evidence)
    evidence.verdict.write_text(
        json.dumps(json.loads(evidence.verdict.read_text()) | {"data_fingerprint": "5" * 64})
    )
    register(registry, evidence)
    assert wait(registry, evidence, run="r2").state == "approved"
    registry.require_approval("late", "1", evidence.verdict)


def test_the_step_waits_tells_what_for_and_goes_on_with_the_answer(
    registry: Registry, evidence: Evidence, version: Version
) -> None:
    told: list[str] = []
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            answer(registry, True)

    assert wait(registry, evidence, told=told, pause=pause).state == "approved"
    assert told[0].startswith(
        "the evidence is in the dossier: /runs/1/dossier.html (or: airworthy dossier late@1)"
    )
    assert "airworthy approve late@1 --reason" in told[1]
    assert "was approved by anna" in told[-1]
    assert pauses == [1.0, 1.0, 1.0]
    assert wait(registry, evidence, run="r2").state == "approved", "another run of this bundle and verdict"


def test_a_rejected_version_is_challenger_no_more(
    registry: Registry, evidence: Evidence, version: Version
) -> None:
    assert wait(registry, evidence, pause=lambda seconds: answer(registry, False)).state == "rejected"
    assert registry.challenger("late") is None
    assert "version 1 was rejected by anna" in registry.moves("late")[-1].reason


def test_a_step_that_starts_again_keeps_the_clock(
    registry: Registry, evidence: Evidence, version: Version
) -> None:
    class KilledError(Exception):
        pass

    def killed(seconds: float) -> None:
        raise KilledError

    for _ in range(2):
        with pytest.raises(KilledError):
            wait(registry, evidence, pause=killed)
    assert [e.action for e in registry.history("late")].count("approval asked") == 1
    make_due(registry, version)
    late = wait(registry, evidence)
    assert (late.state, late.sentence) == ("lapsed", "was not approved: no answer until 2013-08-01 00:00 UTC")
    assert wait(registry, evidence) == late, "and so does a third start"
    assert [e.action for e in registry.history("late")][-2:] == ["approval lapsed", "withdrawn"]
    with pytest.raises(GateError, match=r"no answer until .* the next release of it asks again"):
        answer(registry, True)


@pytest.mark.parametrize("before", ["rejected", "lapsed"])
def test_after_a_no_another_run_asks_anew(
    registry: Registry, evidence: Evidence, version: Version, before: str
) -> None:
    approval.ask(registry, "late", "1", run="r1")
    if before == "rejected":
        answer(registry, False)
    else:
        make_due(registry, version)
    assert wait(registry, evidence).state == before
    assert wait(registry, evidence, run="r2", pause=lambda s: answer(registry, True)).state == "approved"


def test_waiting_ends_when_an_answer_would_be_of_no_use(
    registry: Registry, evidence: Evidence, version: Version, tmp_path: Path
) -> None:
    other = make_evidence(tmp_path / "other", rounds=3)
    registry.register(SILENT, verdict=other.verdict, bundle=other.bundle)
    ended = wait(registry, evidence, pause=lambda seconds: promote(registry, other, "2"))
    assert (ended.state, ended.reason) == ("lapsed", "version 2 is champion by now: evaluate again")


def test_a_registry_that_is_away_for_a_while_is_asked_again(
    registry: Registry, evidence: Evidence, version: Version, caplog: pytest.LogCaptureFixture
) -> None:
    database = Path(registry.uri.removeprefix("sqlite:///"))
    away = database.with_name("away")

    def pause(seconds: float) -> None:
        if not away.exists():
            answer(registry, True)
            away.write_bytes(database.read_bytes())
            database.write_bytes(b"not a database, but long enough to be one" * 100)
        else:
            database.write_bytes(away.read_bytes())

    with caplog.at_level(logging.WARNING):
        assert wait(registry, evidence, pause=pause).state == "approved"
    assert "asking again" in caplog.text


def test_a_verdict_about_another_bundle_is_put_to_nobody(
    registry: Registry, evidence: Evidence, version: Version, tmp_path: Path
) -> None:
    with pytest.raises(GateError, match="nobody can be asked"):
        wait(registry, make_evidence(tmp_path / "other", rounds=3))


def test_of_answers_at_the_same_moment_one_counts(registry: Registry, version: Version) -> None:
    approval.ask(registry, "late", "1", run="r1")
    found: list[Approval] = []

    def say(who: str) -> None:
        found.append(answer(Registry(registry.uri), True, by=who))

    threads = [threading.Thread(target=say, args=(who,)) for who in ("anna", "anna@desk", "bo@firm")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.by for one in found}) == 1
    assert [e.action for e in registry.history("late")].count("approved") == 1


def test_the_notebook_and_the_command_line_answer(
    registry: Registry,
    evidence: Evidence,
    version: Version,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import sys

    from airworthy.cli import main
    from airworthy.client import LocalClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    monkeypatch.setenv("AIRWORTHY_USER", "anna")

    def command(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["airworthy", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    assert command("approve", "late@9", "--reason", "fine")[0] == 2
    approval.ask(registry, "late", "1", run="r1")
    assert "airworthy approve late@1 --reason" in command("status", "late")[1]
    assert command("approve", "late@1", "--reason", "fine", "--by", "carl")[0] == 2
    code, text = command("approve", "late@1", "--reason", "fine")
    assert (code, "was approved by anna" in text) == (0, True)
    assert LocalClient(home=Path.cwd()).reject("late@1", "on second thought").state == "rejected"
    assert command("approve", "late@1", "--reason", "fine")[0] == 3
    assert command("approve", "late", "--reason", "fine")[0] == 2
    assert command("approve", "late@", "--reason", "fine")[0] == 2
    code, text = command("history", "late")
    assert code == 0
    for word in ("registered", "approved", "rejected", "anna", "run r1"):
        assert word in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "  approved\n    anna: fine\n" in text
    assert command("history", "early")[0] == 2
