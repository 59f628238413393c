"""Scoring the test window: side by side, in order, in bounded memory, and the same as one batch after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from airworthy import datasets
from airworthy.bundle import Scorer
from airworthy.errors import DataError
from airworthy.evaluation import arms
from airworthy.evaluation.arms import Scored, score_arms
from tests.release_evidence import FEATURES, flights, make_bundle, spec, write_flights

ROWS = 5000
BATCH = 300


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = flights(ROWS, seed=3)
    carriers = table.column("carrier").to_pylist()
    carriers[10:30] = ["NEW"] * 20
    carriers[40:45] = [None] * 5
    table = table.set_column(table.column_names.index("carrier"), "carrier", pa.array(carriers))
    return write_flights(tmp_path_factory.mktemp("data") / "test", table)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    make_bundle(folder / "challenger")
    make_bundle(folder / "champion", rounds=5, drop=("distance",))
    return folder / "challenger", folder / "champion"


@pytest.fixture
def many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window comes in many more batches than there are threads."""
    whole = datasets.iter_batches

    def small(path: Path, columns: Any = None, batch_rows: int = BATCH) -> Iterator[pa.RecordBatch]:
        yield from whole(path, columns, batch_rows)

    monkeypatch.setattr(datasets, "iter_batches", small)


def score(window: Path, bundles: tuple[Path, Path]) -> Scored:
    return score_arms(spec()[0], window, bundles[0], bundles[1], "1")


@pytest.mark.usefixtures("many_batches")
def test_scores_are_those_of_one_batch_after_the_other_bit_for_bit(
    window: Path, bundles: tuple[Path, Path]
) -> None:
    scored = score(window, bundles)
    frame = datasets.read_frame(window)
    assert scored.champion is not None
    for arm, bundle in ((scored.challenger, bundles[0]), (scored.champion, bundles[1])):
        expected, unseen = Scorer.load(bundle).score_frame(frame)
        np.testing.assert_array_equal(arm.scores, expected)
        assert arm.unseen == unseen == {"carrier": 20}
    assert scored.ids.to_pylist() == frame["flight_id"].tolist()
    np.testing.assert_array_equal(scored.labels, frame["late"].to_numpy())


@pytest.mark.usefixtures("many_batches")
def test_few_batches_are_in_memory_at_a_time(
    window: Path, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, open_batches, most = threading.Lock(), 0, 0
    read, work = datasets.iter_batches, arms._score_batch

    def counted(*arguments: Any) -> Iterator[pa.RecordBatch]:
        nonlocal open_batches, most
        for batch in read(*arguments):
            with lock:
                open_batches += 1
                most = max(most, open_batches)
            yield batch

    def finished(*arguments: Any) -> Any:
        nonlocal open_batches
        answer = work(*arguments)
        with lock:
            open_batches -= 1
        return answer

    monkeypatch.setattr(datasets, "iter_batches", counted)
    monkeypatch.setattr(arms, "_score_batch", finished)
    monkeypatch.setattr(arms, "threads", lambda: 2)
    score(window, bundles)
    assert open_batches == 0
    assert most <= 2 * 2 + 1


@pytest.mark.usefixtures("many_batches")
def test_a_value_that_can_not_be_scored_ends_the_evaluation_and_its_threads(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    table = flights(ROWS, seed=3)
    distance = table.column("distance").to_numpy().copy()
    distance[ROWS // 2] = np.inf
    odd = write_flights(
        tmp_path / "test",
        table.set_column(table.column_names.index("distance"), "distance", pa.array(distance)),
    )
    before = threading.active_count()
    with pytest.raises(DataError, match="column distance: infinite"):
        score(odd, bundles)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "column",
    [
        pa.array([True, None, False]),
        pa.array([True, False, True]),
        pa.array([1, None, 3], pa.int64()),
        pa.array([1, 2, 3], pa.int32()),
        pa.array([1.5, None, float("nan")]),
        pa.array(["a", None, "b"]),
        pa.array(["a", None, "b"], pa.large_string()),
        pa.array(["a", None, "b"]).dictionary_encode(),
        pa.array([None, None, None]),
    ],
    ids=lambda column: str(column.type),
)
def test_columns_are_unpacked_as_pandas_would(column: pa.Array) -> None:
    theirs = pa.table({"x": column}).to_pandas()["x"].astype(object).to_numpy()
    ours = arms.raw_values(column).astype(object)
    same = [a == b or (_missing(a) and _missing(b)) for a, b in zip(ours, theirs, strict=True)]
    assert all(same), (ours, theirs)


def test_a_sample_has_all_columns_of_the_rows_at_its_places(window: Path, bundles: tuple[Path, Path]) -> None:
    scored = score(window, bundles)
    table, places = scored.sample(200, seed=4)
    assert table.num_rows == len(places) == len(set(places)) == 200
    assert {f.name for f in FEATURES} <= set(table.column_names)
    ids = np.asarray(scored.ids.to_pylist())
    assert table.column("flight_id").to_pylist() == ids[places].tolist()
    again, same = scored.sample(200, seed=4)
    np.testing.assert_array_equal(places, same)
    assert again.equals(table)
    everything, _ = scored.sample(10 * ROWS, seed=4)
    assert everything.num_rows == ROWS


def _missing(value: Any) -> bool:
    return value is None or value != value
