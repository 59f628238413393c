"""KFP face of `airworthy.serving`'s smoke test."""

from kfp import dsl

from components.metadata import image


@dsl.component(base_image=image("smoke_test"), install_kfp_package=False)
def smoke_test(
    spec: str,
    verdict: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    test: dsl.Input[dsl.Dataset],
    scores: dsl.Input[dsl.Dataset],
    record: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Start the packaged model in a real KServe server, ask it the evaluation rows, and measure what it takes.

    Fails if any score differs from the evaluation's by more than 1e-5, if bad requests are not refused, or if the
    model takes more than the spec's budget.

    Args:
        spec: Text of the model spec; `serving.budget` limits latency, start, size and memory.
        verdict: The gate's verdict.
        model: The challenger's bundle.
        test: Rows to ask.
        scores: The scores that the evaluation gave them.
        record: What was seen and whether it passed (JSON).
        metrics: Largest difference, latency quantiles, start, memory, rows asked.
        report: The result as a page.
    """
    from pathlib import Path

    from airworthy.model_spec import load_spec
    from airworthy.serving import smoke_test as run_smoke_test

    result = run_smoke_test(
        load_spec(spec),
        verdict=Path(verdict.path),
        bundle=Path(model.path),
        dataset=Path(test.path),
        expected_scores=Path(scores.path),
        report_out=Path(report.path),
        record_out=Path(record.path),
    )
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
