"""KServe as it is: a plain `Model`, but for the fixed address 0.0.0.0. `kserve_stock.py BUNDLE PORT [ENGINE]`"""

import sys
from pathlib import Path
from typing import Any

import uvicorn
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from airworthy.bundle import Scorer


class Loopback(uvicorn.Config):
    """Listens on this machine only."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "host": "127.0.0.1"})


class Plain(Model):
    """Columns, encode, score."""

    def load(self) -> bool:
        self.scorer = Scorer.load(Path(sys.argv[1]), engine=sys.argv[3] if len(sys.argv) > 3 else "auto")  # type: ignore[arg-type]
        self.names = [feature.name for feature in self.scorer.info.features]
        self.ready = True
        return True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        v2 = isinstance(payload, InferRequest)
        if v2:
            columns = {each.name: each.data for each in payload.inputs}
        else:
            columns = {name: [row[name] for row in payload["instances"]] for name in self.names}
        scores = self.scorer.score(self.scorer.encode(columns)[0]).tolist()
        if not v2:
            return {"predictions": scores}
        output = InferOutput(name="score", shape=[len(scores)], datatype="FP64", data=scores)
        return InferResponse(response_id="", model_name=self.name, infer_outputs=[output])


uvicorn.Config = Loopback  # type: ignore[misc]
model = Plain("model")
model.load()
ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1).start([model])
