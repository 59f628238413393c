"""Commands about the evidence behind a version: its dossier, and whether it can be made again."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from airworthy.cli.terminal import app, err, in_environment, out

if TYPE_CHECKING:
    from airworthy.reproduce import Reproduction


@app.command(
    epilog="Examples:\n\n  airworthy dossier flight_delay\n\n  airworthy dossier flight_delay@3 --out release-3\n\n"
    "  airworthy dossier flight_delay@challenger --check"
)
def dossier(
    version: Annotated[
        str, typer.Argument(help="MODEL@VERSION, or MODEL for its champion.", metavar="MODEL[@VERSION]")
    ],
    to: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to. Default: in the state directory.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only verify every record and list what was found.")
    ] = False,
) -> None:
    """Write model card and technical documentation of a version: Markdown, HTML, JSON.

    Filled with recorded facts alone, each of them verified. Ends with 3 if a record was changed or lost.
    """
    from airworthy.client import model_version

    model, number = model_version(version, "champion")
    folder = ["--out", str(to)] if to else []
    in_environment("release", "dossier", model, number, *folder, *(["--check"] if check else []))


@app.command(
    epilog="Examples:\n\n  airworthy reproduce flight_delay@2\n\n"
    "  airworthy reproduce flight_delay@champion --out again --keep"
)
def reproduce(
    version: Annotated[
        str, typer.Argument(help="MODEL@VERSION, or MODEL@champion.", metavar="MODEL@VERSION")
    ],
    to: Annotated[
        Path | None, typer.Option("--out", help="Folder for the result. Default: in the state directory.")
    ] = None,
    keep: Annotated[bool, typer.Option(help="Leave data and bundles in that folder, too.")] = False,
    attach: Annotated[bool, typer.Option(help="Keep the result with the version, as evidence.")] = False,
) -> None:
    """Make a registered version again from its recorded lineage, and say what came out otherwise.

    Retrieves the data as of the recorded time and trains with the recorded spec. Ends with 0 if the bundle is
    bit-identical, or the data is and the scores are; with 3 if something differs.
    """
    from airworthy.client import model_version
    from airworthy.reproduce import PAGE, RESULT, read_reproduction
    from airworthy.state import home

    model, number = model_version(version)
    folder = to or home() / "reproductions" / f"{model}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as scratch:
        place = folder if keep else Path(scratch)
        _make_again(model, number, place, attach)
        if not keep:
            for name in (RESULT, PAGE):
                shutil.move(place / name, folder / name)
    result = read_reproduction(folder / RESULT)
    _print_reproduction(result)
    out.print(f"report: {folder / PAGE}", soft_wrap=True)
    raise typer.Exit(3 if result.kind == "different" else 0)


def _make_again(model: str, number: str, place: Path, attach: bool) -> None:
    """The four steps, each in the environment that it had in the release."""
    from airworthy.local.environments import Environments
    from airworthy.reproduce import DATA, RECORDED, SPEC, read_recorded
    from airworthy.state import home

    _tell(1, "reading what is recorded")
    in_environment("release", "recall", model, number, "--out", str(place), stay=True)
    as_of = read_recorded(place).info.as_of
    _tell(2, f"retrieving the data as of {as_of}")
    spec = str(place / RECORDED / SPEC)
    in_environment("data", "retrieve", spec, "--out", str(place / DATA), "--as-of", as_of, stay=True)
    _tell(3, "training with the recorded spec")
    training = Environments(home()).group_of("training")
    in_environment(training, "retrain", str(place), "--as-of", as_of, stay=True)
    _tell(4, "comparing bundle, data and scores")
    in_environment("release", "compare", str(place), *(["--attach"] if attach else []), stay=True)


def _tell(step: int, what: str) -> None:
    err.print(f"[dim]{step}/4[/] {escape(what)} …", soft_wrap=True)


def _print_reproduction(result: Reproduction) -> None:
    """The conclusion, and all that differs."""
    from airworthy.reproduce import shown

    colour = "red" if result.kind == "different" else "green"
    out.print(f"[{colour} bold]{result.kind}[/]: {escape(result.headline)}", soft_wrap=True)
    if result.differences:
        table = Table("what differs", "recorded", "now", box=None, header_style="dim", pad_edge=False)
        for line in result.differences:
            table.add_row(escape(line.what), escape(shown(line.recorded)), escape(shown(line.now)))
        out.print(table)
    unknown = [line.what for line in result.lines if line.same is None]
    if unknown:
        out.print(f"not recorded, so not compared: {', '.join(unknown)}", style="dim", soft_wrap=True)
