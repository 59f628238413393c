"""Known limits that the records themselves speak of; what the owner adds stands in the card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from airworthy.dossier.document import Limit
from airworthy.verdict import Check

if TYPE_CHECKING:
    from airworthy.dossier.records import Records
    from airworthy.findings import Findings

_KINDS = {"fail": "failed", "warn": "warning", "inconclusive": "inconclusive"}
_ORDER = ("overridden", "failed", "warning", "weak spot", "inconclusive", "not assessed", "scope")


def limits(records: Records) -> list[Limit]:
    """Worst ones first."""
    found = [*_scope(records), *_checks(records), *_findings(records.findings)]
    return sorted(found, key=lambda limit: _ORDER.index(limit.kind))


def _checks(records: Records) -> Iterator[Limit]:
    for check in records.verdict.checks if records.verdict else ():
        if check.override is not None:
            sentence = (
                f"{check.reason} Let pass by {check.override.by} until {check.override.until}: "
                f"{check.override.reason}"
            )
            yield Limit(kind="overridden", name=_name(check), sentence=sentence)
        elif check.outcome in _KINDS:
            yield Limit.model_validate(
                {"kind": _KINDS[check.outcome], "name": _name(check), "sentence": check.reason}
            )


def _findings(findings: Findings | None) -> Iterator[Limit]:
    if findings is None:
        return
    small = [found for found in findings.slices if not found.assessed]
    if small:
        names = ", ".join(f"{found.where} ({found.rows:,} rows)" for found in small[:12])
        more = f" and {len(small) - 12} more" if len(small) > 12 else ""
        yield Limit(
            kind="not assessed",
            name="small slices",
            sentence=f"Too few rows to say how the model does on {names}{more}.",
        )
    for spot in findings.weak_spots:
        if spot.outcome == "pass" or spot.excess is None:
            continue
        yield Limit(
            kind="weak spot",
            name=spot.where,
            sentence=f"On its {spot.rows:,} rows the log loss is {spot.excess:.3f} above that of all others.",
        )
    for group in findings.fairness:
        if group.left_out:
            yield Limit(
                kind="not assessed",
                name=f"groups of {group.column}",
                sentence=f"Too few rows to compare {', '.join(group.left_out)} with the other groups.",
            )


def _scope(records: Records) -> Iterator[Limit]:
    findings, info = records.findings, records.info
    if findings is not None:
        yield Limit(
            kind="scope",
            name="period",
            sentence=(
                f"Judged on {findings.rows:,} rows from {findings.start[:10]} to {findings.end[:10]} only; nothing is "
                "known of other times."
            ),
        )
    if info is not None:
        categories = [feature for feature in info.features if feature.kind == "category"]
        if categories:
            yield Limit(
                kind="scope",
                name="categories",
                sentence=(
                    f"Values of {', '.join(f.name for f in categories)} that training never met are scored as if they "
                    "were missing."
                ),
            )


def _name(check: Check) -> str:
    return f"{check.name} ({check.slice})" if check.slice else check.name
