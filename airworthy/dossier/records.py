"""Everything recorded about one version, fetched and verified; what fails verification is not believed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airworthy.bundle import BundleInfo, read_bundle_info
from airworthy.dossier.document import Integrity
from airworthy.dossier.runs import RunFacts, read_run
from airworthy.errors import AirworthyError, BundleError, ConfigError, RegistryError
from airworthy.findings import Findings, read_findings
from airworthy.model_spec import ModelSpec, load_spec, spec_digest
from airworthy.registry import Registry, Version
from airworthy.signing import SIGNATURE
from airworthy.verdict import SmokeRecord, Verdict, read_smoke, read_verdict

OWN = "dossier"
"""The evidence that is a dossier itself: made from the rest, so no part of it."""
EXPECTED = ("verdict", "findings", "statistics", "spec")
"""What a release keeps; a version of an older library may lack some."""
ALWAYS = ("verdict",)
"""What no version was ever registered without."""
LATER = ("rollout",)
"""What an older library recorded the digest of, but not the file."""
_DIGEST = "_sha256"
_NO_FILES = ("promotion_verdict",)
"""Digests that name no file of their own."""


@dataclass(frozen=True)
class Records:
    """What is recorded about a version. None: not recorded, or not to be believed (see `integrity`)."""

    version: Version
    integrity: tuple[Integrity, ...]
    """One per recorded artifact."""
    info: BundleInfo | None = None
    signed: bool | None = None
    spec_text: str | None = None
    spec: ModelSpec | None = None
    verdict: Verdict | None = None
    verdict_digest: str | None = None
    findings: Findings | None = None
    statistics: dict[str, Any] = field(default_factory=dict)
    """`statistics.json` of the validation."""
    anomalies: dict[str, Any] = field(default_factory=dict)
    rollout: dict[str, Any] = field(default_factory=dict)
    """`rollout.json`."""
    smoke: SmokeRecord | None = None
    reproduction: dict[str, Any] = field(default_factory=dict)
    run: RunFacts = field(default_factory=RunFacts)
    unreadable: tuple[str, ...] = ()
    """One sentence for each record that is intact, but of a form that this library can't read."""


def read_records(registry: Registry, version: Version) -> Records:
    """Fetch and verify every artifact of a version.

    Raises:
        RegistryError: The registry can't be reached.
    """
    with tempfile.TemporaryDirectory(prefix="airworthy-dossier-") as scratch:
        return _Reader(registry, version, Path(scratch)).read()


class _Reader:
    """One pass over the artifacts; collects what was found wrong on the way."""

    def __init__(self, registry: Registry, version: Version, scratch: Path) -> None:
        self._registry, self._version, self._scratch = registry, version, scratch
        self._digests = registry.evidence(version)
        self._integrity: list[Integrity] = []
        self._unreadable: list[str] = []

    def read(self) -> Records:
        bundle = self._bundle()
        fetched = {name: self._evidence(name) for name in self._names()}
        run = self._run()
        spec_text = self._parse("spec", fetched, lambda path: _file(path, "spec").read_text())
        if spec_text is None and "spec" not in self._digests:  # before specs were kept as evidence
            matching = run.spec_text and spec_digest(run.spec_text) == self._version.tags.get("spec_digest")
            spec_text = run.spec_text if matching else None
        return Records(
            version=self._version,
            info=self._readable("bundle", bundle, read_bundle_info),
            signed=None if bundle is None else (bundle / SIGNATURE).is_file(),
            spec_text=spec_text,
            spec=self._spec(spec_text),
            verdict=self._parse("verdict", fetched, lambda path: read_verdict(_file(path, "verdict"))),
            verdict_digest=self._digests.get("verdict"),
            findings=self._parse("findings", fetched, lambda path: read_findings(_file(path, "findings"))),
            statistics=self._parse("statistics", fetched, _json("statistics.json")) or {},
            anomalies=self._parse("anomalies", fetched, _json("anomalies.json")) or {},
            rollout=self._parse("rollout", fetched, _json("rollout.json")) or {},
            smoke=self._parse("smoke", fetched, lambda path: read_smoke(_file(path, "smoke"))),
            reproduction=self._parse("reproduction", fetched, _json("reproduction.json")) or {},
            run=run,
            integrity=tuple(self._integrity),
            unreadable=tuple(self._unreadable),
        )

    def _names(self) -> list[str]:
        tags = (tag.removesuffix(_DIGEST) for tag in self._version.tags if tag.endswith(_DIGEST))
        return [name for name in sorted({*tags, *EXPECTED}) if name not in (OWN, *_NO_FILES)]

    def _bundle(self) -> Path | None:
        out = self._scratch / "bundle"
        return self._verified(
            "bundle", self._version.digest, lambda: self._registry.fetch_bundle(self._version, out)
        )

    def _evidence(self, name: str) -> Path | None:
        digest = self._digests.get(name)
        if digest is None:
            self._absent(name)
            return None
        out = self._scratch / name
        return self._verified(name, digest, lambda: self._registry.fetch_evidence(self._version, name, out))

    def _absent(self, name: str) -> None:
        lost = self._version.tags.get(f"{name}{_DIGEST}")
        if name in ALWAYS or (lost and name not in LATER):
            sentence = f"The registry doesn't say any more where the {name} of this version is kept."
            self._note(name, "missing", lost, sentence)
        else:
            self._note(name, "not recorded", lost, f"Kept with this version: no {name}.")

    def _verified(self, name: str, digest: str, fetch: Callable[[], Path | None]) -> Path | None:
        try:
            path = fetch()
        except BundleError as error:
            self._note(name, "changed", digest, self._sentence(error))
            return None
        except RegistryError as error:
            self._note(name, "missing", digest, self._sentence(error))
            return None
        self._note(name, "verified", digest, "As recorded.")
        return path

    def _note(self, name: str, outcome: Any, digest: str | None, sentence: str) -> None:
        self._integrity.append(
            Integrity(name=name, kind="artifact", outcome=outcome, digest=digest, sentence=sentence)
        )

    def _sentence(self, error: Exception) -> str:
        """Without the folder it was fetched to, which differs from time to time."""
        text = str(error).replace(f"{self._scratch}/", "").strip().rstrip(".")
        return text[:1].upper() + text[1:] + "."

    def _parse(self, name: str, fetched: dict[str, Path | None], read: Callable[[Path], Any]) -> Any:
        return self._readable(name, fetched.get(name), read)

    def _readable(self, name: str, path: Path | None, read: Callable[[Path], Any]) -> Any:
        if path is None:
            return None
        try:
            return read(path)
        except (AirworthyError, OSError, ValueError) as error:
            first = self._sentence(error).splitlines()[0]
            self._unreadable.append(f"The recorded {name} is intact, but can't be read here: {first}")
            return None

    def _spec(self, text: str | None) -> ModelSpec | None:
        if text is None:
            return None
        try:
            return load_spec(text, "spec")
        except ConfigError as error:
            first = str(error).splitlines()[0]
            self._unreadable.append(f"The recorded spec is not one that this library reads: {first}")
            return None

    def _run(self) -> RunFacts:
        if self._version.run_id is None:
            return RunFacts()
        try:
            return read_run(self._registry.uri, self._version.run_id)
        except RegistryError as error:
            self._note("training run", "missing", None, self._sentence(error))
            return RunFacts()


def _file(path: Path, name: str) -> Path:
    """The one file of an evidence that was given as a file or as a folder with it."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        named = [p for p in files if p.stem == name]
        return (named or files or [path / name])[0]
    return path


def _json(file: str) -> Callable[[Path], dict[str, Any]]:
    def read(path: Path) -> dict[str, Any]:
        content = json.loads((path / file if path.is_dir() else path).read_text())
        if not isinstance(content, dict):
            raise ValueError(f"{file} is not a JSON object")
        return content

    return read
