"""What people state about a model, and what they have not stated yet."""

from __future__ import annotations

from airworthy.dossier.document import OpenPoint, Statement
from airworthy.model_spec import Card, ModelSpec
from airworthy.model_spec.documents import split_document

TITLES = {
    "purpose": "Intended purpose",
    "users": "Who uses the answers",
    "out_of_scope": "Uses that are out of scope",
    "owner": "Owner",
    "contact": "Contact",
    "data_rights": "Rights to the data",
    "limitations": "Known limitations",
    "risks": "Foreseeable harm, and what is done about it",
    "oversight": "How people watch over the model",
    "standards": "Standards and declarations",
}
SPEC = "the model spec"


def statements(spec: ModelSpec | None) -> tuple[Statement, ...]:
    """Every field of the card with its text and source; without a recorded spec nothing is stated."""
    card = spec.card if spec is not None else Card()
    return tuple(_statement(card, field, title) for field, title in TITLES.items())


def unstated(card: tuple[Statement, ...]) -> tuple[OpenPoint, ...]:
    """One open point per field that nobody filled, mandatory ones first."""
    points = [
        OpenPoint(
            field=f"card.{statement.field}",
            mandatory=statement.mandatory,
            sentence=_sentence(statement),
        )
        for statement in card
        if statement.text is None
    ]
    return tuple(sorted(points, key=lambda point: not point.mandatory))


def _statement(card: Card, field: str, title: str) -> Statement:
    value = getattr(card, field)
    document, text = split_document(value) if value else (None, "")
    place = f"card.{field} of {SPEC}"
    return Statement(
        field=field,
        title=title,
        text=text or None,
        source=f"{document}, named by {place}" if document else place,
        mandatory=field in card.mandatory,
    )


def _sentence(statement: Statement) -> str:
    if not statement.source.startswith("card."):
        return (
            f"{statement.title}: the spec names {statement.source.partition(',')[0]}, but its text was not "
            "recorded; submit the spec from its file, or write the text into it."
        )
    return f"{statement.title}: to be supplied by the owner in {statement.source}."
