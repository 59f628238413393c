"""The dossier as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from airworthy.dossier.blocks import (
    NOT_RECORDED,
    Alarm,
    Block,
    Cell,
    Chapter,
    Code,
    Facts,
    Folded,
    Items,
    Picture,
    Stated,
    Table,
    Text,
)
from airworthy.dossier.chapters import chapters
from airworthy.dossier.document import Dossier
from airworthy.dossier.headline import alarms, headline, note
from airworthy.reports import number


def markdown(dossier: Dossier) -> str:
    """The whole dossier; charts are left out, what they show stands in the tables."""
    parts = [
        f"# Dossier of {_line(dossier.model)} version {_line(dossier.version)}",
        "",
        _line(headline(dossier)),
        "",
    ]
    for alarm in alarms(dossier):
        parts += [*_alarm(alarm), ""]
    parts += [f"*{_line(note())}*", ""]
    for chapter in chapters(dossier):
        parts += _chapter(chapter)
    return "\n".join(parts).rstrip() + "\n"


def _chapter(chapter: Chapter) -> Iterator[str]:
    yield f"## {chapter.title}"
    yield ""
    if chapter.annex:
        yield f"*Annex IV, point {chapter.annex}*"
        yield ""
    yield from _blocks(chapter.blocks)


def _blocks(blocks: Iterable[Block]) -> Iterator[str]:
    for block in blocks:
        lines = list(_block(block))
        if lines:
            yield from lines
            yield ""


def _block(block: Block) -> Iterable[str]:
    match block:
        case Text(text):
            return [_line(text)]
        case Items(lines):
            return [f"- {_line(line)}" for line in lines]
        case Facts(pairs):
            return [f"- **{_line(name)}**: {_value(value)}" for name, value in pairs.items()]
        case Table():
            return _table(block)
        case Alarm():
            return _alarm(block)
        case Stated():
            return _stated(block)
        case Code(text):
            fence = "`" * max(3, 1 + max((len(run) for run in _ticks(text)), default=0))
            return [fence, text, fence]
        case Folded(title, blocks):
            return [f"**{_line(title)}**", "", *_blocks(blocks)]
        case Picture():
            return []


def _table(block: Table) -> list[str]:
    if not block.rows:
        return ["Nothing to show."]
    headers = [*([""] if block.outcomes else []), *block.headers]
    lines = ["| " + " | ".join(_cell(header) for header in headers) + " |", "|" + "---|" * len(headers)]
    for index, row in enumerate(block.rows):
        first = [block.outcomes[index]] if block.outcomes else []
        lines.append("| " + " | ".join(_cell(value) for value in [*first, *row]) + " |")
    return lines


def _alarm(block: Alarm) -> list[str]:
    return [f"> **{_line(block.title.upper())}**", ">", *(f"> - {_line(line)}" for line in block.lines)]


def _stated(block: Stated) -> list[str]:
    if block.text is None:
        word = "**to be supplied**" if block.mandatory else NOT_RECORDED
        return [f"**{_line(block.title)}**: {word} ({_line(block.source)})"]
    quoted = [f"> {_escaped(line)}".rstrip() for line in block.text.splitlines()]
    return [f"**{_line(block.title)}** *(stated by the owner in {_line(block.source)})*", "", *quoted]


def _value(value: Cell) -> str:
    return NOT_RECORDED if value is None else _line(number(value))


def _cell(value: Cell) -> str:
    return _line(number(value)).replace("|", "\\|")


def _line(text: str) -> str:
    return _escaped(" ".join(str(text).split()))


def _escaped(text: str) -> str:
    """Text that can't turn into HTML, a link or emphasis; an underscore inside a word means nothing."""
    return re.sub(r"[<\[`*\\]|(?<!\w)_|_(?!\w)", lambda found: f"\\{found.group()}", text)


def _ticks(text: str) -> list[str]:
    return [run for run in "".join(c if c == "`" else " " for c in text).split(" ") if run]
