"""`airworthy keys`, `sign`, `verify`, `sbom`: what a person types, and what it says back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from airworthy import operations
from airworthy.bundle import verify_bundle
from airworthy.cli import app
from airworthy.errors import BundleError, ConfigError, RegistryError
from airworthy.registry import Registry
from airworthy.rollout import deploy
from airworthy.serving.state import ServiceStore
from airworthy.signing import PRIVATE_NAME, PUBLIC_NAME, SIGNATURE, SIGNING_KEY, VERIFY_KEY
from tests.release_evidence import Evidence, make_evidence, new_store, spec

SPEC, _ = spec()


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a key pair made by the command; signing is on."""
    monkeypatch.delenv(VERIFY_KEY, raising=False)
    done = CliRunner().invoke(app, ["keys", "new", str(tmp_path / "keys")], catch_exceptions=False)
    assert f"export {SIGNING_KEY}={tmp_path / 'keys' / PRIVATE_NAME}" in done.output
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "keys" / PRIVATE_NAME))
    return tmp_path / "keys"


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return make_evidence(tmp_path / "challenger", rounds=2)


def test_a_folder_is_signed_and_verified(
    keys: Path, evidence: Evidence, capsys: pytest.CaptureFixture[str]
) -> None:
    what = str(evidence.bundle)
    operations.verify(what, None)
    assert capsys.readouterr().out.endswith("all files as they were written; not signed\n")
    with pytest.raises(BundleError, match="not signed"):
        operations.verify(what, str(keys / PUBLIC_NAME))
    operations.sign(what)
    operations.verify(what, str(keys / PUBLIC_NAME))
    signed, verified = capsys.readouterr().out.splitlines()
    assert signed.split("key ")[1] == verified.split("key ")[1]


def test_a_signature_that_nobody_asked_for_is_not_called_good(
    keys: Path, evidence: Evidence, capsys: pytest.CaptureFixture[str]
) -> None:
    (evidence.bundle / SIGNATURE).write_text("anything")
    operations.verify(str(evidence.bundle), None)
    assert "which was not checked: give --key" in capsys.readouterr().out


def test_a_changed_bundle_is_not_signed(keys: Path, evidence: Evidence) -> None:
    (evidence.bundle / "model.ubj").write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.ubj was changed"):
        operations.sign(str(evidence.bundle))


def test_a_registered_version_is_signed_where_it_is_stored_and_where_it_serves(
    keys: Path, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What turning signatures on takes: the champion had been released without."""
    uri = new_store(tmp_path / "store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path))
    version = Registry(uri).register(SPEC, verdict=evidence.verdict, bundle=evidence.bundle)
    deploy("late", model="late", bundle=evidence.bundle, version=version.version, home=tmp_path)
    store = ServiceStore(tmp_path, "late")
    state = store.read()
    assert state is not None
    assert state.stable is not None

    operations.sign("late@1")
    monkeypatch.setenv(VERIFY_KEY, str(keys / PUBLIC_NAME))
    operations.verify("late@1", None)
    assert verify_bundle(store.path(state.stable)) == evidence.digest

    stored = Path(version.source.removeprefix("file://"))
    shutil.copy(stored / "airworthy.json", stored / "model.ubj")
    with pytest.raises(BundleError, match=r"model\.ubj was changed"):
        operations.sign("late@1")


@pytest.mark.parametrize(
    ("what", "said"),
    [("nowhere", "neither a bundle's folder nor MODEL@VERSION"), ("late@7", "no such model")],
)
def test_what_is_not_there_can_not_be_signed(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, said: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path / "store"))
    with pytest.raises((ConfigError, RegistryError), match=said):
        operations.sign(what)


def test_signing_without_a_key_says_how_to_get_one(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SIGNING_KEY, raising=False)
    monkeypatch.delenv(VERIFY_KEY, raising=False)
    with pytest.raises(ConfigError, match="`airworthy keys new` makes one"):
        operations.sign(str(evidence.bundle))


def test_sbom_writes_a_bill_per_image_group(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sbom", "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert (tmp_path / "serving.cdx.json").is_file()
