"""What happened to a model's versions, who did it and why: entries in the registered model's tags.

An entry is written before the alias moves, so that no move goes without one; whoever takes the lock next sees
whether the last move came about, and says so if not. Times rise from entry to entry, whatever the clocks say.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airworthy.errors import RegistryError
from airworthy.registry import aliases, reading
from airworthy.registry.versions import CHAMPION, MOVE, PREFIX, ROLLED_BACK

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airworthy.registry.lock import Hold

BACK = "rolled back"
NOT_DONE = "the alias did not move: the process ended before, or somebody moved it back by hand"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One thing that happened.

    `alias` is set for moves of an alias: it went to `version`, or from it when `removed`; `before` is the version
    that had it. `void` says why a move counts for nothing; None for all that happened.
    """

    time: str
    """UTC, ISO."""
    action: str
    """`registered`, `promoted`, `rolled back`, `withdrawn`, `approved`, `override used`, `deleted`, …"""
    version: str
    by: str
    reason: str
    alias: str | None = None
    before: str | None = None
    removed: bool = False
    void: str | None = None

    @property
    def holder(self) -> str | None:
        """Who has the alias after the move."""
        return None if self.removed else self.version


@dataclass(frozen=True)
class Change:
    """The right to change one model, while its lock is held; everything it writes goes through here."""

    client: MlflowClient
    model: str
    hold: Hold
    by: str

    def record(
        self,
        action: str,
        version: str,
        reason: str,
        *,
        by: str | None = None,
        alias: str | None = None,
        before: str | None = None,
        removed: bool = False,
    ) -> None:
        """Write an entry."""
        self.hold.require()
        last = max((entry.time for entry in read(self.client, self.model)), default="")
        entry = Entry(
            _after(last), action, version, by or self.by, reason, alias=alias, before=before, removed=removed
        )
        self.write(entry)
        _log.info("%s version %s: %s by %s (%s)", self.model, version, action, entry.by, reason)

    def write(self, entry: Entry) -> None:
        """Write an entry under its time."""
        said = {
            "time": entry.time,
            "action": entry.action,
            "alias": entry.alias,
            "version": entry.version,
            "from": entry.before,
            "reason": entry.reason,
            "by": entry.by,
            **({"removed": True} if entry.removed else {}),
            **({"void": entry.void} if entry.void else {}),
        }
        key = f"{PREFIX}{MOVE}{entry.time.removesuffix('+00:00')}"  # MLflow allows no plus sign in a key
        self.client.set_registered_model_tag(self.model, key, json.dumps(said))


def read(client: MlflowClient, model: str) -> list[Entry]:
    """All entries, oldest first."""
    return _entries(client.get_registered_model(model).tags)


def repair(change: Change) -> None:
    """Bring history and aliases together again, after a process that died or a hand that moved an alias."""
    from mlflow.exceptions import MlflowException

    try:
        found = change.client.get_registered_model(change.model)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return
        raise
    moves = [e for e in _entries(found.tags) if e.alias and not e.void]
    for entry in _last_of_each_alias(moves):
        actual = found.aliases.get(entry.alias)
        now = None if actual is None else str(actual)
        if now == entry.holder:
            continue
        if entry == moves[-1] and now == entry.before:
            if (
                entry.action == BACK and now is not None
            ):  # it may be marked already, so that none goes unmarked
                aliases.untag(change, reading.by_number(change.client, change.model, now), ROLLED_BACK)
            change.write(replace(entry, void=NOT_DONE))
        else:
            reason = f"the alias is not where {entry.action!r} left it"
            change.record(
                "moved by hand",
                now or entry.version,
                reason,
                by="unknown",
                alias=entry.alias,
                before=entry.holder,
                removed=now is None,
            )


def whoami() -> str:
    """Who is at work: `AIRWORTHY_USER`, or user@host."""
    given = os.environ.get("AIRWORTHY_USER", "").strip()
    if given:
        return given
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def now() -> str:
    """The time, UTC, ISO."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _last_of_each_alias(moves: list[Entry]) -> list[Entry]:
    """The last move, and the champion's if that is another one: no later move touches the champion unsaid."""
    champion = [entry for entry in moves if entry.alias == CHAMPION][-1:]
    return champion + [entry for entry in moves[-1:] if entry.alias != CHAMPION]


def _entries(tags: Mapping[str, str]) -> list[Entry]:
    return [_entry(key, tags[key]) for key in sorted(tags) if key.startswith(PREFIX + MOVE)]


def _entry(key: str, text: str) -> Entry:
    try:
        return _read_entry(json.loads(text))
    except (ValueError, KeyError, TypeError):
        raise RegistryError(
            f"the model's history is damaged: its tag {key} is no entry; restore it"
        ) from None


def _read_entry(said: Mapping[str, Any]) -> Entry:
    return Entry(
        time=said["time"],
        action=said["action"],
        version=said["version"],
        by=said.get("by", ""),
        reason=said["reason"],
        alias=said["alias"],
        before=said["from"],
        removed=said.get("removed", said["action"] == "withdrawn"),
        void=said.get("void"),
    )


def _after(last: str) -> str:
    moment = now()
    if moment > last:
        return moment
    return (datetime.fromisoformat(last) + timedelta(microseconds=1)).isoformat(timespec="microseconds")
