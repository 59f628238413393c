"""The MLflow run of a training: parameters, curves, data lineage, machine, and the bundle as its model."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy import mlflow_store
from airworthy.bundle import BundleInfo
from airworthy.datasets import DatasetInfo
from airworthy.errors import RegistryError
from airworthy.training.device import cpu_threads

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

MODEL_ARTIFACT = "model"
"""Where the run keeps the bundle; the registry finds it there."""
_BATCH = 1000
"""Most metrics that MLflow takes at once."""
_DIGEST_CHARS = 36
"""Longest dataset digest that MLflow stores; the whole one is in the dataset's profile."""


class Run:
    """An open MLflow run."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def record(
        self,
        info: BundleInfo,
        bundle: Path,
        digest: str,
        metrics: Mapping[str, float],
        curves: Mapping[str, Sequence[float]],
    ) -> None:
        """Log the fitted model; one request per thousand metrics.

        Args:
            info: The bundle's description.
            bundle: The bundle folder, kept as the run's model.
            digest: The bundle's digest.
            metrics: Final values.
            curves: Values per round.
        """
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        points = [Metric(name, value, now, 0) for name, value in metrics.items()]
        points += [
            Metric(name, value, now, step)
            for name, values in curves.items()
            for step, value in enumerate(values)
        ]
        tags = {
            "airworthy.bundle_digest": digest,
            "airworthy.device": info.device,
            "airworthy.onnx": info.onnx,
        }
        facts = {**info.params, "threshold": info.threshold, "rounds_kept": info.rounds, "as_of": info.as_of}
        for first in range(0, len(points), _BATCH):
            self._client.log_batch(self.run_id, metrics=points[first : first + _BATCH])
        self._client.log_batch(
            self.run_id,
            params=[Param(name, str(value)) for name, value in facts.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        self._client.log_artifacts(self.run_id, str(bundle), MODEL_ARTIFACT)


@contextmanager
def training_run(model: str, as_of: str, spec_text: str, windows: Mapping[str, DatasetInfo]) -> Iterator[Run]:
    """An MLflow run that ends as FINISHED, or as FAILED when the body raises.

    Args:
        model: Experiment.
        as_of: For the run's name.
        spec_text: Kept as `spec.yaml`.
        windows: Datasets by role (`training`, `tuning`), recorded as the run's inputs.

    Raises:
        RegistryError: The tracking server or database refuses.
    """
    uri = mlflow_store.ensure_store()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    run_id = None
    try:
        experiment = mlflow_store.experiment_id(client, model)
        run_id = client.create_run(experiment, run_name=f"train {as_of}", tags=machine_tags()).info.run_id
        client.log_inputs(run_id, [_input(role, info) for role, info in windows.items()])
        client.log_text(run_id, spec_text, "spec.yaml")
        yield Run(client, run_id)
        client.set_terminated(run_id, "FINISHED")
    except MlflowException as error:
        raise RegistryError(f"MLflow at {uri}: {str(error).splitlines()[0]}") from error
    except BaseException:
        if run_id is not None:
            client.set_terminated(run_id, "FAILED")
        raise


def machine_tags() -> dict[str, str]:
    """What can make a training on another machine come out differently."""
    return {
        "airworthy.cpus": str(cpu_threads()),
        "airworthy.platform": platform.platform(),
        "airworthy.python": platform.python_version(),
    }


def _input(role: str, info: DatasetInfo) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    profile = {
        "rows": info.rows,
        "start": info.start.isoformat(),
        "end": info.end.isoformat(),
        "fingerprint": info.fingerprint,
    }
    source = {"feature_service": info.feature_service, "definition": info.feature_service_digest}
    dataset = Dataset(
        name=info.name,
        digest=info.fingerprint[:_DIGEST_CHARS],
        source_type="feast",
        source=json.dumps(source),
        schema=json.dumps({"features": [f.model_dump() for f in info.features], "label": info.label}),
        profile=json.dumps(profile),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", role)])
