"""One process at a time may move a model's aliases: MLflow's own calls are last-writer-wins.

SQLite (one machine): a file lock beside the database. The kernel frees it when the holder ends, however it
ends, so nothing can be left held and nobody can be overtaken.

Servers: a lease made of MLflow's one atomic promise, that names of registered models are unique. Generation g
of the lock is the registered model `<model>.promotion-lock.<g>`:

- acquire: find the highest generation; unless it is held and not expired, create the next one (exactly one
  process can), then look again, and give way when a higher one exists by now;
- release: mark one's own generation as released. The holder of g deletes the generations below g, nobody
  ever deletes the highest. So the highest generation only grows, a name is never held twice, and a process
  that acts on an old view loses. A holder that died is overtaken once its lease has run out.

A lease can't stop a holder that is paused beyond it (no lock without a conditional write can), so holders
call `Hold.require()` right before each write; work under the lock takes seconds, the lease lasts minutes.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy.errors import RegistryError
from airworthy.mlflow_store import sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

INFIX = ".promotion-lock."
LEASE_SECONDS = 300.0
WAIT_SECONDS = 20.0
MARGIN = 0.5
"""Share of the lease after which a holder no longer writes: clocks differ, calls take time."""
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hold:
    """Proof of holding the lock; `until` is on the monotonic clock, infinite for a file lock."""

    until: float

    def require(self) -> None:
        """Raise RegistryError when the lease may have run out: another process may be at work."""
        if time.monotonic() >= self.until:
            raise RegistryError("the promotion lock ran out before the change was made; run the step again")


@contextmanager
def model_lock(
    client: MlflowClient,
    model: str,
    *,
    wait_seconds: float = WAIT_SECONDS,
    lease_seconds: float = LEASE_SECONDS,
) -> Iterator[Hold]:
    """Hold the lock of one model.

    Args:
        client: Of the registry; its URI decides the kind of lock.
        model: Registered model's name.
        wait_seconds: How long to wait for another holder.
        lease_seconds: After how long a holder that vanished is overtaken (servers only).

    Raises:
        RegistryError: Another process still holds it after `wait_seconds`.
    """
    database = sqlite_file(str(client._registry_uri))
    if database is not None:
        with _file_lock(database.with_name(f"{database.name}.{model}.lock"), model, wait_seconds):
            yield Hold(float("inf"))
        return
    with lease(client, model, wait_seconds=wait_seconds, lease_seconds=lease_seconds) as hold:
        yield hold


@contextmanager
def lease(client: MlflowClient, model: str, *, wait_seconds: float, lease_seconds: float) -> Iterator[Hold]:
    """The lock for servers (see the module's text); works on any MLflow registry."""
    started = 0.0

    def attempt() -> int | None:
        nonlocal started
        started = time.monotonic()
        return _next_generation(client, model, lease_seconds)

    generation = _wait(attempt, wait_seconds, _LONGEST_PAUSE_SECONDS, lambda: _holder(client, model))
    try:
        yield Hold(started + lease_seconds * MARGIN)
    finally:
        client.set_registered_model_tag(_name(model, generation), "state", "released")


@contextmanager
def _file_lock(path: Path, model: str, wait_seconds: float) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:

        def attempt() -> int | None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            return 1

        _wait(
            attempt,
            wait_seconds,
            _PAUSE_SECONDS,
            lambda: f"the registry lock of {model} ({path}) is held by another process",
        )
        yield


def _wait(
    attempt: Callable[[], int | None], wait_seconds: float, longest: float, holder: Callable[[], str]
) -> int:
    """Try until it succeeds or the time is over, with pauses that grow up to `longest` seconds."""
    deadline, pause = time.monotonic() + wait_seconds, _PAUSE_SECONDS
    while (got := attempt()) is None:
        if time.monotonic() >= deadline:
            raise RegistryError(f"{holder()}; try again when it is done")
        time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads those who wait; no secret
        pause = min(pause * 1.5, longest)
    return got


def _next_generation(client: MlflowClient, model: str, lease_seconds: float) -> int | None:
    from mlflow.exceptions import MlflowException

    before = _generations(client, model)
    top = max(before, default=0)
    if before and not _free(before[top]):
        return None
    mine = top + 1
    tags = {
        "state": "held",
        "owner": f"{socket.gethostname()}:{os.getpid()}",
        "expires_at": repr(time.time() + lease_seconds),
    }
    try:
        client.create_registered_model(
            _name(model, mine), tags=tags, description="Airworthy's promotion lock."
        )
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":
            return None
        raise
    after = _generations(client, model)
    if max(after, default=mine) > mine:
        _delete(client, _name(model, mine))
        return None
    if before and before[top].get("state") == "held":
        _log.warning("overtook the expired promotion lock of %s, held by %s", model, before[top].get("owner"))
    for older in (g for g in after if g < mine):
        _delete(client, _name(model, older))
    return mine


def _generations(client: MlflowClient, model: str) -> dict[int, dict[str, str]]:
    """Tags of every generation of the lock that exists."""
    prefix = model + INFIX
    found: dict[int, dict[str, str]] = {}
    for entry in client.search_registered_models(filter_string=f"name LIKE '{prefix}%'"):
        number = entry.name.removeprefix(prefix)
        if entry.name.startswith(prefix) and number.isdecimal():  # LIKE takes an underscore for any character
            found[int(number)] = dict(entry.tags)
    return found


def _free(tags: dict[str, str]) -> bool:
    return tags.get("state") == "released" or time.time() > float(tags.get("expires_at", "0"))


def _holder(client: MlflowClient, model: str) -> str:
    held = _generations(client, model)
    tags = held[max(held)] if held else {}
    left = max(0.0, float(tags.get("expires_at", "0")) - time.time())
    return (
        f"the registry lock of {model} is held by {tags.get('owner', 'another process')} ({left:.0f} s left)"
    )


def _delete(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.delete_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _name(model: str, generation: int) -> str:
    return f"{model}{INFIX}{generation}"
