"""Wrong input on the command line ends in one sentence and an exit code, never in a stack trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airworthy import cli
from airworthy.client import parse_parameters
from airworthy.doctor import Finding

ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "models" / "flight_delay.yaml")
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def airworthy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command line in an empty folder; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["airworthy", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


WRONG = {
    "no such command": (["fly"], "No such command"),
    "no such option": (["run", "--modle", "x"], "No such option"),
    "no model": (["run"], "which model"),
    "spec that is not there": (["run", "--model", "models/none.yaml"], "no such model spec"),
    "spec that is a folder": (["run", "--model", "."], "no such model spec"),
    "pipeline that is not there": (
        ["run", "relase", "--model", MODEL],
        "no such pipeline; there are release",
    ),
    "YAML that is not there": (["run", "mine.yaml"], "mine.yaml: no such file"),
    "parameter without a value": (["run", "--model", MODEL, "--set", "training_gpus"], "expected name=value"),
    "parameter that no one knows": (["run", "--model", MODEL, "--set", "training_gpu=0"], "training_gpu"),
    "parameter of a wrong type": (["run", "--model", MODEL, "--set", "training_gpus=none"], "training_gpus"),
    "workers that can't work": (["run", "--model", MODEL, "--workers", "0"], "workers"),
    "run that is not there": (["run", "--resume", "release-1"], "no run 'release-1'"),
    "story nobody tells": (["demo", "horror"], "choose story, bad-model"),
    "demo outside a checkout": (["demo", "story"], "run the demonstration in a checkout"),
    "compile outside a checkout": (["compile", "--out", "x"], "run this in a checkout"),
    "model that is not registered": (["status", "no_model"], "no such model"),
    "schema of no spec": (["schema", "infer", "none.yaml"], "no such model spec"),
    "schema that exists": (["schema", "infer", MODEL], "--force"),
    "history of no model": (["history", "no_model"], "no such model; none is registered yet"),
    "answer about no model": (["approve", "no_model@1", "--reason", "x"], "no such model"),
    "answer about no version": (["reject", "no_model", "--reason", "x"], "which version?"),
    "rollback without a reason": (["rollback", "flight_delay"], "reason"),
}


@pytest.mark.parametrize(("arguments", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_answered_in_one_sentence(
    airworthy: Cli, arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if arguments[0] == "compile":
        monkeypatch.setattr(sys, "path", [p for p in sys.path if Path(p or ".").resolve() != ROOT])
        for name in [m for m in sys.modules if m.split(".")[0] in ("pipelines", "components")]:
            monkeypatch.delitem(sys.modules, name)
    code, _, err = airworthy(*arguments)
    assert code == 2, err
    assert sentence in " ".join(err.split())
    assert "Traceback" not in err


def test_a_file_that_is_no_pipeline_is_refused(airworthy: Cli, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: 1\n")
    code, _, err = airworthy("run", "x.yaml")
    assert code == 2
    assert "not a compiled KFP v2 pipeline" in err


def test_an_as_of_that_is_no_time_is_refused(airworthy: Cli) -> None:
    from airworthy.errors import ConfigError
    from airworthy.model_spec import parse_as_of

    with pytest.raises(ConfigError, match="no ISO date or time"):
        parse_as_of("next Tuesday")
    assert parse_as_of("2013-09-01").isoformat() == "2013-09-01T00:00:00+00:00"
    assert parse_as_of("2013-09-01T00:00-04:00").hour == 4


def test_the_exit_code_of_a_command_is_the_processes_own(
    airworthy: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    code, out, _ = airworthy("doctor")
    assert code == (2 if "problem" in out else 0)
    monkeypatch.setattr("airworthy.doctor._uv", lambda: Finding("uv", "problem", "not there"))
    assert airworthy("doctor")[0] == 2


def test_help_has_examples(airworthy: Cli) -> None:
    code, out, _ = airworthy("run", "--help")
    assert code == 0
    assert "airworthy run --resume" in out


def test_help_lists_commands_as_a_newcomer_meets_them(airworthy: Cli) -> None:
    code, out, _ = airworthy("--help")
    places = [out.index(f" {name} ") for name in ("demo", "run", "status", "dossier", "approve", "sbom")]
    assert (code, places) == (0, sorted(places))


def test_an_empty_home_says_what_to_do(airworthy: Cli) -> None:
    assert "airworthy demo" in airworthy("runs")[1]
    assert "airworthy demo" in airworthy("status")[1]


def test_shipped_pipelines_are_found_from_an_environment_that_links_to_the_package(tmp_path: Path) -> None:
    (tmp_path / "airworthy").symlink_to(ROOT / "airworthy", target_is_directory=True)
    code = "from airworthy.client import compiled_pipeline; print(compiled_pipeline('release'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(ROOT / "pipelines" / "compiled" / "release.yaml")


def test_parameters_are_json_where_they_can_be() -> None:
    assert parse_parameters(["a=1", "b=x", "c=[1,2]", "d=true", "e=k=v"]) == {
        "a": 1,
        "b": "x",
        "c": [1, 2],
        "d": True,
        "e": "k=v",
    }
