"""The verdict in the terminal: short when all is well, and never silent about what is not."""

from __future__ import annotations

from rich.console import Console

from airworthy.summary import INFORMING, print_verdict
from airworthy.verdict import Check, Verdict
from tests.evaluation_record import recorded


def printed(verdict: Verdict) -> str:
    out = Console(width=160)
    with out.capture() as caught:
        print_verdict(verdict, out)
    return caught.get()


def test_a_passing_family_is_one_line_and_a_failing_check_is_told_in_full() -> None:
    verdict, _ = recorded()
    text = printed(verdict)
    assert sum("Integrity of rows and scores" in line for line in text.splitlines()) == 1
    assert "84,000 rows scored by every model" not in text
    for check in verdict.failures:
        assert f"{check.name} ({check.slice}) {check.reason}" in text
    assert "auc 0.768" in text


def test_overrides_come_first_with_who_why_and_until() -> None:
    verdict, _ = recorded(overridden=True)
    first = printed(verdict).splitlines()[0]
    said = verdict.overridden[0].override
    assert said is not None
    assert "OVERRIDDEN" in first
    for words in (said.by, said.reason, str(said.until)):
        assert words in first


def test_many_remarks_are_cut_short_but_counted_and_failures_never_are() -> None:
    verdict, _ = recorded(failing=20)
    remark = Check(name="odd", family="robustness", outcome="warn", blocking=False, reason="[red]Odd[/red].")
    text = printed(verdict.model_copy(update={"checks": (*verdict.checks, *[remark] * 30)}))
    assert text.count("is surely more than 0.02 above") == 20
    assert text.count("[red]Odd[/red].") <= INFORMING
    assert "more that only inform: see the report" in text


def test_a_first_release_says_what_was_not_compared() -> None:
    assert "there is no champion to compare with" in printed(recorded(champion=False, failing=0)[0])
