"""A standing service: follows its state without failing anybody, replaces a dead server, leaves nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import psutil
import pytest

from airworthy.errors import ServingError
from airworthy.operations import main
from airworthy.rollout import deploy
from airworthy.serving.replay import Traffic, v1_path
from airworthy.serving.standing import stand
from tests.release_evidence import Evidence, make_evidence

BODY = json.dumps({"instances": [{"hour": 9, "distance": 800.0, "carrier": "AA"}]}).encode()


def test_it_follows_releases_and_replaces_dead_servers(judged: Evidence, tmp_path: Path) -> None:
    newer = make_evidence(tmp_path / "newer", rounds=4)
    home = tmp_path / "home"
    deploy("late", model="late", bundle=judged.bundle, version="1", home=home)
    said: asyncio.Queue[str] = asyncio.Queue()

    async def run() -> list[int]:
        stop = asyncio.Event()
        task = asyncio.create_task(
            stand("late", home, port=0, tell=said.put_nowait, stop=stop, server_module="tests.light_server")
        )
        url = (await asyncio.wait_for(said.get(), 60)).split(" serves at ")[1].split()[0]
        statuses = []
        async with Traffic(url + v1_path("late"), [BODY]) as traffic:
            load = asyncio.create_task(traffic.send(100_000, until=stop.is_set))
            deploy("late", model="late", bundle=newer.bundle, version="2", home=home)
            assert await asyncio.wait_for(said.get(), 60) == "late version 2 serves now"
            stop.set()
            statuses = [answer.status for answer in await load]
        await task
        return statuses

    statuses = asyncio.run(run())
    assert len(statuses) > 10
    assert set(statuses) == {200}
    assert not psutil.Process().children(recursive=True)
    lines = (home / "serving/late/logs/requests.jsonl").read_text().splitlines()
    assert len(lines) == len(statuses)


def test_a_dead_server_is_started_again(judged: Evidence, tmp_path: Path) -> None:
    deploy("late", model="late", bundle=judged.bundle, version="1", home=tmp_path)
    said: asyncio.Queue[str] = asyncio.Queue()

    async def run() -> int:
        stop = asyncio.Event()
        task = asyncio.create_task(
            stand(
                "late", tmp_path, port=0, tell=said.put_nowait, stop=stop, server_module="tests.light_server"
            )
        )
        url = (await asyncio.wait_for(said.get(), 60)).split(" serves at ")[1].split()[0]
        (server,) = psutil.Process().children()
        server.kill()
        await asyncio.wait_for(said.get(), 60)
        async with Traffic(url + v1_path("late"), [BODY]) as traffic:
            (answer,) = await traffic.send(1)
        stop.set()
        await task
        return answer.status

    assert asyncio.run(run()) == 200


def test_without_a_released_model_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path))
    assert main(["serve", "late"]) == ServingError.exit_code
    assert "no model late has been released to serving" in capsys.readouterr().err
