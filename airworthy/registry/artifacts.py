"""The files of a version: its bundle and its evidence, kept in the artifacts of its run, named by content."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy.bundle import verify_bundle
from airworthy.errors import BundleError, RegistryError
from airworthy.registry.evidence import content_digest, short
from airworthy.registry.versions import Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRAINING_ARTIFACT = "model"
"""Where a training run keeps its bundle."""


def store_bundle(client: MlflowClient, run_id: str, bundle: Path, digest: str) -> str:
    """URI of the bundle in the run's artifacts; uploaded unless the training step did that already.

    Raises:
        RegistryError: What arrived in the store is not what was sent.
    """
    root = client.get_run(run_id).info.artifact_uri
    if _holds(client, run_id, TRAINING_ARTIFACT, digest):
        return f"{root}/{TRAINING_ARTIFACT}"
    path = f"bundles/{digest[:16]}"
    if not _holds(client, run_id, path, digest):
        client.log_artifacts(run_id, str(bundle), path)
        if not _holds(client, run_id, path, digest):
            raise RegistryError(
                f"the artifact store did not keep bundle {short(digest)} unchanged; try again"
            )
    return f"{root}/{path}"


def store_evidence(client: MlflowClient, run_id: str, name: str, content: Path) -> dict[str, str]:
    """Keep a file or folder in the run's artifacts; the tags say where, and its SHA-256."""
    digest = content_digest(content)
    folder = f"evidence/{name}-{digest[:16]}"
    if content.is_dir():
        client.log_artifacts(run_id, str(content), folder)
        where = folder
    else:
        client.log_artifact(run_id, str(content), folder)
        where = f"{folder}/{content.name}"
    return {name: where, f"{name}_sha256": digest}


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


def fetch_evidence(client: MlflowClient, version: Version, name: str, out: Path) -> Path | None:
    """Copy evidence kept with a version (`statistics`, `verdict`) to `out`; None when there is none.

    Raises:
        BundleError: The stored content is not what was recorded.
    """
    where = version.tags.get(name)
    if where is None:
        return None
    download(client, f"runs:/{version.run_id}/{where}", out)
    if content_digest(out) != version.tags.get(f"{name}_sha256"):
        raise BundleError(f"{version}: its stored {name} was changed since registration")
    return out


def download(client: MlflowClient, uri: str, out: Path) -> None:
    """Artifacts at `uri` (a file or a folder) as `out`, replaced whole."""
    from mlflow.artifacts import download_artifacts

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{out.name}.") as scratch:
        got = Path(download_artifacts(artifact_uri=uri, dst_path=scratch, tracking_uri=client.tracking_uri))
        if out.is_dir():
            shutil.rmtree(out)
        got.replace(out)


def _holds(client: MlflowClient, run_id: str, path: str, digest: str) -> bool:
    if not client.list_artifacts(run_id, path):
        return False
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "bundle"
        download(client, f"runs:/{run_id}/{path}", copy)
        try:
            return verify_bundle(copy) == digest
        except BundleError:
            return False
