"""KFP face of the promotion: the registry's alias and the served model move together."""

from kfp import dsl

from components.metadata import image


@dsl.component(base_image=image("promote_model"), install_kfp_package=False)
def promote_model(
    spec: str,
    version: str,
    verdict: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    champion: dsl.Input[dsl.Model],
    record: dsl.Input[dsl.Artifact],
) -> None:
    """Make the challenger champion; refused without a passed verdict and a passed rollout of this bundle.

    Safe to repeat. Refused as stale if another release became champion since the comparison.

    Args:
        spec: Text of the model spec.
        version: Registry version of the challenger.
        verdict: The gate's verdict.
        model: The challenger's bundle.
        champion: The champion it was compared with.
        record: The rollout's record.
    """
    from pathlib import Path

    from airworthy.model_spec import load_spec
    from airworthy.registry import Registry, read_champion
    from airworthy.rollout import finish
    from airworthy.state import home

    parsed = load_spec(spec)
    finish(
        parsed.rollout.service,
        bundle=Path(model.path),
        version=version,
        home=home(),
        promote=lambda: Registry().promote(
            parsed.name,
            version,
            verdict=Path(verdict.path),
            bundle=Path(model.path),
            rollout=Path(record.path) / "rollout.json",
            evidence={"rollout": Path(record.path)},
            expected_champion=read_champion(Path(champion.path)).version,
        ),
    )
