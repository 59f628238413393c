"""Processes that promote at the same moment, and processes that die while they do.

For every champion there is exactly one promotion over it; whatever is killed, repeating the step ends well,
and nobody stays locked out.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import pytest

from airworthy.errors import GateError, RegistryError
from airworthy.registry import Registry
from airworthy.registry.lock import INFIX, lease, model_lock
from tests.release_evidence import Evidence, make_evidence, new_store, spec

# MLflow 3.17 uses an option of SQLAlchemy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

RACERS, ROUNDS = 6, 6
RUNNERS, CANDIDATES = 8, 8
SPEC, _ = spec()
# Children are forked from a server that has imported the libraries once, never from pytest itself.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "airworthy.registry",
        "mlflow.artifacts",
        "mlflow.store.model_registry.sqlalchemy_store",
        "mlflow.store.tracking.sqlalchemy_store",
        "tests.release_evidence",
        "pytest",
    ]
)


def promote(registry: Registry, version: str, evidence: Evidence, expected: str | None) -> str:
    return registry.promote(
        "late",
        version,
        verdict=evidence.verdict,
        bundle=evidence.bundle,
        rollout=evidence.rollout,
        expected_champion=expected,
    )


def compared_with(evidence: Evidence, version: str | None, digest: str | None) -> None:
    """Rewrite verdict and rollout record as if this champion had been compared with."""
    for file, changes in (
        (evidence.verdict, {"champion_version": version, "champion_digest": digest}),
        (evidence.rollout, {"stable_digest": digest}),
    ):
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def racer(uri: str, number: int, evidence: Evidence, barrier: Barrier, orders: Queue, results: Queue) -> None:
    """Promote version `number` over the champion that each order names, when the others do."""
    registry = Registry(uri, wait_seconds=30)
    while (expected := orders.get()) is not False:
        barrier.wait()
        try:
            results.put((number, promote(registry, str(number), evidence, expected)))
        except (GateError, RegistryError) as error:
            results.put((number, f"{type(error).__name__}: {error}"))


@pytest.fixture
def candidates(tmp_path: Path) -> tuple[Registry, list[Evidence]]:
    """A registry with `RACERS` versions, and their evidence."""
    registry = Registry(new_store(tmp_path / "store"))
    evidence = [make_evidence(tmp_path / str(n), rounds=n + 1) for n in range(RACERS)]
    for found in evidence:
        registry.register(SPEC, verdict=found.verdict, bundle=found.bundle)
    return registry, evidence


def test_of_racing_promotions_exactly_one_wins_every_champion(
    candidates: tuple[Registry, list[Evidence]],
) -> None:
    registry, evidence = candidates
    barrier, results = PROCESSES.Barrier(RACERS), PROCESSES.Queue()
    orders = [PROCESSES.Queue() for _ in evidence]
    processes = [
        PROCESSES.Process(
            target=racer, args=(registry.uri, n + 1, e, barrier, orders[n], results), daemon=True
        )
        for n, e in enumerate(evidence)
    ]
    for process in processes:
        process.start()
    champion: str | None = None
    for _ in range(ROUNDS):
        for found in evidence:
            compared_with(found, champion, evidence[int(champion) - 1].digest if champion else None)
        for queue in orders:
            queue.put(champion)
        answers = dict(results.get(timeout=60) for _ in processes)
        winners = [str(n) for n, answer in answers.items() if answer == "promoted"]
        assert len(winners) == 1, answers
        for n, answer in answers.items():
            if str(n) == champion:
                # The champion itself is in the race too: `already` before the winner, stale after it.
                assert answer == "already" or "stale" in answer
            elif str(n) != winners[0]:
                assert answer.startswith("GateError: stale"), answer
        now = registry.champion("late")
        assert now is not None
        assert now.version == winners[0]
        before = registry.previous_champion("late")
        assert (before.version if before else None) == champion
        champion = now.version
    for queue in orders:
        queue.put(False)
    for process in processes:
        process.join(20)
        assert process.exitcode == 0
    moves = [m for m in registry.moves("late") if m.action == "promoted"]
    assert len(moves) == ROUNDS
    assert [m.before for m in moves] == [None, *(m.version for m in moves[:-1])]
    assert len(registry.versions("late")) == RACERS


def first_use(uri: str, barrier: Barrier, results: Queue) -> None:
    barrier.wait()
    results.put(Registry(uri).models())


def test_first_users_of_a_new_store_do_not_break_it_or_each_other(tmp_path: Path) -> None:
    uri, barrier, results = f"sqlite:///{tmp_path}/new/mlflow.db", PROCESSES.Barrier(4), PROCESSES.Queue()
    processes = [
        PROCESSES.Process(target=first_use, args=(uri, barrier, results), daemon=True) for _ in range(4)
    ]
    for process in processes:
        process.start()
    assert [results.get(timeout=90) for _ in processes] == [[]] * 4
    for process in processes:
        process.join(20)
        assert process.exitcode == 0


def promote_once(uri: str, version: str, evidence: Evidence, expected: str | None, ready: Event) -> None:
    registry = Registry(uri)
    registry.champion("late")
    ready.set()
    promote(registry, version, evidence, expected)


def test_a_promotion_killed_at_any_moment_is_completed_by_repeating_it(
    candidates: tuple[Registry, list[Evidence]],
) -> None:
    registry, evidence = candidates
    assert promote(registry, "1", evidence[0], None) == "promoted"
    champion, moments = "1", random.Random(4)
    for number in range(2, RACERS + 1):
        found = evidence[number - 1]
        compared_with(found, champion, evidence[int(champion) - 1].digest)
        ready = PROCESSES.Event()
        process = PROCESSES.Process(
            target=promote_once, args=(registry.uri, str(number), found, champion, ready), daemon=True
        )
        process.start()
        assert ready.wait(60)
        time.sleep(moments.uniform(0, 0.08))  # the moment of death; any is fine
        process.kill()
        process.join()
        serving = registry.champion("late")
        assert serving is not None
        assert serving.version in (champion, str(number))
        assert promote(registry, str(number), found, champion) in ("promoted", "already")
        aliases = {a: v.version for v in registry.versions("late") for a in v.aliases}
        assert aliases["champion"] == str(number)
        assert aliases["previous_champion"] == champion
        assert aliases.get("challenger") != str(number)
        champion = str(number)


@dataclass(frozen=True)
class Race:
    """What each process of a mixed race needs to know."""

    uri: str
    evidence: list[Evidence]
    folder: Path
    steps: int
    """Answers that each process collects, over all its lives."""
    kills: int
    lease_seconds: float

    def open(self) -> Registry:
        return Registry(self.uri, wait_seconds=60, lease_seconds=self.lease_seconds)

    def answers(self) -> list[dict[str, str]]:
        """What the processes were told, in lines that a kill can't damage."""
        lines = [line for file in self.folder.glob("*.answers") for line in file.read_text().splitlines()]
        return [json.loads(line) for line in lines]


def runner(race: Race, number: int, life: int) -> None:
    """Register, promote, roll back and withdraw at random, until it has had enough answers or is killed."""
    registry, chance = race.open(), random.Random(f"{number} {life}")
    ledger = race.folder / f"{number}.answers"
    ledger.touch()
    while len(ledger.read_text().splitlines()) < race.steps:
        answer = act(registry, race, number, chance)
        with ledger.open("a") as file:
            file.write(json.dumps(answer) + "\n")


def act(registry: Registry, race: Race, number: int, chance: random.Random) -> dict[str, str]:
    """One action, and what came of it."""
    place = chance.randrange(len(race.evidence))
    action = chance.choices(["promote", "register", "withdraw", "roll back"], [6, 2, 1, 1])[0]
    champion = registry.champion("late")
    said = {"action": action, "version": str(place + 1), "over": champion.version if champion else ""}
    own = own_evidence(race, number, place)
    compared_with(own, champion.version if champion else None, champion.digest if champion else None)
    try:
        if action == "promote":
            return said | {"answer": promote(registry, said["version"], own, said["over"] or None)}
        if action == "register":
            registry.register(SPEC, verdict=own.verdict, bundle=own.bundle)
        elif action == "withdraw":
            registry.withdraw_challenger("late", reason="withdrawn")
        else:
            registry.rollback("late", "rolled back")
    except (GateError, RegistryError) as error:
        return said | {"answer": f"{type(error).__name__}: {error}"}
    return said | {"answer": "done"}


def own_evidence(race: Race, number: int, place: int) -> Evidence:
    """A copy of verdict and record that only this process writes."""
    given, folder = race.evidence[place], race.folder / f"{number}-{place}"
    folder.mkdir(exist_ok=True)
    for file in (given.verdict, given.rollout):
        (folder / file.name).write_bytes(file.read_bytes())
    return Evidence(given.bundle, given.digest, folder / given.verdict.name, folder / given.rollout.name)


def run_with_kills(race: Race) -> None:
    """Let all run at once; now and then one is killed in the middle of whatever it does, and another takes over."""
    lives = [0] * RUNNERS
    processes = [start(race, number, 0) for number in range(RUNNERS)]
    moments = random.Random(7)
    due = [int(n * RUNNERS * race.steps / (race.kills + 1)) for n in range(1, race.kills + 1)]
    deadline = time.monotonic() + 150
    while any(process.is_alive() for process in processes):
        assert time.monotonic() < deadline, race.answers()[-5:]
        for process in processes:
            process.join(0.02)
        if due and len(race.answers()) >= due[0]:
            due.pop(0)
            victim = moments.choice([n for n, process in enumerate(processes) if process.is_alive()])
            processes[victim].kill()
            processes[victim].join()
            lives[victim] += 1
            processes[victim] = start(race, victim, lives[victim])
    assert not due
    assert [process.exitcode for process in processes] == [0] * RUNNERS


def start(race: Race, number: int, life: int) -> BaseProcess:
    process = PROCESSES.Process(target=runner, args=(race, number, life), daemon=True)
    process.start()
    return process


REFUSALS = (
    "GateError: stale",
    "GateError: this bundle is late version",
    "RegistryError: late version",  # the first champion, or one before it that was rolled back itself
    "RegistryError: late has no champion",
    "RegistryError: the promotion lock ran out before the change was made",
)


def check_the_world(race: Race) -> None:
    """One champion at a time, a complete line of moves, and nothing lost; whatever was killed."""
    registry, answers = race.open(), race.answers()
    for answer in answers:
        assert answer["answer"] in ("promoted", "already", "done") or answer["answer"].startswith(REFUSALS), (
            answer
        )
    registry.withdraw_challenger(
        "late", "none", reason="take the lock once more, so that the last dead is found"
    )
    champion = registry.champion("late")
    assert champion is not None
    line = [move for move in registry.moves("late") if move.alias == "champion"]
    assert [move.before for move in line] == [None, *(move.version for move in line[:-1])]
    assert line[-1].version == champion.version
    assert not [entry for entry in registry.history("late") if entry.action == "moved by hand"]
    told = Counter((a["version"], a["over"]) for a in answers if a["answer"] == "promoted")
    written = Counter((m.version, m.before or "") for m in line if m.action == "promoted")
    assert told <= written
    assert (written - told).total() <= race.kills, "more promotions than anybody made"
    rolled_back = sum(1 for a in answers if a["action"] == "roll back" and a["answer"] == "done")
    assert rolled_back <= sum(1 for m in line if m.action == "rolled back") <= rolled_back + race.kills
    barred: set[str] = set()
    for move in line:
        assert move.version not in barred
        barred |= {str(move.before)} if move.action == "rolled back" else set()
    assert "rolled_back" not in champion.tags
    times = [entry.time for entry in registry.history("late")]
    assert times == sorted(set(times))
    own = own_evidence(race, RUNNERS, int(champion.version) - 1)
    verdict, before = champion.tags["replaced_version"] or None, registry.moves("late")
    compared_with(own, verdict, race.evidence[int(verdict) - 1].digest if verdict else None)
    assert promote(registry, champion.version, own, verdict) == "already"
    assert registry.moves("late") == before
    aliases = {alias: v.version for v in registry.versions("late") for alias in v.aliases}
    assert aliases.get("previous_champion") == verdict
    assert aliases.get("challenger") != champion.version
    assert len(told) >= 3, "hardly anything happened"


@pytest.mark.parametrize("where", ["sqlite", "server"])
def test_mixed_changes_with_kills_leave_one_champion_and_one_line_of_history(
    tmp_path: Path, where: str
) -> None:
    with contextlib.ExitStack() as stack:
        on_server = where == "server"
        uri = stack.enter_context(server(tmp_path)) if on_server else new_store(tmp_path / "store")
        evidence = [make_evidence(tmp_path / str(n), rounds=n + 1) for n in range(CANDIDATES)]
        for found in evidence:
            Registry(uri).register(SPEC, verdict=found.verdict, bundle=found.bundle)
        (tmp_path / "race").mkdir()
        steps, kills = (4, 2) if on_server else (8, 10)
        race = Race(uri, evidence, tmp_path / "race", steps, kills, lease_seconds=10)
        run_with_kills(race)
        check_the_world(race)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """A real MLflow server on loopback, with a database of its own."""
    store, port = new_store(folder / "served"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1"]
    command += [
        "--artifacts-destination",
        str(folder / "artifacts"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = {**os.environ, "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while not answers(port):
            assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the MLflow server did not come up"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def counting(uri: str, file: Path, times: int) -> None:
    """Read, add one, write: only right when nobody does so at the same time."""
    registry = Registry(uri)
    for _ in range(times):
        with lease(registry._client, "late", wait_seconds=60, lease_seconds=60):
            value = int(file.read_text())
            time.sleep(0.005)
            file.write_text(str(value + 1))


def die_holding(uri: str, kind: str, lease_seconds: float) -> None:
    client = Registry(uri)._client
    lock = (
        model_lock(client, "late", wait_seconds=5)
        if kind == "file"
        else lease(client, "late", wait_seconds=5, lease_seconds=lease_seconds)
    )
    with lock:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(new_store(tmp_path / "store"))
    yield registry
    locks = [m.name for m in registry._client.search_registered_models() if INFIX in m.name]
    assert len(locks) <= 1, "generations of the lock pile up"


def test_the_lock_for_servers_lets_one_process_in_at_a_time(store: Registry, tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0")
    processes = [
        PROCESSES.Process(target=counting, args=(store.uri, file, 5), daemon=True) for _ in range(RACERS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
        assert process.exitcode == 0
    assert file.read_text() == str(5 * RACERS)


@pytest.mark.parametrize("kind", ["file", "lease"])
def test_a_holder_that_died_locks_nobody_out(store: Registry, kind: str) -> None:
    process = PROCESSES.Process(target=die_holding, args=(store.uri, kind, 1.0), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    if kind == "file":
        with model_lock(store._client, "late", wait_seconds=0):
            return
    with (
        pytest.raises(RegistryError, match=rf"held by .*:{process.pid}"),
        lease(store._client, "late", wait_seconds=0, lease_seconds=60),
    ):
        pytest.fail("the lease had not run out")
    with lease(store._client, "late", wait_seconds=20, lease_seconds=60) as hold:
        hold.require()


def test_a_held_lock_refuses_by_name(store: Registry) -> None:
    with (
        model_lock(store._client, "late"),
        pytest.raises(RegistryError, match=r"lock of late .* is held by another process"),
        model_lock(store._client, "late", wait_seconds=0),
    ):
        pytest.fail("two holders")
    with (
        model_lock(store._client, "late", wait_seconds=0),
        model_lock(store._client, "early", wait_seconds=0),
    ):
        pass  # other models are free


def test_a_late_process_with_an_old_view_gives_way(store: Registry) -> None:
    """It saw generation 1 free, but 2 and 3 have come and 1 and 2 gone, before it creates its 2."""
    client = store._client
    for _ in range(3):
        with lease(client, "late", wait_seconds=0, lease_seconds=60):
            pass
    view = client.search_registered_models

    def old_view(**arguments: str) -> list[object]:
        client.search_registered_models = view  # type: ignore[method-assign]
        return []

    with lease(client, "late", wait_seconds=0, lease_seconds=60):
        client.search_registered_models = old_view  # type: ignore[method-assign,assignment]
        with (
            pytest.raises(RegistryError, match="is held by"),
            lease(client, "late", wait_seconds=0, lease_seconds=60),
        ):
            pytest.fail("two holders")


def test_a_holder_that_outlived_its_lease_does_not_write(store: Registry) -> None:
    with (
        lease(store._client, "late", wait_seconds=0, lease_seconds=0.0) as hold,
        pytest.raises(RegistryError, match="ran out"),
    ):
        hold.require()
