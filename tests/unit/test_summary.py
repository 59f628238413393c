"""The verdict in the terminal: short when all is well, and never silent about what is not."""

from __future__ import annotations

from rich.console import Console

from airworthy.summary import INFORMING, STANDING, print_verdict
from airworthy.verdict import Check, Verdict
from tests.evaluation_record import recorded


def printed(verdict: Verdict, width: int = 160) -> str:
    out = Console(width=width)
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


def test_a_family_takes_one_line_of_a_narrow_terminal_too() -> None:
    verdict, _ = recorded()
    lines = printed(verdict, width=80).splitlines()
    place = next(n for n, line in enumerate(lines) if "Against the champion" in line)
    assert "cost 0.0071" in lines[place]
    assert "Slices" in lines[place + 1]


def test_overrides_come_first_with_who_why_and_until() -> None:
    verdict, _ = recorded(overridden=True)
    first = printed(verdict).splitlines()[0]
    said = verdict.overridden[0].override
    assert said is not None
    assert "OVERRIDDEN" in first
    for words in (said.by, said.reason, str(said.until)):
        assert words in first


def test_many_failures_of_a_family_and_many_remarks_are_cut_short_but_counted() -> None:
    verdict, _ = recorded(failing=20)
    remark = Check(name="odd", family="robustness", outcome="warn", blocking=False, reason="[red]Odd[/red].")
    text = printed(verdict.model_copy(update={"checks": (*verdict.checks, *[remark] * 30)}))
    assert text.count("is surely more than 0.02 above") == STANDING
    assert f"… and {20 - STANDING} more like these: see the report" in text
    assert text.count("[red]Odd[/red].") <= INFORMING
    assert "more that only inform: see the report" in text


def test_a_first_release_says_what_was_not_compared() -> None:
    assert "there is no champion to compare with" in printed(recorded(champion=False, failing=0)[0])
