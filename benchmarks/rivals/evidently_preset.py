"""Evidently's classification preset on scored rows; runs in the environment `monitoring`, without Airworthy.

    python evidently_preset.py SCORES

Reads the columns label, challenger and champion of the Parquet file that our evaluation writes: the challenger is
`current`, the champion on the same rows `reference`. Prints what came of it, as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import evidently
import pandas as pd
from evidently import BinaryClassification, DataDefinition, Dataset, Report
from evidently.presets import ClassificationPreset


def main() -> None:
    scores = pd.read_parquet(sys.argv[1], columns=["label", "challenger", "champion"])
    definition = DataDefinition(
        classification=[BinaryClassification(target="label", prediction_probas="score", pos_label=1)]
    )
    arms = [
        Dataset.from_pandas(
            pd.DataFrame({"label": scores["label"].astype(int), "score": scores[arm]}),
            data_definition=definition,
        )
        for arm in ("challenger", "champion")
    ]
    result = Report([ClassificationPreset()]).run(*arms)
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "report.html"
        result.save_html(str(page))
        size = page.stat().st_size / 1024
    told = {"version": evidently.__version__, "metrics": len(result.dict()["metrics"]), "report_kib": size}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
