"""The command line: it parses, calls and prints; nothing else happens here."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from airworthy import __version__
from airworthy.cli import evidence, supply, versions
from airworthy.cli.terminal import app, console, err, in_environment, out, rollout_app, schema_app
from airworthy.errors import AirworthyError, ConfigError

if TYPE_CHECKING:
    from airworthy.local import RunResult

__all__ = ["app", "evidence", "main", "supply", "versions"]

FLIGHTS = Path("models/flight_delay.yaml")


def main() -> NoReturn:
    """Entry point: user mistakes end in one sentence and an exit code, never in a stack trace."""
    try:
        code = int(app(standalone_mode=False) or 0)  # an Exit comes back as its code
    except AirworthyError as error:
        err.print(f"[red bold]error:[/] {escape(str(error))}", soft_wrap=True)
        code = error.exit_code
    except OSError as error:
        err.print(
            f"[red bold]error:[/] {escape(f'{error.filename}: {error.strerror}' if error.filename else str(error))}"
        )
        code = 1
    except KeyboardInterrupt:
        err.print("interrupted; `airworthy runs` shows how to go on")
        code = 130
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("click", "typer"):
            raise
        usage = error.format_message() if hasattr(error, "format_message") else str(error)
        err.print(f"[red bold]error:[/] {escape(usage)} (see `airworthy --help`)", soft_wrap=True)
        code = 2
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit


@app.command(
    epilog="Examples:\n\n  airworthy run --model models/flight_delay.yaml --as-of 2013-09-01\n\n"
    "  airworthy run my_pipeline.yaml --set learning_rate=0.1\n\n  airworthy run --resume release-20130901-101500"
)
def run(
    pipeline: Annotated[str, typer.Argument(help="A shipped pipeline, or a compiled YAML file.")] = "release",
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Model spec; fills the pipeline's spec and schema.")
    ] = None,
    as_of: Annotated[str | None, typer.Option(help="The present, as seen by this run (ISO, UTC).")] = None,
    parameters: Annotated[list[str], typer.Option("--set", help="A pipeline parameter, name=value.")] = [],  # noqa: B006
    resume: Annotated[str | None, typer.Option(help="Go on with an interrupted run.")] = None,
    cache: Annotated[bool, typer.Option(help="Take unchanged steps from earlier runs.")] = True,
    workers: Annotated[int, typer.Option(min=1, help="Steps that may run at the same time.")] = 2,
    keep_serving: Annotated[bool, typer.Option(help="Leave the champion's server up until Ctrl-C.")] = False,
    plain: Annotated[bool, typer.Option(help="One line per step instead of a live tree.")] = False,
) -> None:
    """Run a pipeline here, from its compiled YAML."""
    from airworthy.client import LocalClient, parse_parameters
    from airworthy.local.progress import Progress

    client = LocalClient(workers=workers)
    arguments: dict[str, Any] = parse_parameters(parameters)
    if as_of is not None:
        arguments["as_of"] = as_of
    if resume and (model or arguments or pipeline != "release" or not cache):
        raise ConfigError("--resume goes on with a run as it was begun: give it without other inputs")
    if model is None and pipeline == "release" and resume is None and "spec" not in arguments:
        raise ConfigError("which model? give --model, for example --model models/flight_delay.yaml")
    with Progress(console(plain)) as progress:
        if resume:
            result = client.resume(resume, listener=progress)
        else:
            result = client.submit(
                pipeline, model=model, parameters=arguments, cache=cache, listener=progress
            )
    code = _summary(result)
    if keep_serving and code == 0 and "spec" in result.arguments:
        from airworthy.model_spec import load_spec

        serve(load_spec(result.arguments["spec"]).name)
    raise typer.Exit(code)


@app.command(epilog="Examples:\n\n  airworthy demo story\n\n  airworthy demo bad-model")
def demo(
    what: Annotated[str, typer.Argument(help="story or bad-model.")] = "story",
    plain: Annotated[bool, typer.Option(help="One line per step instead of a live tree.")] = False,
    keep_serving: Annotated[bool, typer.Option(help="Leave the champion's server up until Ctrl-C.")] = False,
) -> None:
    """Show the whole path on real flights.

    [bold]story[/]: a first release becomes champion; a later one, retrained, is compared with it, goes through
    the canary and replaces it. [bold]bad-model[/]: the gate refuses a poor model, and the canary of a good one
    whose server fails is rolled back.
    """
    from airworthy.demo import STORIES, play

    if what not in STORIES:
        raise ConfigError(f"demo {what}: there is no such story; choose {', '.join(STORIES)}")
    code = play(what, console(plain))
    if keep_serving and code == 0:
        serve(str(FLIGHTS))
    raise typer.Exit(code)


@app.command(name="compile", epilog="Example:\n\n  airworthy compile --check")
def compile_(
    check: Annotated[bool, typer.Option(help="Only say whether the committed files are current.")] = False,
    folder: Annotated[Path, typer.Option("--out", help="Where to write.")] = Path("pipelines/compiled"),
) -> None:
    """Compile the pipelines of this checkout to YAML."""
    import tempfile

    sys.path.insert(0, str(Path.cwd()))
    try:
        from pipelines.compile import compile_all
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"no pipelines to compile here ({error.name} is missing): run this in a checkout"
        ) from None
    if not check:
        for path in compile_all(folder):
            out.print(f"wrote {path}")
        return
    with tempfile.TemporaryDirectory() as temporary:
        fresh = compile_all(Path(temporary))
        stale = [p.name for p in fresh if not _same(p, folder / p.name)]
    if stale:
        raise ConfigError(
            f"{folder}: {', '.join(stale)} is not what the sources compile to; run `airworthy compile`"
        )
    out.print(f"{folder}: current")


@app.command(epilog="Examples:\n\n  airworthy runs --limit 5")
def runs(limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20) -> None:
    """List the runs of this machine."""
    from airworthy.local import list_runs
    from airworthy.state import home

    found = list_runs(home())[:limit]
    if not found:
        out.print("no runs yet; start one with `airworthy demo` or `airworthy run --model …`")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("run", "state", "started", "took"):
        table.add_column(column, no_wrap=True)
    for result in found:
        took = _duration(result.started, result.ended)
        table.add_row(result.run_id, _coloured(result.state), _clock(result.started), took)
    out.print(table)
    out.print(f"\nreports: {_short(home() / 'runs')}/RUN/report.html", soft_wrap=True)
    if any(r.state == "RUNNING" for r in found):
        out.print("a run whose engine died shows as running; go on with it: airworthy run --resume RUN")


@app.command(epilog="Examples:\n\n  airworthy status flight_delay")
def status(model: Annotated[str | None, typer.Argument(help="A model's name, or its spec.")] = None) -> None:
    """Show what is registered and what serves."""
    from airworthy.client import model_name
    from airworthy.operations.registered import require_model
    from airworthy.registry import Registry, approval
    from airworthy.serving.state import describe_service
    from airworthy.state import home

    registry = Registry()
    names = [model_name(model)] if model else registry.models()
    if not names:
        out.print(
            "no model is registered yet; release one with `airworthy demo` or `airworthy run --model …`"
        )
        return
    for name in names:
        require_model(registry, name)
        versions = registry.versions(name)
        out.print(f"[bold]{name}[/]")
        if not versions:
            out.print(" no version yet")
            continue
        table = Table(
            "version", "aliases", "as of", "rounds", "verdict", "bundle", box=None, header_style="dim"
        )
        for version in versions:
            tags = version.tags
            table.add_row(
                version.version,
                ", ".join(version.aliases) or ("rolled back" if "rolled_back" in tags else "–"),
                tags.get("as_of", "–")[:10],
                tags.get("rounds", "–"),
                tags.get("verdict.status", "–"),
                version.digest[:12],
            )
        out.print(table)
        for version in versions:
            if approval.read(version).state == "waiting":
                command = f"airworthy approve {name}@{version.version} --reason '…', or reject"
                sentence = f"  version {version.version} {approval.read(version).sentence}: {command}"
                out.print(sentence, soft_wrap=True, style="yellow")
        service = versions[0].tags.get("service")
        if service:
            out.print(f"  {describe_service(service, home())}\n")


@app.command(epilog="Example:\n\n  airworthy serve flight_delay --port 8080")
def serve(
    model: Annotated[str, typer.Argument(help="A model's name, or its spec.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 8080,
) -> None:
    """Serve the champion on loopback until Ctrl-C (V1 and V2 inference protocols)."""
    from airworthy.client import model_name

    in_environment("release", "serve", model_name(model), "--port", str(port))


@app.command(
    epilog="Example:\n\n  airworthy rollback flight_delay --reason 'late flights in Newark go unseen'"
)
def rollback(
    model: Annotated[str, typer.Argument(help="A model's name, or its spec.")],
    reason: Annotated[str, typer.Option(help="Why; recorded with the version.")],
) -> None:
    """Return to the previous champion, in the registry and in serving."""
    from airworthy.client import model_name

    in_environment("release", "rollback", model_name(model), "--reason", reason)


@schema_app.command(
    "infer", epilog="Example:\n\n  airworthy schema infer models/flight_delay.yaml --as-of 2013-08-01"
)
def schema_infer(
    spec: Annotated[Path, typer.Argument(help="Model spec.")],
    as_of: Annotated[str | None, typer.Option(help="The present (ISO, UTC). Default: now.")] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing schema.")] = False,
) -> None:
    """Make a first schema from the training window; review and edit it, then commit it."""
    import tempfile

    from airworthy.client import read_model

    target = spec.parent / read_model(spec).validation.schema_file
    if target.exists() and not force:
        raise ConfigError(f"{target} exists and may have been edited by hand; give --force to replace it")
    with tempfile.TemporaryDirectory() as folder:
        when = ["--as-of", as_of] if as_of else []
        in_environment("data", "retrieve", str(spec), "--out", folder, *when, stay=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        in_environment("validation", "infer", f"{folder}/train", "--out", str(target), stay=True)
    out.print(f"wrote {target}: read it, loosen and tighten it by hand, then commit it")


RECORD = typer.Argument(help="A record's folder or file; or a run, service or model: its newest record.")


@rollout_app.command(
    "replay",
    epilog="Examples:\n\n  airworthy rollout replay flight_delay\n\n"
    "  airworthy rollout replay release-20130901-101500\n\n  airworthy rollout replay downloaded/record.jsonl",
)
def rollout_replay(record: Annotated[str, RECORD]) -> None:
    """Recompute a rollout's decision from its record, and check that the record is whole."""
    in_environment("release", "replay", record)


@rollout_app.command(
    "report",
    epilog="Examples:\n\n  airworthy rollout report flight_delay\n\n"
    "  airworthy rollout report downloaded/record.jsonl --out rollout.html",
)
def rollout_report(
    record: Annotated[str, RECORD],
    to: Annotated[
        Path | None, typer.Option("--out", help="HTML file. Default: report.html beside it.")
    ] = None,
) -> None:
    """Draw a rollout: why was it promoted or rolled back? (One HTML page that loads nothing.)"""
    in_environment("release", "report", record, *(["--out", str(to)] if to else []))


@app.command(epilog="Examples:\n\n  airworthy doctor")
def doctor() -> None:
    """Check this machine and this checkout; say what to do about what is missing."""
    from airworthy.doctor import examine

    checks = examine()
    table = Table("", "check", "found", box=None, header_style="dim", pad_edge=False)
    for check in checks:
        mark = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "problem": "[red]problem[/]"}[check.state]
        table.add_row(mark, check.name, escape(check.found))
    out.print(table)
    if any(check.state == "problem" for check in checks):
        raise typer.Exit(2)


def _summary(result: RunResult) -> int:
    from airworthy.summary import print_summary

    return print_summary(result, out)


def _same(left: Path, right: Path) -> bool:
    return right.exists() and left.read_bytes() == right.read_bytes()


def _short(path: Path) -> str:
    """A path as a person would type it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _coloured(state: str) -> str:
    colour = {"SUCCEEDED": "green", "FAILED": "red"}.get(state, "yellow")
    return f"[{colour}]{state.lower()}[/]"


def _clock(moment: float | None) -> str:
    return datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M:%S") if moment else "–"


def _duration(started: float | None, ended: float | None) -> str:
    return f"{ended - started:.1f} s" if started and ended else "–"
