"""The demonstration: the whole path on real flights, the good story and the bad ones."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from airworthy.client import LocalClient
from airworthy.errors import ConfigError
from airworthy.outcome import Ending, release_outcome

SPEC = Path("models/flight_delay.yaml")
MONTHS = ("2013-08-01", "2013-09-01", "2013-10-01", "2013-11-01", "2013-12-01")
STORIES = ("story", "bad-model")


@dataclass(frozen=True)
class Chapter:
    """One release of a story, and how it is expected to end."""

    title: str
    as_of: str
    endings: tuple[Ending, ...]
    changes: dict[str, Any] = field(default_factory=dict)
    """Changes to the model spec: dotted name to value."""
    fault: str | None = None
    """What goes wrong with the canary's server (see `airworthy.serving.chaos`)."""


def play(story: str, out: Console) -> int:
    """Play a story to its end.

    Returns:
        0 if every release ended as the story says, else the first other release's exit code (or 1).
    """
    from airworthy.local.progress import Progress
    from airworthy.summary import print_summary

    if not SPEC.exists():
        raise ConfigError(f"{SPEC} is not here: run the demonstration in a checkout of Airworthy")
    chapters = _chapters(story, champion_as_of())
    if not chapters:
        out.print("The story has been told to the end of the data; move .airworthy/ away to hear it again.")
    client = LocalClient()
    for number, chapter in enumerate(chapters, start=1):
        out.rule(f"[bold]{number}/{len(chapters)}  {chapter.title}[/]", align="left")
        env = {"AIRWORTHY_DEMO_FAULT": chapter.fault} if chapter.fault else {}
        with changed_spec(chapter.changes) as spec, Progress(out) as progress:
            result = client.submit(
                "release", model=spec, parameters={"as_of": chapter.as_of}, env=env, listener=progress
            )
        code = print_summary(result, out)
        outcome = release_outcome(result)
        if outcome.ending not in chapter.endings:
            return code or 1
        if code:
            out.print("  (this is how it should be: nothing unproven reaches users)")
        out.print()
    return 0


def champion_as_of() -> str | None:
    """The date that the present champion was made as of; None without one."""
    from airworthy.registry import Registry

    champion = Registry().champion("flight_delay")
    return champion.tags.get("as_of", MONTHS[0])[:10] if champion else None


def _chapters(story: str, present: str | None) -> list[Chapter]:
    later = [month for month in MONTHS if present is None or month > present]
    first = Chapter(f"First release, as of {MONTHS[0]}: no champion yet", MONTHS[0], ("released",))
    if story == "story":
        if present is None:
            retrained = f"Retrained as of {MONTHS[1]}: challenger against champion, then the canary"
            return [first, Chapter(retrained, MONTHS[1], ("released",))]
        anyhow: tuple[Ending, ...] = ("released", "gate refused", "rolled back")
        return [Chapter(f"Retrained as of {m}: challenger against champion", m, anyhow) for m in later[:2]]
    month = next((m for m in later if m != MONTHS[0]), MONTHS[-1])
    worse = Chapter(
        f"A poor model as of {month} (three stumps): the gate must refuse it",
        month,
        ("gate refused",),
        changes={"trainer.rounds": 3, "trainer.params": {"max_depth": 1, "learning_rate": 0.1}},
    )
    failing = Chapter(
        f"A good model as of {month}, a failing server: the canary must roll back",
        month,
        ("rolled back",),
        fault="errors:0.3",
    )
    return [*([first] if present is None else []), worse, failing]


@contextmanager
def changed_spec(changes: dict[str, Any]) -> Iterator[Path]:
    """The demo's model spec with some fields changed, as a temporary file beside the original's schema."""
    if not changes:
        yield SPEC
        return
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt")
    document = yaml.load(SPEC.read_text())
    document["validation"]["schema"] = str((SPEC.parent / document["validation"]["schema"]).resolve())
    for name, value in changes.items():
        *parents, last = name.split(".")
        node = document
        for parent in parents:
            node = node[parent]
        node[last] = value
    text = io.StringIO()
    yaml.dump(document, text)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SPEC.name
        path.write_text(text.getvalue())
        yield path
