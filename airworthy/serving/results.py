"""What a model server's reply is worth as evidence.

Replies are read in the loop that answers users, once their own is on its way. So what is read is bounded, and read
with few Python steps.
"""

from __future__ import annotations

import json
from typing import Any

from airworthy.serving.observation import Result

MAX_REPLY = 1024 * 1024
"""Bytes; a longer reply (some 50,000 predictions) is not read: it is invalid. Nonsense of this size takes 0.1 s."""
MAX_REQUEST = 64 * 1024
"""Bytes; how many rows a longer request has is not looked at."""


def _no_number(literal: str) -> float:
    raise ValueError(literal)


_READ = json.JSONDecoder(parse_constant=_no_number).decode
_UNREADABLE = (ValueError, TypeError, KeyError, IndexError, RecursionError)


def result_of(status: int, body: bytes, request: bytes = b"") -> tuple[Result, float | None]:
    """The result of a prediction request that was answered, and its first prediction where there is a valid one.

    Args:
        status: HTTP status; a redirection is no valid answer, whatever its body says.
        body: Of the reply.
        request: Body of the request: there is one prediction per row of it.
    """
    if status >= 500:
        return "error", None
    if status >= 400:
        return "rejected", None
    scores = _scores(body) if status < 300 else None
    if scores is None or rows_of(request) not in (None, len(scores)):
        return "invalid", None
    return "ok", float(scores[0])


def first_score(content: bytes) -> float | None:
    """The first prediction of a V1 or V2 answer; None unless all predictions are finite and within 0..1."""
    scores = _scores(content)
    return None if scores is None else float(scores[0])


def rows_of(request: bytes) -> int | None:
    """How many predictions a V1 or V2 request asks for; None if that is not plain, or it is long."""
    if len(request) > MAX_REQUEST:
        return None
    try:
        asked: Any = _READ(request.decode())
        return len(asked["instances"]) if "instances" in asked else int(asked["inputs"][0]["shape"][0])
    except _UNREADABLE:
        return None


def _scores(content: bytes) -> list[int | float] | None:
    """All predictions of an answer, if there are any and all are probabilities."""
    if len(content) > MAX_REPLY:
        return None
    try:
        answer: Any = _READ(content.decode())
        if "specversion" in answer:
            answer = answer["data"]  # a CloudEvent
        scores = answer["predictions"] if "predictions" in answer else answer["outputs"][0]["data"]
    except _UNREADABLE:
        return None
    if type(scores) is not list or not scores or not set(map(type, scores)) <= {int, float}:
        return None
    return scores if min(scores) >= 0 and max(scores) <= 1 else None
