"""Sticky arms: requests with the same key stay with one model, over weight changes too.

A keyed hash of the key gives a number that is uniform in [0, 1) for each splitter; the canary answers if it lies
below the canary's share. So when the share rises, keys only move from stable to canary, and when it falls they move
back the same way.

Only the first request of a key is a random draw. Its later ones say nothing that the draw has not said, and they are
marked as repeats, for ever: also after a ramp, although a key that stayed with stable at 5 % is drawn once more in
effect at 25 %. At a share of 0 or 1 there is no draw: such requests are no repeats, and make no key known.
"""

from __future__ import annotations

import hashlib

MAX_KEYS = 1_000_000
"""Known keys (8 bytes each, about 70 MB in all when full). Once full, every further key counts as a repeat."""


class StickyKeys:
    """The keys that were drawn.

    Args:
        salt: Random bytes (up to 64): without them, users could choose their arm.
        limit: Keys to remember.

    Attributes:
        unknown: Requests whose key was neither known nor could be remembered.
    """

    def __init__(self, salt: bytes, limit: int = MAX_KEYS) -> None:
        self.unknown = 0
        self._salt = salt
        self._limit = limit
        self._known: set[int] = set()

    @property
    def known(self) -> int:
        return len(self._known)

    def draw(self, key: bytes, share: float) -> tuple[bool, bool]:
        """Whether the canary answers this key at this share, and whether that is a repeat."""
        digest = int.from_bytes(hashlib.blake2b(key, digest_size=8, key=self._salt).digest())
        canary = (digest >> 11) * 2.0**-53 < share
        if not 0.0 < share < 1.0:
            return canary, False
        if digest in self._known:
            return canary, True
        if len(self._known) >= self._limit:
            self.unknown += 1
            return canary, True
        self._known.add(digest)
        return canary, False
