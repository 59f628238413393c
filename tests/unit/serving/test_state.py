"""The state of a service: bundle copies are neither lost nor kept for ever, a damaged file is told."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from airworthy.errors import RolloutError
from airworthy.rollout import deploy
from airworthy.serving.state import SPARED_SECONDS, ServiceStore
from tests.release_evidence import Evidence, make_evidence


def _age(path: Path) -> None:
    long_ago = time.time() - SPARED_SECONDS - 1
    os.utime(path, (long_ago, long_ago))


def test_a_copy_survives_the_pruning_of_another_release_until_it_is_referred_to(
    judged: Evidence, tmp_path: Path
) -> None:
    for file in (judged.bundle, *judged.bundle.rglob("*")):
        _age(file)  # the copy's age counts, not the bundle's
    store = ServiceStore(tmp_path, "late")
    kept = store.path(store.keep(judged.bundle, "1"))
    store.prune()
    assert kept.exists()
    _age(kept)
    store.keep(judged.bundle, "1")  # a release of the same bundle starts the hour again
    store.prune()
    assert kept.exists()
    _age(kept)
    store.prune()
    assert not kept.exists()


def test_old_copies_in_use_stay_and_half_copies_go(judged: Evidence, tmp_path: Path) -> None:
    newer = make_evidence(tmp_path / "newer", rounds=4)
    deploy("late", model="late", bundle=judged.bundle, version="1", home=tmp_path)
    store = ServiceStore(tmp_path, "late")
    half = store.folder / "models" / f"{newer.digest[:16]}.incomplete"
    half.mkdir()
    (half / "model.ubj").write_bytes(b"half")
    store.keep(newer.bundle, "2")
    assert not half.exists(), "what a killed process left is replaced"
    half.mkdir()
    for folder in (store.folder / "models").iterdir():
        _age(folder)
    store.prune()
    assert [p.name for p in (store.folder / "models").iterdir()] == [judged.digest[:16]]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"service": 1}'])
def test_a_damaged_state_is_told_with_its_file(tmp_path: Path, content: bytes) -> None:
    store = ServiceStore(tmp_path, "late")
    store.folder.mkdir(parents=True)
    store.file.write_bytes(content)
    with pytest.raises(RolloutError, match=r"service\.json can't be understood"):
        store.read()
