"""What a model server's reply is worth as evidence."""

from __future__ import annotations

import json
import math
from typing import Any

from airworthy.serving.observation import Result


def result_of(status: int, body: bytes) -> tuple[Result, float | None]:
    """The result of a prediction request that was answered, and its first prediction where there is a valid one."""
    if status >= 500:
        return "error", None
    if status >= 400:
        return "rejected", None
    score = first_score(body)
    return ("ok" if score is not None else "invalid"), score


def first_score(content: bytes) -> float | None:
    """The first prediction of a V1 or V2 answer; None unless all predictions are finite and within 0..1."""
    try:
        answer: Any = json.loads(content)
        scores = answer["predictions"] if "predictions" in answer else answer["outputs"][0]["data"]
        values = [float(score) for score in scores if not isinstance(score, (bool, str))]
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError):
        return None
    if (
        not values
        or len(values) != len(scores)
        or not all(math.isfinite(v) and 0.0 <= v <= 1.0 for v in values)
    ):
        return None
    return values[0]
