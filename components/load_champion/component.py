"""KFP face of `airworthy.registry`: hand the present champion to the steps that compare with it."""

from kfp import dsl

from components.metadata import image


@dsl.component(base_image=image("load_champion"), install_kfp_package=False)
def load_champion(spec: str, champion: dsl.Output[dsl.Model]) -> None:
    """Fetch the champion's bundle and the statistics of the data that it was accepted with.

    Args:
        spec: Text of the model spec.
        champion: A folder with `champion.json` and, unless this is the first release, `bundle/` and
            `statistics/`.
    """
    from pathlib import Path

    from airworthy.model_spec import load_spec
    from airworthy.registry import Registry, export_champion

    found = export_champion(Registry(), load_spec(spec).name, Path(champion.path))
    champion.metadata["version"] = found.version or "none"
