"""The `release` pipeline: data, model, gate, registry, canary, champion."""

from typing import Optional

from kfp import dsl, kubernetes

from components.await_approval.component import await_approval
from components.evaluate_model.component import evaluate_model
from components.load_champion.component import load_champion
from components.metadata import configure
from components.promote_model.component import promote_model
from components.register_model.component import register_model
from components.retrieve_features.component import retrieve_features
from components.rollout_canary.component import rollout_canary
from components.settle_release.component import settle_release
from components.smoke_test.component import smoke_test
from components.train_model.component import train_model
from components.validate_data.component import validate_data
from components.write_dossier.component import write_dossier


@dsl.pipeline(name="release", display_name="Release a model")
def release(
    spec: str,
    schema: str,
    as_of: Optional[str] = None,  # noqa: UP045 - the KFP compiler reads Optional, not `| None`
    training_gpus: int = 1,
) -> None:
    """Take a model from the feature store to champion, or stop where the evidence says no.

    Args:
        spec: Text of the model spec (`models/<name>.yaml`).
        schema: Text of its data schema (the file that `validation.schema` names).
        as_of: The present, as seen by this release (ISO date or time, UTC). Default: now.
        training_gpus: GPUs to request for training on a cluster; 0 trains on CPUs.
    """
    this_run = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    settle = configure(settle_release(spec=spec, pipeline_run=this_run), "settle_release")
    with dsl.ExitHandler(settle, name="release"):
        champion = configure(load_champion(spec=spec), "load_champion").outputs["champion"]
        data = configure(retrieve_features(spec=spec, as_of=as_of), "retrieve_features").outputs
        windows = {name: data[name] for name in ("train", "tune", "test")}
        validated = configure(
            validate_data(spec=spec, schema=schema, champion=champion, **windows), "validate_data"
        ).outputs
        with dsl.If(validated["passed"] == True, name="data is fit"):  # noqa: E712
            training = configure(
                train_model(spec=spec, as_of=data["as_of"], train=data["train"], tune=data["tune"]),
                "train_model",
            )
            training.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(training_gpus)
            kubernetes.add_toleration(training, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
            trained = training.outputs
            judged = configure(
                evaluate_model(
                    spec=spec,
                    train=data["train"],
                    test=data["test"],
                    model=trained["model"],
                    champion=champion,
                ),
                "evaluate_model",
            ).outputs
            evidence = {"verdict": judged["verdict"], "model": trained["model"]}
            with dsl.If(judged["passed"] == True, name="gate passed"):  # noqa: E712
                smoke = configure(
                    smoke_test(spec=spec, test=data["test"], scores=judged["scores"], **evidence),
                    "smoke_test",
                )
                registration = configure(
                    register_model(
                        spec=spec,
                        schema=schema,
                        as_of=data["as_of"],
                        run_id=trained["run_id"],
                        pipeline_run=this_run,
                        train=data["train"],
                        findings=judged["findings"],
                        smoke=smoke.outputs["record"],
                        statistics=validated["statistics"],
                        anomalies=validated["anomalies"],
                        **evidence,
                    ),
                    "register_model",
                )
                version = registration.outputs["version"]
                dossier = configure(write_dossier(spec=spec, version=version), "write_dossier")
                approval = configure(
                    await_approval(
                        spec=spec,
                        version=version,
                        pipeline_run=this_run,
                        dossier=dossier.outputs["dossier"],
                        **evidence,
                    ),
                    "await_approval",
                )
                with dsl.If(approval.outputs["approved"] == True, name="approved"):  # noqa: E712
                    rollout = configure(
                        rollout_canary(
                            spec=spec,
                            version=version,
                            pipeline_run=this_run,
                            champion=champion,
                            test=data["test"],
                            **evidence,
                        ),
                        "rollout_canary",
                    )
                    with dsl.If(rollout.outputs["passed"] == True, name="canary passed"):  # noqa: E712
                        configure(
                            promote_model(
                                spec=spec,
                                version=version,
                                champion=champion,
                                record=rollout.outputs["record"],
                                **evidence,
                            ),
                            "promote_model",
                        )
