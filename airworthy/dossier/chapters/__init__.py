"""The chapters of a dossier, in the order of reading; each is made from the document alone."""

from __future__ import annotations

from airworthy.dossier.blocks import Chapter
from airworthy.dossier.chapters import development, general, operation, performance, provenance
from airworthy.dossier.document import Dossier


def chapters(dossier: Dossier) -> list[Chapter]:
    """All chapters; one without anything to say says that."""
    return [
        general.identity(dossier),
        general.purpose(dossier),
        general.open_points(dossier),
        performance.judgement(dossier),
        performance.performance(dossier),
        performance.behaviour(dossier),
        performance.explanations(dossier),
        operation.limits(dossier),
        development.data(dossier),
        development.features(dossier),
        development.training(dossier),
        operation.oversight(dossier),
        operation.operation(dossier),
        provenance.changes(dossier),
        provenance.history(dossier),
        provenance.integrity(dossier),
        general.annex(dossier),
    ]
