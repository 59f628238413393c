"""The record gives the decision back bit for bit, and shows every damage."""

from __future__ import annotations

import dataclasses
import json
import random
import tracemalloc
from pathlib import Path

import pytest

from airworthy.errors import RolloutError
from airworthy.operations import main
from airworthy.rollout.judge import Settings
from airworthy.rollout.record import BATCH, LINES, SUMMARY, Polled, RecordWriter, Seen
from airworthy.rollout.replay import find_record, replay
from airworthy.serving.observation import Observation
from tests.unit.rollout.rollouts import Write, facts, outcomes, pairs, requests, write  # noqa: F401 (a fixture)


def mixed() -> list[Seen]:
    """Requests and pairs in turn, odd fields included, then outcomes."""
    seen: list[Seen] = []
    shadow = pairs(150)
    for i, one in enumerate(requests(600)):
        seen.append(dataclasses.replace(one, repeat=i % 11 == 0, count=3 if i % 50 == 0 else 1))
        if i < 200 and i % 4 and shadow:
            seen.append(shadow.pop(0))
    return [*seen, *outcomes(130)]


def test_everything_seen_comes_back_in_order(write: Write, tmp_path: Path) -> None:  # noqa: F811
    given = mixed()
    judgement = write(tmp_path, given)
    heard: list[Seen] = []
    found = replay(tmp_path, lambda line, seen, told: heard.append(seen) if seen else None)
    strip = [dataclasses.replace(s, at=0.0) if isinstance(s, Observation) else s for s in heard]
    assert strip == [dataclasses.replace(s, at=0.0) if isinstance(s, Observation) else s for s in given]
    assert (found.agrees, found.problem) == (True, "")
    assert found.judgement == judgement
    assert found.told.counts == {"requests": 800, "pairs": 150, "outcomes": 130}
    assert found.told.effect.n == 130
    assert replay(tmp_path / LINES).agrees


def test_polls_of_the_same_moment_stay_apart(write: Write, tmp_path: Path) -> None:  # noqa: F811
    sums = [dataclasses.replace(one, count=5) for one in requests(400, error=lambda i, arm: 0.1)]
    seen: list[Seen] = []
    for i, one in enumerate(sums):
        seen += [one, Polled()] if i % 3 == 0 else [one]
    write(tmp_path, seen, ending="exhausted")
    assert replay(tmp_path).agrees


@pytest.mark.parametrize("seed", range(3))
def test_any_flipped_byte_shows(write: Write, tmp_path: Path, seed: int) -> None:  # noqa: F811
    write(tmp_path, requests(60, seed=seed), ending="exhausted")
    whole = (tmp_path / LINES).read_bytes()
    dice = random.Random(seed)
    for _ in range(60):
        position, flip = dice.randrange(len(whole)), 1 << dice.randrange(8)
        damaged = bytearray(whole)
        damaged[position] ^= flip
        (tmp_path / LINES).write_bytes(damaged)
        assert shows(tmp_path), f"byte {position} ^ {flip}"


def shows(folder: Path) -> bool:
    """Whether a replay finds something wrong."""
    try:
        return not replay(folder).agrees
    except RolloutError as error:
        return "\n" not in str(error)


def test_lines_that_are_gone_doubled_swapped_or_added_show(write: Write, tmp_path: Path) -> None:  # noqa: F811
    write(tmp_path, requests(400))
    whole = (tmp_path / LINES).read_bytes().splitlines(keepends=True)
    for i in range(len(whole) - 1):
        for changed in (
            whole[:i] + whole[i + 1 :],
            whole[: i + 1] + whole[i:],
            [*whole[:i], whole[i + 1], whole[i], *whole[i + 2 :]],
            whole[:i],
        ):
            (tmp_path / LINES).write_bytes(b"".join(changed))
            assert shows(tmp_path), f"line {i}"
    (tmp_path / LINES).write_bytes(b"".join(whole) + whole[-2])
    assert "its seal is broken" in replay(tmp_path).problem


def test_an_edited_observation_changes_the_decision_and_the_seal(write: Write, tmp_path: Path) -> None:  # noqa: F811
    write(tmp_path, requests(900))
    file = tmp_path / LINES
    text = file.read_text()
    file.write_text(text.replace('"canary",0.5,"ok"', '"canary",0.5,"error"'))
    found = replay(tmp_path)
    assert found.judgement is not None
    assert (found.judgement.outcome, found.recorded and found.recorded["outcome"]) == ("FAIL", "PASS")
    assert "its seal is broken" in found.problem
    assert main(["replay", str(tmp_path)]) == 1


def test_a_summary_that_says_something_else_shows(write: Write, tmp_path: Path) -> None:  # noqa: F811
    write(tmp_path, requests(60), ending="exhausted")
    summary = json.loads((tmp_path / SUMMARY).read_text())
    (tmp_path / SUMMARY).write_text(json.dumps({**summary, "decision": "PASS"}))
    assert "it says PASS, but the record INCONCLUSIVE" in replay(tmp_path).problem
    (tmp_path / SUMMARY).write_text("{")
    with pytest.raises(RolloutError, match="damaged summary"):
        replay(tmp_path)


def test_a_killed_controllers_record_is_told_as_such(
    write: Write,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path, requests(300), ending=None)
    file = tmp_path / LINES
    file.write_bytes(file.read_bytes()[:-7])  # in the middle of a line
    found = replay(tmp_path)
    assert found.judgement is None
    assert "its controller was killed" in found.problem
    assert main(["replay", str(tmp_path)]) == 1
    assert "its controller was killed): nothing was decided" in capsys.readouterr().err


def test_a_rollout_that_broke_off_says_why(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.write("start", **facts(Settings()))
    writer.close({"decision": "INCONCLUSIVE", "reason": "the stable model's server ended"})
    assert replay(tmp_path).problem.endswith("the stable model's server ended")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a rollout record"),
        ('{"kind":"seen"}\n', "not a rollout record"),
        ("[]\n", "damaged rollout record"),
        ('{"kind":"start","judge":0}\n', "judged by rules number 0"),
        ("\x00\xff\n", "damaged rollout record"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / LINES).write_text(text)
    with pytest.raises(RolloutError, match=complaint):
        replay(tmp_path)
    with pytest.raises(RolloutError, match="there is no rollout record"):
        replay(tmp_path / "nowhere")


def test_the_newest_record_of_a_run_service_or_model_is_found(write: Write, tmp_path: Path) -> None:  # noqa: F811
    older, newer = (tmp_path / f"runs/{name}/tasks/canary/outputs/record" for name in ("one", "two"))
    write(older, requests(10), ending="exhausted")
    write(newer, requests(10), ending="exhausted")
    (older / LINES).touch()
    (newer.parent / "empty").mkdir()
    (newer.parent / "empty" / LINES).touch()
    assert find_record("late", tmp_path) == older
    assert find_record("two", tmp_path) == newer
    assert find_record(str(newer), tmp_path) == newer
    with pytest.raises(RolloutError, match="neither a rollout record nor a run, service or model"):
        find_record("nobody", tmp_path)


def test_usual_fields_cost_nothing(write: Write, tmp_path: Path) -> None:  # noqa: F811
    write(tmp_path, requests(1000))
    assert (tmp_path / LINES).stat().st_size < 110 * 1200
    rows = next(
        line["requests"]
        for line in map(json.loads, (tmp_path / LINES).read_text().splitlines())
        if line["kind"] == "seen"
    )
    assert {len(row) for row in rows} == {7}


def test_what_cannot_be_written_is_raised_with_the_next_transition_only(tmp_path: Path) -> None:
    (tmp_path / LINES).symlink_to("/dev/full")
    writer = RecordWriter(tmp_path)
    seen = requests(BATCH)
    assert not any(writer.observe(one) for one in seen), "in the middle of a user's request nothing is raised"
    assert writer.failure
    with pytest.raises(RolloutError, match=r"record\.jsonl can't be written: No space left on device"):
        writer.write("state", before="verifying", after="shifting")
    writer.close({"decision": "INCONCLUSIVE", "reason": "disk full"})
    assert json.loads((tmp_path / SUMMARY).read_text())["decision"] == "INCONCLUSIVE"


def test_replaying_a_long_record_takes_little_memory(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    short = requests(20_000)
    writer.write("start", **facts(Settings()))
    for one in short:
        writer.observe(one)
    writer.write("note", text="no end")
    del short
    tracemalloc.start()
    replay(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_500_000
