"""The report as a reviewer reads it: what stands in the way is said first, and nothing recorded is lost."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from airworthy.evaluation.report import headline, html, markdown
from airworthy.evaluation.report.words import exact, probability, span
from airworthy.findings import Findings
from airworthy.verdict import Check, Verdict
from tests.evaluation_record import broken, recorded

CASES: dict[str, tuple[Verdict, Findings | None]] = {
    "rejected": recorded(),
    "overridden": recorded(overridden=True),
    "first release": recorded(champion=False, failing=0, slices=12),
    "passed": recorded(failing=0, slices=8),
    "error": (broken(), None),
    "checks only": (recorded()[0], None),
}
VOID = {"meta", "path", "rect", "circle", "line", "br"}


class Reader(HTMLParser):
    """The words of a page, its anchors and where its links lead; fails on tags that don't match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.anchors: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.anchors += [named["id"]] if named.get("id") else []  # type: ignore[list-item]
        self.links += [named["href"]] if named.get("href") else []  # type: ignore[list-item]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.mark.parametrize("case", CASES)
def test_every_page_stands_alone_and_is_small(case: str) -> None:
    page = html(*CASES[case])
    assert not re.search(r"https?:|\bsrc=|url\(|@import|<script|<link|<iframe|\son\w+=", page)
    assert len(page.encode()) < 400_000
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", Reader(page).text.lower())


@pytest.mark.parametrize("case", CASES)
def test_every_link_leads_somewhere_on_the_page_and_anchors_are_unique(case: str) -> None:
    read = Reader(html(*CASES[case]))
    assert len(set(read.anchors)) == len(read.anchors)
    assert {link.removeprefix("#") for link in read.links} <= set(read.anchors)


@pytest.mark.parametrize("case", CASES)
def test_every_check_is_on_the_page_with_its_reason(case: str) -> None:
    verdict, findings = CASES[case]
    text = Reader(html(verdict, findings)).text
    for check in verdict.checks:
        assert check.name in text
        assert check.reason in text


def test_what_stands_in_the_way_is_read_before_what_informs_and_what_passed() -> None:
    verdict, findings = CASES["rejected"]
    text = Reader(html(verdict, findings)).text
    why = text[text.index(" Why ") :]
    failed, warned = verdict.failures[0], next(c for c in verdict.checks if c.outcome == "warn")
    passed = next(c for c in verdict.checks if c.outcome == "pass")
    assert why.index(failed.reason) < why.index(warned.reason) < why.index(passed.reason)
    assert why.index(passed.reason) > why.index("All checks")


def test_an_override_is_shouted_above_the_title_with_who_why_and_until() -> None:
    verdict, findings = CASES["overridden"]
    text = Reader(html(verdict, findings)).text
    band = text[: text.rindex("Evaluation of flight_delay")]
    said = verdict.overridden[0].override
    assert said is not None
    assert "OVERRIDDEN: 2 failed checks let pass by a person" in band
    for words in (said.by, said.reason, str(said.until), verdict.overridden[0].reason):
        assert words in band
    assert "passed the gate only because R. Mensah overrode 2 failed checks" in headline(verdict)
    summary = markdown(verdict, findings)
    assert summary.index("**OVERRIDDEN**") < summary.index("| metric |")
    assert "2 overridden" in summary


def test_a_page_without_overrides_has_no_alarm() -> None:
    assert "OVERRIDDEN" not in html(*CASES["passed"])
    assert "overrode" not in headline(CASES["passed"][0])


def test_the_lights_tell_the_worst_of_each_family_and_what_was_not_checked() -> None:
    verdict, findings = CASES["first release"]
    text = Reader(html(verdict, findings)).text
    lights = text[text.index("At a glance") : text.index(" Why ")]
    assert "Against the champion not checked A first release: there is no champion" in lights
    assert "Absolute limits passed 2 passed" in lights
    assert "Robustness warning 1 warning" in lights
    bare = verdict.model_copy(update={"checks": tuple(c for c in verdict.checks if c.family == "limits")})
    assert "no groups of people were compared" in html(bare, findings)


def test_a_gate_that_broke_says_why_and_claims_nothing() -> None:
    text = Reader(html(broken(), None)).text
    assert "could not judge flight_delay: the test window has no labels" in text
    assert "Not judged" in text
    assert "No check was made" in text
    assert "could not judge" in markdown(broken(), None)


def test_everything_measured_is_shown() -> None:
    verdict, findings = recorded()
    text = Reader(html(verdict, findings)).text
    for words in ("ROC curve", "Precision and recall", "Reliability", "decision threshold", "11,400"):
        assert words in text
    for found in (*findings.slices, *findings.weak_spots):
        assert found.where in text
    for probe in findings.behaviour:
        assert probe.name in text
    assert findings.explained is not None
    for attribution in findings.explained.attributions:
        assert attribution.feature in text
    assert "SWF" in text  # a group too small to compare is named
    assert verdict.bundle_digest in text
    assert "5.9 s" in text  # what the search took


def test_the_forest_draws_each_assessed_slice_with_the_margin_and_shape_by_outcome() -> None:
    verdict, findings = recorded()
    page = html(verdict, findings)
    forest = page[page.index('id="slices"') : page.index('id="slices-table"')]
    assessed = sum(s.assessed for s in findings.slices)
    assert forest.count('class="mark m-') == assessed + 2  # and the legend's two
    assert forest.count('class="mark m-fail"') == 2 + 1
    assert "var(--beyond)" in forest
    worst = next(s for s in findings.slices if s.outcome == "fail")
    assert forest.index(worst.where) < min(forest.index(s.where) for s in findings.slices[2:] if s.assessed)


def test_the_margin_is_drawn_although_no_slice_broke_it() -> None:
    verdict, findings = recorded(failing=0)
    page = html(verdict.model_copy(update={"settings": {"slice_margin": 0.02}}), findings)
    assert "var(--beyond)" in page[page.index('id="slices"') : page.index('id="slices-table"')]


def test_more_slices_than_fit_the_plot_stay_in_the_table() -> None:
    verdict, findings = recorded(slices=100, seed=3)
    page = html(verdict, findings)
    forest = page[page.index('id="slices"') : page.index('id="slices-table"')]
    assert forest.count('<td class="plot"') == 60
    assert "least worrying are in the table only" in forest
    assert all(s.where in page for s in findings.slices)
    assert len(page) < 400_000


def test_thousands_of_slices_with_long_names_still_make_a_page_that_can_be_sent() -> None:
    verdict, findings = recorded(slices=4)
    many = tuple(
        s.model_copy(update={"where": f"origin = {i} {'long ' * 400}"})
        for i in range(1000)
        for s in findings.slices
    )
    page = html(verdict, findings.model_copy(update={"slices": many}))
    assert len(page.encode()) < 2_000_000
    assert "The 500 most worrying slices in numbers" in page
    assert f"All {len(many):,} slices are in findings.json" in page


def test_a_worse_challenger_is_drawn_on_the_worse_side_whichever_way_the_metric_goes() -> None:
    verdict, findings = recorded()
    page = html(verdict, findings)
    rows = re.findall(r'<th scope="row">([^<]+)</th><td class="plot".*?<svg x="([\d.]+)%" y="12"><', page)
    places = {name: float(x) for name, x in rows}
    assert places["AUC"] < 50  # higher AUC: better, left
    assert places["Log loss"] < 50  # lower log loss: better, left
    assert places["Cost per decision"] > 50  # higher cost: worse, right


def test_hostile_words_stay_words() -> None:
    verdict, findings = recorded(slices=4)
    evil = "<img src=x onerror=alert(1)> | [a](http://b)"
    check = Check(name=evil, family=evil, slice=evil, outcome="fail", reason=f"{evil}\n# heading")
    hostile = verdict.model_copy(update={"checks": (check,), "model": evil, "status": "rejected"})
    slices = tuple(s.model_copy(update={"where": evil}) for s in findings.slices)
    page = html(hostile, findings.model_copy(update={"slices": slices, "model": evil}))
    assert "<img" not in page
    Reader(page)
    summary = markdown(hostile, findings)
    assert "\n# heading" not in summary
    assert re.search(r"(?<!\\)<img|(?<!\\)\[a\]", summary) is None
    assert all(line.count("|") == 4 for line in summary.splitlines() if line.startswith("| failed"))


def test_a_backslash_does_not_free_what_follows_it_in_the_summary() -> None:
    verdict, findings = recorded(slices=4)
    check = Check(name="a", family="slices", outcome="fail", reason="\\<img src=x>")
    summary = markdown(verdict.model_copy(update={"checks": (check,)}), findings)
    assert r"\\\<img" in summary


def test_the_summary_is_short_and_has_no_link() -> None:
    verdict, findings = CASES["rejected"]
    summary = markdown(verdict, findings)
    assert summary.startswith("## Evaluation of flight_delay")
    assert "did not pass the gate" in summary
    assert "](" not in summary
    assert "| AUC | 0.7680 | 0.7638\u00a0to\u00a00.7722 | 0.7590 |" in summary
    many = verdict.model_copy(update={"checks": verdict.failures * 40})
    assert "and 50 more; the report lists them all" in markdown(many, None)


def test_a_rejection_without_a_failing_check_is_explained() -> None:
    verdict = recorded()[0].model_copy(update={"checks": ()})
    assert headline(verdict).endswith("no check passed.")


def test_numbers_have_the_digits_that_their_interval_can_tell() -> None:
    assert exact(0.76812, (0.7641, 0.7722)) == "0.7681"
    assert exact(0.76812, (0.71, 0.82)) == "0.77"
    assert exact(-0.0004, (-0.3, 0.3), signed=True) == "0.00"
    assert exact(0.012, None, signed=True) == "+0.012"
    assert exact(-84_123.0, None) == "−84,123"
    assert span((-0.001, 0.01), signed=True) == "−0.001\u00a0to\u00a0+0.010"
    assert probability(1e-9) == "<\u00a00.001"
    assert probability(None) == "–"
