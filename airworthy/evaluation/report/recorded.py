"""What was recorded beside the checks: digests, settings, and what each part took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airworthy.reports import details, facts, section, table
from airworthy.reports.charts import bars

if TYPE_CHECKING:
    from airworthy.findings import Findings
    from airworthy.verdict import Verdict


def recorded(verdict: Verdict, findings: Findings | None) -> str:
    """The last section: what a later reader needs to check this page against the files."""
    content = facts(
        {
            "Challenger bundle": verdict.bundle_digest or None,
            "Champion bundle": verdict.champion_digest,
            "Champion version": verdict.champion_version,
            "Test data": verdict.data_fingerprint or None,
            "Policy": verdict.policy_digest,
        }
    )
    if verdict.settings:
        settings = [(name.replace("_", " "), value) for name, value in verdict.settings.items()]
        content += details("Settings", table(("Setting", "Value"), settings))
    if findings is not None and findings.seconds:
        total = sum(findings.seconds.values())
        taken = dict(sorted(findings.seconds.items(), key=lambda item: -item[1]))
        content += details(
            f"The evaluation took {total:.1f} s", bars("Seconds of each part", taken, unit=" s")
        )
    return section("Recorded", content, anchor="recorded")
