"""The bundle proves itself unchanged, and every reader of it scores alike."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost

from airworthy.bundle import (
    BundleInfo,
    Feature,
    Scorer,
    bundle_digest,
    read_bundle_info,
    verify_bundle,
    write_bundle,
)
from airworthy.errors import BundleError, DataError
from airworthy.training.onnx import to_onnx

FEATURES = (
    Feature(name="wind", kind="number", minimum=0, maximum=50, nullable=True),
    Feature(name="hour", kind="integer", minimum=0, maximum=23, nullable=True),
    Feature(name="carrier", kind="category", categories=("AA", "B6", "UA", "WN"), nullable=True),
    Feature(name="holiday", kind="bool", minimum=0, maximum=1, nullable=False),
)
ROW: dict[str, list[Any]] = {"wind": [3.5], "hour": [7], "carrier": ["UA"], "holiday": [False]}


def frame(rows: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    carrier = np.array([None, "AA", "B6", "UA", "WN"], dtype=object)[rng.integers(0, 5, rows)]
    wind = np.where(rng.random(rows) < 0.1, np.nan, rng.uniform(0, 50, rows))
    holiday = rng.random(rows) < 0.2
    return pd.DataFrame(
        {"wind": wind, "hour": rng.integers(0, 24, rows), "carrier": carrier, "holiday": holiday}
    )


@pytest.fixture(scope="module")
def parts() -> tuple[BundleInfo, bytes, bytes]:
    """A small model whose carrier matters."""
    info = BundleInfo(
        model="late",
        label="late",
        features=FEATURES,
        threshold=0.3,
        rounds=20,
        base_rate=0.5,
        device="cpu",
        params={"max_depth": 3},
        versions={"python": "3.11.0", "xgboost": xgboost.__version__},
        onnx="differs by at most 1e-07",
        training_fingerprint="a",
        tune_fingerprint="b",
        feature_service="late_v1",
        feature_service_digest="c",
        spec_digest="d",
        as_of="2013-04-01",
    )
    data = frame()
    matrix, _ = Scorer(info, "xgboost", None).encode({str(c): data[c].to_numpy() for c in data})
    label = (data["wind"].fillna(0) > 20) ^ data["carrier"].isin(["B6", "WN"])
    types = ["c" if f.kind == "category" else "float" for f in FEATURES]
    fitting = xgboost.QuantileDMatrix(matrix, label, feature_types=types, enable_categorical=True)
    model = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 3, "max_cat_to_onehot": 1}, fitting, 20
    )
    return info, bytes(model.save_raw("ubj")), to_onnx(bytes(model.save_raw("json")), len(FEATURES))


@pytest.fixture
def bundle(parts: tuple[BundleInfo, bytes, bytes], tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", *parts)
    return tmp_path / "bundle"


def test_equal_content_gives_equal_digests(parts: tuple[BundleInfo, bytes, bytes], tmp_path: Path) -> None:
    first = write_bundle(tmp_path / "one", *parts)
    second = write_bundle(tmp_path / "two", *parts)
    assert first == second == verify_bundle(tmp_path / "two") == bundle_digest(tmp_path / "one")
    assert read_bundle_info(tmp_path / "one") == parts[0]
    other = write_bundle(tmp_path / "one", *parts, extra={"notes/card.md": b"hello"})
    assert other != first
    assert verify_bundle(tmp_path / "one") == other


def _change(path: Path) -> None:
    (path / "airworthy.json").write_text((path / "airworthy.json").read_text().replace("0.3", "0.1"))


def _link(path: Path) -> None:
    shutil.copy(path / "model.ubj", path.parent / "model.ubj")
    (path / "model.ubj").unlink()
    (path / "model.ubj").symlink_to(path.parent / "model.ubj")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_change, "airworthy.json was changed"),
        (lambda p: (p / "model.ubj").write_bytes(b""), "model.ubj was changed"),
        (lambda p: (p / "model.onnx").unlink(), "model.onnx: missing"),
        (lambda p: (p / "code" / "sitecustomize.py").write_text("x"), "sitecustomize.py: not part"),
        (lambda p: (p / "SHA256SUMS").unlink(), "no model bundle here"),
        (lambda p: (p / "SHA256SUMS").write_text("nonsense"), "not a list of digests"),
        (_link, "symbolic link"),
        (lambda p: (p / "data").symlink_to("/"), "symbolic link"),
    ],
)
def test_any_damage_is_refused(bundle: Path, damage: Callable[[Path], Any], said: str) -> None:
    damage(bundle)
    with pytest.raises(BundleError, match=said):
        verify_bundle(bundle)
    with pytest.raises(BundleError, match=said):
        Scorer.load(bundle)


@pytest.mark.parametrize("name", ["../out", "/abs", "model.ubj", "SHA256SUMS", "", "a\nb"])
def test_extra_files_stay_inside_and_replace_nothing(
    parts: tuple[BundleInfo, bytes, bytes], tmp_path: Path, name: str
) -> None:
    with pytest.raises(BundleError, match="can't be added"):
        write_bundle(tmp_path / "bundle", *parts, extra={name: b""})
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused(bundle: Path) -> None:
    info = bundle / "airworthy.json"
    info.write_text(info.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(BundleError, match="not a bundle of a known format"):
        read_bundle_info(bundle)


def test_a_description_of_another_model_is_refused(
    parts: tuple[BundleInfo, bytes, bytes], tmp_path: Path
) -> None:
    info, booster, _ = parts
    write_bundle(tmp_path / "bundle", info.model_copy(update={"rounds": 21}), booster)
    with pytest.raises(BundleError, match="rounds, features"):
        Scorer.load(tmp_path / "bundle")


def test_no_file_is_a_pickle(bundle: Path) -> None:
    names = {file.name for file in bundle.rglob("*") if file.is_file()}
    assert not [n for n in names if n.endswith((".pkl", ".pickle", ".joblib", ".pyc"))]
    assert all(b"\x80\x04\x95" not in file.read_bytes() for file in bundle.rglob("*") if file.is_file())


def test_both_engines_score_alike_and_like_the_original(
    bundle: Path, parts: tuple[BundleInfo, bytes, bytes]
) -> None:
    data = frame()
    onnx, plain = Scorer.load(bundle), Scorer.load(bundle, engine="xgboost")
    assert (onnx.engine, plain.engine) == ("onnx", "xgboost")
    original = xgboost.Booster()
    original.load_model(bytearray(parts[1]))
    expected = original.inplace_predict(plain.encode({str(c): data[c].to_numpy() for c in data})[0])
    assert np.array_equal(plain.score_frame(data)[0], expected.astype(np.float64))
    assert np.abs(onnx.score_frame(data)[0] - expected).max() <= 1e-6
    alone = [onnx.score_frame(data[i : i + 1])[0][0] for i in range(50)]
    assert np.allclose(alone, expected[:50], atol=1e-6, rtol=0)


def test_without_conversion_the_original_scores(
    parts: tuple[BundleInfo, bytes, bytes], tmp_path: Path
) -> None:
    write_bundle(tmp_path / "bundle", *parts[:2])
    assert Scorer.load(tmp_path / "bundle").engine == "xgboost"
    with pytest.raises(BundleError, match="holds no ONNX model"):
        Scorer.load(tmp_path / "bundle", engine="onnx")


@pytest.mark.parametrize("engine", ["onnx", "xgboost"])
def test_unseen_categories_score_as_missing_and_are_counted(bundle: Path, engine: Any) -> None:
    scorer = Scorer.load(bundle, engine=engine)
    missing, none = scorer.score_frame(frame().assign(carrier=None))
    unseen, counted = scorer.score_frame(frame().assign(carrier="XX"))
    first, _ = scorer.score_frame(frame().assign(carrier="AA"))
    assert np.array_equal(unseen, missing)
    assert not np.allclose(unseen, first)
    assert (none, counted) == ({}, {"carrier": 400})


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("wind", [None]),
        ("wind", [float("nan")]),
        ("wind", pd.array([pd.NA], dtype="Float64").to_numpy(dtype=object)),
        ("hour", [None]),
        ("hour", np.array([np.nan])),
        ("carrier", [None]),
        ("carrier", [float("nan")]),
        ("carrier", np.array([pd.NA], dtype=object)),
        ("holiday", [None]),
        ("holiday", np.array([np.nan])),
    ],
)
def test_every_way_to_say_missing_is_nan(bundle: Path, column: str, values: Any) -> None:
    matrix, unseen = Scorer.load(bundle).encode(ROW | {column: values})
    assert np.isnan(matrix[0, list(ROW).index(column)])
    assert np.isnan(matrix).sum() == 1
    assert unseen == {}


@pytest.mark.parametrize(
    ("column", "values", "encoded"),
    [
        ("wind", [3], 3.0),
        ("wind", np.array([2.5], dtype=np.float32), 2.5),
        ("hour", [7.0], 7.0),
        ("hour", np.array([7], dtype=np.uint8), 7.0),
        ("carrier", ["WN"], 3.0),
        ("carrier", np.array(["AA"]), 0.0),
        ("carrier", pd.Series(["B6"], dtype="category").to_numpy(), 1.0),
        ("holiday", [True], 1.0),
        ("holiday", np.array([True]), 1.0),
        ("holiday", [1], 1.0),
    ],
)
def test_values_are_encoded_whatever_holds_them(
    bundle: Path, column: str, values: Any, encoded: float
) -> None:
    matrix, _ = Scorer.load(bundle).encode(ROW | {column: values})
    assert matrix[0, list(ROW).index(column)] == encoded
    assert matrix.dtype == np.float32


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("wind", [float("inf")], "column wind: infinite"),
        ("wind", [-1e300], "column wind: infinite or too large"),
        ("wind", [10**400], "column wind: a number is too large"),
        ("hour", [-(10**400)], "column hour: a number is too large"),
        ("wind", ["3.5"], "column wind: must be numbers, found str '3.5'"),
        ("wind", [True], "column wind: must be numbers, found bool True"),
        (
            "wind",
            np.array(["2013-01-01"], dtype="datetime64[D]"),
            "column wind: must be numbers, not datetime64",
        ),
        ("wind", [[1.0]], "column wind: must be numbers"),
        ("wind", [1.0, 2.0], "column hour: 1 values, but others have 2"),
        ("hour", [7.5], "column hour: must be whole numbers, found 7.5 in row 0"),
        ("hour", ["7"], "column hour: must be whole numbers"),
        ("carrier", [4], "column carrier: must be text, found int 4"),
        ("carrier", [["AA"]], "column carrier: must be text, found list"),
        ("holiday", [2], "column holiday: must be true or false, found 2"),
        ("holiday", ["true"], "column holiday: must be true or false, found str"),
    ],
)
def test_wrong_values_are_refused_by_name(bundle: Path, column: str, values: Any, said: str) -> None:
    with pytest.raises(DataError) as caught:
        Scorer.load(bundle).encode(ROW | {column: values})
    assert said in str(caught.value)


def test_missing_columns_are_named_all_at_once(bundle: Path) -> None:
    with pytest.raises(DataError, match="columns hour, holiday are missing"):
        Scorer.load(bundle).score_frame(frame()[["wind", "carrier"]])


def test_no_rows_give_no_scores(bundle: Path) -> None:
    assert len(Scorer.load(bundle).score_frame(frame()[:0])[0]) == 0


@pytest.mark.parametrize("matrix", [np.zeros((2, 3), np.float32), np.zeros((2, 4)), np.zeros(4, np.float32)])
def test_a_matrix_of_another_shape_is_refused(bundle: Path, matrix: Any) -> None:
    with pytest.raises(DataError, match=r"must be float32 \[n, 4\]"):
        Scorer.load(bundle).score(matrix)


def test_mlflow_loads_it_without_airworthy_and_leaves_it_unchanged(bundle: Path, tmp_path: Path) -> None:
    """A process that can't import this library gets the same scores."""
    frame().to_parquet(tmp_path / "rows.parquet")
    program = f"""
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "airworthy":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import mlflow, pandas, numpy
rows = pandas.read_parquet({str(tmp_path / "rows.parquet")!r})
model = mlflow.pyfunc.load_model({str(bundle)!r})
numpy.save({str(tmp_path / "scores.npy")!r}, model.predict(rows))
assert model.metadata.signature.inputs.input_names() == list(rows.columns)
"""
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=tmp_path)
    expected, _ = Scorer.load(bundle).score_frame(frame())
    assert np.array_equal(np.load(tmp_path / "scores.npy"), expected)
    (bundle / "registered_model_meta").write_text("model_name: late\n")  # MLflow's own, from a registry load
    verify_bundle(bundle)
