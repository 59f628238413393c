"""Pages load nothing, escape everything and stay small."""

import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airworthy.reports import STYLE, badge, details, facts, jump, number, page, section, table
from airworthy.reports.charts import Row, bars, forest, lines
from airworthy.reports.inline import SHAPES, covering, shape
from airworthy.reports.lights import counted, lights, state_of
from airworthy.verdict import AppliedOverride, Check, Verdict

finite = st.floats(-1e9, 1e9, allow_nan=False)


def test_a_page_loads_nothing_and_escapes_what_it_is_given() -> None:
    body = section(
        "<s>", table(["<h>"], [["<script>alert(1)</script>"]], outcomes=["fail"]), facts({"<k>": "<v>"})
    )
    html = page("<title>", body, subtitle="<sub>", outcome="fail")
    assert "<script" not in html
    assert not re.search(r"(src|href)=|url\(|@import|https?:", html)
    assert "&lt;h&gt;" in html
    assert badge("fail") in html
    assert len(html) < 20_000


def test_numbers_read_well() -> None:
    assert number(None) == "–"
    assert number(True) == "True"
    assert number(1234567) == "1,234,567"
    assert number(0.123456) == "0.1235"
    assert number(123456.7) == "123,457"


def test_an_empty_table_says_so() -> None:
    assert "Nothing to show" in table(["a"], [])


@given(st.dictionaries(st.text(max_size=8), st.lists(st.tuples(finite, finite), max_size=20), max_size=4))
def test_any_finite_series_draws_inside_the_frame(series: dict[str, list[tuple[float, float]]]) -> None:
    svg = lines("chart", series, reference=[(0, 0), (1, 1)], reference_label="even")
    for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", svg):
        assert 0 <= float(x) <= 460
        assert -1 <= float(y) <= 270
    assert "nan" not in svg


def test_a_logarithmic_axis_labels_decades() -> None:
    svg = lines("e-values", {"errors": [(0, 1.0), (100, 1000.0)]}, log_y=True, steps=True)
    assert ">10<" in svg
    assert ">100<" in svg


def test_bars_are_proportional_and_show_the_limit() -> None:
    svg = bars("PSI", {"a": 1.0, "b": 0.5, "c": 0.0}, limit=0.8)
    widths = [float(w) for w in re.findall(r'width="([\d.]+)" height="14"', svg)]
    assert widths[0] == 2 * widths[1] > widths[2] == 0
    assert 'class="dash"' in svg


def test_marks_limits_regions_and_bands_are_drawn_inside_the_frame() -> None:
    svg = lines(
        "evidence",
        {"a": [(0, 1), (10, 50)], "b": [(0, 1), (10, 2)]},
        limits={"a": 40.0},
        marks=[(2.0, "early <b>"), (9.0, "late")],
        regions=[(0, 5, "verifying"), (5, 5.1, "a label too long"), (5.1, 10, "baking")],
        bands={"a": ([(0, 0.5), (10, 0.5)], [(0, 2.0), (10, 2.0)])},
        whiskers={"b": [(0, 0.5, 1.5), (10, 1.0, 3.0)]},
    )
    assert "early &lt;b&gt;" in svg
    assert 'text-anchor="end">late' in svg
    assert "a label too long" not in svg
    assert svg.count("stroke-dasharray:5 4") == 1
    assert svg.count('class="f0" style="opacity:.18"') == 1
    assert svg.count('<rect class="f1"') == 2  # the second line's dots
    for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", svg):
        assert 0 <= float(x) <= 460
        assert 0 <= float(y) <= 270


def test_lines_are_told_apart_without_colour() -> None:
    svg = lines("chart", {name: [(0, 0), (1, 1)] for name in "abcdefgh"})
    drawn = re.findall(r'<path class="line (s\d)"([^>]*) d="M60', svg)
    assert len(set(drawn)) == 8
    assert len({dash for _, dash in drawn[:4]}) == 4


def test_a_jump_leads_to_an_anchor() -> None:
    html = str(jump("to", "a&b")) + section("S", "x", anchor="a&b") + details("more", "y", anchor="d")
    assert '<a href="#a&amp;b">to</a>' in html
    assert '<section id="a&amp;b">' in html
    assert '<details id="d">' in html


def test_what_nobody_may_overlook_stands_above_the_heading() -> None:
    html = page("title", "body", top="<p>alarm</p>")
    assert html.index("alarm") < html.index("<h1>")


numbers = st.floats(-1e6, 1e6, allow_nan=False)


@given(
    st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=30),
    numbers | st.none(),
    st.booleans(),
)
def test_a_forest_keeps_every_mark_inside_its_column(
    found: list[tuple[float, float, float]], margin: float | None, own: bool
) -> None:
    rows = [Row(f"r{i}", sorted(v)[1], (min(v), max(v)), margin=margin) for i, v in enumerate(found)]
    html = forest("title", rows, ["row"], margin=margin, own_scales=own)
    places = [float(x) for x in re.findall(r'[" ](?:x|x1|x2)="([\d.-]+)%"', html)]
    assert all(0 <= place <= 100 for place in places)
    assert html.count("<tr>") == len(rows) + 1
    assert "nan" not in html


def test_a_forest_orders_marks_as_their_values_and_has_a_shape_for_every_outcome() -> None:
    rows = [
        Row("low", -1.0, (-2.0, 0.0), "pass"),
        Row("high", 3.0, (2.5, 3.5), "fail", cells=("<b>", 1234)),
    ]
    html = forest("differences", rows, ["slice", "note", "rows"], margin=1.0, reference_label="none")
    marks = [
        float(x) for x in re.findall(r'<svg x="([\d.]+)%" y="12"><(?:circle r|path d="M0-\d+\.\dL)', html)
    ]
    assert marks[0] < marks[1]
    assert "&lt;b&gt;" in html
    assert "1,234" in html
    assert "worse than tolerated" in html
    assert len({shape(kind, 5) for kind in (*SHAPES, "other")}) == 5


def test_an_empty_forest_says_so() -> None:
    assert "nothing to show" in forest("differences", [], ["slice"])


def test_one_absurd_interval_does_not_flatten_the_others() -> None:
    intervals = [(-1.0, 1.0)] * 29 + [(-500.0, 900.0)]
    axis = covering([0.0] * 30, intervals)
    assert axis.high < 2
    html = forest("d", [Row(str(i), 0.0, interval) for i, interval in enumerate(intervals)], ["slice"])
    assert html.count("M5-4L0 0L5 4") == 1  # an arrow: it goes on
    assert html.count("M-5-4L0 0L-5 4") == 1
    assert covering([0.0, 1.0], [(-1.0, 1.0), (0.5, 1.5)]).high > 1.5


def verdict(*checks: Check) -> Verdict:
    return Verdict(
        model="m", status="rejected", checks=checks, bundle_digest="", champion_version=None, data_fingerprint="",
        policy_digest="",
    )  # fmt: skip


def check(family: str, outcome: str, *, blocking: bool = True, person: str = "") -> Check:
    override = (
        AppliedOverride(by=person, reason="we looked at it", until=date(2030, 1, 1)) if person else None
    )
    return Check(
        name="c", family=family, outcome=outcome, blocking=blocking, override=override, reason=f"{outcome} it is.",
    )  # fmt: skip


def test_a_light_shows_what_its_worst_check_means_for_the_release() -> None:
    assert state_of(check("a", "fail")) == "fail"
    assert state_of(check("a", "fail", blocking=False)) == "warn"
    assert state_of(check("a", "fail", person="Ada")) == "overridden"
    assert state_of(check("a", "inconclusive")) == "inconclusive"
    assert state_of(check("a", "inconclusive", blocking=False)) == "unjudged"
    mixed = verdict(
        check("limits", "pass"), check("limits", "warn"), check("limits", "fail"), check("new_one", "pass")
    )
    found = {light.family: light for light in lights(mixed)}
    assert found["limits"].state == "fail"
    assert found["limits"].about == "fail it is."
    assert counted(found["limits"]) == "1 failed, 1 warning, 1 passed"
    assert found["new_one"].title == "New one"
    assert found["fairness"].state == "none"
    assert lights(verdict()) == []


THEMES = [
    re.search(r":root\{(.*?)\}", half, re.S) for half in STYLE.split("@media(prefers-color-scheme:dark)")
]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_words_are_readable_on_their_background_in_both_themes(theme: int) -> None:
    found = THEMES[theme]
    assert found is not None
    colours = dict(re.findall(r"--([\w-]+):(#[0-9a-f]{3,6})\b", found[1]))
    pairs = [(name, "bg") for name in ("fg", "soft", "accent", "pass", "warn", "fail", "inc")]
    pairs += [(name, f"{name}-bg") for name in ("pass", "warn", "fail", "inc")]
    pairs += [("fg", f"{name}-bg") for name in ("pass", "fail", "inc")]
    pairs += [
        ("soft", "panel"),
        ("on-alarm", "alarm"),
        *(("light", n) for n in ("pass", "warn", "fail", "inc")),
    ]
    for front, back in pairs:
        assert contrast(colours[front], colours[back]) >= 4.5, (front, back)


def contrast(front: str, back: str) -> float:
    """Contrast ratio by WCAG 2."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(front), luminance(back)), reverse=True)
    return (high + 0.05) / (low + 0.05)
