"""KFP face of `airworthy.validation`."""

from typing import NamedTuple

from kfp import dsl

from components.metadata import image


@dsl.component(base_image=image("validate_data"), install_kfp_package=False)
def validate_data(
    spec: str,
    schema: str,
    train: dsl.Input[dsl.Dataset],
    tune: dsl.Input[dsl.Dataset],
    test: dsl.Input[dsl.Dataset],
    champion: dsl.Input[dsl.Model],
    statistics: dsl.Output[dsl.Artifact],
    anomalies: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> NamedTuple("Outputs", [("passed", bool)]):  # type: ignore[valid-type]
    """Check the data against the schema, the windows against each other and against the champion's data.

    Args:
        spec: Text of the model spec.
        schema: Text of the TFDV schema (pbtxt).
        train: Training window.
        tune: Tuning window.
        test: Test window.
        champion: The champion, with the statistics that it was accepted with.
        statistics: TFDV statistics of each window.
        anomalies: All findings (JSON).
        metrics: Rows, anomalies by severity, drift and skew per feature.
        report: The findings and statistics as a page.

    Returns:
        passed: False if any finding blocks.
    """
    from pathlib import Path

    from airworthy.model_spec import load_spec
    from airworthy.validation import validate

    result = validate(
        load_spec(spec),
        schema,
        train=Path(train.path),
        tune=Path(tune.path),
        test=Path(test.path),
        accepted_statistics=Path(champion.path) / "statistics" / "train.pb",
        statistics_out=Path(statistics.path),
        anomalies_out=Path(anomalies.path),
        report_out=Path(report.path),
    )
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    return (result.passed,)
