"""Loads TensorFlow Data Validation: once, quietly, or with a clear refusal."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import warnings

from airworthy.errors import MissingCapabilityError


def require_tfdv() -> None:
    """Import TFDV (8 to 15 seconds the first time) without its start-up chatter about optional parts.

    Raises:
        MissingCapabilityError: It is not installed here.
    """
    if importlib.util.find_spec("tensorflow_data_validation") is None:
        raise MissingCapabilityError(
            "TensorFlow Data Validation is not installed in this environment: "
            "run this in the one made from requirements/validation.txt"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import tensorflow_data_validation  # noqa: F401
