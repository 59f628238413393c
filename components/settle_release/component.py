"""KFP face of the exit handler: whatever happened, no unjudged canary is left."""

from kfp import dsl

from components.metadata import image


@dsl.component(base_image=image("settle_release"), install_kfp_package=False)
def settle_release(
    spec: str,
    pipeline_run: str,
    status: dsl.PipelineTaskFinalStatus,
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Bring service and registry to agree: a canary without a moved champion alias is rolled back.

    Args:
        spec: Text of the model spec.
        pipeline_run: This run: only what it began is undone; other releases are left alone.
        status: How the release ended (filled in by KFP).
        summary: What was found and what was done.
    """
    from pathlib import Path

    from airworthy.model_spec import load_spec
    from airworthy.registry import Registry, champion_digest
    from airworthy.rollout import settle
    from airworthy.state import home

    parsed = load_spec(spec)
    registry = Registry()
    champion = champion_digest(registry, parsed.name)
    result = settle(parsed.rollout.service, champion_digest=champion, home=home(), run=pipeline_run)
    challenger, withdrawn = registry.challenger(parsed.name), None
    if challenger and challenger.tags.get("pipeline_run") == pipeline_run:
        reason = status.error_message or result.sentence
        withdrawn = registry.withdraw_challenger(parsed.name, challenger.version, reason=reason)
    Path(summary.path).write_text(
        f"**Release {status.state.lower()}.** {result.sentence}\n\n"
        + (f"Version {withdrawn} is no longer challenger.\n" if withdrawn else "")
        + (f"\n> {status.error_message}\n" if status.error_message else "")
    )
