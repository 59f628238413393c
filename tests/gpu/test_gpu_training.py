"""On a GPU: training really happens there, and its bundle is as good and scores the same on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from airworthy import datasets
from airworthy.bundle import Scorer, read_bundle_info
from airworthy.model_spec import load_spec
from airworthy.training import TrainingResult, device
from tests.late_world import SPEC, World, rows, run, write

_problem = device.cuda_problem()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(_problem is not None, reason=f"{_problem}"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("gpu")
    train, tune = rows(60_000, seed=1), rows(20_000, seed=2)
    tune["carrier"][:20] = ["NEW"] * 20
    return World(
        write(folder / "train", train, 0, 60), write(folder / "tune", tune, 60, 14), load_spec(SPEC), SPEC
    )


@pytest.fixture(scope="module")
def on_gpu(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingResult]:
    out = tmp_path_factory.mktemp("on_gpu") / "bundle"
    return out, run(world.with_trainer(gpu="required"), out)


def test_the_device_really_used_is_recorded(on_gpu: tuple[Path, TrainingResult]) -> None:
    out, result = on_gpu
    assert result.device.startswith("cuda")
    assert read_bundle_info(out).device == result.device


def test_auto_takes_the_gpu_and_off_does_not(world: World, tmp_path: Path) -> None:
    assert run(world.with_trainer(gpu="auto", rounds=2), tmp_path / "auto").device.startswith("cuda")
    assert run(world.with_trainer(gpu="off", rounds=2), tmp_path / "off").device == "cpu"


def test_a_gpu_trained_bundle_is_as_good_as_a_cpu_trained_one(
    world: World, on_gpu: tuple[Path, TrainingResult], tmp_path: Path
) -> None:
    cpu = run(world.with_trainer(gpu="off"), tmp_path / "cpu")
    assert on_gpu[1].metrics["tune_auc"] == pytest.approx(cpu.metrics["tune_auc"], abs=0.005)
    frame = datasets.read_frame(world.tune)
    there, _ = Scorer.load(on_gpu[0]).score_frame(frame)
    here, _ = Scorer.load(tmp_path / "cpu").score_frame(frame)
    assert np.abs(there - here).mean() < 0.02


def test_its_two_engines_agree_on_a_cpu(world: World, on_gpu: tuple[Path, TrainingResult]) -> None:
    frame = datasets.read_frame(world.tune)
    plain, unseen = Scorer.load(on_gpu[0], engine="xgboost").score_frame(frame)
    onnx, _ = Scorer.load(on_gpu[0], engine="onnx").score_frame(frame)
    assert np.abs(plain - onnx).max() <= 1e-6
    assert unseen == {"carrier": 20}
