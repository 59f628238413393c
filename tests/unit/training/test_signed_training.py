"""With a key, training signs what it writes; an unusable key is told before anything is fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airworthy.bundle import verify_bundle
from airworthy.errors import BundleError
from airworthy.signing import SIGNATURE, SIGNING_KEY, VERIFY_KEY, write_keys
from airworthy.training import TrainingResult
from airworthy.training import xgboost as trainer
from tests.late_world import World, run


def test_a_trained_bundle_is_signed_with_the_same_digest(
    world: World, trained: tuple[Path, TrainingResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = write_keys(tmp_path / "keys")
    monkeypatch.setenv(SIGNING_KEY, str(private))
    monkeypatch.setenv(VERIFY_KEY, str(public))
    result = run(world, tmp_path / "bundle")
    assert (tmp_path / "bundle" / SIGNATURE).is_file()
    assert verify_bundle(tmp_path / "bundle") == result.digest == trained[1].digest
    assert not (trained[0] / SIGNATURE).exists()


def test_an_unusable_key_is_refused_before_fitting(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: Any) -> None:
        raise AssertionError("fitted")

    monkeypatch.setattr(trainer, "fit", fit)
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "none"))
    with pytest.raises(BundleError, match="can't be read"):
        run(world, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
