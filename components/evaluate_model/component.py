"""KFP face of `airworthy.evaluation`."""

from typing import NamedTuple

from kfp import dsl

from components.metadata import image


@dsl.component(base_image=image("evaluate_model"), install_kfp_package=False)
def evaluate_model(
    spec: str,
    train: dsl.Input[dsl.Dataset],
    test: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    champion: dsl.Input[dsl.Model],
    verdict: dsl.Output[dsl.Artifact],
    findings: dsl.Output[dsl.Artifact],
    scores: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    curves: dsl.Output[dsl.ClassificationMetrics],
    summary: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
) -> NamedTuple("Outputs", [("passed", bool)]):  # type: ignore[valid-type]
    """Judge the challenger by the spec's limits and against the champion on the same rows.

    Args:
        spec: Text of the model spec: its `gate` is the policy.
        train: Training window, for comparison with the test window.
        test: The rows to judge on.
        model: The challenger's bundle.
        champion: The champion, or an empty one on a first release.
        verdict: The verdict (JSON): every check with what was observed and why.
        findings: All that was measured (JSON): metrics, curves, slices, fairness, behaviour, explanations.
        scores: Both models' scores, row by row.
        metrics: The challenger's metrics.
        curves: ROC curve and confusion matrix.
        summary: The verdict in a few lines.
        report: The verdict as a page.

    Returns:
        passed: Whether the challenger may go on.
    """
    from pathlib import Path

    from airworthy.evaluation import evaluate
    from airworthy.model_spec import load_spec
    from airworthy.registry import read_champion

    found = read_champion(Path(champion.path))
    evaluation = evaluate(
        load_spec(spec),
        spec,
        test=Path(test.path),
        train=Path(train.path),
        bundle=Path(model.path),
        champion=found.bundle,
        champion_version=found.version,
        verdict_out=Path(verdict.path),
        findings_out=Path(findings.path),
        scores_out=Path(scores.path),
        report_out=Path(report.path),
        summary_out=Path(summary.path),
    )
    for name, value in evaluation.metrics.items():
        metrics.log_metric(name, value)
    curves.log_roc_curve(*evaluation.roc)
    curves.log_confusion_matrix(["negative", "positive"], evaluation.confusion)
    return (evaluation.verdict.passed,)
