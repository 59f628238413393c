"""Which source of evidence a cluster's rollout uses, and where outcomes come from, by the environment.

| variable | |
| --- | --- |
| `AIRWORTHY_SIGNALS` | `prometheus:URL` or `prediction-log:FOLDER` |
| `AIRWORTHY_SIGNALS_FAMILY` | with Prometheus: name of a metric family, or path of a YAML file that describes one |
| `AIRWORTHY_PROMETHEUS_TOKEN_FILE` | with Prometheus: file with a bearer token |
| `AIRWORTHY_OUTCOMES` | for an A/B test: folder with outcomes of requests; needs the prediction log |
"""

from __future__ import annotations

import os
from pathlib import Path

from airworthy.errors import ConfigError
from airworthy.model_spec import Experiment
from airworthy.rollout.signals import Signals
from airworthy.rollout.signals.outcomes import OutcomeFiles

SIGNALS = "AIRWORTHY_SIGNALS"
FAMILY = "AIRWORTHY_SIGNALS_FAMILY"
TOKEN_FILE = "AIRWORTHY_PROMETHEUS_TOKEN_FILE"  # noqa: S105 (a variable's name)
OUTCOMES = "AIRWORTHY_OUTCOMES"


def choose(
    *, model: str = "", namespace: str = "", family: str = "airworthy", outcomes: OutcomeFiles | None = None
) -> Signals:
    """The signals that the environment asks for.

    Args:
        model: Model name, for a prediction log that several models share.
        namespace: The service's, for metric families that tell namespaces apart.
        family: Metric family where the environment names none: `knative` or `istio`, as the deployer knows.
        outcomes: What wants to be told of each request, for an A/B test.

    Raises:
        ConfigError: None is configured, or what is configured can't be understood or can't tell single requests.
    """
    text = os.environ.get(SIGNALS, "")
    kind, _, where = text.partition(":")
    if kind == "prediction-log" and where:
        from airworthy.rollout.signals.prediction_log import PredictionLogSignals

        return PredictionLogSignals(Path(where), model=model, on_request=outcomes.drawn if outcomes else None)
    if outcomes:
        raise ConfigError(
            f"{SIGNALS}={text!r}: an A/B test on a cluster needs to know which model had which request; set it to "
            "prediction-log:FOLDER"
        )
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


def choose_outcomes(experiment: Experiment | None) -> OutcomeFiles | None:
    """Where the outcomes of an A/B test come from; None if there is none.

    Raises:
        ConfigError: The environment names no folder.
    """
    if experiment is None:
        return None
    folder = os.environ.get(OUTCOMES, "")
    if not folder or not Path(folder).is_dir():
        problem = f"{OUTCOMES}={folder!r} is no folder" if folder else f"{OUTCOMES} is not set"
        raise ConfigError(
            f"{problem}: an A/B test on a cluster needs a folder where the outcome {experiment.outcome!r} of each "
            "request comes (docs/signals.md)"
        )
    return OutcomeFiles(Path(folder), experiment.outcome)
