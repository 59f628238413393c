"""Where things lie, as the environment of a step or of the command line says."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The state directory: `$AIRWORTHY_HOME`, by default `.airworthy/` here; absolute, created if missing."""
    path = Path(os.environ.get("AIRWORTHY_HOME", ".airworthy")).absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


def feature_repo() -> Path:
    """The Feast feature repo: `$AIRWORTHY_FEATURE_REPO`, by default `feature_repo/` here; absolute."""
    return Path(os.environ.get("AIRWORTHY_FEATURE_REPO", "feature_repo")).absolute()
