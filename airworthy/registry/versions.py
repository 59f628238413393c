"""What a registered version is, and the names of aliases and tags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous_champion"

PREFIX = "airworthy."
"""Of all our tags in MLflow; `Version.tags` shows ours without it."""
DIGEST = "bundle_digest"
REPLACED = "replaced_version"
"""The champion before this one; the truth behind the alias `previous_champion`."""
COMPARED = "champion_compared"
"""The champion that the gate compared a version with."""
ROLLED_BACK = "rolled_back"
BARRED = "rolled_back."
"""On the model, followed by a bundle's digest: the mark of a version that was deleted since."""
WITHDRAWN = "withdrawn"
DELETING = "deleting"
"""On a version whose files are being deleted: it counts no longer."""
RETENTION = "retention"
"""The retention policy that it was registered under (JSON)."""
APPROVAL_REQUIRED, APPROVAL_ASKED, APPROVAL_ANSWER = "approval_required", "approval_asked", "approval_answer"
"""Policy, question and answer about traffic moving to a version (JSON)."""
STATES = frozenset(
    {DIGEST, REPLACED, COMPARED, ROLLED_BACK, WITHDRAWN, DELETING, RETENTION}
    | {APPROVAL_REQUIRED, APPROVAL_ASKED, APPROVAL_ANSWER}
)
"""Tags that decide about a version: no evidence has such a name."""
STATISTICS = "statistics"
VERDICT = "verdict"
ROLLOUT = "rollout"
SMOKE = "smoke"
PROMOTED_BY = "promotion_verdict_sha256"
"""SHA-256 of the verdict that a version was promoted by."""
MOVE = "move."


@dataclass(frozen=True)
class Version:
    """One registered version."""

    model: str
    version: str
    digest: str
    """SHA-256 of its bundle."""
    source: str
    """URI of the bundle's files."""
    run_id: str | None
    tags: Mapping[str, str]
    """Lineage and state, as recorded by Airworthy."""
    aliases: tuple[str, ...]
    created: datetime

    def __str__(self) -> str:
        return f"{self.model} version {self.version}"


def version_of(entry: ModelVersion, aliases: Iterable[str]) -> Version:
    """MLflow's version as ours."""
    tags = {k.removeprefix(PREFIX): v for k, v in entry.tags.items() if k.startswith(PREFIX)}
    return Version(
        model=entry.name,
        version=str(entry.version),
        digest=tags.get(DIGEST, ""),
        source=str(entry.source),
        run_id=entry.run_id or None,
        tags=tags,
        aliases=tuple(sorted(aliases)),
        created=datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC),
    )
