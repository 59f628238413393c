"""A failed check passes only by a named, reasoned, unexpired decision of a person, and everybody sees it."""

from __future__ import annotations

from datetime import date

import pytest

from airworthy.evaluation.overrides import apply
from airworthy.model_spec import Override
from airworthy.verdict import Check, Verdict

TODAY = date(2026, 3, 10)
FAILED = Check(name="auc", family="limits", outcome="fail", reason="AUC is too low.")
SLICE = Check(name="slice", family="slices", slice="origin = EWR", outcome="fail", reason="Worse.")
PASSED = Check(name="brier", family="limits", outcome="pass", reason="Fine.")
BROKEN = Check(name="rows", family="integrity", outcome="fail", reason="Rows are missing.")


def _override(check: str, until: date = TODAY, slice_: str | None = None) -> Override:
    return Override(check=check, slice=slice_, by="Ada Byron", reason="Known seasonal dip", until=until)


def _verdict(checks: list[Check]) -> Verdict:
    return Verdict(
        model="m",
        status="passed",
        checks=tuple(checks),
        bundle_digest="",
        champion_version=None,
        data_fingerprint="",
        policy_digest="",
    )


def test_an_override_lets_its_check_pass_and_says_who_why_and_until_when() -> None:
    checks = apply([FAILED, PASSED], [_override("auc")], TODAY)
    verdict = _verdict(checks)
    assert verdict.passed
    assert [c.name for c in verdict.overridden] == ["auc"]
    assert checks[0].outcome == "fail"  # what was seen stays what it was
    told = checks[-1]
    assert (told.family, told.outcome) == ("overrides", "warn")
    for word in ("Ada Byron", "Known seasonal dip", "2026-03-10"):
        assert word in told.reason


@pytest.mark.parametrize(
    ("checks", "override", "said"),
    [
        ([FAILED], _override("auc", date(2026, 3, 9)), "expired on 2026-03-09"),
        ([FAILED], _override("auk"), "names no check"),
        ([BROKEN], _override("rows"), "can't be overridden"),
        ([SLICE], _override("slice", slice_="origin = JFK"), "names no check"),
        ([SLICE], _override("slice"), r"must name the slice that failed (origin = EWR)"),
    ],
)
def test_an_override_that_does_not_count_changes_nothing_and_says_why(
    checks: list[Check], override: Override, said: str
) -> None:
    result = apply([*checks, PASSED], [override], TODAY)
    assert not _verdict(result).passed
    assert said in result[-1].reason


def test_an_override_of_one_slice_leaves_the_others() -> None:
    other = SLICE.model_copy(update={"slice": "origin = JFK"})
    result = apply([SLICE, other, PASSED], [_override("slice", slice_="origin = EWR")], TODAY)
    assert [c.slice for c in _verdict(result).failures] == ["origin = JFK"]


def test_an_override_that_is_not_needed_says_so() -> None:
    result = apply([PASSED], [_override("brier")], TODAY)
    assert result[0].override is None
    assert "not needed" in result[-1].reason
