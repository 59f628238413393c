"""The prediction log: nothing is held up, what is visible is whole, what is lost is counted."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airworthy.bundle import BundleInfo, read_bundle_info
from airworthy.errors import ConfigError, DataError
from airworthy.serving import prediction_log as module
from airworthy.serving.prediction_files import (
    host_tag,
    part_prefix,
    read_predictions,
    remove_stale,
    retain,
    write_part,
)
from airworthy.serving.prediction_log import LogOptions, PredictionLog
from airworthy.serving.prediction_rows import SALT
from airworthy.serving.predictor import Prediction
from tests.release_evidence import Evidence

ROW: dict[str, Any] = {"hour": 9, "distance": 800.0, "carrier": "AA"}
NOON = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
FOREVER = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def info(judged: Evidence) -> BundleInfo:
    return read_bundle_info(judged.bundle)


def start(folder: Path, info: BundleInfo, **options: Any) -> PredictionLog:
    return PredictionLog(
        LogOptions(folder, **{"keep_days": 36_500.0, **options}),
        info,
        model="late",
        version="7",
        digest="d" * 64,
        arm="stable",
    )


def offer(
    log: PredictionLog, *scores: float, at: datetime = NOON, given: Any = None, status: int = 200
) -> None:
    prediction = Prediction(list(scores), given or [ROW] * len(scores)) if scores else None
    log.offer(f"r{at:%H%M%S}", at.timestamp(), status, 0.0005, prediction, 100)


def rows(folder: Path, **which: Any) -> list[dict[str, Any]]:
    return [row for batch in read_predictions(folder, *FOREVER, **which) for row in batch.to_pylist()]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def test_rows_come_back_as_they_were_seen(tmp_path: Path, info: BundleInfo) -> None:
    log = start(tmp_path, info)
    offer(log, 0.3999, 0.4, given=[ROW, {"hour": 7.0, "distance": None, "carrier": "ZZ", "ignored": 1}])
    offer(log, at=NOON + timedelta(hours=1), status=400)
    log.close()
    low, high, refused = rows(tmp_path)
    assert low == {
        "request_id": "r123000",
        "row": 0,
        "at": NOON,
        "model": "late",
        "model_version": "7",
        "digest": "d" * 64,
        "arm": "stable",
        "status": 200,
        "seconds": 0.0005,
        "score": 0.3999,
        "decision": False,
        "feature.hour": 9,
        "feature.distance": 800.0,
        "feature.carrier": "AA",
    }
    assert (high["row"], high["score"], high["decision"]) == (1, 0.4, True)  # the threshold itself means yes
    assert (high["feature.hour"], high["feature.distance"], high["feature.carrier"]) == (7, None, "ZZ")
    assert (refused["status"], refused["score"], refused["decision"], refused["feature.hour"]) == (
        400,
        *[None] * 3,
    )
    folders = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*"))
    assert folders == ["date=2026-03-01/hour=12", "date=2026-03-01/hour=13"]


def test_tensors_and_odd_numbers_are_written_too(tmp_path: Path, info: BundleInfo) -> None:
    log = start(tmp_path, info)
    columns = {"hour": [2**70, 3], "distance": [2**60, float("nan")], "carrier": ["AA", None]}
    offer(log, 0.1, 0.2, given=columns)
    log.close()
    first, second = rows(tmp_path)
    assert (first["feature.hour"], first["feature.distance"]) == (None, 2.0**60)  # no int64 holds the hour
    assert (second["feature.hour"], second["feature.distance"]) == (3, None)
    assert sum(log.dropped.values()) == 0


def test_many_rows_are_written_in_order(tmp_path: Path, info: BundleInfo) -> None:
    log = start(tmp_path, info, flush_rows=700)
    for k in range(10):
        offer(log, *[0.5] * 100, given=[{**ROW, "hour": 100 * k + j} for j in range(100)])
    log.close()
    assert sorted(row["feature.hour"] for row in rows(tmp_path)) == list(range(1000))
    assert log.written == 1000


def test_a_flush_needs_no_more_than_time(tmp_path: Path, info: BundleInfo) -> None:
    log = start(tmp_path, info, flush_seconds=0.05)
    offer(log, 0.5)
    until(lambda: log.written == 1)
    assert len(rows(tmp_path)) == 1
    log.close()


def test_steady_traffic_is_written_in_few_parts_and_does_not_put_off_retention(
    tmp_path: Path, info: BundleInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[int] = []
    retained: list[int] = []
    log: PredictionLog

    def write(_: Path, __: datetime, ___: str, table: pa.Table) -> None:
        parts.append(table.num_rows)
        if len(parts) < 50:
            offer(log, 0.5)  # traffic does not stop while a part is written

    monkeypatch.setattr(module, "write_part", write)
    monkeypatch.setattr(module, "retain", lambda *_: retained.append(len(parts)))
    log = start(tmp_path, info, flush_seconds=0.05)
    offer(log, 0.5)
    until(lambda: bool(retained))
    assert retained == [1]
    log.close()


def test_looking_through_a_large_log_takes_a_hundredth_of_the_time_at_most(
    tmp_path: Path, info: BundleInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[float] = []

    def slow(*_: object) -> None:
        began.append(time.monotonic())
        time.sleep(0.005)

    monkeypatch.setattr(module, "RETAIN_SECONDS", 0.0)
    monkeypatch.setattr(module, "retain", slow)
    log = start(tmp_path, info, flush_seconds=0.01)
    until(lambda: len(began) == 2)
    log.close()
    assert began[1] - began[0] >= 0.5


def test_a_full_queue_drops_and_counts(
    tmp_path: Path, info: BundleInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_ROWS", 10)
    log = start(tmp_path, info, flush_seconds=3600)
    for _ in range(12):
        offer(log, 0.5)
    offer(log, *[0.5] * 3)
    assert (log.waiting, log.dropped["queue"]) == (10, 5)
    log.close()
    assert log.written == len(rows(tmp_path)) == 10


def test_large_bodies_fill_the_queue_before_many_rows_do(
    tmp_path: Path, info: BundleInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_BYTES", 250)
    log = start(tmp_path, info, flush_seconds=3600)
    for _ in range(4):
        offer(log, 0.5)
    assert (log.waiting, log.dropped["queue"]) == (2, 2)
    log.close()


def test_features_are_dropped_or_hashed(
    tmp_path: Path, info: BundleInfo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SALT, "pepper")
    options: dict[str, Any] = {"drop": frozenset({"distance"}), "hash": frozenset({"carrier", "nothing"})}
    log = start(tmp_path / "a", info, **options)
    offer(log, 0.1, 0.2, 0.3, given=[ROW, ROW, {**ROW, "carrier": None}])
    log.close()
    monkeypatch.setenv(SALT, "salt")
    other = start(tmp_path / "b", info, **options)
    offer(other, 0.1)
    other.close()
    one, same, null = rows(tmp_path / "a")
    assert "feature.distance" not in one
    assert one["feature.carrier"] == same["feature.carrier"] != rows(tmp_path / "b")[0]["feature.carrier"]
    assert len(one["feature.carrier"]) == 16
    assert null["feature.carrier"] is None
    assert "'nothing'" in caplog.text
    monkeypatch.delenv(SALT)
    with pytest.raises(ConfigError, match=SALT):
        start(tmp_path, info, hash=frozenset({"carrier"}))


def test_the_reader_keeps_to_the_window_the_model_and_the_columns(tmp_path: Path, info: BundleInfo) -> None:
    log = start(tmp_path, info)
    for minutes in (0, 29, 30, 31, 90):
        offer(log, minutes / 100, at=NOON + timedelta(minutes=minutes))
    log.close()
    window = (NOON, NOON + timedelta(minutes=31))
    found = [b.to_pylist() for b in read_predictions(tmp_path, *window, columns=["score", "feature.gone"])]
    assert sorted(row["score"] for batch in found for row in batch) == [0.0, 0.29, 0.3]
    assert {tuple(row) for batch in found for row in batch} == {("score",)}
    assert rows(tmp_path, model="early") == []
    assert rows(tmp_path / "nothing") == []


def test_the_reader_survives_parts_that_vanish_and_names_damaged_ones(
    tmp_path: Path, info: BundleInfo
) -> None:
    log = start(tmp_path, info, flush_rows=1)
    for hours in range(3):
        offer(log, 0.5, at=NOON + timedelta(hours=hours))
    log.close()
    reader = read_predictions(tmp_path, *FOREVER)
    next(reader)
    parts = sorted(tmp_path.glob("*/*/*.parquet"))
    parts[1].unlink()
    assert len(list(reader)) == 1
    parts[0].write_bytes(b"PAR1, but not really")
    with pytest.raises(DataError, match=parts[0].name):
        list(read_predictions(tmp_path, *FOREVER))


def part(folder: Path, hour: datetime, size: int) -> Path:
    return write_part(folder, hour, f"{part_prefix()}-{size}", pa.table({"x": [os.urandom(size)]}))


def test_old_hours_and_the_oldest_parts_beyond_the_limit_are_deleted(tmp_path: Path) -> None:
    hours = [NOON - timedelta(hours=h) for h in (50, 25, 24, 2, 1)]
    parts = [part(tmp_path, hour, 10_000 + k) for k, hour in enumerate(hours)]
    stranger = parts[0].with_name("notes.txt")
    stranger.write_text("mine")
    assert retain(tmp_path, 1.0, 10**9, NOON) == 2
    assert [p.exists() for p in parts] == [False, False, True, True, True]
    assert retain(tmp_path, 1.0, 25_000, NOON) == 1
    assert [p.exists() for p in parts] == [False, False, False, True, True]
    assert stranger.exists()
    assert not parts[1].parent.exists()


def test_temporary_files_of_the_dead_are_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    folder = tmp_path / "date=2026-03-01" / "hour=12"
    folder.mkdir(parents=True)

    def temporary(host: str, pid: int, age: float) -> Path:
        file = folder / f"part-1-{host}-{pid}-1.parquet.incomplete"
        file.write_bytes(b"half")
        os.utime(file, (time.time() - age,) * 2)
        return file

    dead = temporary(host_tag(), ended.pid, 0)
    alive = temporary(host_tag(), os.getppid(), 0)
    elsewhere, old = temporary("00000000", 1, 0), temporary("00000001", 1, 7200)
    assert remove_stale(tmp_path) == 2
    assert [f.exists() for f in (dead, alive, elsewhere, old)] == [False, True, True, False]


WRITER = """
import sys, time
from pathlib import Path
from airworthy.bundle import read_bundle_info
from airworthy.serving.prediction_log import LogOptions, PredictionLog
from airworthy.serving.predictor import Prediction

info = read_bundle_info(Path(sys.argv[1]))
log = PredictionLog(LogOptions(Path(sys.argv[2]), flush_seconds=0.02, flush_rows=200), info, model="late",
                    version="7", digest="d")
k = 0
while True:
    row = {"hour": k % 24, "distance": float(k), "carrier": "AA"}
    log.offer(str(k), time.time(), 200, 0.001, Prediction([0.5], [row]), 60)
    k += 1
    if k % 100 == 0:
        print(k, log.written, flush=True)
        time.sleep(0.002)
"""


def test_killing_the_writer_damages_nothing_that_is_visible(
    tmp_path: Path, judged: Evidence, info: BundleInfo
) -> None:
    """Rows reported as written are there, in order and once; a restart clears what the dead left."""
    for round_ in range(4):
        command = [sys.executable, "-c", WRITER, str(judged.bundle), str(tmp_path / str(round_))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            reported = 0
            while reported < 2000 + 300 * round_:
                reported = int(process.stdout.readline().split()[1])
            process.send_signal(signal.SIGKILL)
        found = sorted(int(row["request_id"]) for row in rows(tmp_path / str(round_), columns=["request_id"]))
        assert found == list(range(len(found)))
        assert len(found) >= reported
        log = start(tmp_path / str(round_), info)
        log.close()
        assert not list((tmp_path / str(round_)).glob("*/*/*.incomplete"))


@contextlib.contextmanager
def file_size_limit(size: int) -> Any:
    """Files beyond it can't be written, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_once_and_serving_goes_on(
    tmp_path: Path, info: BundleInfo, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = start(tmp_path, info, flush_rows=1)
    with file_size_limit(100):
        for k in range(3):
            offer(log, 0.5)
            until(lambda k=k: log.dropped["disk"] == k + 1)  # type: ignore[misc]
    offer(log, 0.5)
    log.close()
    assert (log.written, log.dropped["disk"]) == (1, 3)
    assert caplog.text.count("can't be written") == 1
    assert caplog.text.count("written again") == 1
    assert not list(tmp_path.glob("*/*/*.incomplete"))


def test_a_folder_that_is_none_is_told_and_counted(
    tmp_path: Path, info: BundleInfo, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    log = start(tmp_path / "file" / "log", info)
    offer(log, 0.5)
    log.close()
    assert log.dropped["disk"] == 1
    assert caplog.text.count("can't be written") == 1


def test_a_row_that_cannot_be_written_does_not_end_the_log(tmp_path: Path, info: BundleInfo) -> None:
    log = start(tmp_path, info, flush_rows=1)
    offer(log, 0.5, given=[{**ROW, "carrier": "\ud800"}])  # no text that UTF-8 could hold
    until(lambda: log.dropped["fault"] == 1)
    offer(log, 0.5)
    log.close()
    assert log.written == 1


def test_parts_are_plain_parquet(tmp_path: Path, info: BundleInfo) -> None:
    log = start(tmp_path, info)
    offer(log, 0.5)
    log.close()
    (file,) = tmp_path.glob("date=*/hour=*/part-*.parquet")
    assert pq.read_schema(file).field("at").type == pa.timestamp("us", tz="UTC")
    assert json.loads(json.dumps(pq.read_table(file).column_names))[:3] == ["request_id", "row", "at"]
