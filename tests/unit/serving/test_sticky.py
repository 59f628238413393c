"""Sticky keys: users stay with their arm, the share is what was asked for, only first requests are evidence."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from airworthy.serving.observation import Observation
from airworthy.serving.sticky import StickyKeys
from tests.unit.serving.sockets import OK, OTHER, ask, post, reply, saying, splitting

SALT = b"0123456789abcdef"


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=80), st.floats(0, 1), st.floats(0, 1))
def test_keys_only_move_with_the_share(key: bytes, one: float, other: float) -> None:
    keys = StickyKeys(SALT)
    low, high = sorted((one, other))
    assert keys.draw(key, low)[0] <= keys.draw(key, high)[0]
    assert keys.draw(key, low)[0] == keys.draw(key, low)[0]
    assert not keys.draw(key, 0.0)[0]
    assert keys.draw(key, 1.0)[0]


def test_the_share_of_keys_is_the_share_asked_for_and_salts_are_independent() -> None:
    one, other = StickyKeys(SALT), StickyKeys(SALT[::-1])
    names = [b"user-%d" % k for k in range(20_000)]
    drawn = [(one.draw(name, 0.2)[0], other.draw(name, 0.2)[0]) for name in names]
    # five standard deviations of a binomial with 20,000 draws
    assert abs(sum(a for a, _ in drawn) - 4000) < 5 * 57
    assert abs(sum(a and b for a, b in drawn) - 800) < 5 * 28


def test_only_the_first_request_of_a_key_is_no_repeat() -> None:
    keys = StickyKeys(SALT)
    assert [keys.draw(b"a", share)[1] for share in (0.0, 0.05, 0.05, 0.25, 1.0)] == [
        False,  # no draw at 0 …
        False,
        True,
        True,
        False,  # … and none at 1
    ]
    assert keys.draw(b"b", 0.25)[1] is False


def test_keys_that_cannot_be_remembered_are_repeats() -> None:
    keys = StickyKeys(SALT, limit=2)
    repeats = [keys.draw(name, 0.5)[1] for name in (b"a", b"b", b"c", b"a", b"c")]
    assert repeats == [False, False, True, True, True]
    assert (keys.known, keys.unknown) == (2, 2)


def test_users_stay_with_their_arm_and_the_rest_is_drawn() -> None:
    async def run() -> list[Observation]:
        async with splitting(saying(reply(OK)), saying(reply(OTHER)), sticky="X-User-Id") as (splitter, seen):
            splitter.set_share(0.5)
            for _ in range(3):
                for user in range(20):
                    await ask(splitter, post(headers=f"x-user-id: {user}\r\n"))
            for _ in range(40):
                await ask(splitter, post())
            await ask(splitter, post(headers="X-User-Id: 1\r\nX-Canary-Arm: canary\r\n"))
            return seen

    seen = asyncio.run(run())
    arms = [o.arm for o in seen]
    assert arms[:20] == arms[20:40] == arms[40:60]
    assert set(arms[:20]) == set(arms[60:100]) == {"stable", "canary"}
    assert [o.repeat for o in seen] == [False] * 20 + [True] * 40 + [False] * 41
    assert (seen[-1].forced, seen[-1].arm) == (True, "canary")
