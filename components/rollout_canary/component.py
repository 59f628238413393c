"""KFP face of `airworthy.rollout`."""

from typing import NamedTuple

from kfp import dsl

from components.metadata import image


@dsl.component(base_image=image("rollout_canary"), install_kfp_package=False)
def rollout_canary(
    spec: str,
    version: str,
    pipeline_run: str,
    verdict: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    champion: dsl.Input[dsl.Model],
    test: dsl.Input[dsl.Dataset],
    record: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> NamedTuple("Outputs", [("passed", bool)]):  # type: ignore[valid-type]
    """Give the challenger a growing share of traffic for as long as the evidence is with it.

    Refused without an approval where the spec asks for one. Whatever happens, the old model serves everyone
    afterwards, unless the judge said PASS.

    Args:
        spec: Text of the model spec: its `rollout` is the plan.
        version: Registry version of the challenger.
        pipeline_run: This run, which may settle what it began.
        verdict: The gate's verdict.
        model: The challenger's bundle.
        champion: The champion that serves now.
        test: Rows to replay as traffic (local deployer).
        record: Every transition and the evidence behind the decision; can be replayed.
        metrics: Requests, errors and evidence per arm.
        report: The rollout as a page.

    Returns:
        passed: Whether the judge said PASS.
    """
    from pathlib import Path

    from airworthy.model_spec import load_spec
    from airworthy.registry import Registry, champion_digest, read_champion
    from airworthy.rollout import roll_out
    from airworthy.state import home

    parsed = load_spec(spec)
    registry = Registry()
    registry.require_approval(parsed.name, version, Path(verdict.path))
    found = read_champion(Path(champion.path))
    outcome = roll_out(
        parsed,
        bundle=Path(model.path),
        version=version,
        verdict=Path(verdict.path),
        stable=(found.bundle, found.version) if found.bundle and found.version else None,
        traffic=Path(test.path),
        home=home(),
        record_out=Path(record.path),
        report_out=Path(report.path),
        run=pipeline_run,
        registered_champion=lambda: champion_digest(registry, parsed.name),
        storage_uri=lambda number: registry.version(parsed.name, number).source,
    )
    for name, value in outcome.metrics.items():
        metrics.log_metric(name, value)
    if outcome.decision != "PASS":  # a passed one is kept with the promotion
        registry.attach(registry.version(parsed.name, version), "rollout", Path(record.path))
    return (outcome.decision == "PASS",)
