"""KFP face of the approval: a person's word before traffic moves."""

from typing import NamedTuple

from kfp import dsl

from components.metadata import image


@dsl.component(base_image=image("await_approval"), install_kfp_package=False)
def await_approval(
    spec: str,
    version: str,
    pipeline_run: str,
    verdict: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    dossier: dsl.Input[dsl.HTML],
) -> NamedTuple("Outputs", [("approved", bool), ("sentence", str)]):  # type: ignore[valid-type]
    """Wait for a person's answer, if the spec asks for one; no answer in time is a no, and a clean end.

    Args:
        spec: Text of the model spec.
        version: Registry version of the challenger.
        pipeline_run: This run: one question per run, also when the step starts again.
        verdict: The gate's verdict.
        model: The challenger's bundle.
        dossier: What the person should read.

    Returns:
        approved: Whether traffic may move; true at once where no approval is asked for.
        sentence: Who said what and why, or that nobody did.
    """
    from pathlib import Path

    from airworthy.model_spec import load_spec
    from airworthy.notices import notice
    from airworthy.registry import Registry, wait_for_approval

    found = wait_for_approval(
        Registry(),
        load_spec(spec).name,
        version,
        run=pipeline_run,
        verdict=Path(verdict.path),
        bundle=Path(model.path),
        dossier=dossier.uri,
        tell=notice,
    )
    return (found.state in ("approved", "not required"), f"version {version} {found.sentence}")
