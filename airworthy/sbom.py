"""Software bills of materials: what is in an image, from the lock files that it is installed from.

CycloneDX 1.6 as JSON, one file per image group. Equal lock files give equal bills: they carry no clock time, and
their serial number is made from their content. Package addresses are package URLs, not those of some index.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airworthy import __version__
from airworthy.errors import ConfigError
from airworthy.files import write_whole

SPEC_VERSION = "1.6"
EXECUTOR = "executor"
"""Lock file of what every image gets besides its group's."""
NO_IMAGES = ("bootstrap", "dev", "engine", EXECUTOR, "mlserver", "validation-test")
"""Lock files that no image is made of."""
_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==(?P<version>[^\s;]+)(?:\s*;\s*(?P<marker>.+))?"
)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Pin:
    """One locked package."""

    name: str
    version: str
    marker: str
    """Where it is installed at all (PEP 508); empty for everywhere."""
    hashes: tuple[str, ...]
    """SHA-256 of its files, of which one is installed."""

    @property
    def purl(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{re.sub(r'[-_.]+', '-', self.name).lower()}@{quote(self.version, safe='')}"


def read_lock(path: Path) -> tuple[Pin, ...]:
    """The packages of a lock file as `make lock` writes it.

    Raises:
        ConfigError: It can't be read, or an entry is no exact version with hashes.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    entries = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    return tuple(_pin(entry.strip(), path) for entry in entries if entry.strip())


def bill(group: str, locks: Iterable[Path]) -> dict[str, Any]:
    """The bill of materials of an image group, as a CycloneDX document.

    Args:
        group: Dependency group.
        locks: The lock files that its image is installed from; the first that names a package counts.

    Raises:
        ConfigError: A lock file can't be understood.
    """
    components: dict[str, dict[str, Any]] = {}
    properties = [{"name": "airworthy:group", "value": group}]
    for lock in locks:
        for pin in read_lock(lock):
            components.setdefault(pin.purl, _component(pin, lock.name))
        digest = hashlib.sha256(lock.read_bytes()).hexdigest()
        properties.append({"name": f"airworthy:lock:{lock.name}:sha256", "value": digest})
    root = f"pkg:pypi/airworthy@{__version__}"
    names = sorted(components)
    document = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": "airworthy",
                "version": __version__,
                "purl": root,
                "properties": properties,
            },
            "lifecycles": [{"phase": "pre-build"}],
        },
        "components": [components[name] for name in names],
        # A lock file is flat: that the image holds all of it is known, who needs whom is not.
        "dependencies": [{"ref": root, "dependsOn": names}, *({"ref": name} for name in names)],
        "compositions": [
            {"aggregate": "incomplete", "dependencies": names},
        ],
    }
    identity = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return {**document, "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, identity)}"}


def write_bills(requirements: Path, out: Path) -> list[Path]:
    """Write `<group>.cdx.json` for every image group.

    Args:
        requirements: Folder of the lock files.
        out: Folder to write to; made if missing.

    Returns:
        The files written.

    Raises:
        ConfigError: There are no lock files, or one can't be understood.
    """
    groups = sorted(lock.stem for lock in requirements.glob("*.txt") if lock.stem not in NO_IMAGES)
    if not groups:
        raise ConfigError(f"{requirements}: no lock files here; run `make lock`")
    written = []
    for group in groups:
        locks = [requirements / f"{name}.txt" for name in (group, EXECUTOR)]
        target = out / f"{group}.cdx.json"
        write_whole(target, json.dumps(bill(group, locks), indent=2, sort_keys=True) + "\n")
        written.append(target)
    return written


def _pin(entry: str, path: Path) -> Pin:
    said, *_ = entry.partition("--hash=")
    match, hashes = _PIN.fullmatch(said.strip()), _HASH.findall(entry)
    if match is None or not hashes:
        raise ConfigError(f"{path}: {entry[:60]!r} is no exact version with hashes; run `make lock`")
    return Pin(match["name"], match["version"], (match["marker"] or "").strip(), tuple(sorted(hashes)))


def _component(pin: Pin, lock: str) -> dict[str, Any]:
    properties = [{"name": "airworthy:lock", "value": lock}]
    if pin.marker:
        properties.append({"name": "airworthy:marker", "value": pin.marker})
    return {
        "type": "library",
        "bom-ref": pin.purl,
        "name": pin.name,
        "version": pin.version,
        "purl": pin.purl,
        "externalReferences": [
            {
                "type": "distribution",
                "url": pin.purl,
                "comment": "the files that may be installed, checked by hash",
                "hashes": [{"alg": "SHA-256", "content": value} for value in pin.hashes],
            }
        ],
        "properties": properties,
    }
