"""`python -m airworthy.validation`: what the command line runs in the validation environment."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from airworthy.errors import AirworthyError
from airworthy.validation.findings import read_result, write_text
from airworthy.validation.schema import infer_schema


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _infer(options) if options.command == "infer" else _show(options)
    except AirworthyError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m airworthy.validation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    infer = commands.add_parser("infer", help="write a first schema for a dataset")
    infer.add_argument("dataset", type=Path, help="dataset folder")
    infer.add_argument("-o", "--output", type=Path, help="file to write (default: standard output)")
    infer.add_argument("--max-values", type=int, default=200, help="leave longer lists of text values open")
    show = commands.add_parser("show", help="print the findings of a validation")
    show.add_argument("result", type=Path, help="the JSON file that validation wrote")
    return parser


def _infer(options: argparse.Namespace) -> int:
    text = infer_schema(options.dataset, max_values=options.max_values)
    if options.output is None:
        sys.stdout.write(text)
    else:
        write_text(options.output, text)
    return 0


def _show(options: argparse.Namespace) -> int:
    result = read_result(options.result)
    for finding in result.findings:
        sys.stdout.write(f"{finding.severity}: {finding.sentence} [{finding.kind}]\n")
    sys.stdout.write("passed\n" if result.passed else "failed\n")
    return 0 if result.passed else 3


if __name__ == "__main__":
    sys.exit(main())
