"""The last words of a run in the terminal: what came of it, why, where to look, what to do next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from airworthy.outcome import Outcome, artifact, release_outcome
from airworthy.reports import number
from airworthy.verdict import Check, Verdict, read_verdict

if TYPE_CHECKING:
    from airworthy.local import RunResult

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
    for reason in outcome.reasons:
        out.print(f"  {escape(reason)}", soft_wrap=True)
    if outcome.ending == "data refused":
        _print_findings(artifact(result, "validate-data", "anomalies"), out)
    verdict_file = artifact(result, "evaluate-model", "verdict")
    if verdict_file:
        _print_verdict(read_verdict(verdict_file), out)
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


def _print_verdict(verdict: Verdict, out: Console) -> None:
    against = (
        f"champion version {verdict.champion_version}" if verdict.champion_version else "no champion yet"
    )
    table = Table(box=None, header_style="dim", pad_edge=False, title_justify="left")
    for column in ("", f"check ({against})", "observed", "limit", "interval"):
        table.add_column(column, justify="right" if column in ("observed", "limit") else "left")
    for check in verdict.checks:
        if check.slice is None:
            table.add_row(_mark(check), escape(check.name), *_numbers(check))
    out.print(table)


def _numbers(check: Check) -> tuple[str, str, str]:
    interval = f"[{check.interval[0]:.4g}, {check.interval[1]:.4g}]" if check.interval else ""
    observed, limit = ("" if value is None else number(value) for value in (check.observed, check.threshold))
    return observed, limit, escape(interval)


def _mark(check: Check) -> str:
    return {
        "pass": "[green]✓[/]",
        "warn": "[yellow]![/]",
        "fail": "[red]✗[/]",
        "inconclusive": "[magenta]?[/]",
    }[check.outcome]


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
