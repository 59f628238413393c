"""Statistics are streamed, equal to TFDV's own, and written with their digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import validation_windows as flights
from validation_windows import Validated, replaced

from airworthy import datasets
from airworthy.errors import DataError
from airworthy.validation.statistics import canonical, read_statistics, summarize, window_statistics
from airworthy.validation.windows import open_window

Check = Callable[..., Validated]


@pytest.mark.parametrize("batch_rows", [700, 65_536])
def test_streaming_equals_the_frame_path(windows: dict[str, Path], batch_rows: int) -> None:
    import tensorflow_data_validation as tfdv

    window = open_window("train", windows["train"])
    frame = datasets.read_frame(windows["train"], window.measured_columns)
    frame["weekend"] = frame["weekend"].astype("int64")
    frame["legs_7d"] = frame["legs_7d"].astype("Int64")
    whole = summarize(tfdv.generate_statistics_from_dataframe(frame, n_jobs=1))
    streamed = summarize(window_statistics(window, batch_rows))
    assert streamed.keys() == whole.keys()
    for name, expected in whole.items():
        for figure, value in expected.items():
            if figure == "histogram":
                assert [rows for _, _, rows in streamed[name][figure]] == pytest.approx(
                    [rows for _, _, rows in value], abs=0.02 * len(frame)
                )
            elif figure == "median":  # from a quantile sketch, whose merges depend on the batches
                assert streamed[name][figure] == pytest.approx(value, rel=0.02)
            elif isinstance(value, float):
                assert streamed[name][figure] == pytest.approx(value), (name, figure)
            else:
                assert streamed[name][figure] == value, (name, figure)


def test_statistics_are_right(windows: dict[str, Path]) -> None:
    frame = datasets.read_frame(windows["train"])
    figures = summarize(window_statistics(open_window("train", windows["train"])))
    temp, gust, origin = figures["temp"], figures["wind_gust"], figures["origin"]
    assert temp["mean"] == pytest.approx(frame["temp"].mean())
    assert (temp["min"], temp["max"]) == (frame["temp"].min(), frame["temp"].max())
    assert gust["missing"] == pytest.approx(frame["wind_gust"].isna().mean())
    assert origin["unique"] == 3
    assert dict(map(tuple, origin["top"])) == frame["origin"].value_counts().to_dict()
    assert figures["weekend"]["mean"] == pytest.approx(frame["weekend"].mean())
    assert figures["legs_7d"]["type"] == "integer"
    assert not {"flight_id", "event_timestamp", "landed"} & figures.keys()


def test_no_more_than_one_batch_is_held(windows: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reader of rows goes through `datasets.iter_batches`; none reads a file whole."""
    import pyarrow.parquet as pq

    from airworthy.validation.own_checks import check_window

    sizes: list[int] = []
    original = datasets.iter_batches

    def counted(
        path: Path, columns: list[str] | None = None, batch_rows: int = 500
    ) -> Iterator[pa.RecordBatch]:
        for batch in original(path, columns, min(batch_rows, 500)):
            sizes.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(datasets, "iter_batches", counted)
    for reader in ("read_table", "read_pandas"):
        monkeypatch.delattr(pq, reader)
    for reader in ("read", "read_row_group", "read_row_groups"):
        monkeypatch.delattr(pq.ParquetFile, reader)
    window = open_window("train", windows["train"])
    assert check_window(window, 1) == []
    statistics = window_statistics(window)
    assert statistics.datasets[0].num_examples == 4000
    assert max(sizes) == 500


def test_files_are_written_with_their_digests(check: Check, windows: dict[str, Path], schema: str) -> None:
    done = check()
    summary = json.loads((done.statistics / "statistics.json").read_text())
    assert summary["schema_digest"] == hashlib.sha256(schema.encode()).hexdigest()
    for name, path in windows.items():
        entry, content = summary["windows"][name], (done.statistics / f"{name}.pb").read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["fingerprint"] == datasets.read_info(path).fingerprint
        assert entry["rows"] == datasets.read_info(path).rows
        statistics = read_statistics(done.statistics / f"{name}.pb")
        assert statistics is not None
        assert entry["features"] == summarize(statistics)
    assert not list(done.statistics.glob("*.incomplete"))


def test_equal_data_gives_equal_bytes(check: Check) -> None:
    first, second = (check().statistics / "train.pb" for _ in range(2))
    assert first.read_bytes() == second.read_bytes()


def test_values_have_one_meaning() -> None:
    batch = pa.RecordBatch.from_pandas(
        pd.DataFrame({"a": [1.0, float("inf"), float("nan")], "b": [True, False, True], "c": [1, 2, 3]})
    )
    assert canonical(batch, {"c"}, label="b").to_pydict() == {
        "a": [1.0, None, None],
        "b": [1, 0, 1],
        "c": [1.0, 2.0, 3.0],
    }


def test_a_broken_file_is_named(check: Check, windows: dict[str, Path], tmp_path: Path) -> None:
    copy = flights.changed(windows["test"], tmp_path, lambda table: table)
    (copy / "part-00000.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"part-00000\.parquet: not a readable Parquet file"):
        check(datasets={"test": copy})


def test_a_column_that_tfdv_cannot_read_is_left_out(windows: dict[str, Path], tmp_path: Path) -> None:
    copy = flights.changed(
        windows["test"], tmp_path, lambda table: replaced(table, "temp", table["landed"].combine_chunks())
    )
    assert "temp" not in open_window("test", copy).measured_columns
