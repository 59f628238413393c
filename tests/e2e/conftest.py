"""Whole releases through the command line, in a state directory of their own that shares the environments."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
SMALLER = {
    "splits": {"train_days": 45, "tune_days": 10, "test_days": 14},
    "trainer.rounds": 60,
    "gate.champion.margin": 0.05,
    "gate.champion.guards": {},
    "gate.resampling.block": "hour",  # fourteen days are too few to be blocks
    "gate.min_auc": 0.6,
    "gate.min_pr_auc": 0.15,
    "validation.min_rows": {"train": 1000, "tune": 200, "test": 500},
}
"""Changes that keep everything real but make a release quicker."""


class Airworthy:
    """The command line, with a home."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, "AIRWORTHY_HOME": str(self.home), "COLUMNS": "160", **(more or {})}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "airworthy", *arguments]

    def __call__(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=ROOT,
            env=self.environment(env),
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    def release(
        self, model: Path, as_of: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self("run", "--model", str(model), "--as-of", as_of, "--plain", env=env)

    def release_with_fault(self, model: Path, as_of: str, fault: str) -> subprocess.CompletedProcess[str]:
        """As the demonstration does it: the command line itself offers no faults."""
        code = (
            "import sys; from pathlib import Path; from rich.console import Console;"
            "from airworthy.client import LocalClient; from airworthy.summary import print_summary;"
            "result = LocalClient().submit('release', model=Path(sys.argv[1]), parameters={'as_of': sys.argv[2]},"
            " env={'AIRWORTHY_DEMO_FAULT': sys.argv[3]});"
            "sys.exit(print_summary(result, Console(width=200)))"
        )
        return subprocess.run(
            [sys.executable, "-c", code, str(model), as_of, fault],
            cwd=ROOT,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    def processes(self) -> list[psutil.Process]:
        """Every process that works for this home."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("AIRWORTHY_HOME") == str(self.home) and process.pid != os.getpid():
                    found.append(process)
            except psutil.Error:
                continue  # ended meanwhile, or not ours to look at
        return found


@pytest.fixture(scope="session")
def airworthy(tmp_path_factory: pytest.TempPathFactory) -> Airworthy:
    home = tmp_path_factory.mktemp("home")
    shared = Path(os.environ.get("AIRWORTHY_HOME", ROOT / ".airworthy"))
    (shared / "envs").mkdir(parents=True, exist_ok=True)
    (home / "envs").symlink_to(shared / "envs")
    return Airworthy(home)


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a variant of a shipped spec: `spec("flight_delay", {"trainer.rounds": 3})`."""

    def make(name: str, changes: Mapping[str, Any] | None = None) -> Path:
        yaml = YAML(typ="rt")
        source = ROOT / "models" / f"{name}.yaml"
        document = yaml.load(source.read_text())
        document["validation"]["schema"] = str((source.parent / document["validation"]["schema"]).resolve())
        for dotted, value in {**SMALLER, **(changes or {})}.items():
            *parents, last = dotted.split(".")
            node = document
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        path = tmp_path_factory.mktemp("spec") / source.name
        with path.open("w") as file:
            yaml.dump(document, file)
        return path

    return make
