"""A standing service: follows its state without failing anybody, replaces a dead server, leaves nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from airworthy.errors import ConfigError
from airworthy.model_spec import PredictionLog, Serving
from airworthy.rollout import deploy
from airworthy.serving.local import ServerOptions
from airworthy.serving.replay import Traffic, v1_path
from airworthy.serving.standing import service_of, stand
from airworthy.serving.state import Deployed, Service, ServiceStore
from tests.processes import started_here
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
    assert not started_here()
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
        (server,) = started_here()
        server.kill()
        await asyncio.wait_for(said.get(), 60)
        async with Traffic(url + v1_path("late"), [BODY]) as traffic:
            (answer,) = await traffic.send(1)
        stop.set()
        await task
        return answer.status

    assert asyncio.run(run()) == 200


def test_a_version_that_cannot_start_changes_nothing(judged: Evidence, tmp_path: Path) -> None:
    newer = make_evidence(tmp_path / "newer", rounds=4)
    home = tmp_path / "home"
    deploy("late", model="late", bundle=judged.bundle, version="1", home=home)
    store = ServiceStore(home, "late")
    said: asyncio.Queue[str] = asyncio.Queue()

    async def run() -> tuple[list[int], str]:
        stop = asyncio.Event()
        task = asyncio.create_task(
            stand("late", home, port=0, tell=said.put_nowait, stop=stop, server_module="tests.light_server")
        )
        url = (await asyncio.wait_for(said.get(), 60)).split(" serves at ")[1].split()[0]
        (first,) = started_here()
        async with Traffic(url + v1_path("late"), [BODY]) as traffic:
            load = asyncio.create_task(traffic.send(100_000, until=stop.is_set))
            damaged = store.keep(newer.bundle, "2")
            (store.path(damaged) / "model.ubj").write_bytes(b"")
            store.update(lambda state: _stable(state, damaged))
            refusal = await asyncio.wait_for(said.get(), 60)
            assert started_here() == [first], "the old server is untouched, the new one gone"

            store.file.write_text("{")  # only now is the state unreadable
            unreadable = await asyncio.wait_for(said.get(), 60)
            assert "can't be understood" in unreadable
            assert "version 1 goes on serving" in unreadable
            stop.set()
            statuses = [answer.status for answer in await load]
        await task
        return statuses, refusal

    statuses, refusal = asyncio.run(run())
    assert set(statuses) == {200}
    assert refusal.startswith("late version 2 can't be served: ")
    assert "model.ubj was changed" in refusal
    assert refusal.endswith("version 1 goes on serving")
    assert said.empty(), "told once"
    assert not started_here()


def test_a_refused_version_is_tried_again_when_asked_again_or_when_the_old_one_dies(
    judged: Evidence, tmp_path: Path
) -> None:
    newer = make_evidence(tmp_path / "newer", rounds=4)
    home = tmp_path / "home"
    deploy("late", model="late", bundle=judged.bundle, version="1", home=home)
    store = ServiceStore(home, "late")
    said: asyncio.Queue[str] = asyncio.Queue()

    async def run() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(
            stand("late", home, port=0, tell=said.put_nowait, stop=stop, server_module="tests.light_server")
        )
        assert "version 1 serves at" in await asyncio.wait_for(said.get(), 60)
        (first,) = started_here()
        wanted = store.keep(newer.bundle, "2")
        model = store.path(wanted) / "model.ubj"
        model.rename(tmp_path / "aside")
        store.update(lambda state: _stable(state, wanted))
        assert "version 2 can't be served" in await asyncio.wait_for(said.get(), 60)
        (tmp_path / "aside").rename(model)
        first.kill()
        assert await asyncio.wait_for(said.get(), 60) == "late version 1 serves now"
        assert await asyncio.wait_for(said.get(), 60) == "late version 2 serves now"
        stop.set()
        await task

    asyncio.run(run())
    assert said.empty()
    assert not started_here()


def test_it_ends_at_once_while_a_version_is_starting(judged: Evidence, tmp_path: Path) -> None:
    newer = make_evidence(tmp_path / "newer", rounds=4)
    deploy("late", model="late", bundle=judged.bundle, version="1", home=tmp_path / "home")
    said: asyncio.Queue[str] = asyncio.Queue()

    async def run() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(
            stand(
                "late",
                tmp_path / "home",
                port=0,
                tell=said.put_nowait,
                stop=stop,
                server_module="tests.light_server",
            )
        )
        await asyncio.wait_for(said.get(), 60)
        deploy("late", model="late", bundle=newer.bundle, version="2", home=tmp_path / "home")
        while len(started_here()) < 2:
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.wait_for(task, 60)

    asyncio.run(run())
    assert said.empty()
    assert not started_here()


def test_which_service_is_meant_is_never_guessed(judged: Evidence, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(
        ConfigError, match=r"no model late has been released to serving \(there are: none yet"
    ):
        asyncio.run(stand("late", tmp_path, port=0, tell=said.append))
    for service in ("late", "late-eu"):
        deploy(service, model="late", bundle=judged.bundle, version="1", home=tmp_path)
    with pytest.raises(ConfigError, match=r"several services \(late, late-eu\)"):
        service_of("late", tmp_path)
    assert service_of("late", tmp_path, "late-eu").service == "late-eu"
    with pytest.raises(ConfigError, match=r"no model late .* by service early"):
        service_of("late", tmp_path, "early")
    with pytest.raises(ConfigError, match=r"no model early .* by service late \(there are: late\)"):
        service_of("early", tmp_path, "late")
    ServiceStore(tmp_path, "late-eu").update(lambda state: _stable(state, None))
    assert service_of("late", tmp_path).service == "late", "the only one that can serve"
    with pytest.raises(ConfigError, match="late-eu has no stable model yet"):
        service_of("late", tmp_path, "late-eu")


def _stable(state: Service | None, deployed: Deployed | None) -> Service:
    assert state is not None
    return state.model_copy(update={"stable": deployed})


def test_predictions_are_written_down_as_the_spec_wants(judged: Evidence, tmp_path: Path) -> None:
    deploy("late", model="late", bundle=judged.bundle, version="1", home=tmp_path)
    wanted = Serving(prediction_log=PredictionLog(drop=("carrier",)))
    ServiceStore(tmp_path, "late").update(lambda state: _serving(state, wanted))
    said: asyncio.Queue[str] = asyncio.Queue()

    async def run() -> int:
        stop = asyncio.Event()
        task = asyncio.create_task(stand("late", tmp_path, port=0, tell=said.put_nowait, stop=stop))
        url = (await asyncio.wait_for(said.get(), 120)).split(" serves at ")[1].split()[0]
        async with Traffic(url + v1_path("late"), [BODY]) as traffic:
            answers = await traffic.send(3)
        stop.set()
        await task
        return len([answer for answer in answers if answer.status == 200])

    assert asyncio.run(run()) == 3
    part, *_ = (tmp_path / "predictions" / "late").rglob("*.parquet")
    columns = pq.read_table(part).column_names
    assert "feature.hour" in columns
    assert "feature.carrier" not in columns


def test_predictions_are_not_written_down_if_the_spec_says_so(tmp_path: Path) -> None:
    options = ServerOptions(
        tmp_path, "late", predictions=tmp_path, prediction_log=PredictionLog(enabled=False)
    )
    assert "--prediction_log" not in options.arguments


def _serving(state: Service | None, serving: Serving) -> Service:
    assert state is not None
    return state.model_copy(update={"serving": serving})
