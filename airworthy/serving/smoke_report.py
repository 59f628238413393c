"""What a smoke test leaves behind: a record for machines and a page for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airworthy.model_spec import ModelSpec
from airworthy.serving.budget import ROUND_REQUESTS, ROUNDS, budget_checks, usage_rows
from airworthy.verdict import Check, SmokeRecord

if TYPE_CHECKING:
    from airworthy.serving.smoke import SmokeResult

TOLERANCE = 1e-5
"""Most that a served score may differ from the evaluation's."""


def smoke_record(spec: ModelSpec, digest: str, result: SmokeResult) -> SmokeRecord:
    """What was seen and whether the budget was kept; `digest` is the bundle's."""
    same = Check(
        name="scores",
        family="serving",
        observed=result.largest_difference,
        threshold=TOLERANCE,
        rows=result.rows,
        outcome="pass",
        reason=f"The server answered {result.rows:,} rows through V1 and V2 with the scores of the evaluation; the "
        f"largest difference is {result.largest_difference:.2g}.",
    )
    refused = Check(
        name="bad_requests",
        family="serving",
        observed=len(result.refusals),
        outcome="pass",
        reason=f"All {len(result.refusals)} sorts of bad requests were refused with HTTP 400.",
    )
    checks = (same, refused, *budget_checks(spec.serving.budget, result.usage))
    passed = not any(check.stands_in_the_way for check in checks)
    return SmokeRecord(
        model=spec.name, bundle_digest=digest, passed=passed, checks=checks, metrics=result.metrics
    )


def smoke_page(spec: ModelSpec, result: SmokeResult, record: SmokeRecord) -> str:
    """The page, as HTML."""
    from airworthy.reports import facts, page, section, table

    body = section(
        "Checks",
        table(
            ["check", "what was seen"],
            [[check.name, check.reason] for check in record.checks],
            outcomes=[check.outcome for check in record.checks],
        ),
    )
    body += section(
        "What it takes",
        table(["", "measured", "budget", "range"], usage_rows(spec.serving.budget, result.usage)),
        facts({"Load of the machine": result.usage.load, "Cores": result.usage.cores}),
        note=f"Latencies are those of {ROUNDS} rounds of {ROUND_REQUESTS} single-row requests, one after the other, "
        "from a client on the same machine; the median round counts.",
    )
    refusals = [[refusal.what, refusal.status, refusal.message] for refusal in result.refusals]
    body += section("Bad requests are refused", table(["request", "HTTP", "answer"], refusals))
    return page(
        f"Smoke test of {spec.name}",
        body,
        subtitle="The packaged model in a real KServe server answers the evaluation's rows with its scores.",
        outcome="pass" if record.passed else "fail",
    )
