"""Training: two windows of rows in, a model bundle and an MLflow run out."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy.bundle import BundleInfo, write_bundle
from airworthy.encoding import Feature
from airworthy.model_spec import spec_digest
from airworthy.signing import sign_bundle, signing_key
from airworthy.training import xgboost as trainer
from airworthy.training.device import resolve_device, wait_politely
from airworthy.training.tuning import Tuned, choose_threshold, score_window, tuning_metrics
from airworthy.training.windows import Window, learn_features, open_windows

if TYPE_CHECKING:
    from airworthy.model_spec import ModelSpec
    from airworthy.training.tracking import Run

_DISTRIBUTIONS = ("mlflow", "xgboost", "xgboost-cpu", "numpy", "pandas", "pydantic")
"""What scoring a bundle through MLflow needs, whichever of them is installed here."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """What a training gave."""

    digest: str
    """Of the bundle."""
    metrics: dict[str, float]
    """Metrics of the tuning window (`tune_auc`, `tune_log_loss`, `tune_brier`, `tune_cost` per row,
    `tune_unseen`), `threshold`, `rounds`."""
    rounds: int
    """Rounds kept."""
    device: str
    """Device really used."""
    run_id: str
    """MLflow run; empty without tracking."""
    curves: dict[str, list[float]]
    """Metric per round, by `train_…` and `tune_…`."""
    unseen: dict[str, int]
    """Tuning rows per feature whose category training never saw."""
    onnx: str
    """How the ONNX conversion ended."""


def train(
    spec: ModelSpec,
    spec_text: str,
    *,
    train: Path,
    tune: Path,
    out: Path,
    as_of: str,
    tracking: bool = True,
) -> TrainingResult:
    """Fit a model, pack it as a bundle, signed if `AIRWORTHY_SIGNING_KEY` is set, and record both in MLflow.

    Args:
        spec: The model spec.
        spec_text: Its text; its digest goes into the bundle.
        train: Dataset to fit on.
        tune: Later dataset for early stopping and the decision threshold.
        out: The bundle folder to write.
        as_of: The time that the data was retrieved as of.
        tracking: Record the run in MLflow.

    Raises:
        MissingCapabilityError: The spec requires a GPU and there is none.
        ConfigError: XGBoost refuses the spec's parameters.
        DataError: The datasets can't be used.
        BundleError: The signing key can't be used.
        RegistryError: MLflow refuses.
    """
    wait_politely()
    key = signing_key()  # a key that can't be used should not show after an hour of training
    device = resolve_device(spec.trainer.gpu)
    first, second = open_windows(spec, train, tune)
    trainer.check_params(spec.trainer, len(first.info.features))
    with _run(spec, spec_text, as_of, first, second, tracking) as run:
        features = learn_features(first)
        fitted = trainer.fit(spec.trainer, features, first, second, device)
        tuned = score_window(fitted.booster, features, second)
        threshold, cost = choose_threshold(tuned.scores, tuned.labels, spec.gate.threshold)
        info = _describe(spec, spec_text, as_of, (first, second), features, fitted, tuned, threshold)
        digest = write_bundle(out, info, fitted.booster, tuned.onnx)
        if key is not None:
            sign_bundle(out, key)
        metrics = tuning_metrics(tuned.scores, tuned.labels) | {
            "tune_cost": cost,
            "tune_unseen": float(sum(tuned.unseen.values())),
            "threshold": threshold,
            "rounds": float(fitted.rounds),
        }
        if run is not None:
            run.record(info, out, digest, metrics, fitted.curves)
    if tuned.unseen:
        _log.warning("categories of the tuning window that training never saw, in rows: %s", tuned.unseen)
    _log.info(
        "bundle %s: %d rounds on %s, ONNX %s", digest[:12], fitted.rounds, fitted.device, tuned.onnx_outcome
    )
    return TrainingResult(
        digest=digest,
        metrics=metrics,
        rounds=fitted.rounds,
        device=fitted.device,
        run_id=run.run_id if run else "",
        curves=fitted.curves,
        unseen=tuned.unseen,
        onnx=tuned.onnx_outcome,
    )


@contextmanager
def _run(
    spec: ModelSpec, spec_text: str, as_of: str, first: Window, second: Window, tracking: bool
) -> Iterator[Run | None]:
    if not tracking:
        yield None
        return
    from airworthy.training.tracking import training_run

    with training_run(spec.name, as_of, spec_text, {"training": first.info, "tuning": second.info}) as run:
        yield run


def _describe(
    spec: ModelSpec,
    spec_text: str,
    as_of: str,
    windows: tuple[Window, Window],
    features: Sequence[Feature],
    fitted: trainer.Fitted,
    tuned: Tuned,
    threshold: float,
) -> BundleInfo:
    first, second = windows
    names = [*_DISTRIBUTIONS, "onnxruntime"] if tuned.onnx is not None else _DISTRIBUTIONS
    return BundleInfo(
        model=spec.name,
        label=spec.label.column,
        features=tuple(features),
        threshold=threshold,
        rounds=fitted.rounds,
        base_rate=first.positives / first.info.rows,
        device=fitted.device,
        params=trainer.parameters(spec.trainer, first),
        versions={"python": platform.python_version(), **_versions(names)},
        onnx=tuned.onnx_outcome,
        training_fingerprint=first.info.fingerprint,
        tune_fingerprint=second.info.fingerprint,
        feature_service=first.info.feature_service,
        feature_service_digest=first.info.feature_service_digest,
        spec_digest=spec_digest(spec_text),
        as_of=as_of,
    )


def _versions(names: Sequence[str]) -> dict[str, str]:
    """Versions of those distributions that are installed."""
    installed = {}
    for name in names:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed
