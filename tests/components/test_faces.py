"""Faces are thin and documented; the library below them knows nothing of KFP."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from components.metadata import metadata

ROOT = Path(__file__).parents[2]
COMPONENTS = sorted(p.parent.name for p in (ROOT / "components").glob("*/component.py"))
STEP_ROOMS = {"features", "validation", "training", "evaluation", "registry", "serving", "rollout", "dossier"}
GROUND_FLOOR = {
    "errors",
    "files",
    "model_spec",
    "bundle",
    "datasets",
    "verdict",
    "findings",
    "signing",
    "feast_store",
    "mlflow_store",
    "state",
}


@pytest.mark.parametrize("name", COMPONENTS)
def test_inputs_and_outputs_are_documented(name: str) -> None:
    component = getattr(importlib.import_module(f"components.{name}.component"), name)
    readme = (ROOT / "components" / name / "README.md").read_text()
    spec = component.component_spec
    described = spec.description or ""
    assert metadata(name).name == name
    assert described
    for io in [*(spec.inputs or {}), *(spec.outputs or {})]:
        assert f"`{io}`" in readme, f"{name}/README.md does not tell of {io}"
    assert "## When it fails" in readme


@pytest.mark.parametrize("name", COMPONENTS)
def test_faces_are_short(name: str) -> None:
    tree = ast.parse((ROOT / "components" / name / "component.py").read_text())
    face = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    statements = [node for node in ast.walk(face) if isinstance(node, ast.stmt)]
    assert len(statements) <= 30


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def _room(path: Path) -> str:
    return path.relative_to(ROOT / "airworthy").parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "airworthy").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_rooms_import_downwards_only(path: Path) -> None:
    room = _room(path)
    imported = _imports(path)
    own = {name.split(".")[1] for name in imported if name.startswith("airworthy.") and name.count(".") >= 1}
    if room in STEP_ROOMS | GROUND_FLOOR:
        assert not any(name.split(".")[0] == "kfp" for name in imported), "step logic must not import kfp"
    if room in STEP_ROOMS:
        allowed = {"rollout": {"serving"}, "dossier": {"registry"}}.get(room, set())
        assert not (own & STEP_ROOMS) - {room} - allowed
    if room in GROUND_FLOOR:
        assert not own & STEP_ROOMS


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, airworthy, airworthy.errors, airworthy.cli;"
        "heavy = {'kfp', 'mlflow', 'pandas', 'xgboost', 'feast', 'kserve', 'numpy', 'tensorflow'} & set(sys.modules);"
        "sys.exit(f'imported at once: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
