"""Texts that the card of a model spec takes from files.

A card field may name `docs/<file>.md`. A step on a cluster can't read that file, and the text has to be
recorded with the version anyway, so it is written into the spec when the spec is read from disk: on the line
of the field, as one quoted string, so that no line number changes. The first line of the value stays the
file's name.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from airworthy.errors import ConfigError

MAX_BYTES = 65_536
"""Of all of them together: the spec travels as a parameter of every step."""
_TOO_LONG = f"the card's files are over {MAX_BYTES // 1024} KiB together; shorten them"
_NAME = re.compile(r"(?!.*\.\.)docs/[^\s,{}'\"]+\.md")


def inline_documents(text: str, path: Path) -> str:
    """The text of a spec with the files that its card names written into it.

    Args:
        text: Valid YAML of a spec.
        path: Where it was read; its files are looked for beside it, then in the folder above (a project's root
            when the spec lies in `models/`).

    Raises:
        ConfigError: A file is missing, empty or too long.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    card: Any = (YAML(typ="rt").load(text) or {}).get("card")
    if not isinstance(card, CommentedMap):
        return text
    lines = text.split("\n")
    size = 0
    named = {field: str(v) for field, v in card.items() if isinstance(v, str) and _NAME.fullmatch(v)}
    # Backwards, so that two on one line don't move each other.
    for field, name in sorted(named.items(), key=lambda item: card.lc.value(item[0]), reverse=True):
        row, column = card.lc.value(field)
        where = f"{path}:{row + 1} card.{field}"
        content = _content(name, path.parent, where)
        size += len(content.encode())
        if size > MAX_BYTES:
            raise ConfigError(f"{where}: {_TOO_LONG}")
        line = lines[row]
        written = next((w for w in (f'"{name}"', f"'{name}'", name) if line[column:].startswith(w)), None)
        if written is None:
            raise ConfigError(f"{where}: write {name} on the line of the field, plainly")
        lines[row] = line[:column] + _quoted(f"{name}\n{content}") + line[column + len(written) :]
    return "\n".join(lines)


def split_document(value: str) -> tuple[str | None, str]:
    """A card's value as (file that it was taken from, text); (None, text) where it was written in the spec.

    A file that is named but was never read gives an empty text.
    """
    first, _, rest = value.partition("\n")
    return (first.strip(), rest.strip()) if _NAME.fullmatch(first.strip()) else (None, value.strip())


def _content(name: str, folder: Path, where: str) -> str:
    found = next((p / name for p in (folder, folder.absolute().parent) if (p / name).is_file()), None)
    if found is None:
        raise ConfigError(f"{where}: {name} is neither beside the spec nor in the folder above it")
    if not found.resolve().is_relative_to((found.parents[name.count("/")] / "docs").resolve()):
        raise ConfigError(f"{where}: {name} is a link out of docs/; put the text itself there")
    if found.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{where}: {_TOO_LONG}")
    try:
        content = found.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: {name} is not UTF-8 text") from None
    if not content:
        raise ConfigError(f"{where}: {name} is empty")
    return content


def _quoted(text: str) -> str:
    """A double-quoted YAML scalar on one line: JSON, with what YAML does not print escaped, too."""
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\u2028\u2029\ufeff]", lambda m: f"\\u{ord(m.group()):04x}", quoted)
