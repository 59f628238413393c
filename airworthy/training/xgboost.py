"""Fitting with XGBoost: histogram trees from streamed batches, stopped where the tuning window is best."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from airworthy.encoding import Encoder, Feature
from airworthy.errors import AirworthyError, ConfigError, MissingCapabilityError
from airworthy.training.device import cpu_threads, used_device
from airworthy.training.windows import Window, iter_matrices

if TYPE_CHECKING:
    import xgboost

    from airworthy.model_spec import Trainer

Params = dict[str, float | int | str | bool]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A fitted model."""

    booster: bytes
    """UBJSON; only the trees up to the best round."""
    rounds: int
    """Rounds kept."""
    device: str
    """Device really used."""
    curves: dict[str, list[float]]
    """Metric per round, by `window_metric`; rounds after the best one included."""


def parameters(trainer: Trainer, train: Window) -> Params:
    """XGBoost parameters that shape the model (device and threads do not belong to them)."""
    weighted = trainer.class_weight == "balanced"
    return {
        **trainer.params,
        "objective": "binary:logistic",
        "tree_method": "hist",
        # weighting shifts the scores, so that log loss would stop too early; ranking is untouched by it
        "eval_metric": "auc" if weighted else "logloss",
        "seed": trainer.seed,
        "scale_pos_weight": train.negatives / train.positives if weighted else 1.0,
    }


def check_params(trainer: Trainer, features: int) -> None:
    """Let XGBoost judge the spec's parameters on a handful of rows with so many features, before any is read.

    Raises:
        ConfigError: It refuses one, or doesn't know it (which it would only warn of).
    """
    if trainer.params.get("booster", "gbtree") != "gbtree":
        raise ConfigError("trainer.params.booster: must be gbtree")
    problem = _refusal(trainer.params, features)
    if problem:
        culprits = [name for name, value in trainer.params.items() if _refusal({name: value}, features)]
        raise ConfigError(f"{'.'.join(['trainer.params', *culprits[:1]])}: XGBoost refuses it: {problem}")


def _refusal(params: Params, features: int) -> str | None:
    """What XGBoost says against parameters; None when it takes them."""
    import xgboost

    said: list[str] = []
    rows = np.arange(8 * features, dtype=np.float32).reshape(8, features)
    ours: Params = {"objective": "binary:logistic", "tree_method": "hist", "nthread": 1}
    try:
        with _warnings_as(said.append):
            matrix = xgboost.QuantileDMatrix(rows, np.arange(8) % 2, max_bin=_max_bin(params))
            xgboost.train({**params, **ours}, matrix, 1)
    except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
        return _first_line(error)
    unknown = [text for text in said if "are not used" in text]
    return "there is no such parameter" if unknown else None


def fit(trainer: Trainer, features: Sequence[Feature], train: Window, tune: Window, device: str) -> Fitted:
    """Fit on the training window and keep the round that is best on the tuning window.

    Args:
        trainer: From the model spec.
        features: As `learn_features` found them.
        train: Rows to fit on; read batch by batch, several times, never held as a whole.
        tune: Later rows, for early stopping.
        device: `cuda` or `cpu`.

    Raises:
        MissingCapabilityError: A GPU is required, but training ended up elsewhere.
        AirworthyError: XGBoost failed.
    """
    import xgboost

    params = parameters(trainer, train)
    metric = str(params["eval_metric"])
    encoder = Encoder(features)
    best = xgboost.callback.EarlyStopping(
        rounds=trainer.early_stopping_rounds, metric_name=metric, data_name="tune", save_best=True
    )
    history: dict[str, dict[str, list[float]]] = {}
    try:
        with _warnings_as(_log.warning):
            bins = _max_bin(trainer.params)
            fitting = _quantile_matrix(train, encoder, bins)
            tuning = _quantile_matrix(tune, encoder, bins, fitting)
            booster = xgboost.train(
                {**params, "device": device, "nthread": cpu_threads()},
                fitting,
                trainer.rounds,
                evals=[(fitting, "train"), (tuning, "tune")],
                callbacks=[best],
                evals_result=history,
                verbose_eval=False,
            )
    except xgboost.core.XGBoostError as error:
        raise AirworthyError(f"XGBoost failed on {device}: {_first_line(error)}") from error
    really = used_device(booster)
    if trainer.gpu == "required" and not really.startswith("cuda"):
        raise MissingCapabilityError(f"trainer.gpu is required, but XGBoost trained on {really}")
    if not really.startswith(device):
        _log.warning("asked for %s, but XGBoost trained on %s", device, really)
    curves = {f"{window}_{name}": list(v) for window, m in history.items() for name, v in m.items()}
    return Fitted(bytes(booster.save_raw("ubj")), booster.num_boosted_rounds(), really, curves)


def _quantile_matrix(
    window: Window, encoder: Encoder, max_bin: int, reference: xgboost.DMatrix | None = None
) -> xgboost.QuantileDMatrix:
    """The window as XGBoost's own histogram, about one byte per value."""
    import xgboost

    class Batches(xgboost.DataIter):
        """Starts over whenever XGBoost asks for another pass."""

        def __init__(self) -> None:
            super().__init__()
            self.reset()

        def reset(self) -> None:
            self._batches = iter_matrices(window, encoder)

        def next(self, input_data: Callable[..., Any]) -> bool:
            for matrix, labels, _ in self._batches:
                input_data(data=matrix, label=labels, feature_names=names, feature_types=types)
                return True
            return False

    names = [f.name for f in encoder.features]
    types = ["c" if f.kind == "category" else "float" for f in encoder.features]
    return xgboost.QuantileDMatrix(Batches(), ref=reference, max_bin=max_bin, enable_categorical=True)


def _max_bin(params: Params) -> int:
    """Histogram bins; matrix and training must agree on them."""
    return int(params.get("max_bin", 256))


@contextmanager
def _warnings_as(receive: Callable[[str], Any]) -> Iterator[None]:
    """Pass XGBoost's warnings on, first lines only."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        receive(text)


def _first_line(error: Exception) -> str:
    """XGBoost's message without the source line and stack trace around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    found = re.search(r"Check failed: .*?: (.+)", line)
    return found.group(1) if found else line
