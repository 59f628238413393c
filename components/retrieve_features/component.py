"""KFP face of `airworthy.features`."""

from typing import NamedTuple, Optional

from kfp import dsl

from components.metadata import image


@dsl.component(base_image=image("retrieve_features"), install_kfp_package=False)
def retrieve_features(
    spec: str,
    train: dsl.Output[dsl.Dataset],
    tune: dsl.Output[dsl.Dataset],
    test: dsl.Output[dsl.Dataset],
    as_of: Optional[str] = None,  # noqa: UP045 - the KFP compiler reads Optional, not `| None`
) -> NamedTuple("Outputs", [("as_of", str)]):  # type: ignore[valid-type]
    """Retrieve features and labels as they were known, point in time by point in time.

    Args:
        spec: Text of the model spec.
        as_of: The present, as seen by this release (ISO, UTC): nothing later is used. Default: now.
        train: Rows to fit on.
        tune: The rows after them: early stopping and the decision threshold.
        test: The last rows before `as_of`: champion and challenger are judged on these.

    Returns:
        as_of: The time really used.
    """
    from pathlib import Path

    from airworthy.datasets import metadata
    from airworthy.features import retrieve
    from airworthy.model_spec import load_spec, parse_as_of
    from airworthy.state import feature_repo, home

    moment = parse_as_of(as_of)
    outputs = {"train": train, "tune": tune, "test": test}
    paths = {name: Path(artifact.path) for name, artifact in outputs.items()}
    found = retrieve(load_spec(spec), moment, paths, feature_repo=feature_repo(), home=home())
    for name, artifact in outputs.items():
        artifact.metadata.update(metadata(found[name]))
    return (moment.isoformat(),)
