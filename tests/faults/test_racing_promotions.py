"""Processes that promote at the same moment, and processes that die while they do.

For every champion there is exactly one promotion over it; whatever is killed, repeating the step ends well,
and nobody stays locked out.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
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
    moves = [m for m in registry.moves("late") if m["action"] == "promoted"]
    assert len(moves) == ROUNDS
    assert [m["from"] for m in moves] == [None, *(m["version"] for m in moves[:-1])]
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
