"""A full disk or a read-only state directory: one clear sentence, the old model serves, nothing half-written.

The disk is a small tmpfs of the test's own; it needs root and the right to mount.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from airworthy.errors import AirworthyError
from airworthy.rollout import deploy, finish, settle
from airworthy.rollout.replay import replay
from airworthy.serving.state import ServiceStore
from tests.release_evidence import Evidence
from tests.unit.rollout.conftest import World, models  # noqa: F401 (a fixture)

LONG = "{service: late, steps: [50], requests_per_step: 500, bake_requests: 500, max_latency_increase: 9}"
SHORT = "{service: late, steps: [50], requests_per_step: 40, bake_requests: 60, max_latency_increase: 9}"


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@dataclass
class Disk:
    """A small file system with a release's state directory and record on it."""

    root: Path
    world: World

    def fill(self) -> None:
        """Leave no free byte."""
        with (self.root / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"\0" * 65536)
            except OSError:
                pass  # full, as wanted
        with (self.root / "crumbs").open("wb", buffering=0) as crumbs:
            try:
                while True:
                    crumbs.write(b"\0" * 64)
            except OSError:
                pass

    def free(self) -> None:
        for name in ("filler", "crumbs"):
            (self.root / name).unlink(missing_ok=True)

    def lock(self) -> None:
        """Everything opened from now on is read-only; what is open already stays writable."""
        assert mount("--bind", str(self.root), str(self.root))
        assert mount("-o", "remount,bind,ro", str(self.root))

    def unlock(self) -> None:
        subprocess.run(["umount", str(self.root)], check=True)


@pytest.fixture
def disk(
    models: tuple[Evidence, Evidence, Path],  # noqa: F811
    tmp_path: Path,
) -> Iterator[Disk]:
    """A disk of 2 MB on which the old model is deployed."""
    root = tmp_path / "disk"
    root.mkdir()
    if os.geteuid() != 0 or not mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(root)):
        pytest.skip("mounting a file system of the test's own needs root and CAP_SYS_ADMIN")
    try:
        old, new, traffic = models
        world = World(root / "home", old, new, traffic)
        deploy("late", model="late", bundle=old.bundle, version="1", home=world.home)
        yield Disk(root, world)
    finally:
        while subprocess.run(["umount", str(root)], capture_output=True, check=False).returncode == 0:
            continue  # once per layer


def release(disk: Disk, record: Path, plan: str = LONG) -> tuple[multiprocessing.context.ForkProcess, Path]:
    """A rollout in a process of its own; what came of it goes to a file on another disk."""
    ending = disk.root.with_name("ending")

    def body() -> None:
        try:
            outcome = disk.world.release(record, plan, server_module="tests.bare_server")
            ending.write_text(outcome.decision)
        except AirworthyError as error:
            ending.write_text(str(error))

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    return process, ending


def wait_for(disk: Disk, state: str) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        rollout = disk.world.state.rollout
        if rollout and rollout.state == state:
            return
        time.sleep(0.002)
    raise AssertionError(f"the rollout did not become {state}")


def assert_old_serves(disk: Disk) -> None:
    state = disk.world.state
    assert state.stable is not None
    assert state.stable.digest == disk.world.old.digest


TROUBLES: dict[str, tuple[Callable[[Disk], None], Callable[[Disk], None], str]] = {
    "full": (Disk.fill, Disk.free, "No space left on device"),
    "read-only": (Disk.lock, Disk.unlock, "Read-only file system"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("moment", ["begin", "verifying", "shifting", "baking"])
def test_trouble_with_the_disk(disk: Disk, trouble: str, moment: str) -> None:
    break_it, mend_it, complaint = TROUBLES[trouble]
    if moment == "begin":
        break_it(disk)
        process, ending = release(disk, disk.root / "record")
    else:
        process, ending = release(disk, disk.root / "record")
        wait_for(disk, moment)
        break_it(disk)
    process.join(60)
    assert process.exitcode == 0, "it hangs or fell over"
    said = ending.read_text()
    assert complaint in said
    assert "can't be" in said
    assert "\n" not in said
    assert len(said) < 1000, "a sentence, not a list of files"
    assert_old_serves(disk)

    mend_it(disk)
    settle("late", champion_digest=disk.world.old.digest, home=disk.world.home)
    assert_old_serves(disk)
    state = disk.world.state
    assert (state.canary, state.traffic_percent) == (None, 0)
    process, ending = release(disk, disk.root / "again", SHORT)
    process.join(60)
    assert ending.read_text() == "PASS"
    assert replay(disk.root / "again").agrees


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_record_elsewhere_that_cannot_be_written_ends_the_rollout(disk: Disk, trouble: str) -> None:
    break_it, _, complaint = TROUBLES[trouble]
    home = disk.root.with_name("home")
    disk.world = World(home, disk.world.old, disk.world.new, disk.world.traffic)
    deploy("late", model="late", bundle=disk.world.old.bundle, version="1", home=home)
    if trouble == "read-only":
        break_it(disk)
    process, ending = release(disk, disk.root / "record")
    if trouble == "full":
        wait_for(disk, "shifting")
        break_it(disk)
    process.join(60)
    assert process.exitcode == 0
    assert complaint in ending.read_text()
    assert "record" in ending.read_text()
    assert_old_serves(disk)
    settle("late", champion_digest=disk.world.old.digest, home=home)
    assert disk.world.state.canary is None


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_promotion_that_cannot_be_written_is_completed_later(disk: Disk, trouble: str) -> None:
    break_it, mend_it, complaint = TROUBLES[trouble]
    process, ending = release(disk, disk.root / "record", SHORT)
    process.join(60)
    assert ending.read_text() == "PASS"
    alias = [disk.world.old.digest]
    break_it(disk)
    with pytest.raises(AirworthyError, match=complaint):
        finish(
            "late",
            bundle=disk.world.new.bundle,
            version="2",
            home=disk.world.home,
            promote=lambda: alias.append(disk.world.new.digest),
        )
    assert_old_serves(disk)
    mend_it(disk)
    settle("late", champion_digest=alias[-1], home=disk.world.home)
    state = ServiceStore(disk.world.home, "late").read()
    assert state is not None
    assert state.stable is not None
    assert (state.stable.digest, state.canary) == (alias[-1], None), "alias and service agree"
