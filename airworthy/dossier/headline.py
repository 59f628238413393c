"""The dossier in a few sentences: where the version stands, what nobody may overlook, how to read it."""

from __future__ import annotations

from airworthy.dossier.blocks import Alarm
from airworthy.dossier.document import Dossier


def headline(dossier: Dossier) -> str:
    """Where the version stands, and what is wrong with its records."""
    parts = [f"{dossier.identity.status.capitalize()}."]
    if dossier.verdict is not None:
        compared = dossier.verdict.champion_version
        against = f"compared with version {compared}" if compared else "a first release"
        parts.append(f"The gate's verdict: {dossier.verdict.status} ({against}).")
    if dossier.oversight.overrides:
        count = len(dossier.oversight.overrides)
        parts.append(f"{count} failed check{'s were' if count > 1 else ' was'} let pass by a person.")
    if dossier.broken:
        names = ", ".join(entry.name for entry in dossier.broken)
        parts.append(f"DO NOT RELY ON IT: the records of {names} do not hold.")
    if dossier.missing:
        count = len(dossier.missing)
        parts.append(
            f"{count} mandatory point{'s are' if count > 1 else ' is'} still to be stated by people."
        )
    return " ".join(parts)


def alarms(dossier: Dossier) -> list[Alarm]:
    """What stands at the very top: records that do not hold, failed checks that a person let pass."""
    found = []
    if dossier.broken:
        sentences = tuple(entry.sentence for entry in dossier.broken)
        found.append(Alarm("Tampering or loss detected: do not rely on this version", sentences))
    if dossier.oversight.overrides:
        found.append(Alarm("Failed checks were let pass", dossier.oversight.overrides))
    return found


def note() -> str:
    """How to read it."""
    return (
        "Written from recorded facts alone. What only people can say is marked as stated by the owner; what nobody "
        "recorded is called that."
    )
