"""`python -m airworthy.serving`: what the command line runs in the release environment."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from airworthy.errors import AirworthyError
from airworthy.serving.standing import stand
from airworthy.state import home


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m airworthy.serving", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve a model's champion on loopback until Ctrl-C")
    serve.add_argument("model", help="model name")
    serve.add_argument("--port", type=int, default=8080, help="0 picks a free one")
    options = parser.parse_args(arguments)
    try:
        asyncio.run(stand(options.model, home(), port=options.port, tell=_tell))
    except AirworthyError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _tell(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
