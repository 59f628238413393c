"""The page tells at one look why a canary was promoted or rolled back."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from airworthy.errors import RolloutError
from airworthy.operations import main
from airworthy.rollout.replay import replay
from airworthy.rollout.report import render
from airworthy.rollout.timeline import SLICES, Latencies, Thinned, Timeline, seconds_at
from tests.unit.rollout.rollouts import Write, outcomes, pairs, requests, write  # noqa: F401 (a fixture)


def words(html: str) -> str:
    """What a reader sees, without line breaks."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).replace("\N{NO-BREAK SPACE}", " ")


def test_a_pass_names_its_certificate(write: Write, tmp_path: Path) -> None:  # noqa: F811
    judgement = write(tmp_path, requests())
    page = render(tmp_path)
    assert judgement.outcome == "PASS"
    assert f"Version 2 may serve everyone: {judgement.reason}." in words(page)
    assert re.search(r"certificate, at request [\d,]+ after [\d.]+ s, with the canary at \d+ %", words(page))
    assert re.search(r"request [\d,]+: certified", page)
    assert not re.search(r"<script|(src|href)=|url\(|@import|https?:", page)


@pytest.mark.parametrize(
    "seen",
    [
        requests(error=lambda i, arm: 0.3 if arm == "canary" and i > 300 else 0.01),
        requests(slower=4.0),
        requests(each=1, error=lambda i, arm: float(arm == "canary" and i > 50)),
    ],
    ids=["errors", "latency", "dead at 100 %"],
)
def test_a_fail_marks_the_request_that_decided(
    write: Write,  # noqa: F811
    tmp_path: Path,
    seen: list[object],
) -> None:
    judgement = write(tmp_path, seen)
    process = judgement.process
    assert judgement.outcome == "FAIL"
    page = render(tmp_path)
    assert f"Version 2 was rolled back: {judgement.reason}." in words(page)
    assert f"{process}, at request {judgement.index:,} after" in words(page)
    assert page.count(f"request {judgement.index:,}: {process}") == 2, "marked in both charts of evidence"
    assert "failed requests of users came from the canary" in page


def test_lack_of_evidence_says_so(write: Write, tmp_path: Path) -> None:  # noqa: F811
    write(tmp_path, requests(30), ending="exhausted")
    assert "was rolled back for want of evidence" in render(tmp_path)


def test_shadow_and_experiment_have_their_sections(write: Write, tmp_path: Path) -> None:  # noqa: F811
    write(tmp_path, [*pairs(300), *requests(100), *outcomes(3000)], ending="observed")
    text = words(render(tmp_path))
    assert "Requests that both answered 300" in text
    assert "was tried and taken out again, as planned" in text
    effect = replay(tmp_path).told.effect
    assert f"Canary minus stable: {effect.estimate:+.4g}, between" in text
    assert "an effect is shown" in text


def test_a_certificate_that_was_lost_again_counts_from_when_it_came_back() -> None:
    timeline = Timeline()
    for index, certified in enumerate([False, True, True, False, True, True]):
        judge = SimpleNamespace(certified=certified, failure=None, evidence={"certificate": 1.0})
        told = SimpleNamespace(judge=judge)
        if not index:
            timeline({"kind": "start", "at": 0.0}, None, cast(Any, told))
        timeline({"kind": "seen"}, replace(requests(1)[0], index=index), cast(Any, told))
    assert timeline.certified is not None
    assert timeline.certified.index == 4


def test_a_fault_and_a_killed_controller_are_named(write: Write, tmp_path: Path) -> None:  # noqa: F811
    write(tmp_path, requests(300), ending=None, fault={"kind": "slow"})
    text = words(render(tmp_path))
    assert "nothing was decided" in text
    assert "its controller was killed" in text
    assert "injected for demonstration: slow" in text


def test_a_rollout_without_a_request_has_a_page(write: Write, tmp_path: Path) -> None:  # noqa: F811
    write(tmp_path, [], ending="unusable")
    assert "No request was observed." in render(tmp_path)


def test_a_changed_record_says_so_on_its_page(write: Write, tmp_path: Path) -> None:  # noqa: F811
    write(tmp_path, requests(100), ending="exhausted")
    file = tmp_path / "record.jsonl"
    file.write_text(file.read_text().replace('"percent":10', '"percent":11'))
    assert "its seal is broken" in render(tmp_path)


def test_long_rollouts_have_small_pages(write: Write, tmp_path: Path) -> None:  # noqa: F811
    write(tmp_path, requests(20_000, each=6000))
    timeline = Timeline()
    replay(tmp_path, timeline)
    assert 200 <= len(timeline.wealth.points) <= 500
    assert timeline.requests == 20_200
    assert len(render(tmp_path)) < 100_000


def test_the_page_is_written_beside_the_record(write: Write, tmp_path: Path) -> None:  # noqa: F811
    write(tmp_path, requests(100), ending="exhausted")
    assert main(["report", str(tmp_path / "record.jsonl")]) == 0
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "other" / "page.html")]) == 0
    assert (tmp_path / "report.html").read_text() == (tmp_path / "other" / "page.html").read_text()
    with pytest.raises(RolloutError, match="there is no rollout record"):
        render(tmp_path / "other")


def test_steps_count_what_happened_in_them(write: Write, tmp_path: Path) -> None:  # noqa: F811
    seen = requests(1200, error=lambda i, arm: 0.02)
    write(tmp_path, seen)
    timeline = Timeline()
    replay(tmp_path, timeline)
    assert [(step.state, step.percent) for step in timeline.steps] == [
        ("starting", 0),
        ("verifying", 0),
        ("shifting", 10),
        ("shifting", 50),
        ("baking", 100),
        ("proven", 100),
    ]
    shifting = timeline.steps[2]
    assert shifting.arms["stable"].requests + shifting.arms["canary"].requests == 400
    failed = sum(tally.failed for step in timeline.steps for tally in step.arms.values())
    assert failed == sum(one.failed for one in seen)
    assert all(a.end == b.begin for a, b in zip(timeline.steps, timeline.steps[1:], strict=False))


def test_latency_slices_merge_without_losing_answers() -> None:
    latencies, dice = Latencies(), random.Random(1)
    times = [dice.lognormvariate(-6, 0.5) for _ in range(5000)]
    for i, seconds in enumerate(times):
        latencies.add(i * 0.05, "canary" if i % 2 else "stable", seconds, 1)
    assert len(latencies.slices) <= SLICES
    whole = latencies.total("stable") + latencies.total("canary")
    assert whole.total() == 5000
    for q in (0.5, 0.95, 0.99):
        exact = sorted(times)[int(q * 5000) - 1]
        assert seconds_at(whole, q) == pytest.approx(exact, rel=0.02)
    assert {y > 0 for _, y in latencies.series("canary", 0.95)} == {True}


def test_thinned_series_keep_their_beginning_and_their_order() -> None:
    series = Thinned()
    for x in range(100_000):
        if series.due():
            series.keep(x, {"y": float(x)})
    xs = [x for x, _ in series.series("y")]
    assert xs[0] == 0
    assert xs == sorted(xs)
    assert xs[-1] > 99_000
