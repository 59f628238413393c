"""Overrides: a person lets a failed check pass, by name, with a reason and an end; never silently."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from airworthy.verdict import AppliedOverride, Check

if TYPE_CHECKING:
    from airworthy.model_spec import Override

NEVER = ("integrity",)
"""Families that no one can override: without them the other checks mean nothing."""


def apply(checks: Sequence[Check], overrides: Sequence[Override], today: date) -> list[Check]:
    """Mark the checks that a person let pass, and warn of every override, whether it counted or not.

    Args:
        checks: All checks of the gate.
        overrides: The spec's.
        today: The day (UTC) that decides whether one has expired.

    Returns:
        The checks, those overridden marked, followed by one warning per override.
    """
    marked, said = list(checks), []
    for override in overrides:
        places = [i for i, c in enumerate(marked) if c.name == override.check and c.slice == override.slice]
        blocking = [i for i in places if marked[i].stands_in_the_way]
        slices = [c.slice for c in marked if c.name == override.check and c.slice and c.stands_in_the_way]
        refused = _refusal(override, today, [marked[i] for i in places], bool(blocking), slices)
        if not refused:
            applied = AppliedOverride(by=override.by, reason=override.reason, until=override.until)
            for index in blocking:
                marked[index] = marked[index].model_copy(update={"override": applied})
        said.append(_warning(override, refused))
    return marked + said


def _refusal(
    override: Override, today: date, found: Sequence[Check], needed: bool, slices: Sequence[str]
) -> str:
    """Why an override doesn't count, as the rest of a sentence; empty if it does."""
    if slices and not override.slice and not needed:
        return f"does not count, as it must name the slice that failed ({'; '.join(slices[:3])})"
    if not found:
        return "names no check of this evaluation"
    if any(check.family in NEVER for check in found):
        return "is void: checks of integrity can't be overridden"
    if today > override.until:
        return f"expired on {override.until}, so it does not count"
    if not needed:
        return "was not needed; remove it from the spec"
    return ""


def _warning(override: Override, refused: str) -> Check:
    where = f"{override.check} ({override.slice})" if override.slice else override.check
    counted = f"lets it pass until {override.until}: {override.reason.rstrip('.')}"
    return Check(
        name=f"override_{override.check}",
        family="overrides",
        slice=override.slice,
        outcome="warn",
        blocking=False,
        reason=f"The override of {where} by {override.by} {refused or counted}.",
    )
