"""Operations on the evidence behind a version: its dossier, and making it again."""

from __future__ import annotations

from pathlib import Path

from airworthy.files import write_whole
from airworthy.operations.registered import say, version_named
from airworthy.state import home


def dossier(model: str, version: str, out: Path | None, check: bool) -> None:
    """Write the dossier of a version (a number or an alias), or only check its records.

    Raises:
        ConfigError: The model has no such version.
        GateError: Records of it were changed or lost; what is asked to be written is written all the same.
    """
    from airworthy import dossier as room
    from airworthy.registry import Registry

    registry = Registry()
    found = version_named(registry, model, version)
    composed = room.compose(registry, model, found.version, earlier=True)
    if out is not None or not check:
        folder = room.write(composed, out or home() / "dossiers" / f"{model}-{found.version}")
        say(f"wrote {folder / room.PAGE}, {room.MARKDOWN} and {room.FILE}")
    for entry in composed.integrity if check else ():
        say(f"{entry.outcome:13} {entry.name}: {entry.sentence}")
    for point in composed.missing:
        say(f"missing: {point.sentence}")
    room.require_whole(composed)
    say(room.headline(composed))


def recall(model: str, version: str, out: Path) -> None:
    """Fetch what is recorded with a version, to make it again (see `airworthy.reproduce`)."""
    from airworthy.registry import Registry
    from airworthy.reproduce import recall as fetch

    registry = Registry()
    recorded = fetch(registry, version_named(registry, model, version), out)
    say(f"{recorded}: bundle {recorded.digest[:12]}, data as of {recorded.info.as_of}")


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
