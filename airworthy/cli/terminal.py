"""What all commands share: the application, the consoles, and the way into a step's environment."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

ORDER = (
    *("demo", "run", "runs", "status", "serve", "rollback", "rollout"),
    *("dossier", "history", "approve", "reject", "reproduce", "prune"),
    *("schema", "doctor", "compile", "keys", "sign", "verify", "sbom"),
)
"""Commands as a newcomer meets them."""


class _AsMet(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    name="airworthy",
    cls=_AsMet,
    help="From the feature store to verified production: on Kubeflow, or on this machine.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
schema_app = typer.Typer(help="The data schema that validation holds the data against.", no_args_is_help=True)
app.add_typer(schema_app, name="schema")
rollout_app = typer.Typer(help="Records of rollouts.", no_args_is_help=True)
app.add_typer(rollout_app, name="rollout")

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)


def in_environment(group: str, *arguments: str, stay: bool = False) -> None:
    """Run one of `airworthy.operations` in a step's environment, in place of this process.

    Args:
        group: Dependency group of the environment.
        arguments: The operation and what it takes.
        stay: Run it as a child instead, because there is more to do afterwards; failing ends us with its code.
    """
    import subprocess

    from airworthy.local.environments import Environments
    from airworthy.state import home

    python = Environments(home(), say=lambda text: err.print(f"[dim]{escape(text)}[/]")).python_of_group(
        group
    )
    environment = {**os.environ, "AIRWORTHY_HOME": str(home()), "PYTHONPATH": ""}
    command = [str(python), "-m", "airworthy.operations", *arguments]
    if not stay:
        sys.stdout.flush()
        os.execve(python, command, environment)  # nothing between the terminal and it: signals reach it
    code = subprocess.run(command, env=environment, check=False).returncode
    if code:
        raise typer.Exit(code)


def console(plain: bool) -> Console:
    """Where progress is shown: the terminal, or plain lines in it."""
    return Console(highlight=False, force_terminal=False) if plain else out
