"""What changed since the champion before, what happened to this version, and whether the records hold."""

from __future__ import annotations

from airworthy.dossier.annex import points_of
from airworthy.dossier.blocks import Alarm, Block, Chapter, Code, Folded, Items, Table, Text, day, shown
from airworthy.dossier.document import Changes, Dossier
from airworthy.reports.names import metric

_OUTCOMES = {"verified": "pass", "changed": "fail", "missing": "fail", "not recorded": "not recorded"}


def changes(dossier: Dossier) -> Chapter:
    """The change log."""
    found = dossier.changes
    first = "A first release: there was no champion before." if not dossier.references else "Not recorded."
    blocks = (Text(first),) if found is None else tuple(_changes(found))
    return Chapter("changes", "Changes since the champion before", points_of("changes"), blocks)


def _changes(found: Changes) -> list[Block]:
    blocks: list[Block] = [
        Text(f"Against version {found.version}, bundle {(found.bundle_digest or '')[:12]}.")
    ]
    if found.facts:
        blocks.append(Table(("What", "Before", "Now"), [(c.what, c.before, c.after) for c in found.facts]))
    features = [
        *(f"New feature: {name}." for name in found.features_added),
        *(f"Feature gone: {name}." for name in found.features_removed),
        *(f"Feature {change}." for change in found.features_changed),
    ]
    if features:
        blocks.append(Items(tuple(features)))
    if found.metrics:
        rows = [(metric(m.metric), m.before, m.after, shown(m.difference), m.margin) for m in found.metrics]
        blocks.append(Text("Both models on the same rows:"))
        blocks.append(Table(("Metric", "Before", "Now", "Difference", "Margin"), rows))
    if found.spec_diff:
        blocks.append(Folded("Changes of the spec", (Code(found.spec_diff),)))
    else:
        blocks.append(
            Text(
                "The spec's text is the same."
                if found.spec_diff == ""
                else "Changes of the spec: not recorded."
            )
        )
    return blocks


def history(dossier: Dossier) -> Chapter:
    """What happened to this version, oldest first."""
    rows = [
        (day(event.time), _action(event.action, event.version, dossier.version), event.by, event.reason)
        for event in dossier.history
    ]
    return Chapter(
        "history", "History", points_of("history"), (Table(("Time (UTC)", "What", "By", "Why"), rows),)
    )


def _action(action: str, version: str, own: str) -> str:
    return action if version == own else f"version {version} {action}"


def integrity(dossier: Dossier) -> Chapter:
    """Every recorded artifact and agreement, verified when this dossier was written."""
    broken = dossier.broken
    blocks: list[Block] = []
    if broken:
        blocks.append(Alarm("Records do not hold", tuple(entry.sentence for entry in broken)))
    else:
        count = sum(entry.outcome == "verified" for entry in dossier.integrity)
        blocks.append(
            Text(f"All {count} recorded artifacts and agreements were verified when this was written.")
        )
    rows = [(entry.name, entry.sentence, entry.digest) for entry in dossier.integrity]
    outcomes = [_OUTCOMES[entry.outcome] for entry in dossier.integrity]
    blocks.append(Table(("Record", "What was found", "SHA-256"), rows, outcomes))
    return Chapter("integrity", "Integrity of the records", points_of("integrity"), tuple(blocks))
