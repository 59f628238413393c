"""The model bundle: one folder that holds a model, what it expects and the digests that prove it unchanged.

It is an MLflow model folder, too (`mlflow.pyfunc.load_model` scores frames with string categories), and holds
no pickle. A copy of this file travels inside every bundle, hence the relative imports.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from . import mlmodel
from .encoding import Column, Encoder, Feature, Matrix
from .errors import BundleError, DataError
from .signing import SIGNATURE, VERIFY_KEY, require_signature, verify_keys

if TYPE_CHECKING:
    import pandas as pd

INFO, SUMS, BOOSTER, ONNX = "airworthy.json", "SHA256SUMS", "model.ubj", "model.onnx"
_MLFLOW_NOTE = "registered_model_meta"
"""MLflow drops this file into a model folder loaded through the registry, even into the store itself."""
_BESIDE = (SUMS, SIGNATURE, _MLFLOW_NOTE)
"""Files that the digests don't cover."""

Scores = np.ndarray[Any, np.dtype[np.float64]]
Engine = Literal["auto", "xgboost", "onnx"]


class BundleInfo(BaseModel):
    """What `airworthy.json` says. It holds no clock time, so equal inputs give equal bundles."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    format: Literal[1] = 1
    model: str
    """Name of the model spec."""
    label: str
    features: tuple[Feature, ...] = Field(min_length=1)
    threshold: float = Field(ge=0, le=1)
    """Scores from here on mean yes."""
    rounds: int = Field(ge=1)
    """Trees kept: those up to the best round."""
    base_rate: float
    """Share of positive rows in training."""
    device: str
    """Device that training really used: `cpu`, `cuda:0`."""
    params: dict[str, float | int | str | bool] = {}
    """XGBoost parameters."""
    versions: dict[str, str] = {}
    """Version by distribution name, and `python`."""
    onnx: str
    """How the ONNX conversion ended: its parity with the original, or why the bundle holds none."""
    training_fingerprint: str
    tune_fingerprint: str
    feature_service: str
    feature_service_digest: str
    spec_digest: str
    as_of: str


def write_bundle(
    path: Path,
    info: BundleInfo,
    booster: bytes,
    onnx: bytes | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> str:
    """Write a bundle; an existing folder is replaced whole, never half.

    Args:
        path: The folder to create.
        info: Becomes `airworthy.json`.
        booster: The XGBoost model in UBJSON, only the kept trees.
        onnx: The ONNX conversion, if there is one.
        extra: Further files by relative path.

    Returns:
        The bundle's digest.

    Raises:
        BundleError: A name in `extra` leaves the folder or is taken.
    """
    files: dict[str, bytes] = {
        INFO: (info.model_dump_json(indent=2) + "\n").encode(),
        BOOSTER: booster,
        **mlmodel.files(info),
    }
    if onnx is not None:
        files[ONNX] = onnx
    for name, content in (extra or {}).items():
        place = Path(name)
        inside = place.parts and ".." not in place.parts and not place.is_absolute() and "\n" not in name
        if not inside or name in (*files, *_BESIDE):
            raise BundleError(f"{name!r} can't be added to a bundle: the name is taken or leaves the folder")
        files[name] = content
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)]
    files[SUMS] = "".join(lines).encode()
    temporary = path.with_name(path.name + ".incomplete")
    shutil.rmtree(temporary, ignore_errors=True)
    for name, content in files.items():
        file = temporary / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    shutil.rmtree(path, ignore_errors=True)
    temporary.replace(path)
    return bundle_digest(path)


def bundle_digest(path: Path) -> str:
    """SHA-256 (hex) of the bundle's `SHA256SUMS`: stands for all its files.

    Raises:
        BundleError: There is no bundle there.
    """
    try:
        return hashlib.sha256((path / SUMS).read_bytes()).hexdigest()
    except OSError:
        raise BundleError(f"{path}: no model bundle here ({SUMS} is missing)") from None


def verify_bundle(path: Path) -> str:
    """Check all digests, and the signature where one is asked for; returns the bundle's digest.

    Raises:
        BundleError: What `verify_digests` raises; or `AIRWORTHY_VERIFY_KEY` is set, and none of its keys has signed
            the bundle as it is.
    """
    digest = verify_digests(path)
    if os.environ.get(VERIFY_KEY):
        require_signature(path, digest, verify_keys())
    return digest


def verify_digests(path: Path) -> str:
    """Check every file against `SHA256SUMS`; returns the bundle's digest.

    Raises:
        BundleError: A file was changed, added or removed, or is a symbolic link.
    """
    digest = bundle_digest(path)
    try:
        sums = dict(line.split("  ", 1)[::-1] for line in (path / SUMS).read_text().splitlines())
    except ValueError:
        raise BundleError(f"{path / SUMS}: not a list of digests") from None
    found = _files(path) - {*_BESIDE}
    for names, what in ((sums.keys() - found, "missing"), (found - sums.keys(), "not part of the bundle")):
        if names:
            raise BundleError(f"{path}: {', '.join(sorted(names))}: {what}; fetch the bundle again")
    for name, wanted in sums.items():
        if hashlib.sha256((path / name).read_bytes()).hexdigest() != wanted:
            raise BundleError(f"{path}: {name} was changed since it was written; fetch the bundle again")
    return digest


def read_bundle_info(path: Path) -> BundleInfo:
    """What the bundle says about its model. Digests are not checked here.

    Raises:
        BundleError: There is no bundle, or it is of an unknown format.
    """
    try:
        return BundleInfo.model_validate_json((path / INFO).read_text())
    except OSError:
        raise BundleError(f"{path}: no model bundle here ({INFO} is missing)") from None
    except ValueError as error:
        raise BundleError(f"{path / INFO}: not a bundle of a known format: {error}") from None


class Scorer:
    """A loaded model. Scores on one thread; safe to share between threads. Make one with `Scorer.load`."""

    def __init__(
        self, info: BundleInfo, engine: Literal["xgboost", "onnx"], model: Any, folder: Path | None = None
    ) -> None:
        self.info = info
        self.engine = engine
        self._model = model
        self._folder = folder
        self._encoder = Encoder(info.features)

    @classmethod
    def load(cls, path: Path, *, verify: bool = True, engine: Engine = "auto") -> Scorer:
        """Load a bundle.

        Args:
            path: The bundle.
            verify: Check all digests first.
            engine: `onnx` is about ten times faster on single rows; `auto` takes it where the bundle holds a
                conversion (then equal within 1e-6) and ONNX Runtime is installed.

        Raises:
            BundleError: The bundle was changed, is incomplete, or lacks the engine asked for.
        """
        if verify:
            verify_bundle(path)
        info = read_bundle_info(path)
        if engine != "xgboost" and (path / ONNX).is_file():
            try:
                return cls(info, "onnx", _onnx_session(path / ONNX), path)
            except ImportError:
                if engine == "onnx":
                    raise BundleError("engine onnx: ONNX Runtime is not installed; use xgboost") from None
        elif engine == "onnx":
            raise BundleError(f"{path}: holds no ONNX model ({info.onnx}); use engine xgboost")
        return cls(info, "xgboost", _booster(path / BOOSTER, info), path)

    def encode(self, columns: Mapping[str, Column]) -> tuple[Matrix, dict[str, int]]:
        """See `Encoder.encode`."""
        return self._encoder.encode(columns)

    def encode_row(self, row: Mapping[str, Any]) -> tuple[Matrix, dict[str, int]] | None:
        """See `Encoder.encode_row`."""
        return self._encoder.encode_row(row)

    def score(self, matrix: Matrix) -> Scores:
        """Probability of a positive label per row of a matrix made by `encode`.

        Raises:
            DataError: The matrix has another shape or type than `encode` makes.
        """
        self._require_own(matrix)
        if not len(matrix):
            return np.empty(0)
        if self.engine == "onnx":
            scores = self._model.run(["scores"], {"input": matrix})[0][:, 0]
        else:
            scores = self._model.inplace_predict(matrix, validate_features=False)
        return np.asarray(scores, dtype=np.float64)

    def contributions(self, matrix: Matrix, threads: int = 1) -> Matrix:
        """How much each feature adds to each score, in log odds: SHAP values by XGBoost's own exact algorithm.

        Taken from the bundle's XGBoost model, whichever engine scores; about 5 ms a row and thread for 300
        trees of depth 6. Source: Lundberg et al. 2020 (Tree SHAP, path dependent).

        Args:
            matrix: Made by `encode`.
            threads: To compute on.

        Returns:
            `[rows, features + 1]`; the last column is the constant, and a row sums to its score's log odds.

        Raises:
            DataError: The matrix has another shape or type than `encode` makes.
            BundleError: The bundle's folder is gone since it was loaded, or the scorer was not made by `load`.
        """
        self._require_own(matrix)
        if self._folder is None or not (self._folder / BOOSTER).is_file():
            raise BundleError(f"{self._folder}: no {BOOSTER} to explain scores by; load the bundle again")
        if not len(matrix):
            return np.empty((0, matrix.shape[1] + 1), dtype=np.float32)
        import xgboost

        # A booster of its own, since the number of threads is a setting of the booster.
        booster = _booster(self._folder / BOOSTER, self.info)
        booster.set_param({"nthread": threads})
        rows = xgboost.DMatrix(
            matrix,
            feature_names=booster.feature_names,
            feature_types=booster.feature_types,
            enable_categorical=True,
            nthread=threads,
        )
        return np.asarray(booster.predict(rows, pred_contribs=True), dtype=np.float32)

    def _require_own(self, matrix: Matrix) -> None:
        width = len(self.info.features)
        if matrix.ndim != 2 or matrix.shape[1] != width or matrix.dtype != np.float32:
            raise DataError(f"the matrix must be float32 [n, {width}], not {matrix.dtype} {matrix.shape}")

    def score_frame(self, frame: pd.DataFrame) -> tuple[Scores, dict[str, int]]:
        """Scores of a frame's rows, and its unseen categories (see `Encoder.encode`)."""
        names = [f.name for f in self.info.features if f.name in frame.columns]
        matrix, unseen = self.encode({name: frame[name].to_numpy() for name in names})
        return self.score(matrix), unseen

    def score_dataset(
        self, dataset: Path, batch_rows: int = 65_536
    ) -> Iterator[tuple[list[Any], Scores | None, Scores, dict[str, int]]]:
        """Score a dataset folder in batches, in event-time order; needs the whole library, not just a bundle.

        Yields:
            Ids, labels (None for rows without a label column), scores and unseen categories of a batch.
        """
        from airworthy import datasets

        about = datasets.read_info(dataset)
        known = {*about.feature_names, *about.extra}
        names = [f.name for f in self.info.features if f.name in known]
        label = [about.label] if about.label else []
        for batch in datasets.iter_batches(dataset, [about.id, *label, *names], batch_rows):
            ids, *labels = (batch.column(c).to_pylist() for c in (about.id, *label))
            scores, unseen = self.score_frame(batch.select(names).to_pandas())
            yield ids, np.array(labels[0], dtype=np.float64) if labels else None, scores, unseen


def _booster(file: Path, info: BundleInfo) -> Any:
    import xgboost

    booster = xgboost.Booster({"nthread": 1})
    try:
        booster.load_model(file)
    except xgboost.core.XGBoostError as error:
        raise BundleError(f"{file}: XGBoost can't load it: {str(error).splitlines()[0]}") from None
    booster.set_param({"nthread": 1, "device": "cpu"})
    found = (booster.num_boosted_rounds(), booster.num_features())
    said = (info.rounds, len(info.features))
    if found != said:
        raise BundleError(f"{file}: has {found} (rounds, features), but {INFO} says {said}")
    return booster


def _onnx_session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _files(path: Path) -> set[str]:
    """Relative names of all files; a symbolic link inside could show something else than was packed."""
    found = set()
    for entry in path.rglob("*"):
        if entry.is_symlink():
            raise BundleError(f"{path}: {entry.name} is a symbolic link; a bundle holds plain files")
        if not entry.is_dir():
            found.add(entry.relative_to(path).as_posix())
    return found
