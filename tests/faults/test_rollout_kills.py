"""Kill -9 at every write and at random moments of a release: promoted with evidence, or the old model serves.

The release is a rollout and its promotion, in a forked process that kills itself at its k-th `fsync` or `rename`
(every change that outlives it is one), or that is killed from outside. The registry's alias is a file here.
"""

from __future__ import annotations

import functools
import itertools
import json
import multiprocessing
import multiprocessing.context
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from airworthy.errors import AirworthyError
from airworthy.files import write_whole
from airworthy.rollout import deploy, finish, settle
from airworthy.rollout.replay import replay
from airworthy.serving.chaos import Fault
from airworthy.serving.state import Service, ServiceStore
from tests.release_evidence import Evidence
from tests.unit.rollout.conftest import World, models  # noqa: F401 (a fixture)

PLAN = (
    "{service: late, shadow_requests: 20, steps: [20, 50], requests_per_step: 20, bake_requests: 40, "
    "max_latency_increase: 9}"
)
BAD = Fault("errors", share=1.0, after=65)
"""Not in the 40 probes and 20 copies: users meet it."""
RANDOM_KILLS = 25
MOST_BASIC_WRITES = 20
"""Any rollout writes more often than this."""
TAKEN_OVER = 7
"""After every so many kills the next release comes before anybody has settled."""


@dataclass(frozen=True)
class Place:
    """One release: its state directory, its record, and the registry's alias as a file."""

    folder: Path
    old: Evidence
    new: Evidence
    traffic: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def record(self) -> Path:
        return self.folder / "record"

    @property
    def alias(self) -> str:
        return (self.folder / "alias").read_text()

    @property
    def state(self) -> Service:
        state = ServiceStore(self.home, "late").read()
        assert state is not None
        return state

    def release(self, fault: Fault | None = None) -> None:
        """Roll out and promote; a failed canary is what `settle` meets in a pipeline's exit handler."""
        world = World(self.home, self.old, self.new, self.traffic)
        outcome = world.release(self.record, PLAN, fault=fault, server_module="tests.bare_server")
        if outcome.passed:
            finish(
                "late",
                bundle=self.new.bundle,
                version="2",
                home=self.home,
                promote=lambda: write_whole(self.folder / "alias", self.new.digest),
            )

    def settle(self) -> None:
        settle("late", champion_digest=self.alias, home=self.home)

    def in_process(self, work: Callable[[], object]) -> multiprocessing.context.ForkProcess:
        """Run something in a process of its own (forked, so that it starts at once)."""
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        return process

    def killed_at(self, call: int, work: Callable[[], object], written: bool = True) -> bool:
        """Run something until before or after its `call`-th write; false if it ended before."""
        process = self.in_process(lambda: (count_writes(call, written), work()))
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL), "it hangs or failed otherwise"
        return process.exitcode != 0


def count_writes(deadly: int = 0, written: bool = True) -> list[int]:
    """Count this process's writes from now on (in the list's only element).

    It dies at number `deadly`: after it, or before it if not `written`.
    """
    count = [0]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] == deadly and not written:
                os.kill(os.getpid(), signal.SIGKILL)
            done = real(*arguments, **options)
            if count[0] == deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return call

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)
    return count


@pytest.fixture(scope="module")
def places(
    models: tuple[Evidence, Evidence, Path],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """Fresh places, as many as one likes: the old model serves and is champion."""
    old, new, traffic = models
    first = Place(tmp_path_factory.mktemp("first"), old, new, traffic)
    deploy("late", model="late", bundle=old.bundle, version="1", home=first.home)
    write_whole(first.folder / "alias", old.digest)

    def fresh() -> Iterator[Place]:
        while True:
            folder = tmp_path_factory.mktemp("kill")
            shutil.rmtree(folder)
            shutil.copytree(first.folder, folder)
            yield Place(folder, old, new, traffic)

    return fresh()


def writes_of(place: Place, work: Callable[[], object]) -> int:
    """How many writes something takes when nobody kills it."""

    def count() -> None:
        writes = count_writes()
        work()
        (place.folder / "writes").write_text(str(writes[0]))

    place.in_process(count).join(60)
    return int((place.folder / "writes").read_text())


def assert_nothing_in_between(place: Place, take_over: bool = False) -> None:
    """What must be true after a kill, before and after somebody has tidied up."""
    old, new = place.old.digest, place.new.digest
    before = place.state
    assert before.stable is not None
    assert before.stable.digest == (new if before.rollout and before.rollout.state == "promoted" else old)
    if before.stable.digest == new:
        assert place.alias == new, "the service went ahead of the registry"
    if place.alias == new:
        assert json.loads((place.record / "rollout.json").read_text())["decision"] == "PASS"
        assert replay(place.record).agrees
    assert_no_server(place)
    if take_over and place.alias == old:
        place.release()
        assert place.alias == new
    place.settle()
    after = place.state
    assert after.stable is not None
    assert (after.stable.digest, after.canary, after.traffic_percent) == (place.alias, None, 0)
    assert settle("late", champion_digest=place.alias, home=place.home).action == "nothing"


def assert_no_server(place: Place) -> None:
    """The servers follow the process that started them."""
    ours = [
        p for p in psutil.process_iter(["cmdline"]) if str(place.home) in " ".join(p.info["cmdline"] or [])
    ]
    _, alive = psutil.wait_procs(ours, timeout=10)
    assert not alive


@pytest.mark.parametrize("written", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("fault", [None, BAD], ids=["promotion", "rollback"])
def test_killed_at_any_write(places: Iterator[Place], fault: Fault | None, written: bool) -> None:
    met = set()
    for call in itertools.count(1):
        place = next(places)
        killed = place.killed_at(call, functools.partial(place.release, fault), written)
        met.add(place.state.rollout.state if place.state.rollout else "nothing yet")
        assert_nothing_in_between(place, take_over=killed and call % TAKEN_OVER == 0)
        if not killed:
            break
    assert call > MOST_BASIC_WRITES
    assert met >= {"nothing yet", "starting", "verifying", "shadowing", "shifting"}
    assert met >= ({"rolled back"} if fault else {"baking", "proven", "promoted"})


def test_killed_at_random_moments(places: Iterator[Place]) -> None:
    dice = random.Random(20130801)
    place, begun = next(places), time.monotonic()
    place.in_process(place.release).join(60)
    whole = time.monotonic() - begun
    for round_ in range(RANDOM_KILLS):
        place, fault = next(places), BAD if round_ % 5 == 0 else None
        process = place.in_process(functools.partial(place.release, fault))
        process.join(dice.uniform(0, whole))
        process.kill()
        process.join()
        assert_nothing_in_between(place, take_over=round_ % TAKEN_OVER == 1)


def test_killed_while_tidying_up(places: Iterator[Place]) -> None:
    place = next(places)
    middle = writes_of(place, place.release) // 2
    for call in range(1, 5):
        place = next(places)
        assert place.killed_at(middle, place.release)
        if not place.killed_at(call, place.settle):
            break
        assert_nothing_in_between(place)
    else:
        raise AssertionError("settling never ends")
    assert call > 2, "settling writes nothing"


def test_killed_again_and_again_until_one_gets_through(places: Iterator[Place]) -> None:
    dice = random.Random(7)
    place = next(places)
    for _ in range(5):
        assert place.killed_at(dice.randrange(5, 25), place.release)
        assert place.state.stable is not None
        assert place.state.stable.digest == place.old.digest
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRWORTHY_DEMO_FAULT", "")
        try:
            place.release()
        except AirworthyError as error:
            raise AssertionError("the service was left in a state that nobody can go on from") from error
    assert place.alias == place.new.digest
    assert_nothing_in_between(place)
