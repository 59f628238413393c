"""Signatures of bundles: who vouches for a model, beside the digests that say that it is unchanged.

Made and checked by OpenSSF's `model-signing` with EC keys of one's own: offline, and any other tool of that
format can check them. The signature is a file of the bundle's folder that its digest does not cover, so signing
changes no identity. A copy of this file travels inside every bundle, hence the relative import.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import BundleError

SIGNATURE = "model.sig"
SIGNING_KEY = "AIRWORTHY_SIGNING_KEY"
"""Variable with the private key that new bundles are signed with: the path of a PEM file, or the PEM text."""
VERIFY_KEY = "AIRWORTHY_VERIFY_KEY"
"""Variable with the public keys of which one must have signed a bundle: paths (separated as in PATH), or PEM texts
one after the other. Several, so that an old key and its successor are both good for a while."""
PRIVATE_NAME, PUBLIC_NAME = "airworthy-signing.key", "airworthy-signing.pub"
_SUMS = "SHA256SUMS"
_NOT_SIGNED = (SIGNATURE, "registered_model_meta")
"""The latter is MLflow's, written after the fact."""
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_PEM = "-----BEGIN "
_SHORT = 12


@dataclass(frozen=True)
class Key:
    """An EC key. `identity` is the SHA-256 (hex) of its public half in PEM, the name by which signatures call it."""

    identity: str
    pem: bytes = field(repr=False)
    """Private or public, as it was given."""


def signing_key() -> Key | None:
    """The private key of `AIRWORTHY_SIGNING_KEY`; None when new bundles are not to be signed.

    Raises:
        BundleError: It can't be read, is no EC private key without a password, or is none that
            `AIRWORTHY_VERIFY_KEY`, if set, trusts: what it signs would be refused by the next step.
    """
    given, trusted = os.environ.get(SIGNING_KEY, ""), verify_keys()
    known = ", ".join(key.identity[:_SHORT] for key in trusted)
    if not given and trusted:
        raise BundleError(
            f"{VERIFY_KEY} asks for bundles signed with key {known}, but {SIGNING_KEY} is not set: set both "
            "where bundles are made"
        )
    if not given:
        return None
    pem, where = _texts(given, SIGNING_KEY)[0]
    key = read_private_key(pem, where)
    if trusted and key.identity not in {one.identity for one in trusted}:
        raise BundleError(f"{where}: is key {key.identity[:_SHORT]}, but {VERIFY_KEY} trusts {known} only")
    return key


def verify_keys(given: str | None = None) -> tuple[Key, ...]:
    """The public keys of `AIRWORTHY_VERIFY_KEY`, or `given` in its place; none when signatures are not asked for.

    Raises:
        BundleError: One can't be read, or is no EC public key.
    """
    given = os.environ.get(VERIFY_KEY, "") if given is None else given
    return tuple(read_public_key(pem, where) for pem, where in _texts(given, VERIFY_KEY)) if given else ()


def read_private_key(pem: bytes, where: str) -> Key:
    """A private key from PEM text; `where` names it in messages.

    Raises:
        BundleError: It is no EC private key of a usable curve, or has a password.
    """
    serialization = _pem_library()
    try:
        private: Any = serialization.load_pem_private_key(pem, None)
        return Key(_identity(private.public_key()), pem)
    except (ValueError, TypeError, AttributeError):
        raise BundleError(
            f"{where}: no EC private key (P-256, P-384 or P-521, PEM, without a password); "
            "`airworthy keys new` makes one"
        ) from None


def read_public_key(pem: bytes, where: str) -> Key:
    """A public key from PEM text; `where` names it in messages.

    Raises:
        BundleError: It is no EC public key of a usable curve.
    """
    serialization = _pem_library()
    try:
        return Key(_identity(serialization.load_pem_public_key(pem)), pem)
    except (ValueError, TypeError, AttributeError):
        raise BundleError(f"{where}: no EC public key (P-256, P-384 or P-521, PEM)") from None


def sign_bundle(bundle: Path, key: Key) -> None:
    """Sign a finished bundle; a signature that it has already is replaced.

    Args:
        bundle: Its folder; verify it first, for what is signed is what lies there.
        key: Private key, see `signing_key`.

    Raises:
        BundleError: model-signing is not installed, or can't read the bundle.
    """
    hashing, signing, _ = _library()
    finished = bundle / SIGNATURE
    with tempfile.TemporaryDirectory(dir=bundle.parent, prefix=f"{bundle.name}.signing-") as scratch:
        pem, written = Path(scratch, "key"), Path(scratch, SIGNATURE)
        _write_private(pem, key.pem)
        files = hashing.Config().set_ignored_paths(paths=_NOT_SIGNED, ignore_git_paths=False)
        config = signing.Config().use_elliptic_key_signer(private_key=pem).set_hashing_config(files)
        try:
            config.sign(bundle, written)
        except (OSError, ValueError) as error:
            raise BundleError(f"{bundle}: can't be signed: {error}") from error
        written.replace(finished)


def require_signature(bundle: Path, digest: str, keys: tuple[Key, ...]) -> Key:
    """Refuse a bundle that none of the keys has signed as it lies there.

    Args:
        bundle: Its folder.
        digest: SHA-256 of its `SHA256SUMS`; the signature must be about exactly that list.
        keys: Public keys, at least one.

    Returns:
        The key that signed it.

    Raises:
        BundleError: It is unsigned, signed by another key, or changed since; or model-signing is missing.
    """
    file = bundle / SIGNATURE
    if not file.is_file():
        raise BundleError(
            f"{bundle}: not signed, but {VERIFY_KEY} asks for signed bundles; train it with {SIGNING_KEY} set, "
            "or sign it with `airworthy sign`"
        )
    content = file.read_bytes()
    signer, listed = _claims(content, file)
    key = next((key for key in keys if key.identity == signer), None)
    if key is None:
        known = ", ".join(key.identity[:_SHORT] for key in keys)
        raise BundleError(
            f"{bundle}: signed with key {signer[:_SHORT] or 'unknown'}, but {VERIFY_KEY} trusts {known} only"
        )
    _, _, verifying = _library()
    with tempfile.TemporaryDirectory(prefix="airworthy-verify-") as scratch:
        pem, copy = Path(scratch, "key"), Path(scratch, SIGNATURE)
        pem.write_bytes(key.pem)
        copy.write_bytes(content)  # what was read above is what is checked, whatever happens to the file
        config = verifying.Config().use_elliptic_key_verifier(public_key=pem)
        try:
            config.verify(bundle, copy)
        except Exception as error:  # the library's ways to say no are many; whatever is not a yes is a no
            why = str(error).partition(":")[0] or type(error).__name__
            raise BundleError(
                f"{file}: not a valid signature of this bundle by key {signer[:_SHORT]} ({why}); fetch the "
                "bundle again"
            ) from error
    if listed != digest:  # else a signature that leaves files out would be good for any bundle
        raise BundleError(f"{file}: does not cover {_SUMS} as it lies here; sign the bundle again")
    return key


def write_keys(folder: Path) -> tuple[Path, Path]:
    """Make a key pair (EC P-256): files for the private key, readable by its owner alone, and the public one.

    Raises:
        BundleError: There are keys already.
    """
    serialization = _pem_library()
    from cryptography.hazmat.primitives.asymmetric import ec

    private, public = folder / PRIVATE_NAME, folder / PUBLIC_NAME
    for path in (private, public):
        if path.exists():
            raise BundleError(f"{path} exists already; keys are not overwritten: name another folder")
    key = ec.generate_private_key(ec.SECP256R1())
    folder.mkdir(parents=True, exist_ok=True)
    _write_private(
        private,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    public.write_bytes(_public_pem(key.public_key()))
    return private, public


def _texts(given: str, variable: str) -> list[tuple[bytes, str]]:
    """PEM texts, each with a name for messages."""
    if given.lstrip().startswith(_PEM):
        blocks = [_PEM + block for block in given.split(_PEM)[1:]]
        return [(block.encode(), variable) for block in blocks]
    found = []
    for name in given.split(os.pathsep):
        if name:
            path = Path(name).expanduser().absolute()
            try:
                found.append((path.read_bytes(), str(path)))
            except OSError as error:
                raise BundleError(f"{variable}: {path} can't be read: {error.strerror}") from None
    if not found:
        raise BundleError(f"{variable}: names no key")
    return found


def _claims(content: bytes, file: Path) -> tuple[str, str]:
    """Identity of the key, and digest of `SHA256SUMS`, that a signature names; nothing is proven by that."""
    try:
        said = json.loads(content)
        payload = json.loads(base64.b64decode(said["dsseEnvelope"]["payload"]))
        signer = str(said["verificationMaterial"]["publicKey"].get("hint", ""))
        listed = {entry["name"]: entry["digest"] for entry in payload["predicate"]["resources"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BundleError(f"{file}: not a signature made with a key; fetch the bundle again") from None
    return signer, str(listed.get(_SUMS, ""))


def _library() -> tuple[Any, Any, Any]:
    """model-signing's modules (half a second to import, hence only where they are needed)."""
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise BundleError(_missing(error)) from error
    return hashing, signing, verifying


def _identity(public: Any) -> str:
    if public.curve.name not in _CURVES:
        raise ValueError(public.curve.name)
    return hashlib.sha256(_public_pem(public)).hexdigest()


def _public_pem(public: Any) -> bytes:
    serialization = _pem_library()
    pem: bytes = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


def _pem_library() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise BundleError(_missing(error)) from error
    return serialization


def _missing(error: ImportError) -> str:
    return (
        f"{SIGNING_KEY} or {VERIFY_KEY} is set, but {error.name} is not installed here: install model-signing "
        "and pyopenssl"
    )


def _write_private(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
