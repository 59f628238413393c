"""Which deployer a service has, from the environment it runs in.

| variable | meaning |
| --- | --- |
| `AIRWORTHY_DEPLOYER` | `local`, `knative` or `standard`; default: `local`, in a pod the InferenceService's mode |
| `AIRWORTHY_NAMESPACE` | namespace of the InferenceService; by default the pod's, else the kubeconfig's |
| `AIRWORTHY_GATEWAY` | base URL of the gateway, if an arm's own address can't be asked directly |
| `AIRWORTHY_INFERENCE_SERVICE` | YAML file: what a new InferenceService looks like, except for its model |
| `AIRWORTHY_ADOPT` | `true`: take over an InferenceService that Airworthy did not make |
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from airworthy.errors import ConfigError, MissingCapabilityError, RolloutError
from airworthy.rollout.deployers import DeployerName, Store
from airworthy.rollout.deployers.api import Cluster
from airworthy.rollout.deployers.asking import Reach, directly, through, within
from airworthy.rollout.deployers.inference_service import MODE, Template, notes
from airworthy.rollout.deployers.knative import Knative
from airworthy.rollout.deployers.kserve import KServeStore, Timing
from airworthy.rollout.deployers.records import Adoption
from airworthy.rollout.deployers.standard import Standard
from airworthy.rollout.deployers.steps import Mode
from airworthy.serving.state import ServiceStore

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
KSERVE_NAMESPACE = "kserve"
NAMES: dict[str, DeployerName] = {
    "Standard": "standard",
    "RawDeployment": "standard",
    "Knative": "knative",
    "Serverless": "knative",
}
"""KServe's names of its deployment modes, new and old."""


def deployer_name(service: str, cluster: Callable[[], Cluster] | None = None) -> DeployerName:
    """What deploys a service.

    Args:
        service: Its name.
        cluster: Connects to the cluster; by default `connect`.

    Raises:
        ConfigError: `AIRWORTHY_DEPLOYER` names no deployer.
        MissingCapabilityError: It is not set, and in this pod it can't be told.
        RolloutError: The cluster can't be asked.
    """
    named = os.environ.get("AIRWORTHY_DEPLOYER", "")
    if named:
        known: tuple[DeployerName, ...] = get_args(DeployerName)
        found = next((name for name in known if name == named), None)
        if found is None:
            raise ConfigError(f"AIRWORTHY_DEPLOYER is {named!r}, not one of {', '.join(known)}")
        return found
    if not in_pod():
        return "local"
    mode = _mode_in_force(service, (cluster or connect)())
    if mode not in NAMES:
        raise MissingCapabilityError(
            f"service {service}: its KServe deployment mode is {mode or 'unknown'}; set AIRWORTHY_DEPLOYER to knative "
            "or standard"
        )
    return NAMES[mode]


def open_store(
    service: str,
    home: Path,
    *,
    model: str = "",
    storage_uri: Callable[[str], str] | None = None,
    name: DeployerName | None = None,
    cluster: Callable[[], Cluster] | None = None,
    timing: Timing | None = None,
) -> Store:
    """The store of a service's state.

    Args:
        service: Its name.
        home: State directory (local deployer).
        model: The model that it serves, should it be adopted.
        storage_uri: Where a registry version's bundle is stored (KServe); needed to deploy, not to settle.
        name: The deployer; by default `deployer_name`.
        cluster: Connects to the cluster; by default `connect`.
        timing: How long to wait for KServe.

    Raises:
        ConfigError: The environment names something wrong.
        MissingCapabilityError: The deployer can't be told.
        RolloutError: The cluster can't be asked.
    """
    chosen = name or deployer_name(service, cluster)
    if chosen == "local":
        return ServiceStore(home, service)
    return KServeStore(
        (cluster or connect)(),
        service,
        mode_named(chosen),
        storage_uri=storage_uri,
        template=_template(),
        adoption=Adoption(model) if os.environ.get("AIRWORTHY_ADOPT", "").lower() == "true" else None,
        timing=timing,
    )


def mode_named(name: DeployerName) -> Mode:
    """The mapping of a deployment mode."""
    return Knative() if name == "knative" else Standard()


def reach() -> Reach:
    """How an arm's own address is asked from here."""
    gateway = os.environ.get("AIRWORTHY_GATEWAY", "")
    if gateway:
        return through(gateway)
    return within(namespace()) if in_pod() else directly


def connect() -> Cluster:
    """The cluster that this process belongs to, or that the kubeconfig names.

    Raises:
        ConfigError: There is none, or its namespace can't be told.
    """
    from kubernetes import client, config

    try:
        if in_pod():
            config.load_incluster_config()
        else:
            config.load_kube_config(_kubeconfig())
    except config.ConfigException as error:
        raise ConfigError(
            f"no Kubernetes cluster is configured ({error}): run in a pod with a service account, set KUBECONFIG, or "
            "set AIRWORTHY_DEPLOYER=local"
        ) from None
    return Cluster(client.ApiClient(), namespace())


def _kubeconfig() -> str | None:
    """Read now: the client's own default is what the variable said when it was imported."""
    return os.environ.get("KUBECONFIG") or None


def in_pod() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def namespace() -> str:
    """Where the InferenceService lives.

    Raises:
        ConfigError: It can't be told.
    """
    named = os.environ.get("AIRWORTHY_NAMESPACE", "")
    if named:
        return named
    try:
        return POD_NAMESPACE.read_text().strip()
    except OSError:
        found = _context_namespace()
    if not found:
        raise ConfigError("the namespace of the InferenceService is not known: set AIRWORTHY_NAMESPACE")
    return found


def _context_namespace() -> str:
    from kubernetes import config

    try:
        _, active = config.list_kube_config_contexts(_kubeconfig())
    except config.ConfigException:
        return ""
    return str((active or {}).get("context", {}).get("namespace") or "")


def _mode_in_force(service: str, cluster: Cluster) -> str:
    """KServe's name for the mode of a service, that exists or would be made."""
    found = cluster.inference_service(service)
    told = ((found or {}).get("status") or {}).get("deploymentMode") or (
        notes(found).get(MODE) if found else ""
    )
    if told:
        return str(told)
    try:
        installed = cluster.elsewhere(KSERVE_NAMESPACE).config_map("inferenceservice-config") or {}
        return str(json.loads((installed.get("data") or {})["deploy"])["defaultDeploymentMode"])
    except (RolloutError, KeyError, ValueError):
        return ""


def _template() -> Template | None:
    named = os.environ.get("AIRWORTHY_INFERENCE_SERVICE", "")
    if not named:
        return None
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        document: Any = YAML(typ="safe", pure=True).load(Path(named).read_text())
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ConfigError(f"AIRWORTHY_INFERENCE_SERVICE: {named} can't be read: {error}") from None
    return Template.of(document if isinstance(document, dict) else {}, named)
