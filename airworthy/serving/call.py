"""A prediction request on its way through the model server."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airworthy.serving.predictor import Prediction


@dataclass(slots=True)
class Call:
    """A prediction request on its way.

    Attributes:
        identity: The caller's name for it (header, or V2 `id`), else one of ours.
        mark: What the answer's header says: not the V2 `id`, which may hold anything.
        at: When it arrived, seconds since the epoch.
        begun: The same in the clock that latencies are measured with.
        size: Bytes of its body.
    """

    identity: str
    mark: bytes
    at: float
    begun: float
    size: int = 0
    prediction: Prediction | None = None


CALL: ContextVar[Call] = ContextVar("call")
"""The request that KServe's route is answering, so that its prediction gets logged, too."""
