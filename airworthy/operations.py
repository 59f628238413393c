"""What the command line asks of more than one room, run inside a step's environment.

`python -m airworthy.operations --help` lists them; `airworthy` itself starts them with the right interpreter.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy.errors import AirworthyError, ConfigError
from airworthy.files import write_whole
from airworthy.state import feature_repo, home

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

    service = _champion(Registry(), model).tags["service"]
    _say(f"starting the server of {model} …")
    asyncio.run(stand(model, home(), port=port, tell=_say, service=service))
    _say("stopped")


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
    champion = _champion(registry, model)
    service = champion.tags["service"]
    state = open_store(service, home()).read()
    if state is None:
        raise ConfigError(
            f"service {service} never served {_where(service)}, so a rollback from here would not reach its users; "
            "AIRWORTHY_DEPLOYER (local, knative or standard) says where it serves"
        )
    called_off = withdraw(service, reason=f"rolled back: {reason}", home=home())
    if called_off:
        _say(called_off)
    if state.stable and state.stable.digest != champion.digest:
        _deploy(registry, champion)
        _say(
            f"{model}: version {champion.version} is champion and now serves {_where(service)}; an earlier rollback "
            "had been cut short. Run the command again to go back further"
        )
        return
    previous = registry.rollback(model, reason, expected_champion=champion.version)
    _deploy(registry, previous)
    _say(
        f"{model}: version {previous.version} is champion again and serves {_where(service)}; version "
        f"{champion.version} is out"
    )


def prune(model: str, keep: int | None, days: float | None, yes: bool) -> None:
    """Delete old versions, or (unless `yes`) say which ones would be.

    Raises:
        RegistryError: There is no such model, or another process holds it.
    """
    from airworthy.model_spec import Retention
    from airworthy.registry import Registry, retention

    registry = Registry()
    versions = registry.versions(model)
    recorded = retention.policy_of(versions)
    policy = Retention(
        versions=recorded.versions if keep is None else keep, days=recorded.days if days is None else days
    )
    in_use = _in_use(versions)
    _say(
        f"{model}: keeping the newest {policy.versions}, all younger than {policy.days:g} days, and what is referred to"
    )
    found = retention.look_ahead(registry, model, policy, in_use=in_use)
    for number, why in sorted(found.kept.items(), key=lambda item: int(item[0])):
        _say(f"  keep    version {number}: {why}")
    if not found.doomed:
        _say("nothing to delete")
        return
    if not yes:
        sizes = retention.sizes(registry, model, found)
        for version in found.doomed:
            size = f"{sizes[version.version] / 1e6:.1f} MB"
            _say(f"  delete  version {version.version}: registered {version.created:%Y-%m-%d}, {size}")
        _say(f"nothing was deleted; --yes would free {sum(sizes.values()) / 1e6:.1f} MB")
        return
    done = retention.prune(registry, model, policy, in_use=in_use)
    for pruned in done:
        _say(f"  deleted version {pruned.version.version}: {pruned.freed_bytes / 1e6:.1f} MB")
    freed = sum(pruned.freed_bytes for pruned in done)
    _say(f"freed {freed / 1e6:.1f} MB; `airworthy history {model}` keeps the record")


def replay(record: str) -> None:
    """Recompute a rollout's decision from its record.

    Raises:
        RolloutError: There is none, it is damaged or has no end, or it says another decision than the recomputed
            one.
    """
    from airworthy.errors import RolloutError
    from airworthy.rollout.replay import find_record
    from airworthy.rollout.replay import replay as recompute

    path = find_record(record, home())
    found = recompute(path)
    if found.problem:
        raise RolloutError(found.problem)
    assert found.judgement is not None
    counts = ", ".join(f"{n:,} {name}" for name, n in found.told.counts.items() if n) or "no request"
    _say(f"{found.judgement.outcome}: {found.judgement.reason}")
    _say(f"recomputed from {counts} in {path}: the recorded decision is the same, bit for bit")


def report(record: str, out: Path | None) -> None:
    """Draw a rollout's page, by default beside its record.

    Raises:
        RolloutError: There is no record, or it is damaged.
    """
    from airworthy.rollout.replay import find_record
    from airworthy.rollout.report import render

    path = find_record(record, home())
    target = out or (path if path.is_dir() else path.parent) / "report.html"
    write_whole(target, render(path))
    _say(f"wrote {target}")


def retrieve(spec: Path, out: Path, as_of: str | None) -> None:
    """Retrieve a model's windows into `out/train`, `out/tune` and `out/test`."""
    from airworthy.client import read_model
    from airworthy.features import retrieve as retrieve_windows
    from airworthy.model_spec import parse_as_of

    windows = {name: out / name for name in ("train", "tune", "test")}
    retrieve_windows(read_model(spec), parse_as_of(as_of), windows, feature_repo=feature_repo(), home=home())


def recall(model: str, version: str, out: Path) -> None:
    """Fetch what is recorded with a version, to make it again (see `airworthy.reproduce`)."""
    from airworthy.registry import Registry
    from airworthy.reproduce import recall as fetch

    registry = Registry()
    recorded = fetch(registry, _version(registry, model, version), out)
    _say(f"{recorded}: bundle {recorded.digest[:12]}, data as of {recorded.info.as_of}")


def retrain(out: Path, as_of: str) -> None:
    """Train again on the windows retrieved into a reproduction's folder; nothing is recorded, nothing is signed."""
    import json
    import os

    from airworthy import reproduce
    from airworthy.model_spec import load_spec
    from airworthy.signing import SIGNING_KEY, VERIFY_KEY
    from airworthy.training import train
    from airworthy.training.tracking import machine_tags

    for name in (SIGNING_KEY, VERIFY_KEY):  # what is made for comparing must never pass for a released bundle
        os.environ.pop(name, None)
    text = (out / reproduce.RECORDED / reproduce.SPEC).read_bytes().decode()
    windows = {name: out / reproduce.DATA / name for name in ("train", "tune")}
    train(load_spec(text), text, **windows, out=out / reproduce.BUNDLE, as_of=as_of, tracking=False)
    machine = {name.removeprefix("airworthy."): value for name, value in machine_tags().items()}
    write_whole(out / reproduce.MACHINE, json.dumps(machine))


def compare(out: Path, attach: bool) -> None:
    """Hold what was made again against the record; `attach` keeps the result with the version."""
    from airworthy.registry import Registry
    from airworthy.reproduce import RESULT, judge

    result = judge(out)
    if attach:
        registry = Registry()
        registry.attach(registry.version(result.model, result.version), "reproduction", out / RESULT)


def dossier(model: str, version: str, out: Path | None, check: bool) -> None:
    """Write the dossier of a version (a number or an alias), or only check its records.

    Raises:
        ConfigError: The model has no such version.
        GateError: Records of it were changed or lost; what is asked to be written is written all the same.
    """
    from airworthy import dossier as room
    from airworthy.registry import Registry

    registry = Registry()
    found = _version(registry, model, version)
    composed = room.compose(registry, model, found.version, earlier=True)
    if out is not None or not check:
        folder = room.write(composed, out or home() / "dossiers" / f"{model}-{found.version}")
        _say(f"wrote {folder / room.PAGE}, {room.MARKDOWN} and {room.FILE}")
    for entry in composed.integrity if check else ():
        _say(f"{entry.outcome:13} {entry.name}: {entry.sentence}")
    for point in composed.missing:
        _say(f"missing: {point.sentence}")
    room.require_whole(composed)
    _say(room.headline(composed))


def sign(what: str) -> None:
    """Sign a bundle's folder, or the stored bundle of a version and the copy of it that serves here.

    Raises:
        ConfigError: There is no key, or no such version.
        BundleError: The bundle was changed, or the key can't be used.
    """
    import tempfile

    from airworthy.bundle import verify_digests
    from airworthy.registry import Registry
    from airworthy.serving.state import ServiceStore, services
    from airworthy.signing import SIGNING_KEY, sign_bundle, signing_key

    key = signing_key()
    if key is None:
        raise ConfigError(
            f"{SIGNING_KEY} is not set: it names the private key (`airworthy keys new` makes one)"
        )
    if Path(what).is_dir():
        digest = verify_digests(Path(what))
        sign_bundle(Path(what), key)
    else:
        registry = Registry()
        version = _named(registry, what)
        registry.sign(version, key)
        digest = version.digest
        with tempfile.TemporaryDirectory() as scratch:
            bundle = registry.fetch_bundle(version, Path(scratch) / "bundle")
            for service in services(home()):
                if digest in {one.digest for one in (service.stable, service.canary) if one}:
                    ServiceStore(home(), service.service).keep(bundle, version.version)
    _say(f"{what}: bundle {digest[:12]} is signed with key {key.identity[:12]}")


def verify(what: str, key: str | None) -> None:
    """Check digests and signature of a bundle's folder, or of a version's stored bundle.

    Raises:
        ConfigError: There is no such version.
        BundleError: The bundle was changed; or a key was given, and the signature is missing or wrong.
    """
    import tempfile

    from airworthy.bundle import verify_digests
    from airworthy.registry import Registry
    from airworthy.signing import SIGNATURE, require_signature, verify_keys

    trusted = verify_keys(key)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(what)
        if not bundle.is_dir():
            registry = Registry()
            bundle = registry.fetch_bundle(_named(registry, what), Path(scratch) / "bundle")
        digest = verify_digests(bundle)
        if trusted:
            how = f"signed with key {require_signature(bundle, digest, trusted).identity[:12]}"
        elif (bundle / SIGNATURE).is_file():
            how = "it has a signature, which was not checked: give --key"
        else:
            how = "not signed"
    _say(f"{what}: bundle {digest[:12]}, all files as they were written; {how}")


def infer(dataset: Path, out: Path) -> None:
    """Write a first schema for a dataset."""
    from airworthy.validation import infer_schema

    write_whole(out, infer_schema(dataset))


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


def _champion(registry: Registry, model: str) -> Version:
    champion = registry.champion(model)
    if champion is None:
        known = ", ".join(name for name in registry.models() if registry.champion(name))
        raise ConfigError(f"{model} has no champion; models that have one: {known or 'none'}")
    return champion


def _named(registry: Registry, what: str) -> Version:
    """The version that MODEL@VERSION names.

    Raises:
        ConfigError: It names none.
    """
    from airworthy.client import model_version

    if "@" not in what:
        raise ConfigError(f"{what}: neither a bundle's folder nor MODEL@VERSION")
    return _version(registry, *model_version(what))


def _version(registry: Registry, model: str, named: str) -> Version:
    """A version by its number or by an alias.

    Raises:
        ConfigError: The model has no such version.
    """
    versions = registry.versions(model)
    found = next((v for v in versions if named == v.version or named in v.aliases), None)
    if found is None:
        known = ", ".join(
            f"{v.version} ({', '.join(v.aliases)})" if v.aliases else v.version for v in versions
        )
        raise ConfigError(f"{model}@{named}: no such version; there are {known or 'none of this model'}")
    return found


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and turn errors into one sentence and an exit code."""
    parser = argparse.ArgumentParser(prog="python -m airworthy.operations", description=__doc__)
    commands = parser.add_subparsers(dest="operation", required=True)
    command = commands.add_parser("serve")
    command.add_argument("model")
    command.add_argument("--port", type=int, default=8080)
    command = commands.add_parser("rollback")
    command.add_argument("model")
    command.add_argument("--reason", required=True)
    command = commands.add_parser("prune")
    command.add_argument("model")
    command.add_argument("--keep", type=int)
    command.add_argument("--days", type=float)
    command.add_argument("--yes", action="store_true")
    command = commands.add_parser("replay")
    command.add_argument("record")
    command = commands.add_parser("report")
    command.add_argument("record")
    command.add_argument("--out", type=Path)
    command = commands.add_parser("retrieve")
    command.add_argument("spec", type=Path)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--as-of")
    command = commands.add_parser("recall")
    command.add_argument("model")
    command.add_argument("version")
    command.add_argument("--out", type=Path, required=True)
    command = commands.add_parser("retrain")
    command.add_argument("out", type=Path)
    command.add_argument("--as-of", required=True)
    command = commands.add_parser("compare")
    command.add_argument("out", type=Path)
    command.add_argument("--attach", action="store_true")
    command = commands.add_parser("dossier")
    command.add_argument("model")
    command.add_argument("version")
    command.add_argument("--out", type=Path)
    command.add_argument("--check", action="store_true")
    command = commands.add_parser("sign")
    command.add_argument("what")
    command = commands.add_parser("verify")
    command.add_argument("what")
    command.add_argument("--key")
    command = commands.add_parser("infer")
    command.add_argument("dataset", type=Path)
    command.add_argument("--out", type=Path, required=True)
    options = vars(parser.parse_args(arguments))
    operations: dict[str, Callable[..., None]] = {
        "serve": serve,
        "rollback": rollback,
        "prune": prune,
        "replay": replay,
        "report": report,
        "retrieve": retrieve,
        "recall": recall,
        "retrain": retrain,
        "compare": compare,
        "dossier": dossier,
        "sign": sign,
        "verify": verify,
        "infer": infer,
    }
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        operations[options.pop("operation")](**options)
    except AirworthyError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or 'the system'}: {error.strerror or error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
