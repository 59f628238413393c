"""Bundles, rows and scores that the serving tests start from."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airworthy.bundle import Scorer
from tests.release_evidence import Evidence, flights, make_evidence, write_flights


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """A bundle that passed the gate."""
    return make_evidence(tmp_path_factory.mktemp("judged"))


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 300 rows."""
    return write_flights(tmp_path_factory.mktemp("rows") / "test", flights(300, seed=3))


@pytest.fixture(scope="session")
def scores(judged: Evidence, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the evaluation would have written about them."""
    ids: list[str] = []
    values: list[float] = []
    for batch_ids, _, batch_scores, _ in Scorer.load(judged.bundle).score_dataset(rows):
        ids += batch_ids
        values += batch_scores.tolist()
    folder = tmp_path_factory.mktemp("scores")
    pq.write_table(pa.table({"id": ids, "challenger": values}), folder / "scores.parquet")
    return folder
