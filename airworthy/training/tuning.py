"""What the tuning window decides once the model is fitted: the threshold, and whether ONNX scores alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from airworthy.encoding import Encoder, Feature
from airworthy.errors import DataError
from airworthy.model_spec import Threshold
from airworthy.training.device import cpu_threads
from airworthy.training.onnx import NotConvertibleError, to_onnx
from airworthy.training.windows import Window, iter_matrices

PARITY = 1e-6
"""Largest difference of a score that an ONNX conversion may show."""

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Tuned:
    """Scores of the tuning window, as the saved model gives them on a CPU, and what follows from them."""

    scores: Floats
    labels: Floats
    unseen: dict[str, int]
    """Rows per feature whose category the training window did not hold."""
    onnx: bytes | None
    onnx_outcome: str


def score_window(booster: bytes, features: Sequence[Feature], tune: Window) -> Tuned:
    """Reload the saved model, score the tuning window with it and with its ONNX conversion, and compare.

    Raises:
        DataError: A score is not finite.
    """
    import xgboost

    model = xgboost.Booster({"nthread": cpu_threads()})
    model.load_model(bytearray(booster))
    model.set_param({"device": "cpu"})
    try:
        onnx: bytes | None = to_onnx(bytes(model.save_raw("json")), len(features))
        outcome = ""
    except NotConvertibleError as error:
        onnx, outcome = None, f"left out: {error}"
    session = None if onnx is None else _session(onnx)
    scores, labels, unseen, apart = [], [], Counter[str](), 0.0
    for matrix, known, new in iter_matrices(tune, Encoder(features)):
        scores.append(model.inplace_predict(matrix, validate_features=False))
        labels.append(known)
        unseen.update(new)
        if session is not None:
            other = session.run(["scores"], {"input": matrix})[0][:, 0]
            apart = max(apart, float(np.abs(other - scores[-1]).max()))
    if onnx is not None:
        outcome = f"differs by at most {apart:.1e} on {tune.info.rows} tuning rows"
        if not apart <= PARITY:
            onnx, outcome = None, f"left out: {outcome}, more than {PARITY:.0e}"
    merged = np.concatenate(scores).astype(np.float64)
    if not np.isfinite(merged).all():
        raise DataError(
            f"{tune.path}: the fitted model gives scores that are not finite; check trainer.params"
        )
    return Tuned(merged, np.concatenate(labels).astype(np.float64), dict(unseen), onnx, outcome)


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def choose_threshold(scores: Floats, labels: Floats, costs: Threshold) -> tuple[float, float]:
    """The threshold with the lowest cost on these rows, and that cost per row.

    It lies halfway between two neighbouring scores, so that rounding never moves a row across; among equally
    good ones the highest is taken. 0 means that everything is a yes, 1 that nothing is.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, positive = scores[order], labels[order]
    hits = np.concatenate([[0.0], np.cumsum(positive)])
    alarms = np.arange(len(ranked) + 1) - hits
    cost = costs.cost_false_alarm * alarms + costs.cost_miss * (hits[-1] - hits)
    possible = np.concatenate([[True], ranked[1:] < ranked[:-1], [True]])
    count = int(np.argmin(np.where(possible, cost, np.inf)))
    bounds = np.concatenate([[1.0], (ranked[1:] + ranked[:-1]) / 2, [0.0]])
    return float(bounds[count]), float(cost[count] / len(ranked))


def tuning_metrics(scores: Floats, labels: Floats) -> dict[str, float]:
    """AUC (ties by mid-ranks), log loss and Brier score of the tuning window."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    positives = labels.sum()
    pairs = positives * (len(labels) - positives)
    clipped = np.clip(scores, 1e-15, 1 - 1e-15)
    loss = -np.where(labels == 1, np.log(clipped), np.log1p(-clipped))
    return {
        "tune_auc": float((ranks[labels == 1].sum() - positives * (positives + 1) / 2) / pairs),
        "tune_log_loss": float(loss.mean()),
        "tune_brier": float(np.mean((scores - labels) ** 2)),
    }
