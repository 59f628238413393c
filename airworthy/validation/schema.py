"""Schema files (TFDV pbtxt): reading, inferring a first one, and the comparators set at run time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy.errors import ConfigError, DataError
from airworthy.model_spec import Comparison
from airworthy.validation.statistics import window_statistics
from airworthy.validation.tfdv import require_tfdv
from airworthy.validation.windows import open_window

if TYPE_CHECKING:
    from tensorflow_metadata.proto.v0 import schema_pb2

TRAINING, SERVING = "TRAINING", "SERVING"

HEAD = """\
# Schema of the columns that {service} brings and of the label; checked before every training.
# Inferred from {rows:,} rows, {start:%Y-%m-%d} to {end:%Y-%m-%d}. Review it by hand before relying on it:
# - presence.min_fraction: lowest acceptable share of rows that have a value;
# - string_domain: the values allowed; distribution_constraints {{min_domain_mass: 0.95}} lets 5 % be others;
# - float_domain / int_domain: the values possible;
# - the label is known in TRAINING only.
"""


def schema_digest(text: str) -> str:
    """SHA-256 (hex) of a schema's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_schema(text: str, source: str = "schema") -> schema_pb2.Schema:
    """Parse a schema's text.

    Args:
        text: TFDV schema, pbtxt.
        source: What to call it in messages: the file's name.

    Raises:
        ConfigError: Not a schema (with the line), no features, or a feature that refers to what is not there.
    """
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    schema = schema_pb2.Schema()
    try:
        text_format.Parse(text, schema)
    except text_format.ParseError as error:
        line = error.GetLine()
        detail = str(error).split(" : ", 1)[-1]
        where = f"{source}:{line}" if line else source
        raise ConfigError(f"{where}: not a TFDV schema: {detail}") from None
    problem = _problem(schema)
    if problem:
        raise ConfigError(f"{source}: {problem}")
    return schema


def infer_schema(dataset: Path, *, max_values: int = 200) -> str:
    """A first schema for a dataset, to be edited by hand (pbtxt with a comment at its head).

    Args:
        dataset: Folder of a dataset, as long as possible: what isn't in it will look wrong later.
        max_values: Text columns with more distinct values than this are left open.

    Raises:
        DataError: There is no dataset, or it is empty.
        MissingCapabilityError: TFDV is not installed here.
    """
    require_tfdv()
    import tensorflow_data_validation as tfdv
    from google.protobuf import text_format

    window = open_window("dataset", dataset)
    if not window.rows:
        raise DataError(f"{dataset}: the dataset is empty, so there is nothing to infer a schema from")
    schema = tfdv.infer_schema(
        window_statistics(window), infer_feature_shape=False, max_string_domain_size=max_values
    )
    schema.default_environment.extend([TRAINING, SERVING])
    info = window.info
    kinds = {feature.name: feature.kind for feature in info.features}
    for feature in schema.feature:
        feature.ClearField("value_count")  # a dataset has no lists, so this would only be noise
        if feature.name == info.label:
            feature.not_in_environment.append(SERVING)
        if kinds.get(feature.name) == "bool" or feature.name == info.label:
            feature.bool_domain.SetInParent()
    head = HEAD.format(service=info.feature_service, rows=window.rows, start=info.start, end=info.end)
    return head + text_format.MessageToString(schema)


def with_comparators(schema: schema_pb2.Schema, *, skew: Comparison, drift: Comparison) -> schema_pb2.Schema:
    """A copy in which every feature is compared; comparators that the schema file sets itself win.

    Numbers are compared by Jensen-Shannon divergence, text by L-infinity distance.
    """
    from tensorflow_metadata.proto.v0 import schema_pb2

    copy = schema_pb2.Schema()
    copy.CopyFrom(schema)
    for feature in copy.feature:
        for comparator, comparison in ((feature.skew_comparator, skew), (feature.drift_comparator, drift)):
            if comparator.ListFields():
                continue
            if feature.type == schema_pb2.BYTES:
                comparator.infinity_norm.threshold = comparison.categorical_threshold
            else:
                comparator.jensen_shannon_divergence.threshold = comparison.numeric_threshold
    return copy


def _problem(schema: schema_pb2.Schema) -> str:
    """What TFDV would accept and then silently not check; "" when there is nothing."""
    if not schema.feature:
        return "the schema lists no features; make a first one with `airworthy schema infer`"
    domains = {domain.name for domain in schema.string_domain}
    environments = set(schema.default_environment)
    names = [feature.name for feature in schema.feature]
    for feature in schema.feature:
        where = f"feature {feature.name or '(without a name)'}"
        if not feature.name or names.count(feature.name) > 1:
            return f"{where}: every feature needs a name of its own"
        if not feature.type:
            return f"{where}: type is missing (BYTES for text, INT or FLOAT)"
        if feature.HasField("domain") and feature.domain not in domains:
            return f"{where}: domain {feature.domain!r} is not among the string_domain entries"
        unknown = (set(feature.in_environment) | set(feature.not_in_environment)) - environments
        if unknown:
            return f"{where}: environment {sorted(unknown)[0]!r} is not among the default_environment entries"
    missing = sorted({TRAINING, SERVING} - environments)
    if missing:
        return (
            f"add default_environment: {missing[0]!r}, so that the label is required where it must be known"
        )
    return ""
