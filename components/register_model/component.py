"""KFP face of `airworthy.registry`: a judged bundle becomes a version."""

from typing import NamedTuple

from kfp import dsl

from components.metadata import image


@dsl.component(base_image=image("register_model"), install_kfp_package=False)
def register_model(
    spec: str,
    schema: str,
    as_of: str,
    run_id: str,
    pipeline_run: str,
    verdict: dsl.Input[dsl.Artifact],
    findings: dsl.Input[dsl.Artifact],
    smoke: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    train: dsl.Input[dsl.Dataset],
    statistics: dsl.Input[dsl.Artifact],
    anomalies: dsl.Input[dsl.Artifact],
) -> NamedTuple("Outputs", [("version", str)]):  # type: ignore[valid-type]
    """Register the challenger with its lineage; refused unless the verdict passed and is about this bundle.

    Args:
        spec: Text of the model spec.
        schema: Text of its data schema.
        as_of: The time that the data was retrieved as of.
        run_id: The MLflow run that trained it.
        pipeline_run: This run of the pipeline, kept with the version.
        verdict: The gate's verdict.
        findings: All that the evaluation measured, kept with the version.
        smoke: Record of the smoke test: it passed, and it was this bundle; kept with the version.
        model: The challenger's bundle.
        train: Training window, for lineage.
        statistics: Statistics of the data, kept with the version.
        anomalies: What validation found, kept with the version.

    Returns:
        version: The registry version; the same one if this bundle is registered already.
    """
    import tempfile
    from pathlib import Path

    from airworthy.model_spec import load_spec
    from airworthy.registry import Registry, lineage

    origin = lineage(spec, as_of=as_of, train=Path(train.path))
    files = {"smoke": smoke, "findings": findings, "statistics": statistics, "anomalies": anomalies}
    kept = {name: Path(artifact.path) for name, artifact in files.items()}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("spec", spec), ("schema", schema)):
            kept[name] = Path(folder) / name
            kept[name].write_text(text)
        registered = Registry().register(
            load_spec(spec),
            verdict=Path(verdict.path),
            bundle=Path(model.path),
            run_id=run_id,
            lineage={**origin, "pipeline_run": pipeline_run},
            evidence=kept,
        )
    return (registered.version,)
