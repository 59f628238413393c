"""Operations on data: windows of a model, a first schema."""

from __future__ import annotations

from pathlib import Path

from airworthy.files import write_whole
from airworthy.state import feature_repo, home


def retrieve(spec: Path, out: Path, as_of: str | None) -> None:
    """Retrieve a model's windows into `out/train`, `out/tune` and `out/test`."""
    from airworthy.client import read_model
    from airworthy.features import retrieve as retrieve_windows
    from airworthy.model_spec import parse_as_of

    windows = {name: out / name for name in ("train", "tune", "test")}
    retrieve_windows(read_model(spec), parse_as_of(as_of), windows, feature_repo=feature_repo(), home=home())


def infer(dataset: Path, out: Path) -> None:
    """Write a first schema for a dataset."""
    from airworthy.validation import infer_schema

    write_whole(out, infer_schema(dataset))
