"""FastAPI as it is meant to be used: a pydantic model of the row. `fastapi_server.py BUNDLE PORT`"""

import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, create_model

from airworthy.bundle import Scorer

TYPES: dict[str, Any] = {
    "number": float | None,
    "integer": int | None,
    "category": str | None,
    "bool": bool | None,
}

scorer = Scorer.load(Path(sys.argv[1]))
names = [feature.name for feature in scorer.info.features]
fields: Any = {feature.name: (TYPES[feature.kind], ...) for feature in scorer.info.features}
Row: Any = create_model("Row", __config__=ConfigDict(extra="forbid"), **fields)


class Rows(BaseModel):
    """V1 body."""

    instances: list[Row]  # type: ignore[valid-type]


class Scores(BaseModel):
    """V1 answer."""

    predictions: list[float]


app = FastAPI()


@app.post("/predict")
async def predict(rows: Rows) -> Scores:
    """On the event loop, which for so little work is quicker than a thread."""
    columns = {name: [getattr(row, name) for row in rows.instances] for name in names}
    return Scores(predictions=scorer.score(scorer.encode(columns)[0]).tolist())


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="critical", access_log=False)
