"""Moving aliases and tags, always under the model's lock, and the history of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airworthy.registry.versions import CHALLENGER, MOVE, PREFIX, PREVIOUS, REPLACED, Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airworthy.registry.lock import Hold

_log = logging.getLogger(__name__)


def tag(client: MlflowClient, version: Version, tags: Mapping[str, str]) -> None:
    """Write those of the tags that differ."""
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.model, version.version, PREFIX + key, value)


def move(
    client: MlflowClient,
    hold: Hold,
    version: Version,
    alias: str,
    action: str,
    reason: str,
    before: str | None = None,
    *,
    remove: bool = False,
) -> None:
    """Set (or remove) an alias and write that into the model's history."""
    hold.require()
    if remove:
        client.delete_registered_model_alias(version.model, alias)
    else:
        client.set_registered_model_alias(version.model, alias, version.version)
    moment = now()
    said = {
        "time": moment,
        "action": action,
        "alias": alias,
        "version": version.version,
        "from": before,
        "reason": reason,
    }
    key = f"{PREFIX}{MOVE}{moment.removesuffix('+00:00')}"  # MLflow allows no plus sign in a key
    client.set_registered_model_tag(version.model, key, json.dumps(said))
    _log.info("%s: %s (%s)", version, action, reason)


def history(client: MlflowClient, model: str) -> list[dict[str, Any]]:
    """Every move of an alias, oldest first."""
    tags = client.get_registered_model(model).tags
    return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(PREFIX + MOVE)]


def settle(client: MlflowClient, hold: Hold, champion: Version) -> None:
    """After the champion moved: the previous one named, the champion no challenger any more.

    The tag on the champion is what counts; these aliases follow it, so a crash in between is repaired by the
    next call.
    """
    hold.require()
    given = client.get_registered_model(champion.model).aliases
    previous = champion.tags.get(REPLACED)
    if previous and str(given.get(PREVIOUS)) != previous:
        client.set_registered_model_alias(champion.model, PREVIOUS, previous)
    elif not previous and PREVIOUS in given:
        client.delete_registered_model_alias(champion.model, PREVIOUS)
    if str(given.get(CHALLENGER)) == champion.version:
        client.delete_registered_model_alias(champion.model, CHALLENGER)


def now() -> str:
    """The time, UTC, ISO."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
