"""What the command line asks of more than one room, run inside a step's environment.

`python -m airworthy.operations --help` lists them; `airworthy` itself starts them with the right interpreter.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from airworthy.errors import AirworthyError
from airworthy.operations.bundles import sign, verify
from airworthy.operations.data import infer, retrieve
from airworthy.operations.evidence import compare, dossier, recall, retrain
from airworthy.operations.rollouts import replay, report
from airworthy.operations.versions import prune, rollback, serve

__all__ = [
    "compare",
    "dossier",
    "infer",
    "main",
    "prune",
    "recall",
    "replay",
    "report",
    "retrain",
    "retrieve",
    "rollback",
    "serve",
    "sign",
    "verify",
]


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
