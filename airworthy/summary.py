"""The last words of a run in the terminal: what came of it, why, where to look, what to do next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from airworthy.outcome import Outcome, artifact, release_outcome
from airworthy.reports import number
from airworthy.reports.lights import Light, State, counted, lights, state_of, worst_first
from airworthy.verdict import Check, Verdict, read_verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airworthy.local import RunResult

FIGURES = 3
"""Metrics named in a family's line."""
STANDING = 5
"""Most checks of one family that stand in the way and are told in the terminal; the others are counted."""
INFORMING = 8
"""Most checks that only inform and are told in the terminal."""
_MARKS: dict[State, str] = {
    "fail": "[red]✗[/]",
    "inconclusive": "[magenta]?[/]",
    "overridden": "[bold white on red]‼[/]",
    "warn": "[yellow]![/]",
    "unjudged": "[magenta]?[/]",
    "pass": "[green]✓[/]",
    "none": "[dim]–[/]",
}
_COLOURS = {"released": "green", "failed": "red", "canceled": "yellow"}


def print_summary(result: RunResult, out: Console) -> int:
    """Print the summary of a run of any pipeline.

    Returns:
        The exit code that it stands for.
    """
    if result.pipeline != "release":
        return _plain_summary(result, out)
    outcome = release_outcome(result)
    out.rule(f"[{_COLOURS.get(outcome.ending, 'yellow')} bold]{escape(outcome.headline)}[/]", align="left")
    if outcome.ending != "gate refused":  # the verdict below names the checks beside their reasons
        for reason in outcome.reasons:
            out.print(f"  {escape(reason)}", soft_wrap=True)
    if outcome.ending == "data refused":
        _print_findings(artifact(result, "validate-data", "anomalies"), out)
    verdict_file = artifact(result, "evaluate-model", "verdict")
    if verdict_file:
        print_verdict(read_verdict(verdict_file), out)
    _print_places(result, outcome, out)
    return outcome.exit_code


def _plain_summary(result: RunResult, out: Console) -> int:
    succeeded = result.state == "SUCCEEDED"
    out.rule(f"[{'green' if succeeded else 'red'} bold]{result.state.lower()}[/]", align="left")
    for record in result.failures:
        if record.error:
            out.print(f"  {escape(record.display_name)}: {escape(record.error)}", soft_wrap=True)
    for name, value in result.outputs.items():
        out.print(f"  {escape(name)} = {escape(str(value))}", soft_wrap=True)
    out.print(f"  report   {_relative(result.directory / 'report.html')}", soft_wrap=True)
    return result.exit_code


def _print_findings(path: Path | None, out: Console) -> None:
    if path is None:
        return
    table = Table(
        title="What is wrong with the data", title_justify="left", header_style="bold", pad_edge=False
    )
    for column in ("window", "feature", "expected", "observed", "example"):
        table.add_column(column, overflow="fold")
    for finding in json.loads(path.read_text())["findings"]:
        if finding["severity"] == "block":
            cells = (
                finding[key] or "" for key in ("window", "feature", "expectation", "observed", "example")
            )
            table.add_row(*(escape(str(cell)) for cell in cells))
    out.print(table)


def print_verdict(verdict: Verdict, out: Console) -> None:
    """Print a verdict: overrides, one line per family of checks, then whatever did not simply pass, with why."""
    against = (
        f"champion version {verdict.champion_version}" if verdict.champion_version else "no champion yet"
    )
    for check in verdict.overridden:
        _print_override(check, out)
    shown = lights(verdict)
    telling = [check for light in shown for check in light.checks if state_of(check) != "pass"]
    out.print(f"  [dim]the gate's checks ({against})[/]")
    table = Table(box=None, show_header=False, pad_edge=False)
    for fixed in (True, True, True, False):
        table.add_column(no_wrap=fixed)
    for light in shown:
        table.add_row(_MARKS[light.state], light.title, counted(light) or "not checked", _figures(light))
    out.print(table)
    _print_telling(worst_first(telling), out)


def _figures(light: Light) -> Text:
    """What people ask for first, in a line: the metrics that were held to limits or compared."""
    if not light.checks:
        return Text(light.about, style="dim")
    if light.family not in ("limits", "champion"):
        return Text()
    known = [c for c in light.checks if c.observed is not None][:FIGURES]
    found = ", ".join(f"{c.name.removesuffix('_vs_champion')} {number(c.observed)}" for c in known)
    return Text(found, style="dim", no_wrap=True, overflow="ellipsis")


def _print_override(check: Check, out: Console) -> None:
    said = check.override
    assert said is not None
    what = f"{check.name} ({check.slice})" if check.slice else check.name
    out.print(
        f"  [bold white on red] OVERRIDDEN [/] [red]{escape(what)} let pass by {escape(said.by)} until {said.until}: "
        f"{escape(said.reason)}[/]",
        soft_wrap=True,
    )


def _print_telling(checks: Sequence[Check], out: Console) -> None:
    """What did not simply pass, with its reason; beyond the first few, how many, for the report has them all."""
    informing = [check for check in checks if state_of(check) in ("warn", "unjudged")]
    standing: dict[str, list[Check]] = {}
    for check in checks:
        if check not in informing:
            standing.setdefault(check.family, []).append(check)
    for found in standing.values():
        _print_first(found, STANDING, "like these", out)
    _print_first(informing, INFORMING, "that only inform", out)


def _print_first(checks: Sequence[Check], most: int, which: str, out: Console) -> None:
    for check in checks[:most]:
        what = f"{check.name} ({check.slice})" if check.slice else check.name
        out.print(
            f"  {_MARKS[state_of(check)]} [bold]{escape(what)}[/] {escape(check.reason)}", soft_wrap=True
        )
    if len(checks) > most:
        out.print(f"  [dim]… and {len(checks) - most} more {which}: see the report[/]")


def _print_places(result: RunResult, outcome: Outcome, out: Console) -> None:
    took = f"{result.ended - result.started:.0f} s" if result.ended and result.started else "–"
    out.print(f"  took     {took}   run {result.run_id}")
    out.print(f"  report   {_relative(result.directory / 'report.html')}", soft_wrap=True)
    for record in result.failures:
        if record.log:
            out.print(f"  log      {_relative(result.directory / record.log)}", soft_wrap=True)
    out.print(f"  next     {_next(result, outcome)}", soft_wrap=True)


def _next(result: RunResult, outcome: Outcome) -> str:
    if outcome.ending == "released":
        return "`airworthy status` shows the registry; `airworthy serve MODEL` serves the champion"
    if outcome.exit_code in (1, 130):
        return f"airworthy run --resume {result.run_id}"
    if outcome.exit_code == 2:
        return "correct what is named above, then run again"
    return "the champion is unchanged and still serves; open the report to see the evidence"


def _relative(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
