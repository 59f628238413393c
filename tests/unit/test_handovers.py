"""Wherever a bundle changes hands, what was changed on the way is refused; docs/supply-chain.md lists the places.

Everything here runs with a verify key set: digests and signature are checked by the same call.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from airworthy.bundle import Scorer, verify_bundle
from airworthy.errors import AirworthyError, BundleError, RegistryError
from airworthy.evaluation.arms import score_arms
from airworthy.registry import Registry, export_champion, read_champion
from airworthy.rollout import finish
from airworthy.rollout.deployers.kserve import KServeStore
from airworthy.serving import smoke_test
from airworthy.serving.local import ServerOptions, ServerProcess
from airworthy.serving.state import ServiceStore
from airworthy.signing import (
    SIGNATURE,
    SIGNING_KEY,
    VERIFY_KEY,
    Key,
    read_private_key,
    sign_bundle,
    write_keys,
)
from tests.release_evidence import (
    Evidence,
    flights,
    make_bundle,
    make_evidence,
    new_store,
    spec,
    write_flights,
)

SPEC, _ = spec()


@dataclass(frozen=True)
class World:
    """A signed bundle about to change hands, with what the next step needs beside it."""

    home: Path
    evidence: Evidence
    rows: Path
    sound: Path
    """Another signed bundle that nobody touches."""

    @property
    def bundle(self) -> Path:
        return self.evidence.bundle


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Key]:
    private, public = write_keys(tmp_path_factory.mktemp("keys"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VERIFY_KEY, str(public))
        yield read_private_key(private.read_bytes(), str(private))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flights(tmp_path_factory.mktemp("rows") / "test", flights(300, seed=3))


@pytest.fixture
def world(tmp_path: Path, rows: Path, key: Key) -> World:
    evidence = make_evidence(tmp_path / "challenger", rounds=2)
    sign_bundle(evidence.bundle, key)
    make_bundle(tmp_path / "sound", rounds=3)
    sign_bundle(tmp_path / "sound", key)
    return World(tmp_path, evidence, rows, tmp_path / "sound")


def evaluate(world: World) -> None:
    score_arms(SPEC, world.rows, world.bundle, None, None)


def evaluate_champion(world: World) -> None:
    score_arms(SPEC, world.rows, world.sound, world.bundle, "1")


def champion(world: World) -> None:
    folder = world.home / "champion"
    shutil.copytree(world.bundle, folder / "bundle")
    said = {"model": "late", "version": "1", "digest": world.evidence.digest}
    (folder / "champion.json").write_text(json.dumps(said))
    read_champion(folder)


def register(world: World) -> None:
    registry = Registry(new_store(world.home / "store"), wait_seconds=0.2)
    registry.register(SPEC, verdict=world.evidence.verdict, bundle=world.bundle)


def rollout(world: World) -> None:
    store = ServiceStore(world.home, "late")
    kept = store.path(store.keep(world.bundle, "1"))
    assert (kept / SIGNATURE).read_bytes() == (world.bundle / SIGNATURE).read_bytes()


def rollout_on_kserve(world: World) -> None:
    def address(version: str) -> str:
        return f"s3://models/late/{version}"

    kept = KServeStore(None, "late", None, storage_uri=address).keep(world.bundle, "1")  # type: ignore[arg-type]
    assert kept.digest == world.evidence.digest


def server(world: World) -> None:
    options = ServerOptions(world.bundle, "late", "1", world.evidence.digest)
    process = ServerProcess(options, world.home / "server.log")
    process.start()
    try:
        asyncio.run(process.ready())
    finally:
        process.stop()


def library(world: World) -> None:
    Scorer.load(world.bundle)


def smoke(world: World) -> None:
    nowhere = world.home / "nowhere"
    smoke_test(
        SPEC, verdict=world.evidence.verdict, bundle=world.bundle, dataset=nowhere, expected_scores=nowhere
    )


def promote(world: World) -> None:
    registry = Registry(new_store(world.home / "store"), wait_seconds=0.2)
    registry.promote(
        "late",
        "1",
        verdict=world.evidence.verdict,
        bundle=world.bundle,
        rollout=world.evidence.rollout,
        expected_champion=None,
    )


def promote_service(world: World) -> None:
    finish("late", bundle=world.bundle, version="1", home=world.home)


ACCEPTED = (
    evaluate,
    evaluate_champion,
    champion,
    register,
    rollout,
    rollout_on_kserve,
    server,
    library,
)
ALL = (*ACCEPTED, smoke, promote, promote_service)


@pytest.mark.parametrize("hand_over", ACCEPTED)
def test_a_signed_bundle_goes_through(world: World, hand_over: Callable[[World], None]) -> None:
    hand_over(world)


@pytest.mark.parametrize("hand_over", ALL)
def test_a_changed_bundle_is_refused(world: World, hand_over: Callable[[World], None]) -> None:
    with (world.bundle / "model.ubj").open("ab") as file:
        file.write(b"x")
    with pytest.raises(AirworthyError, match=r"model\.ubj was changed since it was written") as caught:
        hand_over(world)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("hand_over", ALL)
def test_a_bundle_without_its_signature_is_refused(world: World, hand_over: Callable[[World], None]) -> None:
    (world.bundle / SIGNATURE).unlink()
    with pytest.raises(AirworthyError, match="not signed, but AIRWORTHY_VERIFY_KEY asks for signed bundles"):
        hand_over(world)


def test_an_exchanged_champion_is_refused(world: World) -> None:
    """Its own digests and signature are right; it is another model."""
    champion(world)
    folder = world.home / "champion"
    shutil.rmtree(folder / "bundle")
    shutil.copytree(world.sound, folder / "bundle")
    with pytest.raises(BundleError, match="holds another bundle than champion version 1"):
        read_champion(folder)


def test_the_copy_of_a_rollout_is_checked_itself(world: World) -> None:
    store = ServiceStore(world.home, "late")
    kept = store.path(store.keep(world.bundle, "1"))
    (kept / "model.ubj").write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.ubj was changed"):
        store.keep(world.bundle, "1")


def test_a_bundle_kept_before_it_was_signed_gets_the_signature(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ServiceStore(world.home, "late")
    signature = (world.bundle / SIGNATURE).read_bytes()
    (world.bundle / SIGNATURE).unlink()
    with monkeypatch.context() as before:
        before.delenv(VERIFY_KEY)
        store.keep(world.bundle, "1")
    (world.bundle / SIGNATURE).write_bytes(signature)
    verify_bundle(store.path(store.keep(world.bundle, "1")))


def test_registry_and_export_keep_the_signature(world: World) -> None:
    registry = Registry(new_store(world.home / "store"), wait_seconds=0.2)
    version = registry.register(SPEC, verdict=world.evidence.verdict, bundle=world.bundle)
    fetched = registry.fetch_bundle(version, world.home / "fetched")
    assert (fetched / SIGNATURE).read_bytes() == (world.bundle / SIGNATURE).read_bytes()
    registry.promote(
        "late",
        version.version,
        verdict=world.evidence.verdict,
        bundle=world.bundle,
        rollout=world.evidence.rollout,
        expected_champion=None,
    )
    exported = export_champion(registry, "late", world.home / "exported")
    assert exported.bundle is not None
    assert verify_bundle(exported.bundle) == world.evidence.digest

    stored = Path(version.source.removeprefix("file://"))
    (stored / SIGNATURE).unlink()
    with pytest.raises(BundleError, match=r"late version 1: .*not signed"):
        registry.fetch_bundle(version, world.home / "again")


def test_a_training_run_that_holds_the_bundle_unsigned_is_not_its_source(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    from airworthy.mlflow_store import experiment_id

    monkeypatch.delenv(VERIFY_KEY)  # the registering step need not know the key
    uri = new_store(world.home / "store")
    client = MlflowClient(uri, uri)
    run = client.create_run(experiment_id(client, "late")).info.run_id
    unsigned = Path(shutil.copytree(world.bundle, world.home / "unsigned"))
    (unsigned / SIGNATURE).unlink()
    client.log_artifacts(run, str(unsigned), "model")
    registry = Registry(uri, wait_seconds=0.2)
    version = registry.register(SPEC, verdict=world.evidence.verdict, bundle=world.bundle, run_id=run)
    assert "/bundles/" in version.source
    assert (registry.fetch_bundle(version, world.home / "back") / SIGNATURE).is_file()


def test_a_store_that_loses_files_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    def forgetful(self: MlflowClient, run_id: str, local_dir: str, artifact_path: str | None = None) -> None:
        partial = Path(shutil.copytree(local_dir, world.home / "partial", dirs_exist_ok=True))
        (partial / "model.ubj").unlink()
        sent(self, run_id, str(partial), artifact_path)

    sent = MlflowClient.log_artifacts
    monkeypatch.setattr(MlflowClient, "log_artifacts", forgetful)
    with pytest.raises(RegistryError, match=r"did not keep bundle .* unchanged"):
        register(world)


def test_mlflow_without_airworthy_checks_as_well(world: World) -> None:
    """The bundle's own code asks for the signature as well, if it is told to."""
    program = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'airworthy':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "import mlflow\n"
        "mlflow.pyfunc.load_model(sys.argv[1])\n"
        "print('loaded')\n"
    )
    command = [sys.executable, "-c", program, str(world.bundle)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", SIGNING_KEY: ""}

    def said() -> str:
        done = subprocess.run(
            command, env=environment, cwd=world.home, capture_output=True, text=True, check=False
        )
        return (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1]

    assert said() == "loaded"
    signature = (world.bundle / SIGNATURE).read_bytes()
    (world.bundle / SIGNATURE).unlink()
    assert "not signed" in said()
    (world.bundle / SIGNATURE).write_bytes(signature)
    (world.bundle / "model.ubj").write_bytes(b"")
    assert "model.ubj was changed" in said()
