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
        ConfigError: The model has no champion.
        RegistryError: There is no champion before it.
    """
    from airworthy.registry import Registry
    from airworthy.rollout import withdraw
    from airworthy.rollout.deployers.choose import open_store

    registry = Registry()
    champion = _champion(registry, model)
    service = champion.tags["service"]
    called_off = withdraw(service, reason=f"rolled back: {reason}", home=home())
    if called_off:
        _say(called_off)
    state = open_store(service, home()).read()
    if state and state.stable and state.stable.digest != champion.digest:
        _deploy(registry, champion)
        _say(
            f"{model}: version {champion.version} is champion and now serves; an earlier rollback had been cut "
            "short. Run the command again to go back further"
        )
        return
    previous = registry.rollback(model, reason, expected_champion=champion.version)
    _deploy(registry, previous)
    _say(
        f"{model}: version {previous.version} is champion again and serves; version {champion.version} is out"
    )


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


def _champion(registry: Registry, model: str) -> Version:
    champion = registry.champion(model)
    if champion is None:
        known = ", ".join(name for name in registry.models() if registry.champion(name))
        raise ConfigError(f"{model} has no champion; models that have one: {known or 'none'}")
    return champion


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
    command = commands.add_parser("replay")
    command.add_argument("record")
    command = commands.add_parser("report")
    command.add_argument("record")
    command.add_argument("--out", type=Path)
    command = commands.add_parser("retrieve")
    command.add_argument("spec", type=Path)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--as-of")
    command = commands.add_parser("infer")
    command.add_argument("dataset", type=Path)
    command.add_argument("--out", type=Path, required=True)
    options = vars(parser.parse_args(arguments))
    operations: dict[str, Callable[..., None]] = {
        "serve": serve,
        "rollback": rollback,
        "replay": replay,
        "report": report,
        "retrieve": retrieve,
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
