"""The state of a service: which model serves, what is rolling out. It lives in one file beside the service.

`$AIRWORTHY_HOME/serving/<service>/service.json` is the truth of local serving. It is changed only here, whole
(temporary file, fsync, rename) and under a lock, so that a process killed at any moment leaves either the old
or the new state. Bundles are copied next to it, by digest, because the run that made them may be deleted.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from airworthy.bundle import verify_bundle
from airworthy.errors import RolloutError
from airworthy.files import file_lock
from airworthy.model_spec import Serving
from airworthy.signing import SIGNATURE

State = Literal[
    "starting", "verifying", "shadowing", "shifting", "baking", "proven", "promoted", "rolled back"
]
FINAL: frozenset[State] = frozenset({"promoted", "rolled back"})
NEXT: dict[State, frozenset[State]] = {
    "starting": frozenset({"verifying", "rolled back"}),
    "verifying": frozenset({"shadowing", "shifting", "baking", "rolled back"}),
    "shadowing": frozenset({"shifting", "baking", "rolled back"}),
    "shifting": frozenset({"shifting", "baking", "rolled back"}),
    "baking": frozenset({"proven", "rolled back"}),
    "proven": frozenset({"promoted", "rolled back"}),
    "promoted": frozenset(),
    "rolled back": frozenset(),
}


LEASE_SECONDS = 60.0
"""How long a controller on another machine may be silent before it counts as gone; it reports three times as often."""

PROMOTION_SECONDS = 600.0
"""How long a proven canary may wait for its promotion before another release may take the service."""

SPARED_SECONDS = 3600.0
"""How long a bundle copy that nothing refers to is spared: a release may have copied it and refer to it soon."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Deployed(_Frozen):
    """A model that serves or may serve; `bundle` is relative to the service's folder."""

    version: str
    digest: str
    bundle: str


class Rollout(_Frozen):
    """The latest rollout. Until `deadline` (seconds since the epoch) it belongs to its living owner alone.

    `run` names the pipeline run that began it ("" outside of one): that run may always settle it.
    """

    id: str
    run: str = ""
    state: State
    owner_host: str = ""
    owner_pid: int
    owner_started: float
    lease_until: float = 0.0
    """Until when its owner is believed to live where its process can't be seen."""
    deadline: float
    reason: str = ""

    @property
    def held(self) -> bool:
        """Whether its controller may still act on it."""
        return self.state not in (*FINAL, "proven") and time.time() < self.deadline and self.owner_alive

    @property
    def owner_alive(self) -> bool:
        if self.owner_host not in ("", socket.gethostname()):
            return time.time() < self.lease_until
        try:
            process = psutil.Process(self.owner_pid)
            return (
                process.status() != psutil.STATUS_ZOMBIE
                and abs(process.create_time() - self.owner_started) < 1
            )
        except psutil.NoSuchProcess:
            return False

    def renewed(self) -> Rollout:
        """With a lease that begins now."""
        return self.model_copy(update={"lease_until": time.time() + LEASE_SECONDS})


class Service(_Frozen):
    """What `service.json` says. `traffic_percent` is the canary's."""

    format: Literal[1] = 1
    service: str
    model: str
    revision: int = 0
    stable: Deployed | None = None
    canary: Deployed | None = None
    traffic_percent: int = 0
    serving: Serving = Serving()
    rollout: Rollout | None = None


class ServiceStore:
    """Reads and changes one service's state."""

    def __init__(self, home: Path, service: str) -> None:
        self.service = service
        self.folder = home / "serving" / service
        self.file = self.folder / "service.json"

    def read(self) -> Service | None:
        """The state; None before anything was ever deployed.

        Raises:
            RolloutError: The file can't be understood.
        """
        try:
            return Service.model_validate_json(self.file.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise RolloutError(
                f"{self.file} can't be understood ({error.error_count()} problems); restore or delete it"
            ) from None

    def update(self, change: Callable[[Service | None], Service]) -> Service:
        """Apply a change to the present state, under the service's lock; returns the new state.

        An exception raised by `change` leaves everything as it was.

        Raises:
            RolloutError: The state can't be written.
        """
        try:
            with file_lock(self.folder / "lock"):
                before = self.read()
                after = change(before)
                if before is not None and after == before:
                    return before
                after = after.model_copy(update={"revision": (before.revision if before else 0) + 1})
                self._write(after)
                return after
        except OSError as error:
            raise RolloutError(f"the state of service {self.service} can't be written: {error}") from error

    def path(self, deployed: Deployed) -> Path:
        """Where a deployed model's bundle lies."""
        return self.folder / deployed.bundle

    def keep(self, bundle: Path, version: str) -> Deployed:
        """Copy a bundle into the service's folder (once per digest) and verify the copy.

        `prune` spares it for `SPARED_SECONDS` from now on: refer to it by then. Not to be called from within a
        change of `update`, which holds the same lock.

        Raises:
            BundleError: The bundle or its copy doesn't match its digests.
            RolloutError: The copy can't be written.
        """
        digest = verify_bundle(bundle)
        kept = self.folder / "models" / digest[:16]
        try:
            with file_lock(self.folder / "lock"):
                if not kept.exists():
                    temporary = kept.with_name(f"{kept.name}.incomplete")
                    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
                    shutil.copytree(bundle, temporary)
                    temporary.replace(kept)
                _take_signature(bundle, kept)
                os.utime(kept)
        except OSError as error:
            why = error.args[0][0][2] if isinstance(error, shutil.Error) else error  # one per file: the first
            raise RolloutError(f"{bundle} can't be copied to {kept}: {why}") from error
        verify_bundle(kept)
        return Deployed(version=version, digest=digest, bundle=f"models/{kept.name}")

    def settled(self) -> None:
        """Nothing to wait for: what serves follows this file."""

    def prune(self) -> None:
        """Delete bundle copies that nothing refers to and that no release has just made."""
        with file_lock(self.folder / "lock"):
            state = self.read()
            used = {d.bundle for d in (state.stable, state.canary) if d} if state else set()
            spared = time.time() - SPARED_SECONDS
            for kept in (self.folder / "models").glob("*"):
                if f"models/{kept.name}" not in used and kept.stat().st_mtime < spared:
                    shutil.rmtree(kept, ignore_errors=True)

    def _write(self, state: Service) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_name(self.file.name + ".incomplete")
        with temporary.open("w") as handle:
            handle.write(state.model_dump_json(indent=2) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(self.file)


def _take_signature(bundle: Path, kept: Path) -> None:
    """Of equal bundles one may be signed, or signed with a newer key: the one that was just verified counts."""
    if (bundle / SIGNATURE).is_file():
        temporary = kept.with_name(f"{kept.name}.signature.incomplete")
        shutil.copyfile(bundle / SIGNATURE, temporary)
        temporary.replace(kept / SIGNATURE)


def services(home: Path) -> list[Service]:
    """All services that were ever deployed to."""
    files = sorted((home / "serving").glob("*/service.json"))
    found = (ServiceStore(home, file.parent.name).read() for file in files)
    return [service for service in found if service]


def new_rollout(deadline_seconds: float, run: str = "") -> Rollout:
    """A rollout that this process owns, at its beginning."""
    started = psutil.Process().create_time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return Rollout(
        id=f"{stamp}-{secrets.token_hex(3)}",  # in containers, all processes have the same number
        run=run,
        state="starting",
        owner_host=socket.gethostname(),
        owner_pid=os.getpid(),
        owner_started=started,
        deadline=time.time() + deadline_seconds,
    ).renewed()


def rolled_back(state: Service, reason: str) -> Service:
    """The state with its canary withdrawn: the stable model serves everyone."""
    assert state.rollout is not None
    ended = state.rollout.model_copy(update={"state": "rolled back", "reason": reason})
    return state.model_copy(update={"canary": None, "traffic_percent": 0, "rollout": ended})


def rolled_forward(state: Service, reason: str) -> Service:
    """The state with its canary as the stable model."""
    assert state.rollout is not None
    ended = state.rollout.model_copy(update={"state": "promoted", "reason": reason})
    return state.model_copy(
        update={"stable": state.canary, "canary": None, "traffic_percent": 0, "rollout": ended}
    )


def describe_service(service: str, home: Path) -> str:
    """One sentence about what serves."""
    state = ServiceStore(home, service).read()
    if state is None or (state.stable is None and state.canary is None):
        return f"service {service}: nothing is deployed yet"
    text = f"service {service}: "
    text += f"version {state.stable.version} serves" if state.stable else "no stable model yet"
    if state.canary and state.rollout:
        text += f"; version {state.canary.version} is rolling out at {state.traffic_percent} %"
        text += f" ({state.rollout.state}{'' if state.rollout.held else ', its controller is gone'})"
    return text
