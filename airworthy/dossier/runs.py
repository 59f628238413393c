"""The training run behind a version, as MLflow kept it: parameters, metrics, curves, data and machine."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airworthy import mlflow_store
from airworthy.mlflow_store import store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MACHINE = "airworthy."
"""Prefix of the tags that a training run puts on itself."""
CURVE_POINTS = 200
SPEC = "spec.yaml"
_CONTEXT = "mlflow.data.context"


@dataclass(frozen=True)
class RunFacts:
    """What a training run logged. MLflow keeps it without a digest, so it is compared with what has one."""

    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Profile of each dataset (`rows`, `start`, `end`, `fingerprint`) by its role: `training`, `tuning`."""
    tags: dict[str, str] = field(default_factory=dict)
    """Airworthy's, without their prefix."""
    spec_text: str | None = None


def read_run(uri: str, run_id: str) -> RunFacts:
    """Everything that a run says about itself; empty where it logged nothing (a run made for registering).

    Raises:
        RegistryError: The tracking store can't be reached or has lost the run.
    """
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_store.ensure_store(uri))
    with store_errors(f"read run {run_id}"):
        run = client.get_run(run_id)
        return RunFacts(
            params=dict(run.data.params),
            metrics=dict(sorted(run.data.metrics.items())),
            curves=_curves(client, run),
            inputs=_inputs(run),
            tags={k.removeprefix(MACHINE): v for k, v in run.data.tags.items() if k.startswith(MACHINE)},
            spec_text=_spec_text(client, run_id),
        )


def _curves(client: MlflowClient, run: Run) -> dict[str, tuple[tuple[int, float], ...]]:
    found = {}
    for name in sorted(run.data.metrics):
        points = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)}
        if len(points) > 1:
            steps = sorted(points)
            stride = -(-len(steps) // CURVE_POINTS)
            kept = sorted({*steps[::stride], steps[-1]})
            found[name] = tuple((step, points[step]) for step in kept)
    return found


def _inputs(run: Run) -> dict[str, dict[str, Any]]:
    found = {}
    for entry in run.inputs.dataset_inputs if run.inputs else []:
        role = next((tag.value for tag in entry.tags if tag.key == _CONTEXT), entry.dataset.name)
        found[role] = json.loads(entry.dataset.profile or "{}")
    return found


def _spec_text(client: MlflowClient, run_id: str) -> str | None:
    if not any(entry.path == SPEC for entry in client.list_artifacts(run_id)):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        return Path(client.download_artifacts(run_id, SPEC, scratch)).read_text()
