"""The evaluation for people: an HTML page and a Markdown summary, drawn from the two recorded files alone.

So the page of an old evaluation can be drawn again, and whatever it shows can be checked in `verdict.json` and
`findings.json`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airworthy.evaluation.report import comparison, conduct, explained, groups, top
from airworthy.evaluation.report.recorded import recorded
from airworthy.evaluation.report.summary import headline, markdown
from airworthy.reports import page, paragraph, section

if TYPE_CHECKING:
    from airworthy.findings import Findings
    from airworthy.verdict import Verdict

__all__ = ["headline", "html", "markdown"]


def html(verdict: Verdict, findings: Findings | None) -> str:
    """The report as one self-contained page.

    Args:
        verdict: The judgement.
        findings: All that was measured; None where the gate broke or the scores can't be measured. The page has
            the checks alone then.
    """
    shown = ""
    if findings is not None:
        shown = "".join(
            draw(verdict, findings)
            for draw in (
                comparison.numbers,
                comparison.curves,
                groups.slices,
                groups.weak_spots,
                groups.fairness,
                conduct.behaviour,
                conduct.scenarios,
                explained.explanations,
            )
        )
    shown += top.all_checks(verdict) or section("Checks", paragraph("No check was made."))
    body = top.banner(verdict, findings) + top.lights_table(verdict, shown) + top.why(verdict)
    body += shown + recorded(verdict, findings)
    return page(f"Evaluation of {verdict.model}", body, top=top.overrides(verdict))
