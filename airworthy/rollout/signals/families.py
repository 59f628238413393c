"""Metric families: what Knative, Istio, Envoy Gateway and our own servers call requests and their latency.

Names were read in the documentation and sources of those projects. Versions differ, so a family is data: a user
describes another one in a YAML file with the fields of `Family` (`AIRWORTHY_SIGNALS_FAMILY=path`).
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from airworthy.errors import ConfigError
from airworthy.rollout.signals import NamedBy
from airworthy.serving.observation import Arm


@dataclass(frozen=True)
class Family:
    """Which series tell what came of an arm's requests.

    Attributes:
        name: For messages.
        histogram: Base name of the latency histogram (without `_bucket`).
        arm_label: Label that tells the arms apart.
        status_label: Label with the status code (`503`) or its class (`5xx`, `5`).
        counter: Requests by status, where the histogram isn't split by status; otherwise "": the histogram alone
            tells both, and nothing has to be joined.
        arm_value: Regular expression for the arm label's value; `{arm}` is what `poll` was told, escaped.
        unit: Seconds per unit of the histogram's edges (0.001: milliseconds).
        namespace_label: Label with the service's namespace, if one is to be matched.
        selector: More matchers, as in PromQL.
        named_by: What arms are called.
        sees_both: Whether each target counts both arms, as a gateway does. Only then can latency be compared, and
            only then are requests seen that a model server never got or did not survive.
    """

    name: str
    histogram: str
    arm_label: str
    status_label: str
    counter: str = ""
    arm_value: str = "{arm}"
    unit: float = 1.0
    namespace_label: str = ""
    selector: str = ""
    named_by: NamedBy = "workload"
    sees_both: bool = False

    @cached_property
    def bucket(self) -> str:
        return f"{self.histogram}_bucket"

    def arm_pattern(self, arm: str) -> str:
        """Regular expression (both Go's and Python's) that an arm's label matches as a whole."""
        return self.arm_value.replace("{arm}", re.escape(arm))

    def series(self, arms: dict[Arm, str], namespace: str = "") -> str:
        """PromQL instant selector of every series of both arms."""
        names = "|".join(name for name in (self.counter, self.bucket) if name)
        either = "|".join(self.arm_pattern(arm) for arm in arms.values())
        matchers = [f'__name__=~"{names}"', f"{self.arm_label}=~{json.dumps(either)}"]
        if self.namespace_label and namespace:
            matchers.append(f"{self.namespace_label}={json.dumps(namespace)}")
        if self.selector:
            matchers.append(self.selector)
        return "{" + ",".join(matchers) + "}"


_WORD = r"(.*[^a-z0-9-])?{arm}([^a-z0-9-].*)?"
"""A Kubernetes name anywhere in a longer one, but not as part of another name."""

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        # knative.dev, "Service metrics": queue-proxy's view, so that its own 502 and 504 count too.
        Family(
            "knative",
            histogram="revision_request_latencies",
            arm_label="revision_name",
            status_label="response_code",
            unit=0.001,
            namespace_label="namespace_name",
        ),
        # Knative since 1.19, scraped: otelhttp's server metrics of the queue-proxy, without probes. What it knows of
        # its revision is in `target_info` only (knative.dev/pkg, observability/metrics), so pods' names tell.
        Family(
            "knative-otel",
            histogram="http_server_request_duration_seconds",
            arm_label="pod",
            arm_value="{arm}-deployment-.+",
            status_label="http_response_status_code",
            namespace_label="namespace",
        ),
        # istio.io, "Istio Standard Metrics". The caller's proxy sees connection failures (code 503 or 0) too.
        Family(
            "istio",
            histogram="istio_request_duration_milliseconds",
            arm_label="destination_workload",
            arm_value="{arm}(-deployment)?",  # Knative's Deployments are called after their revisions
            status_label="response_code",
            unit=0.001,
            namespace_label="destination_workload_namespace",
            selector='reporter="source"',
            sees_both=True,
        ),
        # envoyproxy.io, cluster statistics. Kourier has a cluster per revision; Envoy Gateway must be told to make
        # one per backend.
        Family(
            "gateway",
            histogram="envoy_cluster_upstream_rq_time",
            counter="envoy_cluster_upstream_rq_xx",
            arm_label="envoy_cluster_name",
            arm_value=_WORD,
            status_label="envoy_response_code_class",
            unit=0.001,
            sees_both=True,
        ),
        Family(
            "airworthy",
            histogram="airworthy_request_seconds",
            counter="airworthy_requests_total",
            arm_label="model_version",
            status_label="status",
            named_by="version",
        ),
    )
}


def find_family(name: str) -> Family:
    """A family by name, or from a YAML file with its fields.

    Raises:
        ConfigError: Neither is there, or the file doesn't describe a family.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    path = Path(name)
    if not path.is_file():
        raise ConfigError(
            f"metric family {name!r}: use one of {', '.join(FAMILIES)}, or the path of a YAML file"
        )
    import yaml

    try:
        facts = yaml.safe_load(path.read_text())
        family = _family({"name": path.stem, **facts})
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: does not describe a metric family: {error}") from None
    return family


def _family(facts: dict[str, Any]) -> Family:
    for field in dataclasses.fields(Family):
        wanted: type = {"unit": float, "sees_both": bool}.get(field.name, str)
        value = facts.get(field.name, field.default)
        if value is dataclasses.MISSING or (not value and field.default is dataclasses.MISSING):
            raise ValueError(f"{field.name} is missing")
        if not isinstance(value, wanted):
            kind = "a number" if wanted is float else "true or false" if wanted is bool else "a string"
            raise ValueError(f"{field.name} must be {kind}")
    family = Family(**facts)
    if family.named_by not in get_args(NamedBy):
        raise ValueError(f"named_by must be one of {', '.join(get_args(NamedBy))}")
    if "{arm}" not in family.arm_value or family.unit <= 0:
        raise ValueError("arm_value must contain {arm}, and unit must be above 0")
    re.compile(family.arm_pattern("x"))
    return family
