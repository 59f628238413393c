"""Pages load nothing, escape everything and stay small."""

import re

from hypothesis import given
from hypothesis import strategies as st

from airworthy.reports import badge, facts, number, page, section, table
from airworthy.reports.charts import bars, lines

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
        band=([(0, 0.5), (10, 0.5)], [(0, 2.0), (10, 2.0)]),
    )
    assert "early &lt;b&gt;" in svg
    assert 'text-anchor="end">late' in svg
    assert "a label too long" not in svg
    assert svg.count("stroke-dasharray:5 4") == 1
    for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", svg):
        assert 0 <= float(x) <= 460
        assert 0 <= float(y) <= 270
