"""Each step of the release as one would write it by hand with the plain library: the yardstick for our own.

    python benchmarks/bare_steps.py STEP REQUEST.json

Runs in the environment of the release's step and imports nothing of Airworthy. `release_steps.py` writes the
request (file names, columns, parameters; the same for all steps) and takes the time of the whole process. The
last line of the output is the result as JSON. No step checks more than it must to have the bare result: no
digests, no reports, no records, no second chance.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

Request = dict[str, Any]
Result = dict[str, Any]
BATCH = 100
SINGLE_ROWS = 200
BAD_REQUESTS = 8
READY_SECONDS = 120


def load_champion(request: Request) -> Result:
    """The files of the version with the alias."""
    import mlflow
    from mlflow import MlflowClient

    version = MlflowClient().get_model_version_by_alias(request["model"], "champion")
    mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=f"{request['out']}/champion")
    return {"version": version.version}


def retrieve_features(request: Request) -> Result:
    """Entity rows whose label was known in time, their features, one Parquet file per window."""
    import pandas as pd
    from feast import FeatureStore

    columns = [
        *request["entity_columns"],
        request["id"],
        request["time"],
        request["label"],
        request["known_at"],
    ]
    flights = pd.read_parquet(request["entities"], columns=columns)
    when, known = flights[request["time"]], flights[request["known_at"]]
    parts = {}
    for name, (start, end) in request["windows"].items():
        inside = (when >= pd.Timestamp(start)) & (when < pd.Timestamp(end)) & (known < pd.Timestamp(end))
        parts[name] = flights[inside & flights[request["label"]].notna()].assign(window=name)
    asked = pd.concat(parts.values(), ignore_index=True).rename(columns={request["time"]: "event_timestamp"})
    store = FeatureStore(repo_path=request["feature_repo"])
    service = store.get_feature_service(request["service"])
    found = store.get_historical_features(entity_df=asked, features=service).to_df()
    for name in request["windows"]:
        rows = found[found["window"] == name]
        rows.sort_values("event_timestamp").to_parquet(f"{request['out']}/{name}.parquet", compression="zstd")
    return {"rows": len(found)}


def validate_data(request: Request) -> Result:
    """TFDV statistics of the three windows, held against the schema, each other and the champion's data."""
    import tensorflow_data_validation as tfdv
    from tensorflow_metadata.proto.v0 import schema_pb2

    columns = [*request["features"], request["label"]]
    frames = {name: _frame(folder, columns) for name, folder in request["data"].items()}
    statistics = {name: tfdv.generate_statistics_from_dataframe(frame) for name, frame in frames.items()}
    schema = tfdv.load_schema_text(request["schema"])
    anomalies = 0
    for name, environment in (
        ("train", "TRAINING"),
        ("tune", "TRAINING"),
        ("test", "TRAINING"),
        ("test", "SERVING"),
    ):
        found = tfdv.validate_statistics(statistics[name], schema, environment=environment)
        anomalies += len(found.anomaly_info)
    for feature in schema.feature:
        for comparator, limits in (
            ("skew_comparator", request["skew"]),
            ("drift_comparator", request["drift"]),
        ):
            part = getattr(feature, comparator)
            if feature.type == schema_pb2.BYTES:
                part.infinity_norm.threshold = limits["categorical_threshold"]
            else:
                part.jensen_shannon_divergence.threshold = limits["numeric_threshold"]
    compared = tfdv.validate_statistics(
        statistics["train"],
        schema,
        environment="TRAINING",
        previous_statistics=_statistics(request["previous_statistics"]),
        serving_statistics=statistics["test"],
    )
    return {"anomalies": anomalies, "compared": len(compared.drift_skew_info)}


def train_model(request: Request) -> Result:
    """Two windows into histograms, trees until the tuning window says stop, everything logged."""
    import mlflow
    import xgboost
    from mlflow.entities import Metric

    fitting, categories = _matrix(request, "train")
    tuning, _ = _matrix(request, "tune", categories, fitting)
    params = {
        **request["params"],
        "objective": "binary:logistic",
        "tree_method": "hist",
        "eval_metric": "logloss",
    }
    history: dict[str, dict[str, list[float]]] = {}
    booster = xgboost.train(
        {**params, "nthread": os.cpu_count()},
        fitting,
        request["rounds"],
        evals=[(fitting, "train"), (tuning, "tune")],
        callbacks=[xgboost.callback.EarlyStopping(request["early_stopping_rounds"], save_best=True)],
        evals_result=history,
        verbose_eval=False,
    )
    out = Path(request["out"])
    booster.save_model(out / "model.ubj")
    (out / "categories.json").write_text(json.dumps(categories))
    mlflow.set_experiment("bare")
    with mlflow.start_run() as run:
        mlflow.log_params(params)
        now = int(time.time() * 1000)
        points = [
            Metric(f"{window}_{name}", value, now, step)
            for window, metrics in history.items()
            for name, values in metrics.items()
            for step, value in enumerate(values)
        ]
        for first in range(0, len(points), 1000):
            mlflow.MlflowClient().log_batch(run.info.run_id, metrics=points[first : first + 1000])
        logged = mlflow.xgboost.log_model(
            booster, name="model", model_format="ubj", pip_requirements=["xgboost"]
        )
    (out / "logged.json").write_text(json.dumps({"uri": logged.model_uri}))
    return {"rounds": booster.num_boosted_rounds()}


def evaluate_model(request: Request) -> Result:
    """Both models' scores of the test window, scikit-learn's metrics, the scores as Parquet."""
    import numpy as np
    import pandas as pd
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import (
        average_precision_score,
        brier_score_loss,
        confusion_matrix,
        log_loss,
        roc_auc_score,
    )

    frame = _frame(request["data"]["test"], [*request["features"], request["label"], request["id"]])
    labels = frame[request["label"]].to_numpy()
    table = pd.DataFrame({"id": frame[request["id"]], "label": labels})
    found = {}
    for name, folder in (("challenger", request["out"]), ("champion", request["champion"])):
        booster, categories = _load(folder)
        scores = booster.inplace_predict(_encode(frame[request["features"]], categories))
        table[name] = scores
        found[name] = {
            "auc": roc_auc_score(labels, scores),
            "pr_auc": average_precision_score(labels, scores),
            "log_loss": log_loss(labels, scores),
            "brier": brier_score_loss(labels, scores),
            "calibration": np.abs(np.subtract(*calibration_curve(labels, scores, n_bins=10))).max(),
        }
        confusion_matrix(labels, scores >= 0.5)
    table.to_parquet(f"{request['out']}/scores.parquet", compression="zstd")
    return {"rows": len(frame), "auc": float(found["challenger"]["auc"])}


def register_model(request: Request) -> Result:
    """A version with an alias."""
    import mlflow

    uri = json.loads((Path(request["out"]) / "logged.json").read_text())["uri"]
    version = mlflow.register_model(uri, request["registered"]).version
    mlflow.MlflowClient().set_registered_model_alias(request["registered"], "challenger", version)
    return {"version": version}


def smoke_test(request: Request) -> Result:
    """One model server, as many questions as our smoke test asks, the scores compared with the evaluation's."""
    import numpy as np
    import pandas as pd

    rows = _rows(request, request["smoke_rows"])
    scores = pd.read_parquet(f"{request['out']}/scores.parquet").set_index("id")["challenger"]
    expected = scores.loc[[row[request["id"]] for row in rows]].to_numpy()
    batches = [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]

    async def ask(url: str) -> float:
        v1 = await _post(f"{url}/v1/models/model:predict", [_v1(request, batch) for batch in batches], 1)
        v2 = await _post(f"{url}/v2/models/model/infer", [_v2(request, batch) for batch in batches], 1)
        singles = [_v1(request, [row]) for row in rows[:SINGLE_ROWS]]
        await _post(f"{url}/v1/models/model:predict", singles, 1)
        await _post(f"{url}/v1/models/model:predict", [b"{"] * BAD_REQUESTS, 1, status=400)
        answers = [
            [score for answer in v1 for score in answer["predictions"]],
            [score for answer in v2 for score in answer["outputs"][0]["data"]],
        ]
        return max(float(np.abs(np.array(each) - expected).max()) for each in answers)

    with_server = _Server(request["out"])
    try:
        return {"largest_difference": asyncio.run(ask(with_server.ready())), "rows": len(rows)}
    finally:
        with_server.stop()


def rollout_canary(request: Request) -> Result:
    """Two model servers, as many requests as our rollout sends, straight at them."""
    bodies = [_v1(request, [row]) for row in _rows(request, 1000)]
    servers = {"stable": _Server(request["champion"]), "canary": _Server(request["out"])}

    async def ask(urls: dict[str, str]) -> int:
        sent = 0
        for arm, count in request["traffic"].items():
            cycled = [bodies[k % len(bodies)] for k in range(count)]
            sent += len(await _post(f"{urls[arm]}/v1/models/model:predict", cycled, 2))
        return sent

    try:
        return {"requests": asyncio.run(ask({arm: server.ready() for arm, server in servers.items()}))}
    finally:
        for server in servers.values():
            server.stop()


def promote_model(request: Request) -> Result:
    """The alias moved."""
    from mlflow import MlflowClient

    client = MlflowClient()
    version = client.get_model_version_by_alias(request["registered"], "challenger").version
    client.set_registered_model_alias(request["registered"], "champion", version)
    return {"version": version}


def settle_release(request: Request) -> Result:
    """The alias read."""
    from mlflow import MlflowClient

    return {"version": MlflowClient().get_model_version_by_alias(request["registered"], "champion").version}


def serve(folder: str, port: int) -> None:
    """KServe's model server around the booster; nothing changed but the address, which is fixed to 0.0.0.0."""
    import numpy as np
    import uvicorn
    from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

    class Loopback(uvicorn.Config):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "host": "127.0.0.1"})

    class Scorer(Model):
        def load(self) -> bool:
            self.booster, categories = _load(folder)
            self.booster.set_param({"nthread": 1})
            self.codes = {name: {v: k for k, v in enumerate(values)} for name, values in categories.items()}
            self.ready = True
            return True

        def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
            v2 = isinstance(payload, InferRequest)
            if v2:
                columns = {each.name: each.data for each in payload.inputs}
            else:
                rows = payload["instances"]
                columns = {name: [row[name] for row in rows] for name in self.booster.feature_names}
            matrix = [
                [self.codes[name].get(value) for value in columns[name]]
                if name in self.codes
                else columns[name]
                for name in self.booster.feature_names
            ]
            values = np.array(matrix, dtype=np.float32).T
            scores = self.booster.inplace_predict(values, validate_features=False).tolist()
            if not v2:
                return {"predictions": scores}
            output = InferOutput(name="score", shape=[len(scores)], datatype="FP64", data=scores)
            return InferResponse(response_id="", model_name=self.name, infer_outputs=[output])

    uvicorn.Config = Loopback  # type: ignore[misc]
    model = Scorer("model")
    model.load()
    ModelServer(http_port=port, enable_grpc=False, workers=1).start([model])


class _Server:
    """A model server as a process, on a free port of loopback."""

    def __init__(self, folder: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, __file__, "serve", folder, str(port)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def ready(self) -> str:
        import requests

        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if requests.get(f"{self.url}/v2/models/model/ready", timeout=5).ok:
                    return self.url
            except requests.ConnectionError:
                time.sleep(0.05)
        raise SystemExit("the bare model server did not become ready")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


async def _post(url: str, bodies: list[bytes], concurrency: int, status: int = 200) -> list[Any]:
    from aiohttp import ClientSession

    waiting = iter(bodies)
    answers = []

    async def work(session: ClientSession) -> None:
        for body in waiting:
            async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
                if answer.status != status:
                    raise SystemExit(f"HTTP {answer.status}: {(await answer.text())[:300]}")
                answers.append(await answer.json())

    async with ClientSession() as session:
        await asyncio.gather(*(work(session) for _ in range(concurrency)))
    return answers


def _frame(folder: str, columns: list[str]) -> Any:
    import pandas as pd

    return pd.read_parquet(folder, columns=columns)


def _encode(frame: Any, categories: dict[str, list[str]]) -> Any:
    import pandas as pd

    kinds = {name: pd.CategoricalDtype(values) for name, values in categories.items()}
    return frame.astype({name: kinds.get(name, "float32") for name in frame.columns})


def _matrix(
    request: Request, window: str, categories: dict[str, list[str]] | None = None, reference: Any = None
) -> tuple[Any, dict[str, list[str]]]:
    import xgboost

    frame = _frame(request["data"][window], [*request["features"], request["label"]])
    if categories is None:
        categories = {name: sorted(frame[name].dropna().unique()) for name in request["categories"]}
    matrix = xgboost.QuantileDMatrix(
        _encode(frame[request["features"]], categories),
        frame[request["label"]],
        ref=reference,
        enable_categorical=True,
    )
    return matrix, categories


def _load(folder: str) -> tuple[Any, dict[str, list[str]]]:
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(Path(folder) / "model.ubj")
    return booster, json.loads((Path(folder) / "categories.json").read_text())


def _statistics(path: str) -> Any:
    from tensorflow_metadata.proto.v0 import statistics_pb2

    return statistics_pb2.DatasetFeatureStatisticsList.FromString(Path(path).read_bytes())


def _rows(request: Request, limit: int) -> list[dict[str, Any]]:
    frame = _frame(request["data"]["test"], [request["id"], *request["features"]])
    chosen = frame.iloc[:: max(1, len(frame) // limit)].head(limit).astype(object)
    return chosen.where(chosen.notna(), None).to_dict("records")


def _v1(request: Request, rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(
        {"instances": [{name: row[name] for name in request["features"]} for row in rows]}
    ).encode()


def _v2(request: Request, rows: list[dict[str, Any]]) -> bytes:
    inputs = [
        {
            "name": name,
            "shape": [len(rows)],
            "datatype": "BYTES" if name in request["categories"] else "FP64",
            "data": [row[name] for row in rows],
        }
        for name in request["features"]
    ]
    return json.dumps({"inputs": inputs}).encode()


def write_dossier(request: Request) -> Result:
    """Without us there is none; a version's tags are read."""
    from mlflow import MlflowClient

    return {"tags": len(MlflowClient().get_model_version_by_alias(request["registered"], "challenger").tags)}


def await_approval(request: Request) -> Result:
    """Nobody is asked: a version's tags are read."""
    return write_dossier(request)


STEPS = (
    load_champion,
    retrieve_features,
    validate_data,
    train_model,
    evaluate_model,
    register_model,
    write_dossier,
    await_approval,
    smoke_test,
    rollout_canary,
    promote_model,
    settle_release,
)

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        chosen = next(step for step in STEPS if step.__name__ == sys.argv[1])
        print(json.dumps(chosen(json.loads(Path(sys.argv[2]).read_text()))))
