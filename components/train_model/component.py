"""KFP face of `airworthy.training`."""

from typing import NamedTuple

from kfp import dsl

from components.metadata import image


@dsl.component(base_image=image("train_model"), install_kfp_package=False)
def train_model(
    spec: str,
    as_of: str,
    train: dsl.Input[dsl.Dataset],
    tune: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> NamedTuple("Outputs", [("run_id", str)]):  # type: ignore[valid-type]
    """Fit the challenger and pack it as a bundle.

    Args:
        spec: Text of the model spec.
        as_of: The time that the data was retrieved as of.
        train: Rows to fit on.
        tune: Rows for early stopping and the decision threshold.
        model: The bundle: XGBoost model, signature, digests; an MLflow model folder without pickle.
        metrics: Rounds kept, metrics of the tuning window, device really used.

    Returns:
        run_id: The MLflow run.
    """
    from pathlib import Path

    from airworthy.model_spec import load_spec
    from airworthy.training import train as fit

    result = fit(
        load_spec(spec), spec, train=Path(train.path), tune=Path(tune.path), out=Path(model.path), as_of=as_of
    )
    model.metadata.update({"digest": result.digest, "device": result.device, "rounds": result.rounds})
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    return (result.run_id,)
