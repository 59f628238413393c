"""TFDV anomalies as findings: what was expected, what is there, and a real row that shows it."""

from __future__ import annotations

import math
import re
import textwrap
from typing import TYPE_CHECKING, Any, TypeAlias

from airworthy.model_spec import Validation
from airworthy.validation.findings import Finding
from airworthy.validation.schema import SERVING, TRAINING, with_comparators
from airworthy.validation.statistics import feature_name, without
from airworthy.validation.windows import Window, readable

if TYPE_CHECKING:
    import pyarrow as pa
    from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

    from airworthy.validation.windows import Chooser

    Statistics: TypeAlias = statistics_pb2.DatasetFeatureStatisticsList

TYPE_WORDS = {1: "text", 2: "whole numbers", 3: "numbers"}  # schema_pb2.FeatureType: BYTES, INT, FLOAT
SHOWN_VALUES = 8
SHOWN_CHARACTERS = 120

# TFDV says "the shape is gone" beside every missing value; the missing value itself is the news.
_ECHOES = {"INVALID_FEATURE_SHAPE": {"FEATURE_TYPE_LOW_FRACTION_PRESENT", "FEATURE_TYPE_NOT_PRESENT"}}


def window_anomalies(
    window: Window, statistics: Statistics, schema: schema_pb2.Schema, environment: str = TRAINING
) -> list[Finding]:
    """What the schema finds wrong with one window.

    Args:
        window: Where examples are looked up.
        statistics: Of that window.
        schema: The reviewed schema.
        environment: `TRAINING` requires the label; under `SERVING` it is left out of the statistics first.
    """
    import tensorflow_data_validation as tfdv

    if environment == SERVING and window.info.label:
        statistics = without(statistics, window.info.label)
    anomalies = tfdv.validate_statistics(statistics, schema, environment=environment)
    columns = {feature_name(f): f for f in statistics.datasets[0].features}
    features = {feature.name: feature for feature in schema.feature}
    found = []
    for name, info in anomalies.anomaly_info.items():
        for kind, text in _reasons(info):
            column = columns.get(name)
            expectation, observed = _wording(kind, text, schema, features.get(name), column)
            chosen = _chooser(kind, schema, features.get(name))
            example = window.first(name, chosen) if chosen and _searchable(window, name) else ""
            found.append(
                Finding(window.name, name, kind, "block", expectation, observed, example, environment)
            )
    for kind, text in _reasons(anomalies.dataset_anomaly_info):
        found.append(
            Finding(window.name, None, kind, "block", "what the schema asks for", text, "", environment)
        )
    return found


def comparisons(
    train: Statistics,
    schema: schema_pb2.Schema,
    policy: Validation,
    *,
    test: Statistics | None,
    accepted: Statistics | None,
) -> tuple[list[Finding], dict[str, float]]:
    """Skew (test against training window) and drift (training window against accepted statistics).

    Args:
        train: Statistics of the training window.
        schema: The reviewed schema; comparators in it win over the policy's thresholds.
        policy: The spec's validation section.
        test: None leaves skew out.
        accepted: None (a first release) leaves drift out.

    Returns:
        Findings for what is over its threshold, and every measured value as `skew.<feature>` or
        `drift.<feature>`.
    """
    import tensorflow_data_validation as tfdv

    compared = with_comparators(schema, skew=policy.skew, drift=policy.drift)
    anomalies = tfdv.validate_statistics(
        train, compared, environment=TRAINING, previous_statistics=accepted, serving_statistics=test
    )
    found: list[Finding] = []
    metrics: dict[str, float] = {}
    for info in anomalies.drift_skew_info:
        name = ".".join(info.path.step)
        for kind, measurements in (("SKEW", info.skew_measurements), ("DRIFT", info.drift_measurements)):
            for measurement in measurements:
                if math.isfinite(measurement.value):
                    metrics[f"{kind.lower()}.{name}"] = measurement.value
                if not measurement.value <= measurement.threshold:  # NaN can't be called similar
                    example = _largest_change(anomalies.anomaly_info[name], kind)
                    found.append(_compared(kind, name, measurement, example))
    for name, info in anomalies.anomaly_info.items():
        for kind, text in _reasons(info, comparators=True):
            if kind.endswith("DATA_MISSING"):
                found.append(_incomparable(name, text))
    return found, metrics


def _reasons(info: Any, comparators: bool = False) -> list[tuple[str, str]]:
    """Kind and text of what an anomaly consists of, without comparisons (or only these)."""
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    kinds = [(anomalies_pb2.AnomalyInfo.Type.Name(reason.type), reason.description) for reason in info.reason]
    present = {kind for kind, _ in kinds}
    return [
        (kind, text.strip())
        for kind, text in kinds
        if kind.startswith("COMPARATOR_") == comparators and not (_ECHOES.get(kind, set()) & present)
    ]


def _wording(kind: str, text: str, schema: schema_pb2.Schema, feature: Any, column: Any) -> tuple[str, str]:
    """Expectation and observation in plain words; TFDV's own sentence where we have no better one."""
    if feature is None:
        return "only columns that the schema lists", "a column that it doesn't list"
    type_word = TYPE_WORDS.get(feature.type, "values")
    if kind == "SCHEMA_MISSING_COLUMN":
        return f"a column of {type_word}", "no such column"
    if kind == "UNEXPECTED_DATA_TYPE":
        words = {0: "whole numbers", 1: "numbers", 2: "text"}  # FeatureNameStatistics: INT, FLOAT, STRING
        return type_word, words.get(column.type, "another type") if column is not None else text
    if kind in (
        "FEATURE_TYPE_NOT_PRESENT",
        "FEATURE_TYPE_LOW_FRACTION_PRESENT",
        "FEATURE_TYPE_LOW_NUMBER_PRESENT",
    ):
        share = feature.presence.min_fraction
        rows = "every row" if share == 1 else f"at least {share:.1%} of rows" if share else "some rows"
        return f"a value in {rows}", _presence(column)
    if kind == "ENUM_TYPE_UNEXPECTED_STRING_VALUES":
        mass = feature.distribution_constraints.min_domain_mass
        allowed = f" in at least {mass:.0%} of rows" if feature.HasField("distribution_constraints") else ""
        values = text.removeprefix("Examples contain values missing from the schema: ").rstrip(". ")
        observed = textwrap.shorten(values, SHOWN_CHARACTERS, placeholder=" …")
        return f"one of {_listed(_domain(schema, feature))}{allowed}", observed
    low, high = _limits(feature)
    if kind in ("FLOAT_TYPE_BIG_FLOAT", "INT_TYPE_BIG_INT", "BOOL_TYPE_BIG_INT") and column is not None:
        return f"at most {high:g}", f"a maximum of {column.num_stats.max:g}"
    if kind in ("FLOAT_TYPE_SMALL_FLOAT", "INT_TYPE_SMALL_INT", "BOOL_TYPE_SMALL_INT") and column is not None:
        return f"at least {low:g}", f"a minimum of {column.num_stats.min:g}"
    return f"what the schema asks for ({kind})", text


def _chooser(kind: str, schema: schema_pb2.Schema, feature: Any) -> Chooser | None:
    """Which values of the column offend; None where no single value does."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if feature is None or kind == "UNEXPECTED_DATA_TYPE":
        return pc.is_valid
    if kind.endswith(("LOW_FRACTION_PRESENT", "LOW_NUMBER_PRESENT", "NOT_PRESENT")):
        return lambda values: pc.is_null(values, nan_is_null=True)
    if kind == "ENUM_TYPE_UNEXPECTED_STRING_VALUES":
        allowed = pa.array(_domain(schema, feature), pa.string())

        def unlisted(values: pa.Array) -> pa.BooleanArray:
            text = values.cast(pa.string())
            return pc.and_(pc.is_valid(text), pc.invert(pc.is_in(text, value_set=allowed)))

        return unlisted
    low, high = _limits(feature)
    if "_BIG_" in kind:
        return lambda values: pc.greater(values.cast(pa.float64()), high)
    if "_SMALL_" in kind:
        return lambda values: pc.less(values.cast(pa.float64()), low)
    return None


def _searchable(window: Window, column: str) -> bool:
    return column in window.types and readable(window.types[column])


def _domain(schema: schema_pb2.Schema, feature: Any) -> list[str]:
    if feature.HasField("string_domain"):
        return list(feature.string_domain.value)
    return [
        value for domain in schema.string_domain if domain.name == feature.domain for value in domain.value
    ]


def _limits(feature: Any) -> tuple[float, float]:
    """Smallest and largest value that the schema allows."""
    domain = feature.WhichOneof("domain_info")
    if domain == "bool_domain":
        return 0.0, 1.0
    if domain not in ("float_domain", "int_domain"):
        return float("-inf"), float("inf")
    part = getattr(feature, domain)
    low = part.min if part.HasField("min") else float("-inf")
    return low, part.max if part.HasField("max") else float("inf")


def _presence(column: Any) -> str:
    if column is None:
        return "no such column"
    part = column.num_stats if column.WhichOneof("stats") == "num_stats" else column.string_stats
    present = part.common_stats.num_non_missing
    total = present + part.common_stats.num_missing
    return f"a value in {present:,} of {total:,} rows"


def _listed(values: list[str]) -> str:
    more = f" and {len(values) - SHOWN_VALUES} more" if len(values) > SHOWN_VALUES else ""
    return ", ".join(values[:SHOWN_VALUES]) + more


def _compared(kind: str, name: str, measurement: Any, example: str) -> Finding:
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    distances = anomalies_pb2.DriftSkewInfo.Measurement.Type
    jensen_shannon = measurement.type == distances.Value("JENSEN_SHANNON_DIVERGENCE")
    what = "a Jensen-Shannon divergence" if jensen_shannon else "an L-infinity distance"
    window, other = (
        ("test", "the training window") if kind == "SKEW" else ("train", "the champion's training data")
    )
    expectation = f"{what} of at most {measurement.threshold:g} from {other}"
    return Finding(window, name, kind, "warn", expectation, f"{measurement.value:.3g}", example)


def _incomparable(name: str, text: str) -> Finding:
    drift = "previous" in text
    window, other = ("train", "the champion's training data") if drift else ("test", "the training window")
    kind = "DRIFT" if drift else "SKEW"
    return Finding(
        window, name, kind, "warn", f"values on both sides to compare with {other}", text.rstrip(".")
    )


def _largest_change(info: Any, kind: str) -> str:
    """The category whose share changed most, as TFDV names it."""
    mark = "training and serving" if kind == "SKEW" else "current and previous"
    for reason in info.reason:
        match = re.search(r"maximum difference is: (.*)$", reason.description.strip())
        if match and mark in reason.description:
            return repr(match.group(1))
    return ""
