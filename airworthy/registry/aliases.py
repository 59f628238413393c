"""Moving aliases and tags, always under the model's lock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from airworthy.errors import RegistryError
from airworthy.registry.versions import CHALLENGER, PREFIX, PREVIOUS, REPLACED, Version

if TYPE_CHECKING:
    from airworthy.registry.history import Change

Policy = TypeVar("Policy", bound=BaseModel)


def tag(change: Change, version: Version, tags: Mapping[str, str]) -> None:
    """Write those of the tags that differ."""
    change.hold.require()
    for key, value in tags.items():
        if version.tags.get(key) != value:
            change.client.set_model_version_tag(version.model, version.version, PREFIX + key, value)


def policy(version: Version, key: str, kind: type[Policy]) -> Policy:
    """The policy of its spec that a version was registered under.

    Raises:
        RegistryError: The tag was damaged since.
    """
    try:
        return kind.model_validate_json(version.tags[key])
    except ValueError:
        raise RegistryError(
            f"{version}: its tag {PREFIX}{key} is not what was registered; register it again"
        ) from None


def untag(change: Change, version: Version, *keys: str) -> None:
    """Remove those of the tags that are there."""
    change.hold.require()
    for key in keys:
        if key in version.tags:
            change.client.delete_model_version_tag(version.model, version.version, PREFIX + key)


def move(
    change: Change,
    version: Version,
    alias: str,
    action: str,
    reason: str,
    *,
    before: str | None,
    by: str | None = None,
    remove: bool = False,
    mark: tuple[Version, Mapping[str, str]] | None = None,
) -> None:
    """Write that into the model's history, then the tags of `mark`, then set (or remove) an alias."""
    change.record(action, version.version, reason, by=by, alias=alias, before=before, removed=remove)
    if mark is not None:
        tag(change, *mark)
    if remove:
        change.client.delete_registered_model_alias(version.model, alias)
    else:
        change.client.set_registered_model_alias(version.model, alias, version.version)


def settle(change: Change, champion: Version) -> None:
    """After the champion moved: the previous one named, the champion no challenger any more.

    The tag on the champion is what counts; these aliases follow it, so a crash in between is repaired by the
    next call.
    """
    change.hold.require()
    client = change.client
    given = client.get_registered_model(champion.model).aliases
    previous = champion.tags.get(REPLACED)
    if previous and str(given.get(PREVIOUS)) != previous:
        client.set_registered_model_alias(champion.model, PREVIOUS, previous)
    elif not previous and PREVIOUS in given:
        client.delete_registered_model_alias(champion.model, PREVIOUS)
    if str(given.get(CHALLENGER)) == champion.version:
        client.delete_registered_model_alias(champion.model, CHALLENGER)
