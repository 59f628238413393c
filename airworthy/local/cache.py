"""Reuse of a task's outputs by what went in: code, environment, parameters and the content of artifacts."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from airworthy.local.ir import Spec, digest_of
from airworthy.local.values import Values

FORMAT = 1
logger = logging.getLogger(__name__)


class Cache:
    """Outputs of finished tasks under `<home>/cache/<key>/`: `entry.json` and the files.

    Files are hard links to the run's own (copies across file systems), so they cost no space while a run
    that holds them exists. An entry whose files changed since is dropped when it is looked up.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def look_up(self, key: str, folder: Path) -> Values | None:
        """Outputs of an earlier task, their files linked into `folder`; None if there are none to trust."""
        entry = self.root / key
        try:
            data = json.loads((entry / "entry.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            data = {}
        if data.get("format") != FORMAT or data["files"] != _manifest(entry / "files"):
            logger.warning("A cached result (%s) was changed or damaged; the task runs again.", entry)
            _discard(entry)
            return None
        shutil.copytree(entry / "files", folder, copy_function=_link, dirs_exist_ok=True)
        artifacts = {
            name: [{**item, "uri": str(folder / item["uri"])} for item in items]
            for name, items in data["artifacts"].items()
        }
        return Values(data["parameters"], artifacts)

    def store(self, key: str, folder: Path, outputs: Values) -> None:
        """Keeps outputs that lie under `folder`. Outputs that mention their own place are not kept."""
        artifacts = {}
        for name, items in outputs.artifacts.items():
            if not all(Path(item["uri"]).is_relative_to(folder) for item in items):
                return
            artifacts[name] = [{**item, "uri": str(Path(item["uri"]).relative_to(folder))} for item in items]
        if str(folder) in json.dumps([outputs.parameters, artifacts]):
            return
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=self.root))
        try:
            wanted = set(outputs.artifacts)
            (temporary / "files").mkdir()
            for item in folder.iterdir() if folder.is_dir() else []:
                if item.name in wanted:
                    _link_tree(item, temporary / "files" / item.name)
            entry = {"format": FORMAT, "parameters": outputs.parameters, "artifacts": artifacts}
            entry["files"] = _manifest(temporary / "files")
            (temporary / "entry.json").write_text(json.dumps(entry), encoding="utf-8")
            # Another run may have stored the same result meanwhile; either is right.
            if not (self.root / key).exists():
                temporary.rename(self.root / key)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def cache_key(
    *, caching: Spec, component: Spec, container: Spec, inputs: Values, environment: Mapping[str, Any]
) -> str:
    """Digest of everything that decides a task's outputs.

    Args:
        caching: The task's `cachingOptions`; an own `cacheKey` of the author stands for all inputs.
        component: For the declared inputs and outputs.
        container: Image, command, arguments and variables.
        inputs: Completed inputs; artifacts count by type, metadata and content, not by where they lie.
        environment: What else decides: digests of the image's environment and of the library.
    """
    outputs = component.get("outputDefinitions", {})
    if caching.get("cacheKey"):
        return digest_of({"format": FORMAT, "author": caching["cacheKey"], "outputs": outputs})
    declared = component.get("inputDefinitions", {})
    artifacts = {
        name: [[item["type"], item.get("metadata", {}), content_digest(item["uri"])] for item in items]
        for name, items in inputs.artifacts.items()
        if name in declared.get("artifacts", {})
    }
    parameters = {
        name: value for name, value in inputs.parameters.items() if name in declared.get("parameters", {})
    }
    relevant = {key: container.get(key) for key in ("image", "command", "args", "env")}
    return digest_of(
        {
            "format": FORMAT,
            "outputs": outputs,
            "container": relevant,
            "parameters": parameters,
            "artifacts": artifacts,
            "environment": environment,
        }
    )


def content_digest(uri: str) -> str:
    """SHA-256 over the content of a local file or directory; of the URI itself where it isn't local."""
    path = Path(uri)
    if not path.is_absolute():
        return digest_of(["remote", uri])
    if path.is_dir():
        return digest_of(["directory", _manifest(path)])
    return digest_of(["file", _file_digest(path)]) if path.is_file() else digest_of(["nothing"])


def _manifest(folder: Path) -> dict[str, str]:
    """Relative path to digest, for every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): _file_digest(path) for path in files}


def _file_digest(path: Path) -> str:
    status = path.stat()
    return _digest_of_version(
        str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


@lru_cache(maxsize=100_000)
def _digest_of_version(path: str, _inode: int, _size: int, _modified: int, _changed: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link_tree(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    else:
        _link(str(source), str(target))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def _discard(entry: Path) -> None:
    """Removes an entry at once for other engines: renamed first, then deleted."""
    doomed = Path(tempfile.mkdtemp(prefix=".old-", dir=entry.parent))
    try:
        entry.rename(doomed / "entry")
    except FileNotFoundError:  # another engine was faster
        logger.debug("%s was removed meanwhile", entry)
    shutil.rmtree(doomed, ignore_errors=True)
