"""What a chapter of the dossier is made of; Markdown and HTML are two ways to write the same blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from airworthy.findings import Interval, Number

NOT_RECORDED = "not recorded"
Cell = str | int | float | bool | None


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Alarm:
    """What nobody may overlook."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Names and values; a value of None is shown as not recorded."""

    pairs: Mapping[str, Cell]


@dataclass(frozen=True)
class Table:
    """Cells under headers; with outcomes, one word per row that colours it."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    outcomes: Sequence[str] | None = None


@dataclass(frozen=True)
class Stated:
    """What a person said, set apart from recorded facts; `text` None: nobody said it."""

    title: str
    text: str | None
    source: str
    mandatory: bool


@dataclass(frozen=True)
class Code:
    """Text as it is, such as a diff."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A chart, only in the page; what it shows stands in the tables, too."""

    html: str


@dataclass(frozen=True)
class Folded:
    """Blocks that unfold on demand."""

    title: str
    blocks: tuple[Block, ...]


Block = Text | Alarm | Items | Facts | Table | Stated | Code | Picture | Folded


@dataclass(frozen=True)
class Chapter:
    """A chapter of the dossier."""

    anchor: str
    title: str
    annex: str
    """Points of Annex IV that it speaks to, such as `1(a)`; empty: none."""
    blocks: tuple[Block, ...]


def shown(number: Number | float | None, digits: int = 4) -> str:
    """A measured value with its interval, as people read it."""
    if number is None:
        return "–"
    if not isinstance(number, Number):
        return f"{number:,.{digits}g}"
    return f"{number.value:.{digits}g}{span(number.interval)}"


def span(interval: Interval | None) -> str:
    """An interval in brackets, with a leading space; empty for none."""
    return f" [{interval[0]:.4g}, {interval[1]:.4g}]" if interval else ""


def day(moment: str | None) -> str | None:
    """The date and, unless it is midnight, the time of an ISO moment."""
    if moment is None:
        return None
    date, _, time = moment.partition("T")
    return date if not time or time.startswith("00:00") else f"{date} {time[:5]}"
