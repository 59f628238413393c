"""Reading and changing the registry behind an MLflow URI."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airworthy import mlflow_store
from airworthy.errors import GateError, RegistryError
from airworthy.mlflow_store import store_errors
from airworthy.registry import aliases, artifacts, evidence
from airworthy.registry.lock import INFIX, WAIT_SECONDS, Hold, model_lock
from airworthy.registry.versions import (
    CHALLENGER,
    CHAMPION,
    DIGEST,
    PREFIX,
    PREVIOUS,
    REPLACED,
    ROLLED_BACK,
    STATISTICS,
    VERDICT,
    WITHDRAWN,
    Version,
    version_of,
)
from airworthy.verdict import read_rollout, require_passed

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from airworthy.model_spec import ModelSpec

_log = logging.getLogger(__name__)


class Registry:
    """The registry behind an MLflow URI.

    Aliases: `challenger` (registered, not yet proven), `champion` (serves), `previous_champion`
    (the way back).

    Args:
        uri: MLflow tracking URI; by default `MLFLOW_TRACKING_URI` or the state directory's SQLite file.
        wait_seconds: How long to wait while another process changes the same model.
    """

    def __init__(self, uri: str | None = None, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self.uri = mlflow_store.ensure_store(uri)
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        self._wait_seconds = wait_seconds

    def models(self) -> list[str]:
        """Names of the registered models."""
        with store_errors("list the models"):
            names = [model.name for model in self._client.search_registered_models()]
        return [name for name in names if INFIX not in name]

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
            entry = self._client.get_model_version(model, version)
            return version_of(entry, entry.aliases)

    def versions(self, model: str) -> list[Version]:
        """All versions, newest first; empty for an unknown model."""
        with store_errors(f"list the versions of {model}"):
            found = self._search(f"name='{model}'")
            given = self._client.get_registered_model(model).aliases if found else {}
        held = {str(n): [a for a, v in given.items() if str(v) == str(n)] for n in given.values()}
        versions = [version_of(entry, held.get(str(entry.version), ())) for entry in found]
        return sorted(versions, key=lambda v: int(v.version), reverse=True)

    def moves(self, model: str) -> list[dict[str, Any]]:
        """Every change of an alias, oldest first: time, action, alias, version, from, reason."""
        with store_errors(f"read the history of {model}"):
            return aliases.history(self._client, model)

    def register(
        self,
        spec: ModelSpec,
        *,
        verdict: Path,
        bundle: Path,
        run_id: str | None = None,
        lineage: Mapping[str, str] | None = None,
        statistics: Path | None = None,
    ) -> Version:
        """Register a bundle that passed the gate, and make it the challenger.

        The same bundle again gives the same version, with its evidence brought up to date.

        Args:
            spec: Its model spec.
            verdict: The gate's verdict.
            bundle: The bundle folder.
            run_id: The training run; its artifacts are the version's source when they hold this bundle. None
                (or "") makes a run of its own.
            lineage: Further facts to record as tags (see `airworthy.registry.lineage`).
            statistics: Accepted statistics of the training data (file or folder), kept with the version.

        Raises:
            GateError: The verdict is missing, negative or about another bundle or model; or this bundle was
                rolled back before.
            RegistryError: The registry can't be reached, or another process holds the model.
        """
        judged = require_passed(verdict, bundle)
        if judged.model != spec.name:
            raise GateError(f"the verdict is about {judged.model}, not {spec.name}; evaluate this model")
        tags = evidence.version_tags(spec, judged, bundle, lineage or {})
        with self._locked(spec.name, "register") as hold:
            self._ensure_model(spec)
            found = self._by_digest(spec.name, judged.bundle_digest)
            if found is not None:
                evidence.refuse_rolled_back(found)
            # A version's evidence lies in its own run, so that is where an update goes as well.
            run = (found.run_id if found else None) or run_id or self._own_run(spec.name)
            tags |= artifacts.store_evidence(self._client, run, VERDICT, verdict)
            if statistics is not None:
                tags |= artifacts.store_evidence(self._client, run, STATISTICS, statistics)
            hold.require()
            if found is None:
                source = artifacts.store_bundle(self._client, run, bundle, judged.bundle_digest)
                prefixed = {PREFIX + key: value for key, value in tags.items()}
                entry = self._client.create_model_version(
                    spec.name, source, run, tags=prefixed, await_creation_for=0
                )
                found = version_of(entry, ())
            aliases.tag(self._client, found, tags)
            if WITHDRAWN in found.tags:
                self._client.delete_model_version_tag(spec.name, found.version, PREFIX + WITHDRAWN)
            if CHAMPION not in found.aliases and CHALLENGER not in found.aliases:
                aliases.move(self._client, hold, found, CHALLENGER, "registered", "passed the gate")
        return self.version(spec.name, found.version)

    def promote(
        self,
        model: str,
        version: str,
        *,
        verdict: Path,
        bundle: Path,
        rollout: Path,
        expected_champion: str | None,
    ) -> Literal["promoted", "already"]:
        """Make a version the champion, once, and only over the champion that it was compared with.

        Args:
            model: Registered model.
            version: The version to promote.
            verdict: The gate's verdict.
            bundle: The version's bundle.
            rollout: `rollout.json` of its canary.
            expected_champion: The champion that the gate and the canary compared with; None (or "") for none.

        Returns:
            `already` when it is the champion; so repeating is safe.

        Raises:
            GateError: Evidence is missing, negative, or about another bundle; or it is stale, because the
                champion changed in the meantime.
            RegistryError: The registry can't be reached, or another process holds the model.
        """
        expected = expected_champion or None
        judged, outcome = require_passed(verdict, bundle), read_rollout(rollout)
        evidence.require_promotable(self.version(model, version), judged, outcome, expected)
        with self._locked(model, "promote") as hold:
            champion, candidate = self.champion(model), self.version(model, version)
            if champion is not None and champion.version == candidate.version:
                aliases.settle(self._client, hold, champion)
                return "already"
            evidence.refuse_rolled_back(candidate)
            evidence.require_expected(model, champion, expected, outcome)
            # Before the alias: a crash in between leaves a tag that the next attempt writes again.
            tags = {
                REPLACED: expected or "",
                "promotion_verdict_sha256": evidence.content_digest(verdict),
                "rollout_sha256": evidence.content_digest(rollout),
            }
            aliases.tag(self._client, candidate, tags)
            if WITHDRAWN in candidate.tags:
                self._client.delete_model_version_tag(model, version, PREFIX + WITHDRAWN)
            aliases.move(self._client, hold, candidate, CHAMPION, "promoted", outcome.reason, expected)
            aliases.settle(self._client, hold, self.version(model, version))
        return "promoted"

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
        with self._locked(model, "roll back") as hold:
            champion = self.champion(model)
            if champion is None:
                raise RegistryError(f"{model} has no champion, so there is nothing to roll back")
            if expected_champion and champion.version != expected_champion:
                raise GateError(f"{champion} serves by now, not {expected_champion}: nothing was rolled back")
            before = champion.tags.get(REPLACED)
            if not before:
                raise RegistryError(f"{champion} is the first champion: there is none to go back to")
            previous = self.version(model, before)
            if ROLLED_BACK in previous.tags:
                raise RegistryError(f"{previous} came before, but was rolled back itself: none to go back to")
            with tempfile.TemporaryDirectory() as scratch:  # a way back that can't be served is none
                self.fetch_bundle(previous, Path(scratch) / "bundle")
            aliases.tag(
                self._client, champion, {ROLLED_BACK: json.dumps({"time": aliases.now(), "reason": reason})}
            )
            aliases.move(self._client, hold, previous, CHAMPION, "rolled back", reason, champion.version)
            aliases.settle(self._client, hold, previous)
        return self.version(model, previous.version)

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
        with self._locked(model, "withdraw the challenger of") as hold:
            current = self.challenger(model)
            if current is None or (version is not None and current.version != version):
                return None
            if CHAMPION in current.aliases:  # promoted, and the run died before it tidied up
                aliases.settle(self._client, hold, current)
                return None
            aliases.tag(
                self._client, current, {WITHDRAWN: json.dumps({"time": aliases.now(), "reason": reason})}
            )
            aliases.move(self._client, hold, current, CHALLENGER, "withdrawn", reason, remove=True)
        return current.version

    def fetch_bundle(self, version: Version, out: Path) -> Path:
        """Copy a version's bundle to the folder `out`, verified against the digest of its registration.

        Raises:
            BundleError: The stored files are not what was registered.
            RegistryError: They can't be read.
        """
        with store_errors(f"fetch the bundle of {version}"):
            return artifacts.fetch_bundle(self._client, version, out)

    def fetch_statistics(self, version: Version, out: Path) -> Path | None:
        """Copy the accepted statistics kept with a version to `out`; None when none were kept."""
        with store_errors(f"fetch the statistics of {version}"):
            return artifacts.fetch_evidence(self._client, version, STATISTICS, out)

    def fetch_verdict(self, version: Version, out: Path) -> Path | None:
        """Copy the verdict that a version was registered with to the file `out`."""
        with store_errors(f"fetch the verdict of {version}"):
            return artifacts.fetch_evidence(self._client, version, VERDICT, out)

    def _ensure_model(self, spec: ModelSpec) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(spec.name, description=spec.description)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _own_run(self, model: str) -> str:
        experiment = mlflow_store.experiment_id(self._client, model)
        run = self._client.create_run(experiment, run_name="register")
        self._client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def _by_alias(self, model: str, alias: str) -> Version | None:
        from mlflow.exceptions import MlflowException

        with store_errors(f"read the {alias} of {model}"):
            try:
                entry = self._client.get_model_version_by_alias(model, alias)
            except MlflowException as error:  # an outage must not look like "none"
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
            return version_of(entry, entry.aliases)

    def _by_digest(self, model: str, digest: str) -> Version | None:
        found = self._search(f"name='{model}' and tags.`{PREFIX}{DIGEST}`='{digest}'")
        return self.version(model, str(min(int(v.version) for v in found))) if found else None

    def _search(self, query: str) -> list[ModelVersion]:
        found: list[ModelVersion] = []
        token = None
        while True:
            page = self._client.search_model_versions(query, max_results=200, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    @contextmanager
    def _locked(self, model: str, action: str) -> Iterator[Hold]:
        with (
            store_errors(f"{action} {model}"),
            model_lock(self._client, model, wait_seconds=self._wait_seconds) as hold,
        ):
            yield hold
