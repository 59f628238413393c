"""Which chapter speaks to which point of Annex IV of the EU AI Act (Regulation (EU) 2024/1689).

Orientation for a reader who has to find things, no legal advice: whether the law applies to a system, and
whether a text satisfies it, is for people to judge.
"""

from __future__ import annotations

from dataclasses import dataclass

from airworthy.dossier.document import Dossier


@dataclass(frozen=True)
class Point:
    """One point of the annex: what it is about, the chapters that hold facts on it, and the card's share."""

    number: str
    about: str
    chapters: tuple[str, ...]
    card: tuple[str, ...] = ()


POINTS = (
    Point("1", "General description", ("identity", "purpose"), ("purpose", "users", "owner")),
    Point(
        "2",
        "Elements of the system and how it was developed",
        ("data", "features", "training", "performance", "behaviour", "integrity"),
        ("data_rights",),
    ),
    Point(
        "3",
        "Monitoring, functioning and control",
        ("limits", "oversight", "operation"),
        ("out_of_scope", "limitations", "oversight"),
    ),
    Point("4", "Whether the performance metrics suit the purpose", ("performance",), ("purpose",)),
    Point("5", "Risk management", ("limits",), ("risks",)),
    Point("6", "Changes through the lifecycle", ("changes", "history")),
    Point("7", "Standards applied", (), ("standards",)),
    Point("8", "Declaration of conformity", (), ("standards",)),
    Point("9", "Watching the system once it serves", ("operation", "oversight"), ("oversight",)),
)


def points_of(chapter: str) -> str:
    """The points that a chapter speaks to, such as `2, 4`."""
    return ", ".join(point.number for point in POINTS if chapter in point.chapters)


def unstated(point: Point, dossier: Dossier) -> list[str]:
    """Titles of the card's fields on a point that nobody has filled."""
    return [s.title for s in dossier.card if s.field in point.card and s.text is None]
