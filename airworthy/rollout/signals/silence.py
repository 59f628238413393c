"""No news is not good news: how long a source, or one arm of it, may say nothing."""

from __future__ import annotations

from airworthy.errors import ServingError
from airworthy.serving.observation import Arm

MISSED = 50.0
"""Canary requests that should have been seen before their absence means anything: by chance, all of so many are
missing with probability exp(-50)."""


class Silence:
    """Keeps account of what was heard of each arm and when.

    Args:
        source: For messages.
        patience: Seconds that a source may fail or say nothing.
    """

    def __init__(self, source: str, patience: float) -> None:
        self._source = source
        self._patience = patience
        self._failing_since: float | None = None
        self._fresh: dict[Arm, float] = {}
        self._counted = 0.0
        self._missed = 0.0

    def begin(self, now: float) -> None:
        """Count from here on: traffic has begun to move in another way."""
        self._fresh = {"stable": now, "canary": now}
        self._counted = now
        self._missed = 0.0

    def failed(self, now: float, why: str) -> None:
        """The source did not answer.

        Raises:
            ServingError: For longer than patience allows.
        """
        self._failing_since = now if self._failing_since is None else self._failing_since
        if now - self._failing_since > self._patience:
            raise ServingError(f"{self._source} has not answered for {self._patience:.0f} s: {why}")

    def answered(self) -> None:
        self._failing_since = None

    def fresh(self, arm: Arm, at: float) -> None:
        """There is data about an arm as of `at`, be it that nothing happened."""
        self._fresh[arm] = max(self._fresh.get(arm, at), at)

    def counted(self, stable: int, canary: int, share: float, now: float) -> None:
        """So many requests were seen."""
        if canary:
            self._counted = now
            self._missed = 0.0
        elif share < 1.0:
            self._missed += stable * share / (1.0 - share)

    def check(self, now: float, share: float) -> None:
        """Raise if an arm that takes traffic has not been heard of for too long.

        Raises:
            ServingError: The source has no data about an arm, or none of the canary's requests although there
                must have been some: they fail before they are counted, or it gets no traffic.
        """
        needed: Arm = "stable" if share < 1.0 else "canary"
        if now - self._fresh.get(needed, now) > self._patience:
            raise ServingError(
                f"{self._source} has had no data about the {needed} model for {self._patience:.0f} s: is it up, "
                "and are its metrics collected?"
            )
        if self._missed >= MISSED and now - self._counted > self._patience:
            raise ServingError(
                f"{self._source} has not seen one canary request for {self._patience:.0f} s, where about "
                f"{self._missed:.0f} should have been: they get lost before they are counted, or the weights "
                "don't apply"
            )
