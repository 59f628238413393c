"""The ONNX conversion scores like XGBoost, whatever the trees look like."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import xgboost

from airworthy.training.onnx import NotConvertibleError, to_onnx

ROWS = 4000


def fit(params: dict[str, Any], categories: int, rounds: int) -> tuple[xgboost.Booster, np.ndarray[Any, Any]]:
    """A model on noise, two numbers and a category column, a tenth of it missing."""
    rng = np.random.default_rng(11)
    rows = rng.normal(size=(ROWS, 3)).astype(np.float32)
    rows[:, 1] = rng.integers(0, categories, ROWS)
    effect = rng.normal(size=categories)[rows[:, 1].astype(int)]
    rows[rng.random(rows.shape) < 0.1] = np.nan
    label = effect + rng.normal(size=ROWS) > 0.8
    types = ["float", "c", "float"]
    matrix = xgboost.QuantileDMatrix(rows, label, feature_types=types, enable_categorical=True)
    options = {"objective": "binary:logistic", "nthread": 1, **params}
    return xgboost.train(options, matrix, rounds), rows


@pytest.mark.parametrize(
    ("params", "categories", "rounds"),
    [
        ({"max_depth": 6}, 300, 60),
        ({"max_depth": 3, "max_cat_to_onehot": 1}, 2, 10),
        ({"max_depth": 4, "max_cat_to_onehot": 1000}, 40, 30),
        ({"grow_policy": "lossguide", "max_leaves": 31, "max_depth": 0}, 90, 20),
        ({"num_parallel_tree": 3, "subsample": 0.5, "max_depth": 3}, 20, 5),
        ({"gamma": 1e9}, 5, 3),
        ({"base_score": 0.01, "max_depth": 2}, 10, 5),
    ],
    ids=["many", "two", "one-hot", "leafwise", "forest", "lone-leaves", "base-score"],
)
def test_scores_agree(params: dict[str, Any], categories: int, rounds: int) -> None:
    model, rows = fit(params, categories, rounds)
    content = to_onnx(bytes(model.save_raw("json")), 3)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    scores = session.run(["scores"], {"input": rows})[0][:, 0]
    assert np.abs(scores - model.inplace_predict(rows)).max() <= 1e-6
    assert content == to_onnx(bytes(model.save_raw("json")), 3)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"booster": "dart"}, "no conversion for dart"),
        ({"objective": "reg:squarederror"}, "with reg:squarederror"),
    ],
)
def test_other_models_are_not_converted_wrongly(params: dict[str, Any], said: str) -> None:
    model, _ = fit(params, 5, 2)
    with pytest.raises(NotConvertibleError, match=said):
        to_onnx(bytes(model.save_raw("json")), 3)
