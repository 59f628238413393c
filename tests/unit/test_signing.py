"""Signed bundles: who may vouch for a model is checked wherever digests are, and refusals say what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airworthy import signing
from airworthy.bundle import Scorer, bundle_digest, verify_bundle, write_bundle
from airworthy.errors import BundleError
from airworthy.signing import SIGNATURE, SIGNING_KEY, VERIFY_KEY, sign_bundle, signing_key, write_keys
from tests.release_evidence import make_bundle


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_keys(tmp_path_factory.mktemp("others"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    make_bundle(folder, rounds=2)
    return folder


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "bundle"))


@pytest.fixture
def signed(bundle: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A signed bundle, where the signature is asked for."""
    sign(bundle, keys[0])
    monkeypatch.setenv(VERIFY_KEY, str(keys[1]))
    return bundle


def sign(bundle: Path, private: Path) -> None:
    sign_bundle(bundle, signing.read_private_key(private.read_bytes(), str(private)))


def test_signing_changes_no_identity(bundle: Path, keys: tuple[Path, Path]) -> None:
    before = verify_bundle(bundle)
    sign(bundle, keys[0])
    assert verify_bundle(bundle) == bundle_digest(bundle) == before
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle"]


def test_a_signed_bundle_is_loaded_where_signatures_are_asked_for(signed: Path) -> None:
    Scorer.load(signed)
    (signed / "registered_model_meta").write_text("model_name: late\n")  # MLflow's own, written later
    verify_bundle(signed)


def test_an_unsigned_bundle_is_refused(
    bundle: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VERIFY_KEY, str(keys[1]))
    with pytest.raises(BundleError, match=f"not signed, but {VERIFY_KEY} asks for signed bundles"):
        Scorer.load(bundle)


def test_any_of_several_keys_is_enough(
    bundle: Path, keys: tuple[Path, Path], others: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a key can be replaced: first both are trusted, later the new one alone."""
    sign(bundle, keys[0])
    for text in (
        f"{others[1]}{os.pathsep}{keys[1]}",
        others[1].read_text() + keys[1].read_text(),
        keys[1].read_text(),
    ):
        monkeypatch.setenv(VERIFY_KEY, text)
        verify_bundle(bundle)
    monkeypatch.setenv(VERIFY_KEY, str(others[1]))
    with pytest.raises(BundleError, match=r"signed with key .*, but AIRWORTHY_VERIFY_KEY trusts .* only"):
        verify_bundle(bundle)
    sign(bundle, others[0])
    verify_bundle(bundle)


def _resealed(bundle: Path) -> None:
    """Somebody changes the model and makes the digests right again."""
    shutil.copy(bundle / SIGNATURE, bundle.parent / SIGNATURE)
    make_bundle(bundle, rounds=3)
    shutil.copy(bundle.parent / SIGNATURE, bundle / SIGNATURE)


def _forged(bundle: Path) -> None:
    """Another key signs and says that it was the trusted one."""
    content = (bundle / SIGNATURE).read_text()
    trusted = content.split('"hint":"')[1][:64]
    private, public = write_keys(bundle.parent / "mallory")
    sign(bundle, private)
    theirs = signing.read_public_key(public.read_bytes(), "").identity
    (bundle / SIGNATURE).write_text((bundle / SIGNATURE).read_text().replace(theirs, trusted))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_resealed, r"not a valid signature of this bundle by key \w{12} \(Signature mismatch\)"),
        (_forged, r"not a valid signature of this bundle by key \w{12} \(InvalidSignature\)"),
        (lambda b: (b / SIGNATURE).unlink(), "not signed"),
        (lambda b: (b / SIGNATURE).write_text(""), "not a signature made with a key"),
        (lambda b: (b / SIGNATURE).write_text("[]"), "not a signature made with a key"),
        (lambda b: (b / SIGNATURE).write_text("{}"), "not a signature made with a key"),
        (lambda b: (b / "model.ubj").write_bytes(b""), "model.ubj was changed"),
        (lambda b: (b / "code" / SIGNATURE).write_text("x"), "not part of the bundle"),
    ],
)
def test_any_damage_is_refused_in_one_sentence(
    signed: Path, damage: Callable[[Path], Any], said: str
) -> None:
    damage(signed)
    with pytest.raises(BundleError, match=said) as caught:
        verify_bundle(signed)
    assert "\n" not in str(caught.value)


def test_a_signature_that_leaves_files_out_is_good_for_nothing(
    bundle: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_signing import hashing
    from model_signing import signing as other_tool

    left_out = hashing.Config().set_ignored_paths(paths=["."], ignore_git_paths=False)
    config = other_tool.Config().use_elliptic_key_signer(private_key=keys[0]).set_hashing_config(left_out)
    config.sign(bundle, bundle / SIGNATURE)
    monkeypatch.setenv(VERIFY_KEY, str(keys[1]))
    with pytest.raises(BundleError, match="does not cover SHA256SUMS"):
        verify_bundle(bundle)


def test_other_tools_of_the_format_agree(signed: Path, keys: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed)]
    command += ["--signature", str(signed / SIGNATURE), "--public_key", str(keys[1])]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (signed / "airworthy.json").write_text("{}")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_the_signature_is_no_content_of_a_bundle(original: Path, tmp_path: Path) -> None:
    from airworthy.bundle import read_bundle_info

    booster = (original / "model.ubj").read_bytes()
    with pytest.raises(BundleError, match="can't be added"):
        write_bundle(tmp_path / "b", read_bundle_info(original), booster, extra={SIGNATURE: b"x"})


def test_the_private_key_is_its_owners_alone_and_never_overwritten(
    keys: tuple[Path, Path], tmp_path: Path
) -> None:
    assert keys[0].stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in keys[1].read_bytes()
    with pytest.raises(BundleError, match="exists already"):
        write_keys(keys[0].parent)


@pytest.mark.parametrize("given", ["path", "text"])
def test_the_signing_key_is_a_file_or_its_text(
    bundle: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv(SIGNING_KEY, str(keys[0]) if given == "path" else keys[0].read_text())
    key = signing_key()
    assert key is not None
    assert "PRIVATE" not in repr(key)
    sign_bundle(bundle, key)
    monkeypatch.setenv(VERIFY_KEY, str(keys[1]))
    verify_bundle(bundle)


def test_nothing_is_signed_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SIGNING_KEY, raising=False)
    monkeypatch.delenv(VERIFY_KEY, raising=False)
    assert signing_key() is None


def _rsa(folder: Path) -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "rsa.pem").write_bytes(private)
    return str(folder / "rsa.pem")


def _with_password(folder: Path) -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    locked = serialization.BestAvailableEncryption(b"secret")
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    (folder / "locked.pem").write_bytes(private)
    return str(folder / "locked.pem")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (lambda folder: str(folder / "none.pem"), r"none\.pem can't be read: No such file"),
        (lambda folder: str(folder), "can't be read: Is a directory"),
        (lambda folder: os.pathsep, "names no key"),
        (_rsa, "no EC private key"),
        (_with_password, "without a password"),
        (lambda folder: "-----BEGIN PRIVATE KEY-----\nnonsense\n", f"{SIGNING_KEY}: no EC private key"),
    ],
)
def test_an_unusable_signing_key_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: Callable[[Path], str], said: str
) -> None:
    monkeypatch.setenv(SIGNING_KEY, key(tmp_path))
    with pytest.raises(BundleError, match=said):
        signing_key()


def test_an_unusable_verify_key_is_refused(
    signed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VERIFY_KEY, str(keys[0]))
    with pytest.raises(BundleError, match="no EC public key"):
        verify_bundle(signed)


def test_a_key_that_the_next_step_would_refuse_is_refused_at_once(
    keys: tuple[Path, Path], others: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VERIFY_KEY, str(keys[1]))
    monkeypatch.delenv(SIGNING_KEY, raising=False)
    with pytest.raises(BundleError, match=f"but {SIGNING_KEY} is not set"):
        signing_key()
    monkeypatch.setenv(SIGNING_KEY, str(others[0]))
    with pytest.raises(BundleError, match=r"trusts .* only"):
        signing_key()


WITHOUT_LIBRARY = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("airworthy", "model_signing", "cryptography"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hide())
sys.path.insert(0, sys.argv[1] + "/code")
from pathlib import Path
from airworthy_scorer.bundle import Scorer
Scorer.load(Path(sys.argv[1]))
"""


def test_a_bundle_needs_the_library_only_where_signatures_are_asked_for(
    signed: Path, keys: tuple[Path, Path]
) -> None:
    """The code that travels with it, in an environment without Airworthy and model-signing."""
    plain = {name: value for name, value in os.environ.items() if name != VERIFY_KEY}
    command = [sys.executable, "-c", WITHOUT_LIBRARY, str(signed)]
    subprocess.run(command, env=plain, check=True)
    asked = subprocess.run(
        command, env={**plain, VERIFY_KEY: str(keys[1])}, check=False, capture_output=True, text=True
    )
    assert asked.returncode != 0
    assert "is not installed here: install model-signing" in asked.stderr.splitlines()[-1]
