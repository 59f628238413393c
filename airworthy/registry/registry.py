"""Reading and changing the registry behind an MLflow URI."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from airworthy import mlflow_store
from airworthy.errors import GateError
from airworthy.mlflow_store import store_errors
from airworthy.registry import aliases, artifacts, reading, transitions
from airworthy.registry import evidence as proof
from airworthy.registry.approval import require_approval
from airworthy.registry.history import Change, Entry, read, repair, whoami
from airworthy.registry.lock import INFIX, LEASE_SECONDS, WAIT_SECONDS, model_lock
from airworthy.registry.versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    PROMOTED_BY,
    ROLLOUT,
    SMOKE,
    VERDICT,
    Version,
)
from airworthy.verdict import read_rollout, require_passed, require_smoke

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airworthy.model_spec import ModelSpec
    from airworthy.signing import Key

NONE: Mapping[str, Path] = MappingProxyType({})


class Registry:
    """The registry behind an MLflow URI.

    Aliases: `challenger` (registered, not yet proven), `champion` (serves), `previous_champion`
    (the way back).

    Args:
        uri: MLflow tracking URI; by default `MLFLOW_TRACKING_URI` or the state directory's SQLite file.
        wait_seconds: How long to wait while another process changes the same model.
        lease_seconds: After how long a process that vanished while it did is overtaken (servers only).
        by: Who is at work, for the history; by default `AIRWORTHY_USER`, or user@host.
    """

    def __init__(
        self,
        uri: str | None = None,
        *,
        wait_seconds: float = WAIT_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
        by: str | None = None,
    ) -> None:
        self.uri = mlflow_store.ensure_store(uri)
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        self._wait_seconds, self._lease_seconds = wait_seconds, lease_seconds
        self._by = by or whoami()

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client, for what is not about versions."""
        return self._client

    def models(self) -> list[str]:
        """Names of the registered models."""
        with store_errors("list the models"):
            return [name for name in reading.names(self._client) if INFIX not in name]

    def champion(self, model: str) -> Version | None:
        """The version that serves; None when there is none yet."""
        return self._by_alias(model, CHAMPION)

    def challenger(self, model: str) -> Version | None:
        """The version that waits for its rollout."""
        return self._by_alias(model, CHALLENGER)

    def previous_champion(self, model: str) -> Version | None:
        """The version that `rollback` would bring back."""
        return self._by_alias(model, PREVIOUS)

    def version(self, model: str, version: str) -> Version:
        """One version by number.

        Raises:
            RegistryError: There is no such version.
        """
        with store_errors(f"read {model} version {version}"):
            return reading.by_number(self._client, model, version)

    def versions(self, model: str) -> list[Version]:
        """All versions, newest first; empty for an unknown model."""
        with store_errors(f"list the versions of {model}"):
            return reading.every(self._client, model)

    def history(self, model: str) -> list[Entry]:
        """Everything that was done to a model's versions, oldest first: moves of aliases, answers, deletions.

        Raises:
            RegistryError: There is no such model, or it can't be reached.
        """
        with store_errors(f"read the history of {model}"):
            return read(self._client, model)

    def moves(self, model: str) -> list[Entry]:
        """Every move of an alias that came about, oldest first."""
        return [entry for entry in self.history(model) if entry.alias and not entry.void]

    def register(
        self,
        spec: ModelSpec,
        *,
        verdict: Path,
        bundle: Path,
        run_id: str | None = None,
        lineage: Mapping[str, str] | None = None,
        evidence: Mapping[str, Path] = NONE,
    ) -> Version:
        """Register a bundle that passed the gate, and make it the challenger.

        The same bundle again gives the same version, with its evidence brought up to date; a champion keeps the
        evidence that it became champion by.

        Args:
            spec: Its model spec.
            verdict: The gate's verdict.
            bundle: The bundle folder.
            run_id: The training run; its artifacts are the version's source when they hold this bundle. None
                (or "") makes a run of its own.
            lineage: Further facts to record as tags (see `airworthy.registry.lineage`).
            evidence: Further files and folders to keep with the version, by name (`statistics`, `findings`,
                `spec`, …); the verdict is kept anyway. The record of a smoke test, `smoke`, must say yes to this
                bundle.

        Raises:
            GateError: The verdict or the smoke test's record is missing, negative or about another bundle or
                model; or this bundle was rolled back before.
            RegistryError: The registry can't be reached, or another process holds the model.
        """
        judged = require_passed(verdict, bundle)
        if judged.model != spec.name:
            raise GateError(f"the verdict is about {judged.model}, not {spec.name}; evaluate this model")
        if SMOKE in evidence:
            require_smoke(evidence[SMOKE], judged.bundle_digest)
        facts = proof.version_tags(spec, judged, bundle, lineage or {})
        with self.changing(spec.name, "register", ensure=spec.description) as change:
            number = transitions.register(
                change,
                judged=judged,
                bundle=bundle,
                run_id=run_id,
                new_run=lambda: self._own_run(spec.name),
                facts=facts,
                contents={**evidence, VERDICT: verdict},
            )
        return self.version(spec.name, number)

    def promote(
        self,
        model: str,
        version: str,
        *,
        verdict: Path,
        bundle: Path,
        rollout: Path,
        expected_champion: str | None,
        evidence: Mapping[str, Path] = NONE,
    ) -> Literal["promoted", "already"]:
        """Make a version the champion, once, and only over the champion that it was compared with.

        Args:
            model: Registered model.
            version: The version to promote.
            verdict: The gate's verdict.
            bundle: The version's bundle.
            rollout: `rollout.json` of its canary.
            expected_champion: The champion that the gate and the canary compared with; None (or "") for none.
            evidence: Further files and folders to keep with the version; as `rollout`, the whole record takes the
                place of `rollout.json`.

        Returns:
            `already` when it is the champion; so repeating is safe.

        Raises:
            GateError: Evidence is missing, negative, or about another bundle; or it is stale, because the
                champion changed in the meantime.
            RegistryError: The registry can't be reached, or another process holds the model.
        """
        expected = expected_champion or None
        judged, outcome = require_passed(verdict, bundle), read_rollout(rollout)
        proof.require_promotable(self.version(model, version), judged, outcome, expected)
        with self.changing(model, "promote") as change:
            champion, candidate = self.champion(model), self.version(model, version)
            if champion is not None and champion.version == candidate.version:
                aliases.settle(change, champion)
                return "already"
            proof.refuse_barred(self._client, model, candidate.digest)
            proof.require_expected(model, champion, expected, outcome)
            judgement = proof.content_digest(verdict)
            require_approval(candidate, judgement)
            transitions.promote(
                change,
                candidate,
                outcome=outcome,
                expected=expected,
                facts={PROMOTED_BY: judgement},
                contents={ROLLOUT: rollout, **evidence},
            )
        return "promoted"

    def require_approval(self, model: str, version: str, verdict: Path) -> None:
        """Refuse to move traffic to a version that its spec wants approved and nobody approved.

        Args:
            model: Registered model.
            version: The version.
            verdict: The gate's verdict; an approval under another one does not count.

        Raises:
            GateError: There is no approval.
            RegistryError: There is no such version, or the registry can't be reached.
        """
        require_approval(self.version(model, version), proof.content_digest(verdict))

    def rollback(self, model: str, reason: str, *, expected_champion: str | None = None) -> Version:
        """Bring the previous champion back; the one that goes is marked and can't be promoted again.

        Args:
            model: Registered model.
            reason: Why, for the record.
            expected_champion: Roll back only this version; None for whichever serves.

        Raises:
            GateError: Another version serves by now.
            RegistryError: There is no champion, or none before it.
            BundleError: The previous champion's stored files are damaged.
        """

        def servable(previous: Version) -> None:  # a way back that can't be served is none
            with tempfile.TemporaryDirectory() as scratch:
                self.fetch_bundle(previous, Path(scratch) / "bundle")

        with self.changing(model, "roll back") as change:
            return transitions.rollback(change, reason, expected_champion=expected_champion, check=servable)

    def withdraw_challenger(self, model: str, version: str | None = None, *, reason: str) -> str | None:
        """Take the alias `challenger` from a version that did not make it.

        Args:
            model: Registered model; an unknown one has no challenger.
            version: Only if it is this version; None for whichever it is.
            reason: Why, for the record.

        Returns:
            The version that lost the alias; None when there was nothing to do.
        """
        if self.challenger(model) is None:
            return None
        with self.changing(model, "withdraw the challenger of") as change:
            return transitions.withdraw(change, version, reason)

    def fetch_bundle(self, version: Version, out: Path) -> Path:
        """Copy a version's bundle to the folder `out`, verified against the digest of its registration.

        Raises:
            BundleError: The stored files are not what was registered.
            RegistryError: They can't be read.
        """
        with store_errors(f"fetch the bundle of {version}"):
            return artifacts.fetch_bundle(self._client, version, out)

    def sign(self, version: Version, key: Key) -> None:
        """Sign a version's stored bundle, which had been registered unsigned or signed with an older key.

        Raises:
            BundleError: The stored files are not what was registered, or can't be signed.
            RegistryError: They can't be reached.
        """
        with store_errors(f"sign {version}"):
            artifacts.sign_stored(self._client, version, key)

    def attach(self, version: Version, name: str, content: Path) -> Version:
        """Keep a file or folder with a version as evidence; what is kept under that name already is replaced.

        Args:
            version: A registered version.
            name: Such as `smoke`, `rollout`, `dossier`: small letters, digits, underscores.
            content: The file or folder.

        Raises:
            RegistryError: The registry can't be reached, or another process holds the model.
            ConfigError: It can't be a name.
        """
        with self.changing(version.model, "keep evidence with") as change:
            current = self.version(version.model, version.version)
            aliases.tag(change, current, artifacts.store_all(self._client, current.run_id, {name: content}))
        return self.version(version.model, version.version)

    def evidence(self, version: Version) -> dict[str, str]:
        """SHA-256 of everything that is kept with a version, by name (`verdict`, `statistics`, …)."""
        return artifacts.kept(version)

    def fetch_evidence(self, version: Version, name: str, out: Path) -> Path | None:
        """Copy evidence kept with a version to `out` (a file or folder, as it was given); None when there is none.

        Raises:
            BundleError: The stored content is not what was recorded.
            RegistryError: It can't be read.
        """
        with store_errors(f"fetch the {name} of {version}"):
            return artifacts.fetch_evidence(self._client, version, name, out)

    @contextmanager
    def changing(
        self, model: str, action: str, *, by: str | None = None, ensure: str | None = None
    ) -> Iterator[Change]:
        """Hold a model's lock, and the right to change it.

        Args:
            model: Registered model.
            action: What for, as in "the model registry could not …".
            by: Who, for the history; by default whoever opened the registry.
            ensure: Make the model if it is missing, with this description.

        Raises:
            RegistryError: Another process holds it, or the registry can't be reached.
        """
        with (
            store_errors(f"{action} {model}"),
            model_lock(
                self._client, model, wait_seconds=self._wait_seconds, lease_seconds=self._lease_seconds
            ) as hold,
        ):
            if ensure is not None:
                self._ensure_model(model, ensure)
            change = Change(self._client, model, hold, by or self._by)
            repair(change)
            yield change

    def _ensure_model(self, model: str, description: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model, description=description)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _own_run(self, model: str) -> str:
        experiment = mlflow_store.experiment_id(self._client, model)
        run = self._client.create_run(experiment, run_name="register")
        self._client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def _by_alias(self, model: str, alias: str) -> Version | None:
        with store_errors(f"read the {alias} of {model}"):
            return reading.by_alias(self._client, model, alias)
