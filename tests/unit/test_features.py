"""Retrieval of a model's windows: what comes out, the label rule, and one clear sentence per wrong input."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from airworthy.datasets import DatasetInfo, read_frame, read_info
from airworthy.errors import ConfigError, DataError
from airworthy.feast_repo import (
    get_service,
    load_config,
    open_store,
    prepare_feature_repo,
    quiet,
    service_digest,
)
from airworthy.features import retrieve
from airworthy.model_spec import ModelSpec, load_spec

pytestmark = [
    pytest.mark.filterwarnings("ignore:On demand feature view is an experimental"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

ROOT = Path(__file__).parents[2]
WINDOWS = ("train", "tune", "test")
AS_OF = datetime(2013, 7, 1, 4, tzinfo=UTC)  # midnight in New York

Edit = Callable[[str], str]


def model(name: str = "flight_delay", edit: Edit = str) -> ModelSpec:
    return load_spec(edit((ROOT / "models" / f"{name}.yaml").read_text()))


def replace(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


def folders(base: Path) -> dict[str, Path]:
    return {name: base / name for name in WINDOWS}


@pytest.fixture(scope="module")
def first(
    flights_repo: Path, flights_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, DatasetInfo]]:
    """The flight delay model's windows."""
    out = tmp_path_factory.mktemp("first")
    spec = model()
    return out, retrieve(spec, AS_OF, folders(out), feature_repo=flights_repo, home=flights_home)


def test_windows_follow_one_another_and_end_at_as_of(first: tuple[Path, dict[str, DatasetInfo]]) -> None:
    out, infos = first
    train, tune, test = (infos[name] for name in WINDOWS)
    assert (train.end, tune.end, test.end) == (tune.start, test.start, AS_OF)
    assert [(i.end - i.start).days for i in (train, tune, test)] == [150, 14, 28]
    for name in WINDOWS:
        assert read_info(out / name) == infos[name]
        times = read_frame(out / name, ["event_timestamp"])["event_timestamp"]
        assert times.is_monotonic_increasing
        assert infos[name].start <= times.min() <= times.max() < infos[name].end


def test_only_labels_known_before_the_windows_end_are_used(
    first: tuple[Path, dict[str, DatasetInfo]], flights_home: Path
) -> None:
    """Against the entity table: exactly the flights that had landed by then, and not one more."""
    out, infos = first
    table = pl.read_parquet(flights_home / "feast" / "sources" / "flights.parquet").to_pandas()
    for name in WINDOWS:
        start, end = infos[name].start, infos[name].end
        inside = table[(table["event_timestamp"] >= start) & (table["event_timestamp"] < end)]
        landed = inside[inside["arr_label_timestamp"] < end]
        frame = read_frame(out / name)
        assert set(frame["flight_id"]) == set(landed["flight_id"])
        assert len(frame) == len(landed) == infos[name].rows
        labels = landed.set_index("flight_id")["arr_late15"]
        assert (frame.set_index("flight_id")["arr_late15"] == labels.reindex(frame["flight_id"])).all()
        in_the_air = inside[inside["arr_label_timestamp"] >= end]
        assert len(in_the_air) > 0  # the rule did leave flights out


def test_the_dataset_names_roles_and_hides_the_label(first: tuple[Path, dict[str, DatasetInfo]]) -> None:
    out, infos = first
    info = infos["train"]
    assert (info.label, info.label_known_at) == ("arr_late15", "arr_label_timestamp")
    assert (info.id, info.time, info.feature_service) == ("flight_id", "event_timestamp", "arr_late_v1")
    assert info.categories == ["origin_airport", "dest_airport", "airline"]
    assert len(info.features) == 39
    forbidden = {
        "arr_late15",
        "dep_late15",
        "arr_label_timestamp",
        "dep_label_timestamp",
        "last_landed_epoch",
    }
    assert not forbidden & set(info.feature_names)
    assert set(info.extra) == {"origin", "dest", "carrier", "tailnum"}
    frame = read_frame(out / "train")
    assert "dep_late15" not in frame.columns
    kinds = {f.name: f.kind for f in info.features}
    assert pd.api.types.is_integer_dtype(frame["overdue_cnt_3h"])
    assert (kinds["overdue_cnt_3h"], kinds["temp"]) == ("integer", "number")


def test_same_question_same_fingerprint(
    first: tuple[Path, dict[str, DatasetInfo]], flights_repo: Path, flights_home: Path, tmp_path: Path
) -> None:
    naive = AS_OF.replace(tzinfo=None)  # no zone: UTC
    again = retrieve(
        model(), naive, {"test": tmp_path / "test"}, feature_repo=flights_repo, home=flights_home
    )
    assert list(again) == ["test"]
    assert again["test"] == first[1]["test"]


def test_second_model_needs_no_code(
    first: tuple[Path, dict[str, DatasetInfo]], flights_repo: Path, flights_home: Path, tmp_path: Path
) -> None:
    spec = model("departure_delay")
    infos = retrieve(spec, AS_OF, folders(tmp_path), feature_repo=flights_repo, home=flights_home)
    info = infos["test"]
    assert (info.label, info.feature_service) == ("dep_late15", "dep_late_v1")
    assert len(info.features) == 19
    assert info.rows > first[1]["test"].rows  # diverted flights did depart
    assert info.feature_service_digest != first[1]["test"].feature_service_digest


def test_duckdb_store_by_configuration_gives_the_same_dataset(
    first: tuple[Path, dict[str, DatasetInfo]], flights_repo: Path, flights_home: Path, tmp_path: Path
) -> None:
    """Another offline store in feature_store.yaml, and nothing else: equal to the last bit."""
    repo = edited_repo(flights_repo, tmp_path, replace("airworthy.feast_store.AsofOfflineStore", "duckdb"))
    infos = retrieve(model(), AS_OF, {"test": tmp_path / "t"}, feature_repo=repo, home=flights_home)
    assert infos["test"].fingerprint == first[1]["test"].fingerprint


def edited_repo(source: Path, target: Path, edit: Edit) -> Path:
    """A copy of the demo's repo with another feature_store.yaml."""
    repo = target / "repo"
    shutil.copytree(source, repo)
    config = repo / "feature_store.yaml"
    config.write_text(edit(config.read_text()))
    return repo


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            replace("arr_late_v1", "arr_late_v9"),
            "arr_late_v9 is not in the .* it has: arr_late_v1, dep_late_v1",
        ),
        (
            replace("entities: flights ", "entities: planes "),
            "no data source planes; it has: .*origin_weather",
        ),
        (
            replace("id: flight_id", "id: flight"),
            "features.id: the entity table flights has no column flight;",
        ),
        (
            replace("column: arr_late15", "column: late"),
            "label.column: the entity table flights has no column late",
        ),
        (replace("known_at: arr_label_timestamp", "known_at: tailnum"), "tailnum: must hold times"),
        (
            replace("slices: [origin,", "slices: [gate,"),
            "slices: the entity table flights has no column gate",
        ),
        (replace("column: arr_late15", "column: airline"), "label.column: airline is also a feature"),
    ],
)
def test_a_spec_that_does_not_fit_the_repo(
    edit: Edit, message: str, flights_repo: Path, flights_home: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        retrieve(model(edit=edit), AS_OF, folders(tmp_path), feature_repo=flights_repo, home=flights_home)
    assert list(tmp_path.iterdir()) == []


def test_a_label_that_is_not_binary(flights_repo: Path, flights_home: Path, tmp_path: Path) -> None:
    spec = model(edit=replace("column: arr_late15", "column: distance"))
    with pytest.raises(DataError, match=r"label\.column: distance must hold 0, 1 or null, but holds"):
        retrieve(spec, AS_OF, folders(tmp_path), feature_repo=flights_repo, home=flights_home)


@pytest.mark.parametrize(
    ("as_of", "window"),
    [
        (datetime(2012, 6, 1, tzinfo=UTC), "train"),
        (datetime(2013, 2, 1, tzinfo=UTC), "train"),
        (datetime(2014, 6, 1, tzinfo=UTC), "tune"),
    ],
)
def test_an_empty_window_says_what_there_is(
    as_of: datetime, window: str, flights_repo: Path, flights_home: Path, tmp_path: Path
) -> None:
    message = (
        f"the {window} window .* has no rows; flights has rows from 2013-01-01 .* to 2014-01-01 .*: choose"
    )
    with pytest.raises(DataError, match=message):
        retrieve(model(), as_of, folders(tmp_path), feature_repo=flights_repo, home=flights_home)


def test_a_window_whose_labels_are_not_known_yet(
    flights_repo: Path, flights_home: Path, tmp_path: Path
) -> None:
    """Half an hour: flights are due, but none has landed."""
    spec = model(edit=replace("test_days: 28", "test_days: 0.02"))
    with pytest.raises(DataError, match=r"the test window .* rows, but none whose label was known before"):
        retrieve(
            spec, AS_OF + timedelta(hours=14), folders(tmp_path), feature_repo=flights_repo, home=flights_home
        )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (replace("airworthy.feast_store.AsofOfflineStore", "dask"), "silently drops rows"),
        (replace("airworthy.feast_store.AsofOfflineStore", "file"), "silently drops rows"),
        (lambda text: text[: text.index("offline_store:")], "silently drops rows"),  # dask is Feast's default
        (replace("airworthy.feast_store.AsofOfflineStore", "no.such.Store"), "feature_store.yaml: .*no.such"),
        (replace("provider: local", "provider: [local"), "not a Feast configuration"),
        (replace("project: flights", "projekt: flights"), "not a Feast configuration"),
    ],
)
def test_a_store_that_cannot_be_trusted_or_read(
    edit: Edit, message: str, flights_repo: Path, tmp_path: Path
) -> None:
    repo = edited_repo(flights_repo, tmp_path, edit)
    with pytest.raises(ConfigError, match=message):
        load_config(repo, tmp_path / "home")


def test_a_folder_that_is_no_feature_repo(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"feature_store.yaml: no such file; a feature repo is a folder"):
        prepare_feature_repo(tmp_path, tmp_path / "home")


@pytest.mark.parametrize(
    ("file", "code", "message"),
    [
        ("prepare.py", "x = 1\n", "prepare.py: has no function prepare"),
        (
            "prepare.py",
            "def prepare(home):\n    raise OSError('disk full')\n",
            "prepare.py: OSError: disk full",
        ),
        ("definitions.py", "import nowhere_to_be_found\n", "ModuleNotFoundError: No module named 'nowhere"),
        ("definitions.py", "def (:\n", "SyntaxError"),
    ],
)
def test_a_repo_whose_own_code_fails(
    file: str, code: str, message: str, flights_repo: Path, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    shutil.copy(flights_repo / "feature_store.yaml", repo)
    (repo / file).write_text(code)
    before = (list(sys.path), set(sys.modules))
    with pytest.raises(ConfigError, match=message):
        prepare_feature_repo(repo, tmp_path / "home")
    assert sys.path == before[0]
    assert not {"prepare", "definitions"} & (set(sys.modules) - before[1])


def test_service_digest_follows_meaning(flights_repo: Path, flights_home: Path, tmp_path: Path) -> None:
    """Same definitions elsewhere: same digest. Another ttl or another line of on-demand code: another one."""

    def digest(old: str = "", new: str = "") -> str:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        repo = edited_repo(flights_repo, place, str)
        (repo / "prepare.py").unlink()
        definitions = repo / "definitions.py"
        definitions.write_text(definitions.read_text().replace(old, new) if old else definitions.read_text())
        shutil.copytree(flights_home / "feast" / "sources", place / "home" / "feast" / "sources")
        store = prepare_feature_repo(repo, place / "home")
        return service_digest(store, get_service(store, "arr_late_v1"))

    with quiet():
        store = open_store(flights_repo, flights_home)
        here = service_digest(store, get_service(store, "arr_late_v1"))
        assert digest() == here
        assert digest("ttl=timedelta(hours=6)", "ttl=timedelta(hours=5)") != here
        assert digest("(e - at) / 3600.0", "(e - at) / 60.0") != here


def test_deleted_registry_is_rebuilt_and_changed_definitions_are_applied(
    flights_repo: Path, flights_home: Path, tmp_path: Path
) -> None:
    repo, home = edited_repo(flights_repo, tmp_path, str), tmp_path / "home"
    (repo / "prepare.py").unlink()
    shutil.copytree(flights_home / "feast" / "sources", home / "feast" / "sources")
    prepare_feature_repo(repo, home)
    (home / "feast" / "registry.db").unlink()
    assert len(prepare_feature_repo(repo, home).list_feature_services()) == 2
    definitions = repo / "definitions.py"
    definitions.write_text(definitions.read_text().replace('name="dep_late_v1"', 'name="dep_late_v2"'))
    store = prepare_feature_repo(repo, home)
    assert {s.name for s in store.list_feature_services()} == {"arr_late_v1", "dep_late_v2"}


def test_processes_that_prepare_at_once_do_not_disturb_each_other(
    flights_repo: Path, flights_home: Path, tmp_path: Path
) -> None:
    repo, home = edited_repo(flights_repo, tmp_path, str), tmp_path / "home"
    (repo / "prepare.py").unlink()
    shutil.copytree(flights_home / "feast" / "sources", home / "feast" / "sources")
    code = (
        "import sys; from pathlib import Path; from airworthy import feast_repo as f; "
        "store = f.prepare_feature_repo(Path(sys.argv[1]), Path(sys.argv[2])); "
        "print(f.service_digest(store, f.get_service(store, 'arr_late_v1')))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(repo), str(home)]
    with quiet():
        store = open_store(flights_repo, flights_home)
        here = service_digest(store, get_service(store, "arr_late_v1"))
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0].strip() for process in running] == [here, here]


def test_online_features_equal_the_latest_offline_ones(
    flights_repo: Path, flights_home: Path, tmp_path: Path
) -> None:
    """Materialise one day; the online store then answers like a retrieval at the day's end."""
    end = datetime(2013, 5, 24, 4, tzinfo=UTC)
    with quiet():
        store = open_store(flights_repo, flights_home)
        store.materialize(end - timedelta(days=1), end)
        service = get_service(store, "arr_late_v1")
        flights = pl.read_parquet(flights_home / "feast" / "sources" / "flights.parquet").filter(
            pl.col("event_timestamp").is_between(end - timedelta(hours=8), end), pl.col("carrier") == "B6"
        )
        asked = flights.head(5).drop("flight_id", "event_timestamp", pl.selectors.contains("label", "late15"))
        rows: list[dict[str, Any]] = asked.to_dicts()
        online = store.get_online_features(service, rows).to_dict()
        entities = asked.to_pandas().assign(event_timestamp=pd.Timestamp(end))
        offline = store.get_historical_features(entities, service).to_df()
    for name in ("airline", "dep_hour", "temp", "overdue_cnt_3h", "arr_delay_mean_24h", "arr_late_rate_7d"):
        expected = [None if pd.isna(v) else v for v in offline[name]]
        assert online[name] == expected, name
