"""The dossier of a version: model card and technical documentation, written from recorded facts alone.

`compose` gathers and verifies what is recorded, `write` puts it down as JSON, Markdown and HTML. What only a
person can say comes from the card of the model spec and is marked as such; what nobody recorded is said to be
missing.
"""

from __future__ import annotations

from pathlib import Path

from airworthy.dossier.document import FILE, Dossier, read_dossier, write_json
from airworthy.dossier.facts import compose
from airworthy.dossier.headline import headline
from airworthy.dossier.markdown import markdown
from airworthy.dossier.page import html
from airworthy.dossier.records import OWN as EVIDENCE
from airworthy.errors import GateError
from airworthy.files import write_whole
from airworthy.registry import Registry

__all__ = [
    "EVIDENCE",
    "FILE",
    "MARKDOWN",
    "PAGE",
    "Dossier",
    "compose",
    "headline",
    "html",
    "markdown",
    "read_dossier",
    "record",
    "require_whole",
    "write",
]

MARKDOWN, PAGE = "dossier.md", "dossier.html"


def write(dossier: Dossier, folder: Path) -> Path:
    """Write `dossier.json`, `dossier.md` and `dossier.html`; the same facts give the same bytes.

    Returns:
        The folder.
    """
    write_json(dossier, folder / FILE)
    write_whole(folder / MARKDOWN, markdown(dossier))
    write_whole(folder / PAGE, html(dossier))
    return folder


def record(registry: Registry, model: str, version: str, folder: Path) -> Dossier:
    """Write a version's dossier and keep it with the version, as evidence `dossier`.

    Safe to repeat: an earlier one is replaced by what is recorded now.

    Args:
        registry: Where the version is registered.
        model: Registered model.
        version: Its number.
        folder: Where to write it.

    Raises:
        GateError: The records do not hold; the dossier that says so is written, but not kept.
        RegistryError: The registry can't be reached, or another process holds the model.
    """
    dossier = compose(registry, model, version)
    write(dossier, folder)
    require_whole(dossier)
    registry.attach(registry.version(model, version), EVIDENCE, folder)
    return dossier


def require_whole(dossier: Dossier) -> None:
    """Refuse a version whose records were changed or lost.

    Raises:
        GateError: What was found, record by record.
    """
    if dossier.broken:
        found = " ".join(entry.sentence for entry in dossier.broken)
        raise GateError(f"the records of {dossier.model} version {dossier.version} do not hold: {found}")
