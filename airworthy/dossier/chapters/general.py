"""Which version this is, what it is for, and what nobody has said yet."""

from __future__ import annotations

from airworthy.dossier.annex import POINTS, points_of, unstated
from airworthy.dossier.blocks import Alarm, Block, Chapter, Facts, Items, Stated, Table, Text, day
from airworthy.dossier.document import Dossier, Statement

PURPOSE = ("purpose", "users", "out_of_scope", "owner", "contact", "standards")


def identity(dossier: Dossier) -> Chapter:
    """Names, digests, standing."""
    who = dossier.identity
    signed = {True: "carried by the bundle", False: "none", None: None}[who.signed]
    facts = Facts(
        {
            "Model": dossier.model,
            "Version": dossier.version,
            "Standing": who.status,
            "Aliases": ", ".join(who.aliases) or "none",
            "Registered": day(who.registered),
            "Service": who.service,
            "Bundle (SHA-256)": who.bundle_digest or None,
            "Signature": signed,
            "Pipeline run": who.pipeline_run,
            "Training run": who.run_id,
            "Airworthy": who.library_version,
            "Facts recorded until": day(dossier.recorded_until),
        }
    )
    described = (Text(who.description),) if who.description else ()
    return Chapter("identity", "Identity and standing", points_of("identity"), (*described, facts))


def purpose(dossier: Dossier) -> Chapter:
    """What only a person can say about its use."""
    return Chapter("purpose", "Purpose and use", points_of("purpose"), stated(dossier, PURPOSE))


def stated(dossier: Dossier, fields: tuple[str, ...]) -> tuple[Block, ...]:
    """Fields of the card, in this order; what nobody stated, and nobody must, is left to the open points."""
    by_name = {statement.field: statement for statement in dossier.card}
    kept = [by_name[field] for field in fields if field in by_name]
    return tuple(_block(s) for s in kept if s.text is not None or s.mandatory)


def _block(statement: Statement) -> Stated:
    return Stated(statement.title, statement.text, statement.source, statement.mandatory)


def open_points(dossier: Dossier) -> Chapter:
    """What is missing, mandatory points first."""
    missing = dossier.missing
    others = tuple(point.sentence for point in dossier.open_points if not point.mandatory)
    blocks: list[Block] = []
    if missing:
        number = f"{len(missing)} mandatory point{'s' if len(missing) > 1 else ''} missing"
        blocks.append(Alarm(number, tuple(point.sentence for point in missing)))
    else:
        blocks.append(Text("Every mandatory point is stated."))
    if others:
        blocks += [Text("Also not here:"), Items(others)]
    return Chapter("open", "Open points", "", tuple(blocks))


def annex(dossier: Dossier) -> Chapter:
    """Where to find what Annex IV of the EU AI Act asks for."""
    titles = {
        "identity": "Identity", "purpose": "Purpose", "data": "Data", "features": "Features",
        "training": "Training", "performance": "Performance", "behaviour": "Behaviour", "limits": "Limits",
        "oversight": "Oversight", "operation": "In operation", "changes": "Changes", "history": "History",
        "integrity": "Integrity",
    }  # fmt: skip
    rows = [
        (
            point.number,
            point.about,
            ", ".join(titles[chapter] for chapter in point.chapters) or "–",
            ", ".join(unstated(point, dossier)) or "–",
        )
        for point in POINTS
    ]
    note = Text(
        "Headings of Annex IV of Regulation (EU) 2024/1689 (the AI Act), as an orientation only; this is no legal "
        "advice, and no claim that the law applies or is satisfied."
    )
    table = Table(
        ("Point", "What it is about", "Chapters with facts on it", "Still to be stated by people"), rows
    )
    return Chapter("annex", "Where to find what Annex IV asks for", "", (note, table))
