"""The guard, failure texts, environments and the progress display on their own."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kfp import dsl
from rich.console import Console

from airworthy.errors import ConfigError, EngineError, MissingCapabilityError
from airworthy.local import Environments, Progress, environments, guard
from airworthy.local.events import Event
from airworthy.local.executor import make_executor_input
from airworthy.local.failures import explain
from airworthy.local.state import TaskRecord
from airworthy.local.values import Values
from tests.local.engine_steps import fail, number, text


def _guarded(tmp_path: Path, script: str, grace: float = 1.0) -> subprocess.Popen[bytes]:
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-I", "-S", guard.__file__, str(tmp_path / "exit.json"), str(tmp_path / "tmp")]
    return subprocess.Popen(
        [*command, str(grace), "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def _finish(process: subprocess.Popen[bytes]) -> None:
    """Waits with the pipe open: closing it means that the engine is gone."""
    process.wait()
    process.communicate()


def test_the_guard_hands_on_the_exit_code_and_cleans_up(tmp_path):
    process = _guarded(tmp_path, f"touch {tmp_path}/tmp/file; mkdir {tmp_path}/tmp/folder; exit 7")
    _finish(process)
    assert process.returncode == 7
    assert '"returncode": 7' in (tmp_path / "exit.json").read_text()
    assert not (tmp_path / "tmp").exists()


def test_the_guard_kills_even_what_ignores_sigterm_and_has_its_own_session(tmp_path):
    script = "trap '' TERM; setsid sleep 600 & echo $!; while :; do sleep 1; done"
    process = _guarded(tmp_path, script, grace=0.2)
    assert process.stdout
    assert process.stdin
    pid = int(process.stdout.readline())
    began = time.monotonic()
    process.stdin.close()
    process.wait()
    process.stdout.close()
    assert time.monotonic() - began < 5
    assert not Path(f"/proc/{pid}").exists()


def test_a_missing_program_is_an_exit_code_of_127(tmp_path):
    process = _guarded(tmp_path, "exec no-such-program")
    _finish(process)
    assert process.returncode == 127


@pytest.mark.parametrize(
    ("log", "code", "expected"),
    [
        (
            'Traceback (most recent call last):\n  File "x", line 1\nairworthy.errors.DataError: No rows.\n',
            1,
            ("DataError", "No rows."),
        ),
        (
            "Traceback (most recent call last):\n  File\nKeyError: 'a'\n\nDuring handling of the above "
            "exception, another exception occurred:\n\n"
            "Traceback (most recent call last):\n  File\nmod.Odd: text\n",
            1,
            ("mod.Odd", "Odd: text"),
        ),
        (
            "Traceback (most recent call last):\n  File\nKeyboardInterrupt\n",
            1,
            ("KeyboardInterrupt", "KeyboardInterrupt"),
        ),
        (
            "all went well\nand then\n",
            3,
            ("", "The process ended with exit code 3. It last wrote:\nall went well\nand then"),
        ),
        ("", 139, ("Killed", "The process was killed by SIGSEGV.")),
    ],
)
def test_failures_are_read_from_the_log(tmp_path, log, code, expected):
    (tmp_path / "log.txt").write_text(log)
    assert explain(tmp_path / "log.txt", code) == expected


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("airworthy/data:dev", "data"),
        ("registry.example:5000/team/airworthy-data@sha256:abc", "data"),
        ("registry.example/airworthy-training:1.0@sha256:abc", "training"),
        ("data", "data"),
    ],
)
def test_image_names(image, name):
    assert environments.image_name(image) == name


def test_an_unknown_image_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="'airworthy/odd:dev' is not known here; known are data, release"):
        Environments(tmp_path).python_for("airworthy/odd:dev")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose image `tiny` has nothing to install."""
    (tmp_path / "requirements").mkdir()
    for group in ("tiny", "executor"):
        (tmp_path / f"requirements/{group}.txt").write_text("# nothing\n")
    monkeypatch.setattr(environments, "_project", lambda: tmp_path)
    environments._images.cache_clear()
    yield tmp_path
    environments._images.cache_clear()


def test_an_environment_is_made_once_and_renewed_when_its_lock_changes(project):
    said: list[str] = []
    known = Environments(project / "home", say=said.append)
    python = known.python_for("airworthy/tiny:dev")
    code = "import airworthy, sys; print(sys.prefix)"
    found = subprocess.run(
        [python, "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert found == str(project / "home/envs/tiny")
    assert said == [
        "Creating the environment 'tiny' from requirements/tiny.txt (once, this may take a minute).",
        "The environment 'tiny' is ready.",
    ]
    known.python_for("airworthy/tiny:dev")
    assert len(said) == 2
    before = known.digest("airworthy/tiny:dev")
    (project / "requirements/tiny.txt").write_text("# changed\n")
    known.python_for("airworthy/tiny:dev")
    assert said[2].startswith("Renewing the environment 'tiny'")
    assert known.digest("airworthy/tiny:dev") != before


def test_an_environment_that_cannot_be_made_names_its_log_and_is_not_used(project):
    (project / "requirements/tiny.txt").write_text("not a requirement !!\n")
    known = Environments(project / "home")
    for _ in range(2):
        with pytest.raises(EngineError, match=r"failed while making an environment; see .*tiny\.log"):
            known.python_for("tiny")


def test_without_uv_it_says_what_is_missing(project, monkeypatch):
    monkeypatch.setattr(environments.shutil, "which", lambda _: None)
    monkeypatch.setattr(environments.sys, "executable", str(project / "bin/python"))
    with pytest.raises(MissingCapabilityError, match="uv is needed"):
        Environments(project / "home").python_for("tiny")


def test_a_gpu_selects_the_group_with_cuda_where_there_is_one(project, monkeypatch):
    (project / "requirements/tiny-gpu.txt").write_text("# nothing\n")
    monkeypatch.setattr(environments, "gpu_present", lambda: True)
    assert Environments(project).group_of("tiny") == "tiny-gpu"
    monkeypatch.setattr(environments, "gpu_present", lambda: False)
    assert Environments(project).group_of("tiny") == "tiny"


@dsl.pipeline
def shown(n: int):
    with dsl.If(n > 1, "taken"):
        number().set_display_name("Count rows")
    with dsl.Else():
        text().set_display_name("Not this one")
    fail(message="broken").set_retry(1, backoff_duration="0s")


def test_progress_without_a_terminal_is_one_line_per_finished_task(run):
    screen = io.StringIO()
    with Progress(Console(file=screen, width=80)) as progress:
        run(shown, {"n": 2}, listener=progress)
    lines = screen.getvalue().splitlines()
    assert len(lines) == 2
    assert any(line.startswith("✔ Count rows ") for line in lines)
    assert any("✘ fail" in line and "attempt 2, RuntimeError: broken" in line for line in lines)


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_step_waits_for_is_shown_at_once_and_in_full(terminal: bool):
    screen = io.StringIO()
    console = Console(file=screen, width=40, force_terminal=terminal, color_system=None)
    with Progress(console) as progress:
        progress(Event("log_line", "wait", "an ordinary line"))
        progress(
            Event("log_line", "wait", "notice: waits for an answer: airworthy approve late@3 --reason '…'")
        )
        assert "waits for an answer: airworthy approve late@3 --reason '…'" in screen.getvalue()
    assert "ordinary" not in screen.getvalue()
    assert "notice:" not in screen.getvalue()


def test_the_last_log_line_is_shown_without_the_sdks_preamble():
    progress = Progress(Console(file=io.StringIO(), width=80))
    progress(Event("task_started", "a", "", TaskRecord("a", "a", "", "Work", state="RUNNING")))
    progress(Event("log_line", "a", "[KFP Executor 2026-11-21 08:49:28,924 INFO]: 4 of 9 done"))
    final = io.StringIO()
    Console(file=final, width=80).print(progress.tree())
    assert "    4 of 9 done" in final.getvalue()
    assert "KFP" not in final.getvalue()


def test_pages_get_the_ending_that_tells_a_browser_how_to_show_them(tmp_path: Path):
    kinds = {"dossier": "system.HTML", "summary": "system.Markdown", "model": "system.Model"}
    outputs = {name: {"artifactType": {"schemaTitle": kind}} for name, kind in kinds.items()}
    made = make_executor_input({"outputDefinitions": {"artifacts": outputs}}, Values(), tmp_path)
    uris = {name: found["artifacts"][0]["uri"] for name, found in made["outputs"]["artifacts"].items()}
    assert uris == {
        "dossier": str(tmp_path / "dossier.html"),
        "summary": str(tmp_path / "summary.md"),
        "model": str(tmp_path / "model"),
    }


def test_progress_tree_shows_branches_indented_and_skipped_ones_folded(run):
    screen = io.StringIO()
    console = Console(file=screen, width=100, force_terminal=True, color_system=None)
    with Progress(console) as progress:
        run(shown, {"n": 2}, listener=progress)
    final = io.StringIO()
    Console(file=final, width=100).print(progress.tree())
    lines = [line.rstrip() for line in final.getvalue().splitlines()]
    assert any(line.startswith("  ✔ taken") for line in lines)
    assert any(line.startswith("    ✔ Count rows") for line in lines)
    assert not any("Not this one" in line for line in lines)
    assert any("skipped" in line for line in lines)


def test_importing_the_engine_does_not_import_the_sdk():
    code = "import airworthy.local.engine, sys; print('kfp' in sys.modules, 'pandas' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert found.stdout.split() == ["False", "False"]
