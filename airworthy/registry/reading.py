"""Looking things up in MLflow's registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airworthy.registry.versions import DELETING, DIGEST, PREFIX, Version, version_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def names(client: MlflowClient) -> list[str]:
    """Names of all registered models."""
    found: list[str] = []
    token = None
    while True:
        page = client.search_registered_models(max_results=1000, page_token=token)
        found += [model.name for model in page]
        token = page.token
        if not token:
            return found


def by_number(client: MlflowClient, model: str, number: str) -> Version:
    """One version."""
    entry = client.get_model_version(model, number)
    return version_of(entry, entry.aliases)


def by_alias(client: MlflowClient, model: str, alias: str) -> Version | None:
    """The version with an alias; None when none has it."""
    from mlflow.exceptions import MlflowException

    try:
        entry = client.get_model_version_by_alias(model, alias)
    except MlflowException as error:  # an outage must not look like "none"
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return version_of(entry, entry.aliases)


def by_digest(client: MlflowClient, model: str, digest: str) -> Version | None:
    """The first version of a bundle; None when there is none, or only one that is being deleted."""
    found = search(client, f"name='{model}' and tags.`{PREFIX}{DIGEST}`='{digest}'")
    numbers = [int(entry.version) for entry in found if PREFIX + DELETING not in entry.tags]
    return by_number(client, model, str(min(numbers))) if numbers else None


def every(client: MlflowClient, model: str) -> list[Version]:
    """All versions, newest first; empty for an unknown model."""
    found = search(client, f"name='{model}'")
    given = client.get_registered_model(model).aliases if found else {}
    held = {str(n): [a for a, v in given.items() if str(v) == str(n)] for n in given.values()}
    versions = [version_of(entry, held.get(str(entry.version), ())) for entry in found]
    return sorted(versions, key=lambda v: int(v.version), reverse=True)


def search(client: MlflowClient, query: str) -> list[ModelVersion]:
    """All pages of a search."""
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(query, max_results=200, page_token=token)
        found += page
        token = page.token
        if not token:
            return found
