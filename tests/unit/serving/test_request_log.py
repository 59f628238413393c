"""The request log: every line is there, whole and bounded; a sick disk costs lines and nothing else."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from airworthy.serving.observation import Observation
from airworthy.serving.request_log import RequestLog
from airworthy.serving.splitter import Splitter
from tests.unit.serving.sockets import ask, model_server, post, reply, saying, status


def seen(index: int, score: float | None = 0.25) -> Observation:
    return Observation(index, 1_790_000_000.123456, "canary", 0.1, "ok", 0.000812, score, repeat=True)


def test_every_request_is_a_line_with_its_draw(tmp_path: Path) -> None:
    async def run() -> None:
        log = RequestLog(tmp_path / "logs" / "requests.jsonl")
        async with model_server(saying(reply())) as stable, model_server(saying(b"", close=True)) as canary:
            splitter = Splitter(stable, canary, request_log=log)
            await splitter.start()
            splitter.set_share(1.0)
            assert status((await ask(splitter, post()))[0]) == 200
            splitter.set_share(0.0)
            await ask(splitter, post())
            await ask(splitter, post(headers="X-Canary-Arm: stable\r\n"))
            await splitter.stop()
        log.close()

    asyncio.run(run())
    lines = [json.loads(line) for line in (tmp_path / "logs/requests.jsonl").read_text().splitlines()]
    keys = ("arm", "share", "version", "result", "status", "score", "forced", "repeat")
    assert [tuple(line[key] for key in keys) for line in lines] == [
        ("canary", 1.0, 1, "connection", None, None, False, False),
        ("stable", 0.0, 2, "ok", 200, 0.25, False, False),
        ("stable", 0.0, 2, "ok", 200, 0.25, True, False),
    ]
    assert all(line["at"] > 1.7e9 and 0 <= line["seconds"] < 5 for line in lines)


def test_lines_say_what_was_seen(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log")
    log.append(seen(0), 7, 200)
    log.append(seen(1, None), 7, None)
    log.close()
    first, second = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
    assert first == {
        "at": 1_790_000_000.123456,
        "arm": "canary",
        "share": 0.1,
        "version": 7,
        "result": "ok",
        "status": 200,
        "seconds": 0.000812,
        "score": 0.25,
        "forced": False,
        "repeat": True,
    }
    assert (second["score"], second["status"]) == (None, None)


def test_files_are_rotated_by_size_and_bounded_in_number(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    for number in range(6):
        log = RequestLog(path, max_bytes=2000, files=3)
        for _ in range(8):
            log.append(seen(0), number, 200)
        log.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["requests.jsonl", "requests.jsonl.1", "requests.jsonl.2"]
    versions = [{json.loads(line)["version"] for line in file.read_text().splitlines()} for file in files]
    assert versions == [{5}, {4}, {3}]
    assert all(file.stat().st_size <= 2000 for file in files)


def test_a_line_that_a_killed_process_left_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"at":1')
    log = RequestLog(path)
    log.append(seen(0), 1, 200)
    log.close()
    damaged, good = path.read_text().splitlines()
    assert damaged == '{"at":1'
    assert json.loads(good)["version"] == 1


def test_what_waits_is_bounded(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log", queue=10)
    for _ in range(50_000):
        log.append(seen(0), 1, 200)
    log.close()
    written = len((tmp_path / "log").read_text().splitlines())
    assert written + log.dropped == 50_000
    assert log.dropped > 40_000


def test_a_folder_that_cannot_be_written_is_told_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    log = RequestLog(tmp_path / "file" / "requests.jsonl")
    with caplog.at_level(logging.WARNING):
        log.append(seen(0), 1, 200)
        while not log.dropped:
            time.sleep(0.01)
        log.append(seen(1), 1, 200)
        log.close()
    assert log.dropped == 2
    assert len([record for record in caplog.records if "can't be logged" in record.message]) == 1


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """The limit on file sizes stands for the full disk: a write stops in the middle of a line."""
    path = tmp_path / "log"
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(_fill(path))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    lines = [json.loads(line)["version"] for line in path.read_text().splitlines()]
    assert lines == [1, 1, 1]


def _fill(path: Path) -> int:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    log = RequestLog(path)
    for _ in range(3):
        log.append(seen(0), 1, 200)
    while not path.exists() or not path.stat().st_size:
        time.sleep(0.01)
    for _ in range(10):
        log.append(seen(0), 2, 200)
    log.close()
    return 0 if log.dropped == 10 else 1
