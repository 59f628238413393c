"""What each component's `metadata.yaml` says, and its application to a pipeline task.

One place decides images, retries, timeouts, resources, caching and the cluster's configuration, so that no
step of any pipeline forgets them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from kfp import dsl, kubernetes
from pydantic import BaseModel, ConfigDict

from airworthy import __version__

REGISTRY = "airworthy"
CONFIG_MAP = "airworthy-config"
"""On a cluster, says where MLflow, the feature repo and the prediction log are."""
CREDENTIALS = "airworthy-credentials"
"""On a cluster, the secret with the registry's credentials; only steps that talk to it get them."""

SIGNING = "airworthy-signing"
"""On a cluster, the secret with the private key that signs bundles; only training gets it."""


class Metadata(BaseModel):
    """The contents of a component's `metadata.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    display_name: str
    stage: Literal["data", "training", "release"]
    image: str
    stability: Literal["alpha", "beta", "stable"]
    side_effects: str
    cacheable: bool
    retries: int = 0
    timeout_seconds: int
    cpu: str
    memory: str
    registry_access: bool = False
    """Needs the model registry's credentials."""
    signs: bool = False
    """Makes bundles, and so signs them where there is a key."""


@cache
def metadata(component: str) -> Metadata:
    """The metadata of `components/<component>`."""
    text = (Path(__file__).parent / component / "metadata.yaml").read_text()
    return Metadata.model_validate(yaml.safe_load(text))


def image(component: str) -> str:
    """The image that a component runs in."""
    return f"{REGISTRY}/{metadata(component).image}:{__version__}"


def configure(task: dsl.PipelineTask, component: str) -> dsl.PipelineTask:
    """Apply a component's metadata to a task of a pipeline; returns the task."""
    facts = metadata(component)
    task.set_display_name(facts.display_name)
    task.set_caching_options(facts.cacheable)
    task.set_cpu_request(facts.cpu).set_memory_request(facts.memory).set_memory_limit(facts.memory)
    if facts.retries:
        task.set_retry(facts.retries, backoff_duration="10s", backoff_factor=2, backoff_max_duration="120s")
    kubernetes.set_timeout(task, facts.timeout_seconds)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    kubernetes.use_config_map_as_env(
        task,
        CONFIG_MAP,
        {
            "mlflow-tracking-uri": "MLFLOW_TRACKING_URI",
            "feature-repo": "AIRWORTHY_FEATURE_REPO",
            "deployer": "AIRWORTHY_DEPLOYER",
            "verify-key": "AIRWORTHY_VERIFY_KEY",
        },
        optional=True,
    )
    if facts.registry_access:
        kubernetes.use_secret_as_env(
            task,
            CREDENTIALS,
            {
                "mlflow-username": "MLFLOW_TRACKING_USERNAME",
                "mlflow-password": "MLFLOW_TRACKING_PASSWORD",
            },
            optional=True,
        )
    if facts.signs:
        kubernetes.use_secret_as_env(task, SIGNING, {"signing-key": "AIRWORTHY_SIGNING_KEY"}, optional=True)
    return task
