"""A custom runtime of MLServer; runs in an environment of its own (requirements/mlserver.txt)."""

from pathlib import Path

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from airworthy.bundle import Scorer


class ScorerRuntime(MLModel):
    """Columns, encode, score."""

    async def load(self) -> bool:
        self.scorer = Scorer.load(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        columns = {each.name: list(each.data) for each in payload.inputs}
        scores = self.scorer.score(self.scorer.encode(columns)[0]).tolist()
        output = ResponseOutput(name="score", shape=[len(scores)], datatype="FP64", data=scores)
        return InferenceResponse(model_name=self.name, outputs=[output])
