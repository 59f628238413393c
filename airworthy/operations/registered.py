"""Finding the version that the user named, and answering in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from airworthy.errors import ConfigError

if TYPE_CHECKING:
    from airworthy.registry import Registry, Version


def require_model(registry: Registry, model: str) -> None:
    """Refuse a name that nothing is registered under.

    Raises:
        ConfigError: There is no such model.
    """
    known = registry.models()
    if model not in known:
        there = f"there are {', '.join(known)}" if known else "none is registered yet"
        raise ConfigError(f"{model}: no such model; {there}")


def champion_of(registry: Registry, model: str) -> Version:
    require_model(registry, model)
    champion = registry.champion(model)
    if champion is None:
        known = ", ".join(name for name in registry.models() if registry.champion(name))
        raise ConfigError(f"{model} has no champion; models that have one: {known or 'none'}")
    return champion


def named(registry: Registry, what: str) -> Version:
    """The version that MODEL@VERSION names.

    Raises:
        ConfigError: It names none.
    """
    from airworthy.client import model_version

    if "@" not in what:
        raise ConfigError(f"{what}: neither a bundle's folder nor MODEL@VERSION")
    return version_named(registry, *model_version(what))


def version_named(registry: Registry, model: str, named: str) -> Version:
    """A version by its number or by an alias.

    Raises:
        ConfigError: The model has no such version.
    """
    require_model(registry, model)
    versions = registry.versions(model)
    found = next((v for v in versions if named == v.version or named in v.aliases), None)
    if found is None:
        known = ", ".join(
            f"{v.version} ({', '.join(v.aliases)})" if v.aliases else v.version for v in versions
        )
        raise ConfigError(f"{model}@{named}: no such version; there are {known or 'none yet'}")
    return found


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
