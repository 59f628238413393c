"""A registered version made again: what counts as the same, and what is told when it is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from airworthy import cli, operations
from airworthy.bundle import BOOSTER
from airworthy.cli import evidence
from airworthy.datasets import read_info
from airworthy.errors import RegistryError
from airworthy.registry import Registry
from airworthy.reproduce import (
    BUNDLE,
    DATA,
    PAGE,
    RESULT,
    Reproduction,
    ScoreComparison,
    judge,
    read_recorded,
    read_reproduction,
    recall,
)
from airworthy.reproduce.comparison import compare
from airworthy.reproduce.facts import Facts, Recorded, Window
from airworthy.signing import SIGNATURE, SIGNING_KEY
from airworthy.training import train
from airworthy.verdict import Check, Verdict, write_verdict
from tests.late_world import FEATURES, SPEC, World, rows, write
from tests.release_evidence import new_store

AS_OF = "2013-04-15T00:00:00+00:00"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    from airworthy.model_spec import load_spec

    folder = tmp_path_factory.mktemp("windows")
    write(folder / "test", rows(800, seed=5), 74, 28)
    return World(
        write(folder / "train", rows(3000, seed=1), 0, 60),
        write(folder / "tune", rows(800, seed=2), 60, 14),
        load_spec(SPEC),
        SPEC,
    )


@pytest.fixture(scope="module")
def released(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a registry in which the world's model is version 1, with its training run."""
    folder = tmp_path_factory.mktemp("registry")
    uri = new_store(folder / "mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        result = train(
            world.spec, SPEC, train=world.train, tune=world.tune, out=folder / "bundle", as_of=AS_OF
        )
    verdict = Verdict(
        model="late",
        status="passed",
        checks=(Check(name="auc", family="limits", observed=0.7, outcome="pass", reason="AUC is 0.7."),),
        bundle_digest=result.digest,
        champion_version=None,
        data_fingerprint=read_info(world.train.parent / "test").fingerprint,
        policy_digest="3" * 64,
        settings={"rows": 800},
    )
    write_verdict(verdict, folder / "verdict.json")
    registry = Registry(uri)
    registry.register(
        world.spec, verdict=folder / "verdict.json", bundle=folder / "bundle", run_id=result.run_id
    )
    return uri


@pytest.fixture
def again(world: World, released: str, tmp_path: Path) -> Callable[..., Reproduction]:
    """Makes the version again in `tmp_path`, with other windows where they are given."""

    def make(**windows: Path) -> Reproduction:
        recall_first(released, tmp_path)
        for name in ("train", "tune", "test"):
            shutil.copytree(windows.get(name, world.train.parent / name), tmp_path / DATA / name)
        operations.retrain(tmp_path, read_recorded(tmp_path).info.as_of)
        return judge(tmp_path)

    return make


def recall_first(uri: str, out: Path) -> Recorded:
    registry = Registry(uri)
    return recall(registry, registry.version("late", "1"), out)


def differing(result: Reproduction) -> set[str]:
    return {line.what for line in result.differences}


def test_the_same_data_and_spec_give_the_same_bundle_byte_for_byte(
    again: Callable[..., Reproduction], tmp_path: Path
) -> None:
    result = again()
    assert result.kind == "bit-identical", result
    assert result.recorded_digest == result.now_digest
    assert not result.differences
    assert all(line.same for line in result.lines), "everything about it is recorded"
    assert result.scores is not None
    assert result.scores.rows == 800
    assert result.scores.largest_difference == 0
    assert result.recorded_metrics == {"auc": 0.7}
    assert read_reproduction(tmp_path / RESULT) == result
    page = (tmp_path / PAGE).read_text()
    assert "byte for byte the same" in page
    assert "http" not in page.replace("http-equiv", "")


def test_rows_that_changed_since_are_named_by_window_with_their_number(
    again: Callable[..., Reproduction], tmp_path: Path
) -> None:
    fewer = write(tmp_path / "fewer" / "tune", rows(700, seed=2), 60, 14)
    result = again(tune=fewer)
    assert result.kind == "different"
    assert "the tune data retrieved now is not what it was" in result.headline
    assert {"tune data: rows", "tune data: fingerprint"} <= differing(result)
    assert "train data: fingerprint" not in differing(result)
    line = next(line for line in result.lines if line.what == "tune data: rows")
    assert (line.recorded, line.now) == ("800", "700")


def test_another_test_window_is_a_difference_although_the_model_is_the_same(
    again: Callable[..., Reproduction], tmp_path: Path
) -> None:
    result = again(test=write(tmp_path / "other" / "test", rows(800, seed=6), 74, 28))
    assert result.kind == "different"
    assert "byte for byte" in result.headline
    assert differing(result) == {"test data: fingerprint"}


def test_a_recorded_model_that_can_not_score_todays_features_says_so(
    again: Callable[..., Reproduction], tmp_path: Path
) -> None:
    features = FEATURES[1:]
    windows = {}
    for name, count, seed, first, days in (
        ("train", 3000, 1, 0, 60),
        ("tune", 800, 2, 60, 14),
        ("test", 800, 5, 74, 28),
    ):
        columns = rows(count, seed=seed)
        del columns["wind"]
        windows[name] = write(tmp_path / "narrow" / name, columns, first, days, features=features)
    result = again(**windows)
    assert result.kind == "different"
    assert result.scores is None
    assert "wind" in str(result.scores_problem)
    assert "features" in differing(result)


@pytest.fixture
def command(
    world: World, released: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """`airworthy reproduce` with its steps in this process and windows copied instead of retrieved: code, output."""

    def here(group: str, *arguments: str, stay: bool = False) -> None:
        assert stay
        steps.append((group, arguments[0]))
        code = 0
        if arguments[0] == "retrieve":
            for name in ("train", "tune", "test"):
                source = windows.get(name, world.train.parent / name)
                shutil.copytree(source, Path(arguments[3]) / name)
        else:
            code = operations.main(arguments)
        if code:
            raise typer.Exit(code)

    steps: list[tuple[str, str]] = []
    windows: dict[str, Path] = {}
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", released)
    monkeypatch.setattr(evidence, "in_environment", here)

    def run(*arguments: str, **other: Path) -> tuple[int, str]:
        windows.update(other)
        steps.clear()
        done = CliRunner().invoke(cli.app, ["reproduce", *arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        if done.exit_code in (0, 3):
            assert [name for _, name in steps] == ["recall", "retrieve", "retrain", "compare"]
        return done.exit_code, " ".join(done.output.split())

    return run


def test_the_command_ends_with_zero_and_leaves_only_its_result(
    command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, said = command("late@1")
    assert code == 0
    assert "bit-identical" in said
    folder = tmp_path / "home" / "reproductions" / "late-1"
    assert sorted(file.name for file in folder.iterdir()) == [PAGE, RESULT]


def test_the_command_ends_with_three_when_something_differs_and_keeps_what_is_asked_for(
    command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    fewer = write(tmp_path / "fewer" / "tune", rows(700, seed=2), 60, 14)
    code, said = command("late@1", "--out", str(tmp_path / "kept"), "--keep", tune=fewer)
    assert code == 3
    assert "the tune data retrieved now is not what it was, and neither is the model" in said
    assert "tune data: rows 800 700" in said
    assert {BUNDLE, DATA} < {file.name for file in (tmp_path / "kept").iterdir()}


def test_the_result_can_be_kept_with_the_version(
    command: Callable[..., tuple[int, str]], released: str, tmp_path: Path
) -> None:
    assert command("late@challenger", "--attach")[0] == 0
    registry = Registry(released)
    kept = registry.fetch_evidence(registry.version("late", "1"), "reproduction", tmp_path / "kept.json")
    assert kept is not None
    assert read_reproduction(kept).kind == "bit-identical"


def test_a_version_that_is_not_there_is_refused(command: Callable[..., tuple[int, str]]) -> None:
    code, said = command("late@7")
    assert code == 2
    assert "no such version" in said


def test_no_signing_key_is_needed_and_none_is_used(
    command: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "no.key"))
    assert command("late@1", "--keep")[0] == 0
    folder = tmp_path / "home" / "reproductions" / "late-1" / BUNDLE
    assert not (folder / SIGNATURE).exists()


def test_a_spec_that_was_changed_in_the_store_is_refused(released: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    registry = Registry(released)
    run = str(registry.version("late", "1").run_id)
    client = MlflowClient(tracking_uri=released)
    client.log_text(run, SPEC.replace("rounds: 60", "rounds: 61"), "spec.yaml")
    try:
        with pytest.raises(RegistryError, match="not the one it was trained with"):
            recall_first(released, tmp_path)
    finally:
        client.log_text(run, SPEC, "spec.yaml")


@pytest.fixture(scope="module")
def recorded(released: str, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return recall_first(released, tmp_path_factory.mktemp("recorded"))


def now(recorded: Recorded, **changes: Any) -> Facts:
    """The same made again, but for `changes`."""
    same = {name: getattr(recorded, name) for name in Facts.model_fields}
    return Facts(**{**same, **changes})


def scored(difference: float) -> ScoreComparison:
    return ScoreComparison(rows=800, largest_difference=difference, metrics={"auc": (0.7, 0.7)})


def test_a_newer_library_packs_the_same_model_differently(recorded: Recorded) -> None:
    files = {**recorded.files, "airworthy.json": "a" * 64, "code/new.py": "b" * 64}
    info = recorded.info.model_copy(update={"versions": {**recorded.info.versions, "numpy": "99.0"}})
    result = compare(
        recorded, now(recorded, digest="c" * 64, files=files, info=info, library="9.9"), scored(0.0)
    )
    assert result.kind == "metric-identical"
    assert "the model itself is byte for byte the same; its packaging differs" in result.headline
    assert differing(result) == {
        "version of numpy",
        "version of airworthy",
        "file airworthy.json",
        "file code/new.py",
        "bundle",
    }


@pytest.mark.parametrize(
    ("difference", "kind"), [(5e-7, "metric-identical"), (2e-6, "different"), (0.3, "different")]
)
def test_scores_decide_where_the_model_bytes_differ(recorded: Recorded, difference: float, kind: str) -> None:
    files = {**recorded.files, BOOSTER: "a" * 64}
    machine = {**recorded.machine, "cpus": "64"}
    result = compare(
        recorded, now(recorded, digest="c" * 64, files=files, machine=machine), scored(difference)
    )
    assert result.kind == kind
    assert differing(result) == {"threads", "model bytes", "bundle"}


def test_the_same_scores_with_another_threshold_are_other_decisions(recorded: Recorded) -> None:
    info = recorded.info.model_copy(update={"threshold": 0.9})
    result = compare(recorded, now(recorded, digest="c" * 64, info=info), scored(0.0))
    assert result.kind == "different"
    assert "the threshold is 0.9 now" in result.headline


def test_feature_definitions_and_parameters_are_told_apart(recorded: Recorded) -> None:
    info = recorded.info.model_copy(
        update={"feature_service_digest": "d" * 64, "params": {**recorded.info.params, "max_depth": 5}}
    )
    windows = {**recorded.windows, "train": Window(rows=2999, fingerprint="e" * 64)}
    files = {**recorded.files, BOOSTER: "a" * 64}
    result = compare(
        recorded, now(recorded, digest="c" * 64, info=info, windows=windows, files=files), scored(0.1)
    )
    assert result.kind == "different"
    assert {
        "feature definitions",
        "trainer parameter max_depth",
        "train data: rows",
        "train data: fingerprint",
    } <= differing(result)


def test_what_was_not_recorded_is_said_and_counts_as_neither(recorded: Recorded) -> None:
    sparse = recorded.model_copy(
        update={
            "machine": {},
            "library": None,
            "windows": {name: replace_rows(window) for name, window in recorded.windows.items()},
        }
    )
    result = compare(sparse, now(recorded), scored(0.0))
    assert result.kind == "bit-identical"
    assert {line.what for line in result.lines if line.same is None} == {
        "threads",
        "platform",
        "version of airworthy",
        "train data: rows",
        "tune data: rows",
        "test data: rows",
    }


def replace_rows(window: Window) -> Window:
    return window.model_copy(update={"rows": None})
