"""The serving room: KServe model server, traffic splitter, request replay and the smoke test."""

from airworthy.serving.smoke import SmokeResult, smoke_test

__all__ = ["SmokeResult", "smoke_test"]
