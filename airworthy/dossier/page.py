"""The dossier as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

from airworthy.dossier.blocks import (
    NOT_RECORDED,
    Alarm,
    Block,
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
from airworthy.reports import badge, details, facts, jump, page, paragraph, section, table

STYLE = """<style>
.shout{border:2px solid var(--fail);background:var(--fail-bg);border-radius:6px;padding:10px 16px;margin:12px 0}
.shout h3{color:var(--fail);margin:0 0 4px;font-size:16px}.shout ul{margin:4px 0;padding-left:20px}
.stated{border-left:4px solid var(--accent);background:var(--panel);border-radius:0 6px 6px 0;
padding:8px 14px;margin:10px 0;max-width:80ch}
.stated.absent{border-left-color:var(--warn);border-left-style:dashed}.stated h3{margin:0;font-size:15px}
.stated .by{color:var(--soft);font-size:12.5px}.stated .said{white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0 0}
.contents{display:flex;flex-wrap:wrap;gap:4px 16px;padding:0;margin:0 0 8px;list-style:none;font-size:14px}
.annexed{color:var(--soft);font-size:12.5px;margin:-4px 0 8px}
</style>"""


def html(dossier: Dossier) -> str:
    """The page: nothing in it is loaded from elsewhere."""
    found = chapters(dossier)
    contents = "".join(f"<li>{jump(chapter.title, chapter.anchor)}</li>" for chapter in found)
    body = (
        f'{paragraph(note())}<nav aria-label="Contents"><ul class="contents">{contents}</ul></nav>'
        f"{''.join(_chapter(chapter) for chapter in found)}"
    )
    return page(
        f"Dossier of {dossier.model} version {dossier.version}",
        body,
        subtitle=headline(dossier),
        outcome=_outcome(dossier),
        top=STYLE + "".join(_alarm(alarm) for alarm in alarms(dossier)),
    )


def _outcome(dossier: Dossier) -> str:
    if dossier.broken:
        return "fail"
    if dossier.missing or (dossier.verdict is not None and dossier.verdict.overridden):
        return "warn"
    return "pass" if dossier.verdict is not None and dossier.verdict.passed else "inconclusive"


def _chapter(chapter: Chapter) -> str:
    annex = f'<p class="annexed">Annex IV, point {escape(chapter.annex)}</p>' if chapter.annex else ""
    return section(chapter.title, annex, _blocks(chapter.blocks), anchor=chapter.anchor)


def _blocks(blocks: Iterable[Block]) -> str:
    return "".join(_block(block) for block in blocks)


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return paragraph(text)
        case Items(lines):
            return _list(lines)
        case Facts(pairs):
            return facts({name: NOT_RECORDED if v is None else v for name, v in pairs.items()})
        case Table(headers, rows, outcomes):
            return table(headers, rows, outcomes=outcomes)
        case Alarm():
            return _alarm(block)
        case Stated():
            return _stated(block)
        case Code(text):
            return f"<pre>{escape(text)}</pre>"
        case Picture(drawn):
            return drawn
        case Folded(title, blocks):
            return details(title, _blocks(blocks))


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _alarm(block: Alarm) -> str:
    return f'<div class="shout" role="alert"><h3>{escape(block.title)}</h3>{_list(block.lines)}</div>'


def _stated(block: Stated) -> str:
    if block.text is None:
        mark = badge("to be supplied" if block.mandatory else NOT_RECORDED)
        return (
            f'<div class="stated absent"><h3>{escape(block.title)} {mark}</h3>'
            f'<span class="by">belongs in {escape(block.source)}</span></div>'
        )
    return Markup(
        '<div class="stated"><h3>{}</h3><span class="by">stated by the owner in {}</span><p class="said">{}</p></div>'
    ).format(block.title, block.source, block.text)
