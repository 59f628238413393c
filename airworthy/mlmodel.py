"""The files that make a bundle an MLflow model. A copy of this file travels inside every bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bundle import BundleInfo

CODE_PACKAGE = "airworthy_scorer"
_SOURCES = ("errors.py", "encoding.py", "mlmodel.py", "signing.py", "bundle.py", "pyfunc.py")
_NO_CACHE = (
    "A file of this name keeps Python from writing compiled code here, which would change the bundle.\n"
)


def files(info: BundleInfo) -> dict[str, bytes]:
    """Contents by relative path: description, requirements, and the sources that score the bundle.

    The sources let MLflow score where Airworthy is not installed; they are a package of another name, so that
    they never stand in for an installed Airworthy.
    """
    here = Path(__file__).parent
    code = {name: (here / name).read_bytes() for name in _SOURCES}
    code["__init__.py"] = b'"""Scores the bundle it lies in."""\n'
    code["__pycache__"] = _NO_CACHE.encode()
    return {
        "MLmodel": _description(info).encode(),
        "requirements.txt": _requirements(info).encode(),
        "python_env.yaml": _python_env(info).encode(),
        **{f"code/{CODE_PACKAGE}/{name}": content for name, content in code.items()},
    }


def _requirements(info: BundleInfo) -> str:
    return "".join(f"{name}=={v}\n" for name, v in sorted(info.versions.items()) if name != "python")


def _python_env(info: BundleInfo) -> str:
    python = f'python: "{info.versions["python"]}"\n' if "python" in info.versions else ""
    return python + "build_dependencies: [pip]\ndependencies: [-r requirements.txt]\n"


def _description(info: BundleInfo) -> str:
    """The description that MLflow reads (JSON is YAML); without the time and id that it would put there."""
    # `any`: MLflow takes whole numbers only as int64, which can't hold missing ones; `encode` checks them
    types = {"number": "double", "integer": "any", "category": "string", "bool": "boolean"}
    inputs = [{"type": types[f.kind], "name": f.name, "required": True} for f in info.features]
    outputs = [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]
    flavor = {
        "loader_module": f"{CODE_PACKAGE}.pyfunc",
        "code": "code",
        "env": {"virtualenv": "python_env.yaml"},
        "python_version": info.versions.get("python", "3.11"),
    }
    document = {
        "flavors": {"python_function": flavor},
        "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None},
    }
    return json.dumps(document, indent=2) + "\n"
