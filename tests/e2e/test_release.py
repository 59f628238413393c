"""The story that Airworthy is for, told by real releases; the tests build on each other in file order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from airworthy.local import list_runs
from airworthy.outcome import artifact, release_outcome, task
from airworthy.registry import Registry
from airworthy.verdict import read_verdict
from tests.e2e.conftest import ROOT, Airworthy

pytestmark = pytest.mark.e2e
Spec = Callable[..., Path]


def registry(airworthy: Airworthy) -> Registry:
    return Registry(f"sqlite:///{airworthy.home / 'mlflow.db'}")


def champion(airworthy: Airworthy, model: str = "flight_delay") -> str | None:
    found = registry(airworthy).champion(model)
    return found.version if found else None


def serving(airworthy: Airworthy, service: str = "flight-delay") -> str:
    state = json.loads((airworthy.home / "serving" / service / "service.json").read_text())
    assert state["canary"] is None
    assert state["traffic_percent"] == 0
    return str(state["stable"]["version"])


def test_a_first_release_becomes_champion_by_absolute_limits(airworthy: Airworthy, spec: Spec) -> None:
    done = airworthy.release(spec("flight_delay"), "2013-08-01")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "version 1 is champion" in done.stdout
    assert "no champion yet" in done.stdout
    assert champion(airworthy) == serving(airworthy) == "1"
    assert airworthy.processes() == []


def test_a_retrained_challenger_replaces_it_through_the_canary(airworthy: Airworthy, spec: Spec) -> None:
    done = airworthy.release(spec("flight_delay"), "2013-09-01")
    assert done.returncode == 0, done.stdout + done.stderr
    run = list_runs(airworthy.home)[0]
    verdict_file = artifact(run, "evaluate-model", "verdict")
    assert verdict_file is not None
    verdict = read_verdict(verdict_file)
    assert verdict.champion_version == "1"
    assert any(check.family == "champion" for check in verdict.checks)
    found = registry(airworthy)
    previous = found.previous_champion("flight_delay")
    assert previous is not None
    assert previous.version == "1"
    assert champion(airworthy) == serving(airworthy) == "2"
    assert found.challenger("flight_delay") is None
    page = (run.directory / "report.html").read_text()
    assert ">Write the dossier: dossier</a>" in page
    assert "Judge challenger against champion" in page


def test_the_rollouts_decision_can_be_recomputed_from_its_record(airworthy: Airworthy) -> None:
    record = artifact(list_runs(airworthy.home)[0], "rollout-canary", "record")
    done = airworthy("rollout", "replay", str(record))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS" in done.stdout


def test_status_and_runs_tell_what_happened(airworthy: Airworthy) -> None:
    status = airworthy("status")
    assert "champion" in status.stdout
    assert "version 2 serves" in status.stdout
    runs = airworthy("runs")
    assert runs.stdout.count("succeeded") == 2


def test_a_version_can_be_made_again_bit_for_bit(airworthy: Airworthy) -> None:
    done = airworthy("reproduce", "flight_delay@2", "--attach")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit-identical" in done.stdout


def test_the_dossier_tells_the_whole_story_and_notices_a_changed_record(airworthy: Airworthy) -> None:
    sound = airworthy("dossier", "flight_delay@2", "--check")
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert airworthy("dossier", "flight_delay@2").returncode == 0
    page = (airworthy.home / "dossiers" / "flight_delay-2" / "dossier.html").read_text()
    for words in (
        "Against the champion",
        "certified below",
        "Who uses the answers",
        "byte for byte the same",
    ):
        assert words in page
    version = registry(airworthy).version("flight_delay", "2")
    [verdict] = airworthy.home.glob(f"artifacts/**/{version.run_id}/artifacts/evidence/verdict-*/*")
    whole = verdict.read_bytes()
    verdict.write_bytes(whole.replace(b'"pass"', b'"warn"', 1))
    try:
        changed = airworthy("dossier", "flight_delay@2", "--check")
    finally:
        verdict.write_bytes(whole)
    assert changed.returncode == 3
    assert "verdict" in changed.stdout + changed.stderr


def test_a_poor_model_is_refused_and_registered_nowhere(airworthy: Airworthy, spec: Spec) -> None:
    poor = {"trainer.rounds": 2, "trainer.params": {"max_depth": 1}}
    done = airworthy.release(spec("flight_delay", poor), "2013-10-01")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "the gate refused the challenger" in done.stdout
    assert len(registry(airworthy).versions("flight_delay")) == 2
    assert champion(airworthy) == serving(airworthy) == "2"


def test_a_canary_whose_server_fails_is_rolled_back(airworthy: Airworthy, spec: Spec) -> None:
    done = airworthy.release_with_fault(spec("flight_delay"), "2013-10-01", "errors:0.5")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "the canary was rolled back" in done.stdout
    assert "injected fault" in done.stdout
    assert champion(airworthy) == serving(airworthy) == "2"
    assert registry(airworthy).challenger("flight_delay") is None
    assert airworthy.processes() == []


def test_broken_data_stops_the_run_with_a_readable_table(
    airworthy: Airworthy, spec: Spec, tmp_path: Path
) -> None:
    model = spec("flight_delay")
    schema = model.parent / "schema.pbtxt"
    original = Path(_schema_of(model)).read_text()
    schema.write_text(original.replace('"JFK"', '"LHR"'))
    model.write_text(model.read_text().replace(_schema_of(model), str(schema)))
    done = airworthy.release(model, "2013-10-01")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "What is wrong with the data" in done.stdout
    assert "JFK" in done.stdout
    assert task(list_runs(airworthy.home)[0], "train-model") is None


def test_a_release_killed_in_its_rollout_leaves_the_old_model_and_can_go_on(
    airworthy: Airworthy, spec: Spec
) -> None:
    model = spec("flight_delay", {"rollout.requests_per_step": 5000})
    state_file = airworthy.home / "serving" / "flight-delay" / "service.json"
    engine = start(airworthy, model, "2013-11-01")
    wait_until(lambda: json.loads(state_file.read_text())["traffic_percent"] > 0, engine)
    os.kill(engine.pid, signal.SIGKILL)
    engine.wait()
    _, alive = psutil.wait_procs(airworthy.processes(), timeout=20)
    assert alive == [], "a process outlived its engine"
    assert champion(airworthy) == "2"
    run = next(r for r in list_runs(airworthy.home) if r.state == "RUNNING")
    done = airworthy("run", "--resume", run.run_id, "--plain")
    assert done.returncode in (0, 3), done.stdout + done.stderr
    finished = release_outcome(list_runs(airworthy.home)[0])
    assert finished.ending in ("released", "rolled back")
    assert champion(airworthy) == serving(airworthy)
    assert (champion(airworthy) == "2") is (finished.ending == "rolled back")


def test_ctrl_c_ends_a_release_in_order(airworthy: Airworthy, spec: Spec) -> None:
    before = champion(airworthy)
    known = {run.run_id for run in list_runs(airworthy.home)}
    engine = start(airworthy, spec("flight_delay", {"trainer.seed": 8}), "2013-11-01")
    wait_until(lambda: _running(airworthy, known, "train-model"), engine)
    engine.send_signal(signal.SIGINT)
    assert engine.wait(timeout=120) == 130
    assert airworthy.processes() == []
    run = list_runs(airworthy.home)[0]
    settled = task(run, "settle-release")
    assert run.state == "CANCELED"
    assert champion(airworthy) == serving(airworthy) == before
    resumed = airworthy("run", "--resume", run.run_id, "--plain")
    assert resumed.returncode in (0, 3), resumed.stdout + resumed.stderr
    assert champion(airworthy) == serving(airworthy)
    assert settled is not None
    assert settled.state == "SUCCEEDED"


def test_rollback_returns_to_the_previous_champion_in_registry_and_serving(airworthy: Airworthy) -> None:
    before = champion(airworthy)
    done = airworthy("rollback", "flight_delay", "--reason", "the test says so")
    assert done.returncode == 0, done.stdout + done.stderr
    after = champion(airworthy)
    assert after != before
    assert serving(airworthy) == after


def test_another_model_goes_through_the_same_yaml_and_waits_for_a_person_even_if_killed(
    airworthy: Airworthy, spec: Spec
) -> None:
    known = {run.run_id for run in list_runs(airworthy.home)}
    model = spec("departure_delay", {"approval": {"required": True, "approvers": ["ada"]}})
    engine = start(airworthy, model, "2013-08-01")
    wait_until(lambda: _running(airworthy, known, "await-approval"), engine)
    os.kill(engine.pid, signal.SIGKILL)
    engine.wait()
    psutil.wait_procs(airworthy.processes(), timeout=20)
    assert champion(airworthy, "departure_delay") is None
    refused = airworthy("approve", "departure_delay@1", "--reason", "why not", "--by", "bob")
    assert refused.returncode == 2
    said = airworthy("approve", "departure_delay@1", "--reason", "read the dossier", "--by", "ada")
    assert said.returncode == 0, said.stdout + said.stderr
    run = next(r for r in list_runs(airworthy.home) if r.run_id not in known)
    done = airworthy("run", "--resume", run.run_id, "--plain")
    assert done.returncode == 0, done.stdout + done.stderr
    history = airworthy("history", "departure_delay").stdout
    assert "ada" in history
    assert "read the dossier" in history
    assert champion(airworthy, "departure_delay") == "1"
    assert serving(airworthy, "departure-delay") == "1"


def start(airworthy: Airworthy, model: Path, as_of: str) -> subprocess.Popen[bytes]:
    """A release that goes on while the test looks at it."""
    return subprocess.Popen(
        airworthy.command("run", "--model", str(model), "--as-of", as_of, "--plain"),
        cwd=ROOT,
        env=airworthy.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_until(condition: Callable[[], bool], engine: subprocess.Popen[bytes], seconds: float = 300) -> None:
    """Wait for something to become true while the engine runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert engine.poll() is None, "the run ended first"
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def _running(airworthy: Airworthy, known: set[str], name: str) -> bool:
    runs = [run for run in list_runs(airworthy.home) if run.run_id not in known]
    record = task(runs[0], name) if runs else None
    return record is not None and record.state == "RUNNING"


def _schema_of(model: Path) -> str:
    line = next(line for line in model.read_text().splitlines() if line.strip().startswith("schema:"))
    return line.split(":", 1)[1].strip()
