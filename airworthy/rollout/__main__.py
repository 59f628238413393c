"""`python -m airworthy.rollout`: what the command line runs in the release environment."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from airworthy.errors import AirworthyError, RolloutError
from airworthy.rollout.record import replay
from airworthy.rollout.report import render
from airworthy.rollout.rest import deploy
from airworthy.state import home


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "rollback":
            return _rollback(options.model, options.reason)
        return _replay(options.record, options.report)
    except AirworthyError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m airworthy.rollout", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    back = commands.add_parser("rollback", help="return to the previous champion, in registry and serving")
    back.add_argument("model", help="model name")
    back.add_argument("--reason", required=True, help="why; recorded with the version")
    again = commands.add_parser("replay", help="recompute a rollout's decision from its record")
    again.add_argument("record", type=Path, help="folder or record.jsonl")
    again.add_argument("--report", type=Path, help="also draw the page into this file")
    return parser


def _replay(record: Path, report: Path | None) -> int:
    found = replay(record)
    if found.judgement is None:
        raise RolloutError(
            f"{record}: the rollout did not end (its controller was killed): nothing was decided"
        )
    judgement = found.judgement
    sys.stdout.write(f"{judgement.outcome}: {judgement.reason}\n")
    sys.stdout.write(f"judged from {len(found.observations)} requests; decided by: {judgement.process}\n")
    if report is not None:
        report.write_text(render(found, judgement))
    if not found.agrees:
        raise RolloutError(f"{record}: the recorded decision is another one: the record was changed")
    sys.stdout.write("the recorded decision is the same, bit for bit\n")
    return 0


def _rollback(model: str, reason: str) -> int:
    """The registry first: it is what a crash between the two is settled by."""
    from airworthy.registry import Registry

    registry = Registry()
    version = registry.rollback(model, reason)
    service = version.tags.get("service")
    sentence = "no service is known for it"
    if service:
        with tempfile.TemporaryDirectory() as scratch:
            bundle = registry.fetch_bundle(version, Path(scratch) / "bundle")
            sentence = deploy(service, model=model, bundle=bundle, version=version.version, home=home())
    sys.stdout.write(f"{model}: version {version.version} is champion again; {sentence}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
