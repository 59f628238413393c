"""Bringing a service to rest: after a promotion, after a crash, or back to an earlier model.

All of it is safe to repeat, and none of it needs the process that began the rollout.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from airworthy.errors import RolloutError
from airworthy.rollout.deployers import GoneError
from airworthy.rollout.deployers.choose import open_store
from airworthy.serving.state import (
    FINAL,
    PROMOTION_SECONDS,
    Deployed,
    Rollout,
    Service,
    rolled_back,
    rolled_forward,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SettleResult:
    """What `settle` found and did; `sentence` is for people."""

    action: Literal["nothing", "rolled back", "rolled forward", "left to its owner"]
    sentence: str


def refuse_if_taken(service: Service, canary: Deployed, run: str = "") -> None:
    """Refuse to touch a service whose rollout is under way, or proven and not yet promoted.

    Args:
        service: Its present state.
        canary: What is to be deployed.
        run: The pipeline run that asks: what an earlier attempt of its step left, or has proven of the same bundle,
            is its own to begin again.

    Raises:
        RolloutError: The service is taken.
    """
    other = service.rollout
    if other is None or service.canary is None or other.state in FINAL:
        return
    if other.held and not _own_leftover(other, run):
        where = f"process {other.owner_pid}" + (f" on {other.owner_host}" if other.owner_host else "")
        raise RolloutError(
            f"service {service.service}: rollout {other.id} of version {service.canary.version} is "
            f"{other.state} ({where}); wait until it has ended"
        )
    own = other.run == run and service.canary.digest == canary.digest
    if other.state == "proven" and time.time() < other.deadline and not own:
        until = time.strftime("%H:%M:%S", time.gmtime(other.deadline))
        raise RolloutError(
            f"service {service.service}: version {service.canary.version} is proven and waits for its "
            f"promotion (at most until {until} UTC); let that release end first"
        )
    log.warning(
        "service %s: taking over from rollout %s, whose controller is gone", service.service, other.id
    )


def _own_leftover(rollout: Rollout, run: str) -> bool:
    """Whether a rollout was left by an earlier attempt of the same step, in a pod that is gone.

    A pipeline starts an attempt, or its exit handler, only after the one before has ended; so the lease need not
    be waited for. On one machine the process itself tells.
    """
    return bool(run) and rollout.run == run and rollout.owner_host != socket.gethostname()


def finish(
    service: str,
    *,
    bundle: Path,
    version: str,
    home: Path,
    promote: Callable[[], object] | None = None,
) -> str:
    """Make the proven canary the stable model, together with the registry's champion alias. Idempotent.

    Args:
        service: The service.
        bundle: The proven bundle.
        version: Its registry version.
        home: State directory.
        promote: Moves the alias. It is called while the service is held, and only if the canary is still proven
            here: so neither moves alone, but for a crash between the two, which `settle` completes.

    Returns:
        A sentence about what serves now.

    Raises:
        RolloutError: This bundle was not proven on this service.
        BundleError: The bundle doesn't match its digests.
    """
    from airworthy.bundle import verify_bundle

    digest = verify_bundle(bundle)

    def held(current: Service | None) -> Service:
        """First of all, others have to leave the service alone: on a cluster nobody is locked out while the alias
        moves, and who took the service then would part the two."""
        if current and current.canary is None and current.stable and current.stable.digest == digest:
            return current
        rollout = current.rollout if current else None
        proven = rollout is not None and rollout.state == "proven"
        if current is None or not proven or current.canary is None or current.canary.digest != digest:
            raise RolloutError(
                f"service {service}: version {version} is not proven by a rollout here, so it can't become "
                "the stable model; roll it out first"
            )
        assert rollout is not None
        return current.model_copy(
            update={"rollout": rollout.model_copy(update={"deadline": time.time() + PROMOTION_SECONDS})}
        )

    def change(current: Service | None) -> Service:
        service = held(current)
        if promote:
            promote()
        done = service.canary is None
        return service if done else rolled_forward(service, f"version {version} became champion")

    store = open_store(service, home)
    store.update(held)
    store.update(change)
    store.settled()
    store.prune()
    return f"service {service}: version {version} serves everyone"


def settle(service: str, *, champion_digest: str | None, home: Path, run: str | None = None) -> SettleResult:
    """Leave no unjudged canary, whatever happened before. Idempotent.

    A canary is withdrawn, unless its rollout was proven and the registry already calls it champion: then the
    promotion was cut short and is completed.

    Args:
        service: The service.
        champion_digest: Bundle digest behind the registry's champion alias; None if there is none.
        home: State directory.
        run: The pipeline run that asks: a canary that another run has proven is left to it until the
            promotion's deadline. None settles any whose controller is gone.
    """
    result = SettleResult("nothing", f"Service {service}: nothing was left to settle.")

    def change(current: Service | None) -> Service:
        nonlocal result
        assert current is not None
        rollout, canary = current.rollout, current.canary
        if rollout is None or canary is None or rollout.state in FINAL:
            return current
        if rollout.state == "proven" and canary.digest == champion_digest:
            result = SettleResult(
                "rolled forward",
                f"Service {service}: version {canary.version}, proven and champion, serves everyone.",
            )
            return rolled_forward(current, "settled: the registry calls it champion")
        waits = (
            rollout.state == "proven" and run not in (None, rollout.run) and time.time() < rollout.deadline
        )
        if waits or (rollout.held and not _own_leftover(rollout, run or "")):
            result = SettleResult(
                "left to its owner",
                f"Service {service}: rollout {rollout.id} is {rollout.state} and belongs to another release.",
            )
            return current
        keeps = f"version {current.stable.version} serves everyone" if current.stable else "nothing is served"
        result = SettleResult(
            "rolled back",
            f"Service {service}: version {canary.version} was withdrawn ({rollout.state}); {keeps}.",
        )
        return rolled_back(current, f"settled: left in state {rollout.state}")

    store = open_store(service, home)
    if store.read() is not None:
        store.update(change)
        if result.action != "left to its owner":  # who moves its traffic, and may be taking it back just now
            try:
                store.settled()
            except GoneError as error:  # so nobody is served by the canary
                result = SettleResult(result.action, f"{result.sentence} {error}.")
        store.prune()
    return result


def withdraw(service: str, *, reason: str, home: Path) -> str:
    """Take a canary out, whoever is rolling it out: its controller finds out at its next step and stops.

    Returns:
        A sentence about what was withdrawn; empty if there was no canary.
    """
    sentence = ""

    def change(current: Service | None) -> Service:
        nonlocal sentence
        assert current is not None
        if current.canary is None or current.rollout is None:
            return current
        sentence = f"service {service}: the rollout of version {current.canary.version} was called off"
        return rolled_back(current, reason)

    store = open_store(service, home)
    if store.read() is not None:
        store.update(change)
        store.settled()
    return sentence


def deploy(
    service: str,
    *,
    model: str,
    bundle: Path,
    version: str,
    home: Path,
    storage_uri: Callable[[str], str] | None = None,
) -> str:
    """Make a bundle the stable model without a canary: a return to an earlier champion.

    Args:
        service: The service.
        model: Model name.
        bundle: Its bundle.
        version: Its registry version.
        home: State directory.
        storage_uri: Where a version's bundle is stored; needed on a cluster.

    Raises:
        RolloutError: A rollout is under way.
        BundleError: The bundle doesn't match its digests.
    """
    store = open_store(service, home, model=model, storage_uri=storage_uri)
    kept = store.keep(bundle, version)

    def change(current: Service | None) -> Service:
        state = current or Service(service=service, model=model)
        if state.canary is not None:
            refuse_if_taken(state, kept)
            state = rolled_back(state, f"version {version} was deployed")
        return state.model_copy(update={"stable": kept})

    store.update(change)
    store.settled()
    store.prune()
    return f"service {service}: version {version} serves everyone"
