"""However a rollout ends, service, record and what is told agree; and what can't be carried through isn't begun."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from airworthy.errors import AirworthyError, RolloutError
from airworthy.rollout.deployers.asking import Asker, directly
from airworthy.rollout.deployers.local import LocalPlane
from airworthy.rollout.record import RecordWriter
from airworthy.rollout.replay import replay
from airworthy.serving.chaos import Fault
from airworthy.serving.replay import Traffic
from airworthy.serving.state import Service, ServiceStore, new_rollout
from tests.unit.rollout.conftest import World

SHORT = "{service: late, steps: [50], requests_per_step: 40, bake_requests: 60, max_latency_increase: 9}"


def stable_alone(world: World) -> bool:
    state = world.state
    assert state.stable is not None
    return (state.stable.version, state.canary, state.traffic_percent) == ("1", None, 0)


def summary(record: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((record / "rollout.json").read_text())
    return found


def test_a_proof_that_cannot_be_written_down_is_none(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's state can't be written at the very moment of success."""
    write = ServiceStore._write

    def full(store: ServiceStore, state: Service) -> None:
        if state.rollout and state.rollout.state == "proven":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(store, state)

    monkeypatch.setattr(ServiceStore, "_write", full)
    with pytest.raises(RolloutError, match="No space left on device"):
        world.release(tmp_path / "record", SHORT)
    assert stable_alone(world)


@pytest.mark.parametrize("after", ["proven", None], ids=["the transition", "the end"])
def test_a_proof_without_a_record_is_none(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str | None
) -> None:
    write = RecordWriter.write

    def full(writer: RecordWriter, kind: str, **facts: Any) -> None:
        if (kind, facts.get("after")) == (("state", after) if after else ("end", None)):
            writer.failure = "No space left on device"
        write(writer, kind, **facts)

    monkeypatch.setattr(RecordWriter, "write", full)
    with pytest.raises(RolloutError, match="No space left on device"):
        world.release(tmp_path / "record", SHORT)
    assert stable_alone(world)


def test_a_signal_after_the_decision_changes_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = LocalPlane.close
    servers: list[Any] = []

    async def interrupted(plane: LocalPlane) -> None:
        servers.extend(server for server in (plane._stable, plane._canary) if server)
        os.kill(os.getpid(), signal.SIGTERM)
        await close(plane)

    monkeypatch.setattr(LocalPlane, "close", interrupted)
    outcome = world.release(tmp_path / "record", SHORT)
    assert outcome.decision == "PASS"
    assert summary(tmp_path / "record")["decision"] == "PASS"
    assert world.state.rollout is not None
    assert world.state.rollout.state == "proven"
    assert servers
    assert not any(server.alive for server in servers)


def test_a_failure_found_before_an_interruption_is_told_everywhere(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    withdraw = LocalPlane.withdraw

    def interrupted(plane: LocalPlane) -> None:
        withdraw(plane)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(LocalPlane, "withdraw", interrupted)
    with pytest.raises(RolloutError, match="interrupted"):
        world.release(tmp_path / "record", fault=Fault("errors", share=1.0, after=45))
    told = replay(tmp_path / "record")
    assert told.agrees, told.problem
    assert told.judgement is not None
    assert summary(tmp_path / "record")["decision"] == told.judgement.outcome == "FAIL"
    assert stable_alone(world)


@pytest.mark.parametrize(
    "kind", ["kind: shadow, shadow_requests: 50", "kind: ab, experiment: {outcome: cost}"]
)
def test_a_comparison_with_nothing_is_refused_before_anything_begins(
    world: World, tmp_path: Path, kind: str
) -> None:
    with pytest.raises(AirworthyError, match="needs a stable model"):
        world.release(tmp_path / "record", f"{{service: other, {kind}}}", stable=None)
    assert ServiceStore(world.home, "other").read() is None


def test_enough_traffic_is_sent_for_the_least_number_of_canary_requests(world: World, tmp_path: Path) -> None:
    plan = SHORT[:-1] + ", min_canary_requests: 900}"
    outcome = world.release(tmp_path / "record", plan)
    assert outcome.decision == "PASS", outcome.reason
    assert outcome.metrics["canary_requests"] >= 900


def test_a_rollout_without_time_leaves_everything_as_it_was(world: World, tmp_path: Path) -> None:
    outcome = world.release(tmp_path / "record", "{service: late, deadline_seconds: 0.001}")
    assert (outcome.decision, outcome.judgement.process) == ("INCONCLUSIVE", "deadline")
    assert replay(tmp_path / "record").agrees
    assert stable_alone(world)


@pytest.mark.parametrize("steps", ["[100]", "[0]", "[0, 100]"])
def test_any_steps_end_with_everyone(world: World, tmp_path: Path, steps: str) -> None:
    outcome = world.release(tmp_path / "record", SHORT.replace("[50]", steps))
    assert outcome.decision == "PASS", outcome.reason
    assert world.state.traffic_percent == 100


def test_two_rollouts_in_one_second_have_two_names() -> None:
    assert len({new_rollout(60).id for _ in range(20)}) == 20


def test_a_model_that_sends_its_callers_elsewhere_has_not_answered() -> None:
    """Neither probes nor replayed traffic follow it there."""

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(
            b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        await writer.drain()
        writer.close()

    async def ask() -> tuple[str, int]:
        async with await asyncio.start_server(elsewhere, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with Asker("late", [b"{}"], directly) as asker, Traffic(url, [b"{}"]) as traffic:
                return (await asker.ask(url, b"{}")).result, (await traffic.ask(b"{}")).status

    assert asyncio.run(ask()) == ("invalid", 307)
