"""Outcomes of an A/B test that come as files: late, twice, of others, or not at all."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airworthy.errors import ConfigError, DataError, ServingError
from airworthy.model_spec import Experiment
from airworthy.rollout.effects import EffectInterval
from airworthy.rollout.record import Outcome
from airworthy.rollout.signals.choose import choose, choose_outcomes
from airworthy.rollout.signals.outcomes import OutcomeCounts, OutcomeFiles
from airworthy.rollout.signals.prediction_log import PredictionLogSignals
from airworthy.serving.observation import Arm

START = 1_700_000_000.0
ARMS: dict[Arm, str] = {"stable": "1", "canary": "2"}


@dataclass
class Split:
    """A prediction log and a folder of outcomes, with a clock; both are told to one `OutcomeFiles`."""

    folder: Path
    now: float = START
    limits: tuple[int, int] = (1000, 1000)
    share: float = 0.5
    parts: int = 0

    def __post_init__(self) -> None:
        self.hour = datetime.fromtimestamp(START, UTC)
        self.log = self.folder / "log" / f"date={self.hour:%Y-%m-%d}" / f"hour={self.hour:%H}"
        self.log.mkdir(parents=True)
        (self.folder / "outcomes").mkdir()
        requests, unknown = self.limits
        self.outcomes = OutcomeFiles(
            self.folder / "outcomes",
            "bought",
            most_requests=requests,
            most_unknown=unknown,
            clock=lambda: self.now,
        )
        self.signals = PredictionLogSignals(
            self.folder / "log", lag=5, clock=lambda: self.now, on_request=self.outcomes.drawn
        )
        asyncio.run(self.signals.poll(self.share, ARMS))

    def serve(self, *rows: tuple[str, float, str]) -> None:
        """Requests: id, seconds since the start, model version."""
        ids, at, versions = zip(*rows, strict=True)
        n = len(rows)
        table = pa.table(
            {
                "request_id": ids,
                "row": pa.array([0] * n, pa.int32()),
                "at": [self.hour + timedelta(seconds=seconds) for seconds in at],
                "model": ["late"] * n,
                "model_version": versions,
                "digest": [""] * n,
                "status": pa.array([200] * n, pa.int16()),
                "seconds": [0.001] * n,
                "score": [0.5] * n,
            }
        )
        pq.write_table(table, self._part(self.log))

    def report(self, *outcomes: tuple[str | None, Any]) -> Path:
        """Outcomes: request id, value."""
        ids, values = zip(*outcomes, strict=True)
        part = self._part(self.folder / "outcomes")
        pq.write_table(pa.table({"request_id": ids, "bought": values, "other": [0] * len(ids)}), part)
        return part

    def poll(self, later: float = 10.0, since: float = START) -> list[tuple[float, bool]]:
        """What is known some seconds later: value, whether it is the canary's."""
        return [(one.value, one.canary) for one in self.told(later, since)]

    def told(self, later: float = 10.0, since: float = START) -> Sequence[Outcome]:
        self.now += later

        async def both() -> list[Outcome]:
            await self.signals.poll(self.share, ARMS)
            return await self.outcomes.poll(since)

        return asyncio.run(both())

    def _part(self, folder: Path) -> Path:
        self.parts += 1
        return folder / f"part-{self.parts:05d}.parquet"


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return Split(tmp_path)


def test_outcomes_find_their_requests_in_the_order_of_these(split: Split) -> None:
    split.serve(("a", 1, "1"), ("b", 3, "2"), ("c", 2, "2"))
    split.report(("b", 1.0), ("a", 0.25), ("c", 0.0))
    assert split.told() == [Outcome(0.25, False, 0.5), Outcome(0.0, True, 0.5), Outcome(1.0, True, 0.5)]
    assert split.told() == []


def test_a_late_outcome_is_matched_when_it_comes(split: Split) -> None:
    split.serve(("a", 1, "2"))
    assert split.poll() == []
    assert split.poll(later=3600) == []
    split.report(("a", True))
    assert split.poll() == [(1.0, True)]


def test_an_outcome_waits_for_a_request_that_the_log_tells_later(split: Split) -> None:
    split.report(("a", 1))
    assert split.poll() == []
    split.serve(("a", 8, "1"))
    assert split.poll() == [(1.0, False)]


def test_each_request_counts_once_with_its_first_outcome(split: Split) -> None:
    split.report(("early", 0.0), ("early", 1.0))
    split.serve(("a", 1, "1"), ("early", 2, "2"))
    split.report(("a", 1.0), ("a", 0.0))
    assert split.poll() == [(1.0, False), (0.0, True)]
    split.report(("a", 0.0))
    assert split.poll() == []
    assert split.outcomes.counts == OutcomeCounts(matched=2, repeated=3)


def test_a_retry_counts_as_its_first_try(split: Split) -> None:
    split.serve(("a", 1, "2"), ("a", 1.5, "1"))
    split.report(("a", 1.0))
    assert split.poll() == [(1.0, True)]


def test_what_is_no_outcome_is_ignored_and_counted(split: Split, caplog: pytest.LogCaptureFixture) -> None:
    split.serve(*((name, 1, "1") for name in "abcde"))
    split.report(("a", math.nan), ("b", None), ("c", -0.1), ("d", 1.5), ("e", 0.5), (None, 0.5), ("", 1.0))
    assert split.poll() == [(0.5, False)]
    assert split.outcomes.counts == OutcomeCounts(matched=1, missing=4, outside=2)
    assert "ignored so far: 4 null, NaN or without a request id, 2 below 0 or above 1" in caplog.text
    split.report(("a", 1.0))
    assert split.poll() == [(1.0, False)], "a valid one may still come"


def test_outcomes_of_others_tell_nothing(split: Split) -> None:
    split.serve(("old", 1, "1"), ("another version's", 2, "9"), ("ours", 5, "2"))
    split.report(("old", 1.0), ("another version's", 1.0), ("nobody's", 1.0), ("ours", 1.0))
    assert split.poll(since=START + 3) == [(1.0, True)]


def test_requests_count_only_while_the_split_is_what_was_asked_for(split: Split) -> None:
    split.serve(("a", 1, "2"))
    split.now += 10
    asyncio.run(split.signals.poll(0.5, ARMS))
    split.outcomes.skip()
    split.report(("a", 1.0))
    assert split.poll() == []


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_without_a_split_there_is_nothing_to_compare(tmp_path: Path, share: float) -> None:
    split = Split(tmp_path, share=share)
    split.serve(("a", 1, "2"), ("b", 1, "1"))
    split.report(("a", 1.0), ("b", 1.0))
    assert split.poll() == []


def test_memory_is_bounded_and_what_is_forgotten_is_counted(tmp_path: Path) -> None:
    split = Split(tmp_path, limits=(2, 3))
    split.serve(("a", 1, "1"), ("b", 2, "1"), ("c", 3, "2"))
    split.report(*((f"nobody's {i}", 1.0) for i in range(4)))
    assert split.poll() == []
    assert split.outcomes.counts.forgotten == 2
    split.report(("a", 1.0), ("b", 0.0), ("c", 1.0))
    assert split.poll() == [(0.0, False), (1.0, True)]


@pytest.mark.parametrize(
    "value", [True, 1, pa.scalar(1.0, pa.float32()), pa.scalar(Decimal(1), pa.decimal128(3, 2))]
)
def test_outcomes_may_be_booleans_or_numbers_in_folders(split: Split, value: Any) -> None:
    split.serve(("a", 1, "1"))
    folder = split.folder / "outcomes" / "date=2023-11-14"
    folder.mkdir()
    ids = pa.array(["a"]).dictionary_encode()
    pq.write_table(pa.table({"request_id": ids, "bought": pa.array([value])}), folder / "x.parquet")
    assert split.poll() == [(1.0, False)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"request_id": ["a"], "sold": [1.0]}, "has no column 'bought'"),
        ({"id": ["a"], "bought": [1.0]}, "has no column 'request_id'"),
        (
            {"request_id": ["a"], "bought": ["yes"]},
            "'bought' is of type string; it must be boolean or a number",
        ),
        ({"request_id": [7], "bought": [1.0]}, "'request_id' is of type int64, but request ids are strings"),
    ],
)
def test_a_part_with_other_columns_is_refused(split: Split, table: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(table), split.folder / "outcomes" / "x.parquet")
    with pytest.raises(DataError, match=rf"x\.parquet: .*{message}"):
        split.poll()


def test_a_part_that_is_being_written_is_read_once_it_is_whole(split: Split) -> None:
    split.serve(("a", 1, "1"), ("b", 2, "2"))
    part = split.report(("a", 1.0))
    whole = part.read_bytes()
    part.write_bytes(whole[:20])
    split.report(("b", 1.0)).rename(part.with_name("_hidden.parquet"))
    split.report(("b", 0.0))
    assert split.poll() == [(0.0, True)]
    part.write_bytes(whole)
    assert split.poll() == [(1.0, False)]


def test_a_damaged_part_is_an_error_if_it_stays(split: Split) -> None:
    (split.folder / "outcomes" / "x.parquet").write_bytes(b"never")
    split.poll()
    with pytest.raises(ServingError, match=r"has not answered for 120 s.*x\.parquet can't be read"):
        split.poll(later=200)


def test_a_folder_that_is_gone_is_an_error_if_it_stays(split: Split) -> None:
    (split.folder / "outcomes").rmdir()
    split.poll()
    with pytest.raises(ServingError, match="is no folder"):
        split.poll(later=200)


def test_an_experiment_without_any_outcome_ends_with_a_warning(
    split: Split, caplog: pytest.LogCaptureFixture
) -> None:
    split.serve(("a", 1, "1"))
    split.report(("b", 1.0), ("c", 1.0))
    split.poll()
    split.outcomes.close()
    assert (
        "0 of requests in the split; 1 requests without one; 2 of requests that are not known" in caplog.text
    )


@pytest.mark.parametrize("effect", [0.0, 0.1])
def test_the_effect_is_recovered_whatever_happens_to_the_files(tmp_path: Path, effect: float) -> None:
    """4,000 requests, a third of the outcomes before, a third after their requests are told, some more than once."""
    random.seed(7)
    split, interval = Split(tmp_path, limits=(5000, 5000)), EffectInterval()
    late: list[tuple[str | None, float]] = []
    for portion in range(8):
        rows, soon = [], list(late)
        late = []
        for i in range(500):
            name, canary = f"{portion}-{i}", random.random() < 0.5
            rows.append((name, portion * 10 + i / 50, "2" if canary else "1"))
            outcome = (name, float(random.random() < 0.4 + effect * canary))
            (soon if random.random() < 2 / 3 else late).append(outcome)
            if random.random() < 0.1:
                late.append((name, 1.0 - outcome[1]) if outcome in soon else outcome)
        split.report(*soon, (f"nobody's {portion}", 1.0), (f"{portion}-0", math.nan))
        split.serve(*rows)
        for one in split.told():
            interval.observe(one.value, one.canary, one.share)
    split.report(*late)
    for one in split.told():
        interval.observe(one.value, one.canary, one.share)
    low, high = interval.interval
    assert interval.n == 4000
    assert low <= effect <= high
    assert (low > 0) == (effect > 0)


def test_the_environment_says_where_outcomes_come(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRWORTHY_OUTCOMES", str(tmp_path))
    monkeypatch.setenv("AIRWORTHY_SIGNALS", f"prediction-log:{tmp_path}")
    assert choose_outcomes(None) is None
    outcomes = choose_outcomes(Experiment(outcome="bought"))
    assert choose(outcomes=outcomes).named_by == "version"
    monkeypatch.setenv("AIRWORTHY_SIGNALS", "prometheus:http://127.0.0.1:9090")
    with pytest.raises(ConfigError, match="which model had which request; set it to prediction-log:FOLDER"):
        choose(outcomes=outcomes)


@pytest.mark.parametrize("folder", [None, "missing"])
def test_an_experiment_needs_a_folder_of_outcomes(
    folder: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AIRWORTHY_OUTCOMES", raising=False)
    if folder:
        monkeypatch.setenv("AIRWORTHY_OUTCOMES", str(tmp_path / folder))
    with pytest.raises(ConfigError, match=r"AIRWORTHY_OUTCOMES.*'bought' of each request comes"):
        choose_outcomes(Experiment(outcome="bought"))
