"""Compile every pipeline into `pipelines/compiled/`."""

from __future__ import annotations

from pathlib import Path

from kfp import compiler

from pipelines.release import release

COMPILED = Path(__file__).parent / "compiled"
PIPELINES = {"release": release}


def compile_all(folder: Path = COMPILED) -> list[Path]:
    """Write one YAML per pipeline (each replaced whole); returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, pipeline in PIPELINES.items():
        temporary = folder / f".{name}.incomplete.yaml"
        compiler.Compiler().compile(pipeline, str(temporary))
        temporary.replace(folder / f"{name}.yaml")
        written.append(folder / f"{name}.yaml")
    return written


if __name__ == "__main__":
    compile_all()
