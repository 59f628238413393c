"""Which source of evidence a cluster's rollout uses, from the environment.

| variable | |
| --- | --- |
| `AIRWORTHY_SIGNALS` | `prometheus:URL` or `prediction-log:FOLDER` |
| `AIRWORTHY_SIGNALS_FAMILY` | with Prometheus: name of a metric family, or path of a YAML file that describes one |
| `AIRWORTHY_PROMETHEUS_TOKEN_FILE` | with Prometheus: file with a bearer token |
"""

from __future__ import annotations

import os
from pathlib import Path

from airworthy.errors import ConfigError
from airworthy.rollout.signals import Signals

SIGNALS = "AIRWORTHY_SIGNALS"
FAMILY = "AIRWORTHY_SIGNALS_FAMILY"
TOKEN_FILE = "AIRWORTHY_PROMETHEUS_TOKEN_FILE"  # noqa: S105 (a variable's name)


def choose(*, model: str = "", namespace: str = "", family: str = "airworthy") -> Signals:
    """The signals that the environment asks for.

    Args:
        model: Model name, for a prediction log that several models share.
        namespace: The service's, for metric families that tell namespaces apart.
        family: Metric family where the environment names none: `knative` or `istio`, as the deployer knows.

    Raises:
        ConfigError: None is configured, or what is configured can't be understood.
    """
    text = os.environ.get(SIGNALS, "")
    kind, _, where = text.partition(":")
    if kind == "prediction-log" and where:
        from airworthy.rollout.signals.prediction_log import PredictionLogSignals

        return PredictionLogSignals(Path(where), model=model)
    if kind == "prometheus" and where.startswith(("http://", "https://")):
        from airworthy.rollout.signals.families import find_family
        from airworthy.rollout.signals.prometheus import PrometheusSignals

        token = os.environ.get(TOKEN_FILE, "")
        return PrometheusSignals(
            where,
            find_family(os.environ.get(FAMILY) or family),
            namespace=namespace,
            token_file=Path(token) if token else None,
        )
    problem = f"{SIGNALS}={text!r} can't be understood" if text else f"{SIGNALS} is not set"
    raise ConfigError(
        f"{problem}: a rollout on a cluster needs evidence about requests; set it to prometheus:URL or "
        "prediction-log:FOLDER"
    )
