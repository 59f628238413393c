"""What `mlflow.pyfunc.load_model` calls to load a bundle. A copy of this file travels inside every bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .bundle import Scorer


class BundleModel:
    """A bundle behind MLflow's pyfunc interface."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def predict(self, frame: Any, params: dict[str, Any] | None = None) -> Any:
        """Scores (float64, one per row) of a pandas frame whose categories are plain strings."""
        return self._scorer.score_frame(frame)[0]


def _load_pyfunc(path: str) -> BundleModel:
    return BundleModel(Scorer.load(Path(path)))
