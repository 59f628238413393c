"""Operations on what serves and what is registered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy.errors import ConfigError
from airworthy.operations.registered import champion_of, require_model, say
from airworthy.state import home

if TYPE_CHECKING:
    from airworthy.registry import Registry, Version


def serve(model: str, port: int) -> None:
    """Serve the champion on loopback until Ctrl-C; a release meanwhile takes over without a gap.

    Raises:
        ConfigError: The model has no champion, or nothing has been released to serve here.
        ServingError: The server did not start.
    """
    from airworthy.registry import Registry
    from airworthy.serving.standing import stand

    service = champion_of(Registry(), model).tags["service"]
    say(f"starting the server of {model} …")
    asyncio.run(stand(model, home(), port=port, tell=say, service=service))
    say("stopped")


def rollback(model: str, reason: str) -> None:
    """Return to the previous champion, in the registry and then in serving; a rollout under way is called off.

    A rollback that was cut short between the two is completed, not repeated: one call never goes two champions
    back.

    Raises:
        ConfigError: The model has no champion, or never served where this looks.
        RegistryError: There is no champion before it.
    """
    from airworthy.registry import Registry
    from airworthy.rollout import withdraw
    from airworthy.rollout.deployers.choose import open_store

    registry = Registry()
    champion = champion_of(registry, model)
    service = champion.tags["service"]
    state = open_store(service, home()).read()
    if state is None:
        raise ConfigError(
            f"service {service} never served {_where(service)}, so a rollback from here would not reach its users; "
            "AIRWORTHY_DEPLOYER (local, knative or standard) says where it serves"
        )
    called_off = withdraw(service, reason=f"rolled back: {reason}", home=home())
    if called_off:
        say(called_off)
    if state.stable and state.stable.digest != champion.digest:
        _deploy(registry, champion)
        say(
            f"{model}: version {champion.version} is champion and now serves {_where(service)}; an earlier rollback "
            "had been cut short. Run the command again to go back further"
        )
        return
    previous = registry.rollback(model, reason, expected_champion=champion.version)
    _deploy(registry, previous)
    say(
        f"{model}: version {previous.version} is champion again and serves {_where(service)}; version "
        f"{champion.version} is out"
    )


def prune(model: str, keep: int | None, days: float | None, yes: bool) -> None:
    """Delete old versions, or (unless `yes`) say which ones would be.

    Raises:
        ConfigError: `keep` or `days` is out of range.
        ConfigError: There is no such model.
        RegistryError: Another process holds it.
    """
    from airworthy.model_spec import Retention
    from airworthy.registry import Registry, retention

    registry = Registry()
    require_model(registry, model)
    versions = registry.versions(model)
    recorded = retention.policy_of(versions)
    try:
        policy = Retention(
            versions=recorded.versions if keep is None else keep, days=recorded.days if days is None else days
        )
    except ValueError:
        raise ConfigError("--keep is at least 1, and --days between 0 and 36500") from None
    in_use = _in_use(versions)
    say(
        f"{model}: keeping the newest {policy.versions}, all younger than {policy.days:g} days, and what is referred to"
    )
    found = retention.look_ahead(registry, model, policy, in_use=in_use)
    for number, why in sorted(found.kept.items(), key=lambda item: int(item[0])):
        say(f"  keep    version {number}: {why}")
    if not found.doomed:
        say("nothing to delete")
        return
    if not yes:
        sizes = retention.sizes(registry, model, found)
        for version in found.doomed:
            size = f"{sizes[version.version] / 1e6:.1f} MB"
            say(f"  delete  version {version.version}: registered {version.created:%Y-%m-%d}, {size}")
        say(f"nothing was deleted; --yes would free {sum(sizes.values()) / 1e6:.1f} MB")
        return
    done = retention.prune(registry, model, policy, in_use=in_use)
    for pruned in done:
        say(f"  deleted version {pruned.version.version}: {pruned.freed_bytes / 1e6:.1f} MB")
    freed = sum(pruned.freed_bytes for pruned in done)
    say(f"freed {freed / 1e6:.1f} MB; `airworthy history {model}` keeps the record")


def _deploy(registry: Registry, version: Version) -> None:
    """Make a registered version the stable model of its service."""
    import tempfile

    from airworthy.rollout import deploy

    with tempfile.TemporaryDirectory() as scratch:
        bundle = registry.fetch_bundle(version, Path(scratch) / "bundle")
        deploy(
            version.tags["service"],
            model=version.model,
            bundle=bundle,
            version=version.version,
            home=home(),
            storage_uri=lambda number: registry.version(version.model, number).source,
        )


def _where(service: str) -> str:
    """Where the service is, as this process sees it."""
    from airworthy.rollout.deployers.choose import deployer_name

    name = deployer_name(service)
    return "on this machine" if name == "local" else f"on the cluster ({name})"


def _in_use(versions: Sequence[Version]) -> set[str]:
    """Version numbers that serve or roll out, whatever their aliases say."""
    from airworthy.rollout.deployers.choose import open_store

    found: set[str] = set()
    for model, service in {(v.model, v.tags["service"]) for v in versions if "service" in v.tags}:
        state = open_store(service, home()).read()
        if state and state.model == model:
            found |= {deployed.version for deployed in (state.stable, state.canary) if deployed}
    return found
