"""Training: what is saved is the best round, made the same way twice, from data that was checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from airworthy import datasets
from airworthy.bundle import Scorer, read_bundle_info, verify_bundle
from airworthy.encoding import Encoder
from airworthy.errors import ConfigError, DataError, MissingCapabilityError
from airworthy.training import TrainingResult, device
from airworthy.training import xgboost as trainer
from airworthy.training.windows import iter_matrices, learn_features, open_windows
from tests.late_world import CARRIERS, FEATURES, World, run

Trained = tuple[Path, TrainingResult]


def test_the_best_round_is_what_is_saved_and_scored(world: World, trained: Trained) -> None:
    out, result = trained
    losses = result.curves["tune_logloss"]
    assert len(losses) > result.rounds == int(np.argmin(losses)) + 1
    info = read_bundle_info(out)
    assert info.rounds == result.rounds

    frame = datasets.read_frame(world.tune)
    scores, unseen = Scorer.load(out, engine="xgboost").score_frame(frame)
    loss = -np.mean(np.where(frame["late"] == 1, np.log(scores), np.log1p(-scores)))
    assert loss == pytest.approx(min(losses), abs=1e-5)
    assert loss == pytest.approx(result.metrics["tune_log_loss"], abs=1e-9)
    assert unseen == result.unseen == {"carrier": 20}


def test_saved_scores_are_those_of_all_rounds_cut_at_the_best(world: World, trained: Trained) -> None:
    """Fit again without early stopping, slice at the best round: the same model, bit for bit."""
    first, second = open_windows(world.spec, world.train, world.tune)
    patient = world.with_trainer(early_stopping_rounds=10_000, rounds=25).spec.trainer
    fitted = trainer.fit(patient, learn_features(first), first, second, "cpu")
    whole = xgboost.Booster()
    whole.load_model(bytearray(fitted.booster))
    frame = datasets.read_frame(world.tune)
    scorer = Scorer.load(trained[0], engine="xgboost")
    matrix, _ = scorer.encode({f.name: frame[f.name].to_numpy() for f in scorer.info.features})
    best = whole[: trained[1].rounds].inplace_predict(matrix)
    assert np.array_equal(scorer.score(matrix), best.astype(np.float64))


def test_training_twice_gives_the_same_digest(world: World, trained: Trained, tmp_path: Path) -> None:
    again = run(world, tmp_path / "again")
    assert again.digest == trained[1].digest == verify_bundle(trained[0])
    other = run(world.with_trainer(seed=4, params={"subsample": 0.5}), tmp_path / "other")
    assert other.digest != again.digest


def test_streamed_batches_fit_the_same_model_as_one_matrix(
    world: World, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = open_windows(world.spec, world.train, world.tune)
    features = learn_features(first)
    monkeypatch.setattr(datasets.iter_batches, "__defaults__", (None, 1000))
    assert len(list(iter_matrices(first, Encoder(features)))) == 6
    fitted = trainer.fit(world.spec.trainer, features, first, second, "cpu")
    assert fitted.booster == (trained[0] / "model.ubj").read_bytes()


def test_the_bundle_says_what_the_training_window_held(world: World, trained: Trained) -> None:
    info = read_bundle_info(trained[0])
    frame = datasets.read_frame(world.train)
    wind, hour, carrier, holiday = info.features
    assert (wind.minimum, wind.maximum) == (frame["wind"].min(), frame["wind"].max())
    assert (hour.kind, hour.minimum, hour.maximum) == ("integer", 5, 23)
    assert list(carrier.categories) == sorted(CARRIERS)
    assert [f.nullable for f in info.features] == [True, True, True, False]
    assert (holiday.minimum, holiday.maximum) == (0, 1)
    assert info.base_rate == pytest.approx(frame["late"].mean())
    assert info.training_fingerprint == datasets.read_info(world.train).fingerprint
    assert info.device == "cpu"
    assert "differs by at most" in info.onnx


def test_the_threshold_is_the_cheapest_on_the_tuning_window(world: World, trained: Trained) -> None:
    frame = datasets.read_frame(world.tune)
    scores, _ = Scorer.load(trained[0]).score_frame(frame)
    late = frame["late"].to_numpy()

    def cost(threshold: float) -> float:
        yes = scores >= threshold
        return float(np.sum(yes & (late == 0)) + 3 * np.sum(~yes & (late == 1)))

    chosen = cost(trained[1].metrics["threshold"])
    assert chosen == min(cost(t) for t in [0.0, 1.0, *scores])
    assert trained[1].metrics["tune_cost"] == pytest.approx(chosen / len(frame))


def test_balanced_classes_shift_the_scores_and_stop_on_ranking(
    world: World, trained: Trained, tmp_path: Path
) -> None:
    result = run(world.with_trainer(class_weight="balanced"), tmp_path / "balanced")
    frame = datasets.read_frame(world.tune)
    plain = Scorer.load(trained[0]).score_frame(frame)[0].mean()
    balanced = Scorer.load(tmp_path / "balanced").score_frame(frame)[0].mean()
    info = read_bundle_info(tmp_path / "balanced")
    assert info.params["scale_pos_weight"] == pytest.approx((1 - info.base_rate) / info.base_rate)
    assert balanced > plain + 0.03
    assert set(result.curves) == {"train_auc", "tune_auc"}
    assert result.rounds == int(np.argmax(result.curves["tune_auc"])) + 1


def test_a_required_gpu_fails_before_anything_is_read(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(device, "cuda_devices", lambda: 0)
    with pytest.raises(MissingCapabilityError, match="gpu is required, but no NVIDIA GPU is visible"):
        run(world.with_trainer(gpu="required"), tmp_path / "out", train=tmp_path / "nowhere")
    assert device.resolve_device("auto") == "cpu"


def test_a_gpu_that_xgboost_does_not_use_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """XGBoost itself only warns and trains on the CPU."""
    if device.cuda_problem() is None:
        pytest.skip("there is a GPU here, so XGBoost would use it")
    first, second = open_windows(world.spec, world.train, world.tune)
    required = world.with_trainer(gpu="required", rounds=2).spec.trainer
    with pytest.raises(MissingCapabilityError, match="XGBoost trained on cpu"):
        trainer.fit(required, learn_features(first), first, second, "cuda")


@pytest.mark.parametrize(
    ("quota", "threads"), [("max 100000", 99), ("150000 100000", 2), ("50000 100000", 1)]
)
def test_a_containers_quota_limits_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, threads: int
) -> None:
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(99)))
    assert device.cpu_threads(tmp_path) == 99
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert device.cpu_threads(tmp_path) == threads


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"max_depht": 3}, ".max_depht: XGBoost refuses it: there is no such parameter"),
        ({"max_depth": -3}, ".max_depth: XGBoost refuses it: value -3"),
        ({"learning_rate": "fast"}, ".learning_rate: XGBoost refuses it"),
        ({"base_score": 2}, ".base_score: XGBoost refuses it: base_score must be in"),
        ({"booster": "gblinear"}, ".booster: must be gbtree"),
        ({"max_bin": "many"}, ".max_bin: XGBoost refuses it"),
    ],
)
def test_parameters_that_xgboost_would_ignore_or_refuse_stop_at_once(
    world: World, tmp_path: Path, params: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        run(world.with_trainer(params=params), tmp_path / "out")
    assert str(caught.value).startswith("trainer.params")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parameters_may_name_bins_and_constraints(world: World, tmp_path: Path) -> None:
    params: dict[str, Any] = {"max_bin": 32, "monotone_constraints": "(1,0,0,0)"}
    run(world.with_trainer(params=params, rounds=3), tmp_path / "out")
    wind = {"wind": [5.0, 20.0, 50.0], "hour": [9] * 3, "carrier": ["C001"] * 3, "holiday": [False] * 3}
    scorer = Scorer.load(tmp_path / "out")
    assert np.all(np.diff(scorer.score(scorer.encode(wind)[0])) >= 0)


def _all(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda columns: columns.update({name: [value] * len(columns["row_id"])})


def _none_left(columns: dict[str, Any]) -> None:
    columns.update({name: values[:0] for name, values in columns.items()})


def _one(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda columns: columns[name].__setitem__(7, value)


@pytest.mark.parametrize(
    ("window", "change", "said"),
    [
        ("train", _none_left, "window train is empty"),
        ("tune", _none_left, "window tune is empty"),
        ("train", _all("late", 1), "all 400 rows have label 1"),
        ("tune", _all("late", 0), "all 400 rows have label 0"),
        ("train", _one("late", None), "label late is unknown in 1 rows"),
        ("tune", _one("late", 2), "label late must be 0/1"),
        ("train", _one("wind", float("inf")), "column wind: holds infinite values"),
        ("train", _all("wind", "fresh"), "column wind: must be of kind number, not string"),
        ("train", _all("carrier", 7), "column carrier: must be text, not int64"),
        ("tune", _one("wind", float("inf")), "column wind: infinite or too large in row 7"),
        ("tune", _all("holiday", 3), "column holiday: must be true or false, found 3"),
    ],
)
def test_unusable_windows_are_refused_with_a_reason(
    broken: Callable[..., World], tmp_path: Path, window: str, change: Any, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        run(broken(window, change), tmp_path / "out")
    assert said in str(caught.value)
    assert str(tmp_path / window) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("window", "options", "said"),
    [
        ("tune", {"first_day": 50}, "before training ends"),
        ("tune", {"features": FEATURES[:1]}, "not those of the training window"),
        ("tune", {"label": "holiday"}, "its label is holiday, but the model spec says late"),
        ("train", {"features": ()}, "no features"),
    ],
)
def test_windows_that_do_not_belong_together_are_refused(
    broken: Callable[..., World], window: str, options: dict[str, Any], said: str
) -> None:
    world = broken(window, **options)
    with pytest.raises(DataError, match=said):
        open_windows(world.spec, world.train, world.tune)


def test_a_category_column_without_any_value_trains(broken: Callable[..., World], tmp_path: Path) -> None:
    """A source may be silent for a whole window; the model then simply can't use it."""
    run(broken("train", _all("carrier", None)), tmp_path / "out")
    assert read_bundle_info(tmp_path / "out").features[2].categories == ()


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_the_run_in_mlflow_tells_how_the_bundle_was_made(
    world: World, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    result = run(world, tmp_path / "bundle", tracking=True)
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    logged = client.get_run(result.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["tune_auc"] == pytest.approx(result.metrics["tune_auc"])
    assert logged.data.params["max_depth"] == "4"
    assert logged.data.tags["airworthy.device"] == "cpu"
    curve = client.get_metric_history(result.run_id, "tune_logloss")
    assert [p.value for p in curve] == pytest.approx(result.curves["tune_logloss"])
    roles = {i.tags[0].value: json.loads(i.dataset.profile) for i in logged.inputs.dataset_inputs}
    assert roles["training"]["fingerprint"] == datasets.read_info(world.train).fingerprint
    assert roles["tuning"]["rows"] == 1500
    stored = download_artifacts(
        f"runs:/{result.run_id}/model", tracking_uri=uri, dst_path=str(tmp_path / "got")
    )
    assert verify_bundle(Path(stored)) == result.digest == trained[1].digest

    monkeypatch.setattr(trainer, "fit", _fail)
    with pytest.raises(MissingCapabilityError):
        run(world, tmp_path / "failed", tracking=True)
    runs = client.search_runs([logged.info.experiment_id])
    assert sorted(r.info.status for r in runs) == ["FAILED", "FINISHED"]


def _fail(*_: Any) -> None:
    raise MissingCapabilityError("the GPU went away")
