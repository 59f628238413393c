"""The files of a version: its bundle and its evidence, kept in the artifacts of its run, named by content."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy.bundle import verify_bundle, verify_digests
from airworthy.errors import BundleError, ConfigError, RegistryError
from airworthy.registry.evidence import content_digest, short
from airworthy.registry.versions import STATES, Version
from airworthy.signing import SIGNATURE, Key, sign_bundle

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRAINING_ARTIFACT = "model"
"""Where a training run keeps its bundle."""
EVIDENCE = "evidence"
"""Folder of a run's artifacts for everything else that is kept with a version."""
_DIGEST = "_sha256"


def store_bundle(client: MlflowClient, run_id: str, bundle: Path, digest: str) -> str:
    """URI of the bundle in the run's artifacts; uploaded unless the training step did that already.

    Raises:
        RegistryError: What arrived in the store is not what was sent.
    """
    root = client.get_run(run_id).info.artifact_uri
    signed = (bundle / SIGNATURE).is_file()
    if _holds(client, run_id, TRAINING_ARTIFACT, digest, signed):
        return f"{root}/{TRAINING_ARTIFACT}"
    path = f"bundles/{digest[:16]}"
    if not _holds(client, run_id, path, digest, signed):
        client.log_artifacts(run_id, str(bundle), path)
        if not _holds(client, run_id, path, digest, signed):
            raise RegistryError(
                f"the artifact store did not keep bundle {short(digest)} unchanged; try again"
            )
    return f"{root}/{path}"


def store_all(client: MlflowClient, run_id: str | None, contents: Mapping[str, Path]) -> dict[str, str]:
    """Keep files and folders in a run's artifacts; per name, tags say where it is, and its SHA-256.

    Raises:
        ConfigError: Something can't be a name.
        RegistryError: There is nothing to keep, or no run to keep it in.
    """
    tags: dict[str, str] = {}
    for name, content in contents.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name.endswith(_DIGEST):
            raise ConfigError(f"evidence {name!r}: a name is made of small letters, digits and underscores")
        if name in STATES:
            raise ConfigError(f"evidence {name!r}: the name is taken by the registry's own records")
        if run_id is None:
            raise RegistryError(
                f"{name} can't be kept: the version has no run, so it was not registered here"
            )
        if not content.exists():
            raise RegistryError(f"{name} can't be kept: {content} does not exist")
        tags |= _store(client, run_id, name, content)
    return tags


def kept(version: Version) -> dict[str, str]:
    """SHA-256 of all that is kept with a version, by name."""
    names = (key.removesuffix(_DIGEST) for key in version.tags if key.endswith(_DIGEST))
    return {name: version.tags[name + _DIGEST] for name in sorted(names) if name in version.tags}


def fetch_bundle(client: MlflowClient, version: Version, out: Path) -> Path:
    """Copy a version's bundle to `out`, verified against the digest recorded at registration.

    Raises:
        BundleError: The stored files are not what was registered.
    """
    download(client, version.source, out)
    try:
        digest = verify_bundle(out)
        if digest != version.digest:
            raise BundleError(f"the stored bundle is {short(digest)}, registered was {short(version.digest)}")
    except BundleError as error:
        shutil.rmtree(out)
        raise BundleError(f"{version}: {error}") from None
    return out


def sign_stored(client: MlflowClient, version: Version, key: Key) -> None:
    """Sign a version's bundle where it is stored; a signature that it has already is replaced.

    Raises:
        BundleError: The stored files are not what was registered, or can't be signed.
        RegistryError: They don't lie in the artifacts of the version's run.
    """
    root = client.get_run(version.run_id).info.artifact_uri if version.run_id else None
    if root is None or not version.source.startswith(f"{root}/"):
        raise RegistryError(f"{version}: its bundle is not stored in the artifacts of its run")
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "bundle"
        download(client, version.source, copy)
        digest = verify_digests(copy)
        if digest != version.digest:
            raise BundleError(
                f"{version}: the stored bundle is {short(digest)}, registered was {short(version.digest)}"
            )
        sign_bundle(copy, key)
        client.log_artifact(version.run_id, str(copy / SIGNATURE), version.source.removeprefix(f"{root}/"))


def fetch_evidence(client: MlflowClient, version: Version, name: str, out: Path) -> Path | None:
    """Copy evidence kept with a version to `out`; None when there is none.

    Raises:
        BundleError: The stored content is not what was recorded.
    """
    where = version.tags.get(name)
    if where is None or name + _DIGEST not in version.tags:
        return None
    download(client, f"runs:/{version.run_id}/{where}", out)
    if content_digest(out) != version.tags[name + _DIGEST]:
        raise BundleError(f"{version}: its stored {name} was changed since registration")
    return out


def removable(client: MlflowClient, version: Version, others: Collection[Version]) -> dict[str, int]:
    """Bytes of a version's bundle and evidence, by their place in its run; not of what other versions use."""
    if version.run_id is None:
        return {}
    root = client.get_run(version.run_id).info.artifact_uri
    listed = {entry.path for entry in client.list_artifacts(version.run_id, EVIDENCE)}
    used = {place for other in others if other.run_id == version.run_id for place in _places(other, root)}
    sizes = {
        path: _size(client, version.run_id, path)
        for path in sorted(_places(version, root) | listed)
        if path not in used
    }
    return {path: size for path, size in sizes.items() if size is not None}


def remove(client: MlflowClient, version: Version, paths: Collection[str]) -> None:
    """Delete these of a version's files."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if paths:
        root = client.get_run(str(version.run_id)).info.artifact_uri
        store = get_artifact_repository(root, tracking_uri=client.tracking_uri)
        for path in paths:
            store.delete_artifacts(path)


def download(client: MlflowClient, uri: str, out: Path) -> None:
    """Artifacts at `uri` (a file or a folder) as `out`, replaced whole."""
    from mlflow.artifacts import download_artifacts

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{out.name}.") as scratch:
        got = Path(download_artifacts(artifact_uri=uri, dst_path=scratch, tracking_uri=client.tracking_uri))
        if out.is_dir():
            shutil.rmtree(out)
        got.replace(out)


def _places(version: Version, root: str) -> set[str]:
    """Where, in its run's artifacts, a version's files are: its bundle, and a folder for each piece of evidence."""
    bundle = {version.source.removeprefix(f"{root}/")} if version.source.startswith(f"{root}/") else set()
    return bundle | {"/".join(version.tags[name].split("/")[:2]) for name in kept(version)}


def _size(client: MlflowClient, run_id: str, path: str) -> int | None:
    """Bytes below a path; None when nothing is there."""
    entries = client.list_artifacts(run_id, path)
    if not entries:
        return None
    below = [_size(client, run_id, entry.path) if entry.is_dir else entry.file_size for entry in entries]
    return sum(size or 0 for size in below)


def _store(client: MlflowClient, run_id: str, name: str, content: Path) -> dict[str, str]:
    digest = content_digest(content)
    folder = f"{EVIDENCE}/{name}-{digest[:16]}"
    if content.is_dir():
        client.log_artifacts(run_id, str(content), folder)
        where = folder
    else:
        client.log_artifact(run_id, str(content), folder)
        where = f"{folder}/{content.name}"
    return {name: where, name + _DIGEST: digest}


def _holds(client: MlflowClient, run_id: str, path: str, digest: str, signed: bool) -> bool:
    if not client.list_artifacts(run_id, path):
        return False
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "bundle"
        download(client, f"runs:/{run_id}/{path}", copy)
        try:
            return verify_bundle(copy) == digest and ((copy / SIGNATURE).is_file() or not signed)
        except BundleError:
            return False
