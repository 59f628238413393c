"""Commands about registered versions: their history, a person's word on them, and which old ones are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from airworthy.cli.terminal import app, in_environment, out

if TYPE_CHECKING:
    from airworthy.registry import Approval, Entry

VERSION = typer.Argument(help="A registered version, such as flight_delay@3.", metavar="MODEL@VERSION")
REASON = typer.Option(help="Why; kept with the version for good.")
BY = typer.Option(help="Who you are. Default: AIRWORTHY_USER, or user@host.")


@app.command(
    epilog="Examples:\n\n  airworthy history flight_delay\n\n  airworthy history flight_delay --limit 5"
)
def history(
    model: Annotated[str, typer.Argument(help="A model's name, or its spec.")],
    limit: Annotated[int, typer.Option(min=1, help="How many, newest last.")] = 50,
) -> None:
    """Show what happened to a model's versions: who moved which alias, answered or overrode what, and why."""
    from airworthy.client import model_name
    from airworthy.operations.registered import require_model
    from airworthy.registry import Registry

    registry, name = Registry(), model_name(model)
    require_model(registry, name)
    entries = registry.history(name)
    if len(entries) > limit:
        out.print(f"[dim]… {len(entries) - limit} earlier[/]")
    for entry in entries[-limit:]:
        style = "dim" if entry.void else ""
        when = entry.time[:19].replace("T", " ")
        out.print(Text(f"{when} UTC  version {entry.version}  {_what(entry)}", style=style))
        why = (
            f"did not happen: {entry.void}" if entry.void else f"{entry.by or 'not recorded'}: {entry.reason}"
        )
        out.print(Padding(Text(why, style=style), (0, 0, 0, 4), expand=False))


@app.command(
    epilog="Example:\n\n  airworthy approve flight_delay@3 --reason 'read the dossier, slices are fine'"
)
def approve(
    version: Annotated[str, VERSION],
    reason: Annotated[str, REASON],
    by: Annotated[str | None, BY] = None,
) -> None:
    """Let traffic move to a version whose spec asks for a person's approval."""
    from airworthy.client import LocalClient

    _print_answer(version, LocalClient().approve(version, reason, by=by), "approved")


@app.command(epilog="Example:\n\n  airworthy reject flight_delay@3 --reason 'recall in Newark is too low'")
def reject(
    version: Annotated[str, VERSION],
    reason: Annotated[str, REASON],
    by: Annotated[str | None, BY] = None,
) -> None:
    """Refuse a version; also after an approval, as long as it is not champion."""
    from airworthy.client import LocalClient

    _print_answer(version, LocalClient().reject(version, reason, by=by), "rejected")


@app.command(
    epilog="Examples:\n\n  airworthy prune flight_delay\n\n  airworthy prune flight_delay --keep 5 --days 90 --yes"
)
def prune(
    model: Annotated[str, typer.Argument(help="A model's name, or its spec.")],
    keep: Annotated[
        int | None, typer.Option(min=1, help="Keep the newest so many. Default: the spec's retention.")
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0, help="Keep what is younger. Default: the spec's retention.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would be.")] = False,
) -> None:
    """Delete old versions with their files; never one that an alias, a dossier or a way back refers to."""
    from airworthy.client import model_name

    options = [*(["--keep", str(keep)] if keep else []), *(["--days", str(days)] if days is not None else [])]
    in_environment("release", "prune", model_name(model), *options, *(["--yes"] if yes else []))


def _what(entry: Entry) -> str:
    if entry.alias is None or entry.removed:
        return entry.action
    over = f" over {entry.before}" if entry.before else ""
    return f"{entry.action} ({entry.alias}{over})"


def _print_answer(version: str, standing: Approval, word: str) -> None:
    colour = "green" if word == "approved" else "yellow"
    out.print(f"[{colour}]{escape(version)}[/] {escape(standing.sentence)}", soft_wrap=True)
    out.print(
        f"  about bundle {standing.bundle_digest[:12]}, judged in verdict {standing.verdict_sha256[:12]}",
        style="dim",
    )
