"""Entities, sources, feature views and feature services of the flights demo.

The `event_timestamp` of every source is the moment a row becomes known (see `flights.py`), so the
point-in-time join can only pick what was known at decision time: one hour before scheduled departure.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

SOURCES = Path(os.environ["AIRWORTHY_HOME"]) / "feast" / "sources"


def _source(name: str) -> FileSource:
    return FileSource(name=name, path=str(SOURCES / f"{name}.parquet"), timestamp_field="event_timestamp")


def _numbers(*names: str) -> list[Field]:
    return [Field(name=name, dtype=Float64) for name in names]


def _integers(*names: str) -> list[Field]:
    return [Field(name=name, dtype=Int64) for name in names]


origin = Entity(
    name="origin", value_type=ValueType.STRING, description="Airport of departure (EWR, JFK, LGA)"
)
dest = Entity(name="dest", value_type=ValueType.STRING, description="Airport of arrival")
carrier = Entity(name="carrier", value_type=ValueType.STRING, description="Airline, two letters")
tailnum = Entity(
    name="tailnum", value_type=ValueType.STRING, description="Aircraft; UNKNOWN where not recorded"
)

# The entity table: the rows to decide on, with request data and labels. A model spec names it in
# `features.entities`. It backs no feature view, so nothing in it can become a feature by a join.
flights = _source("flights")

origin_weather = FeatureView(
    name="origin_weather",
    description="Weather at the origin; an hour's row is known when the hour is over.",
    entities=[origin],
    ttl=timedelta(hours=6),
    schema=_numbers(
        "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"
    ),
    source=_source("origin_weather"),
)
origin_congestion = FeatureView(
    name="origin_congestion",
    description="Departures of the last 3 hours at the origin, and flights overdue; every 30 minutes.",
    entities=[origin],
    ttl=timedelta(hours=2),
    schema=[
        *_integers("dep_cnt_3h"),
        *_numbers("dep_delay_mean_3h", "dep_late_rate_3h"),
        *_integers("overdue_cnt_3h"),
    ],
    source=_source("origin_congestion"),
)
carrier_recent = FeatureView(
    name="carrier_recent",
    description="The carrier's arrivals of the last 24 and 4 hours; every 30 minutes.",
    entities=[carrier],
    ttl=timedelta(hours=2),
    schema=[
        *_integers("arr_cnt_24h"),
        *_numbers("arr_delay_mean_24h", "arr_late_rate_24h", "arr_delay_mean_4h"),
    ],
    source=_source("carrier_recent"),
)
route_daily = FeatureView(
    name="route_daily",
    description="The route's arrivals of the last 28 and 7 days; every day at 08:00 UTC.",
    entities=[origin, dest],
    ttl=timedelta(days=2),
    schema=[
        *_integers("arr_cnt_28d"),
        *_numbers("arr_delay_mean_28d", "arr_delay_p90_28d", "arr_late_rate_28d", "arr_late_rate_7d"),
    ],
    source=_source("route_daily"),
)
tail_last_leg = FeatureView(
    name="tail_last_leg",
    description="The aircraft's last leg out of New York; known once it has landed.",
    entities=[tailnum],
    ttl=timedelta(days=7),
    schema=[
        *_numbers("last_arr_delay", "last_dep_delay"),
        *_integers("last_landed_epoch", "legs_7d"),
        *_numbers("arr_delay_mean_7d"),
    ],
    source=_source("tail_last_leg"),
)
plane_static = FeatureView(
    name="plane_static",
    description="Make of the aircraft.",
    entities=[tailnum],
    ttl=timedelta(0),  # never expires
    schema=_integers("plane_year", "engines", "seats"),
    source=_source("plane_static"),
)

# What the caller knows of the flight when it asks. The codes repeat entity keys, because Feast takes a name
# either as a key or as request data, and models want both.
flight_request = RequestSource(
    name="flight_request",
    schema=[
        *_integers("sched_dep_epoch", "distance", "sched_minutes"),
        *(Field(name=name, dtype=String) for name in ("origin_code", "dest_code", "carrier_code")),
    ],
)


@on_demand_feature_view(
    sources=[flight_request],
    schema=[
        Field(name="origin_airport", dtype=String),
        Field(name="dest_airport", dtype=String),
        Field(name="airline", dtype=String),
        *_integers("dep_hour", "dep_minute", "dep_weekday", "flight_miles", "block_minutes"),
        *_numbers("sched_speed"),
    ],
    mode="python",
)
def flight_plan(inputs: dict[str, Any]) -> dict[str, Any]:
    """The flight as planned: local departure time in New York, length, scheduled speed [miles/h]."""
    from datetime import datetime
    from functools import cache
    from zoneinfo import ZoneInfo

    zone = ZoneInfo("America/New_York")

    @cache
    def local_hour(hours: int) -> tuple[int, int]:
        local = datetime.fromtimestamp(hours * 3600, zone)
        return local.hour, local.weekday()

    def speed(miles: int | None, minutes: int | None) -> float | None:
        return miles / (minutes / 60.0) if miles is not None and minutes else None

    epochs = inputs["sched_dep_epoch"]
    times = [(None, None) if e is None else local_hour(e // 3600) for e in epochs]
    return {
        "origin_airport": inputs["origin_code"],
        "dest_airport": inputs["dest_code"],
        "airline": inputs["carrier_code"],
        "dep_hour": [hour for hour, _ in times],
        "dep_minute": [None if e is None else e // 60 % 60 for e in epochs],
        "dep_weekday": [weekday for _, weekday in times],
        "flight_miles": inputs["distance"],
        "block_minutes": inputs["sched_minutes"],
        "sched_speed": [
            speed(miles, minutes)
            for miles, minutes in zip(inputs["distance"], inputs["sched_minutes"], strict=True)
        ],
    }


@on_demand_feature_view(
    sources=[flight_request, tail_last_leg[["last_landed_epoch"]], plane_static[["plane_year"]]],
    schema=[*_numbers("hours_since_landing"), *_integers("plane_age")],
    mode="python",
)
def aircraft_state(inputs: dict[str, Any]) -> dict[str, Any]:
    """Hours between the aircraft's last landing and this departure, and its age in years."""
    from datetime import UTC, datetime

    def year(epoch: int) -> int:
        return datetime.fromtimestamp(epoch, UTC).year

    epochs, landed, built = (inputs[n] for n in ("sched_dep_epoch", "last_landed_epoch", "plane_year"))
    return {
        "hours_since_landing": [
            None if e is None or at is None else (e - at) / 3600.0
            for e, at in zip(epochs, landed, strict=True)
        ],
        "plane_age": [
            None if e is None or b is None else year(e) - b for e, b in zip(epochs, built, strict=True)
        ],
    }


arr_late_v1 = FeatureService(
    name="arr_late_v1",
    description="Will the flight land more than 15 minutes late?",
    features=[
        flight_plan,
        aircraft_state,
        origin_weather,
        origin_congestion,
        carrier_recent,
        route_daily,
        tail_last_leg[["last_arr_delay", "last_dep_delay", "legs_7d", "arr_delay_mean_7d"]],
        plane_static[["engines", "seats"]],
    ],
)
dep_late_v1 = FeatureService(
    name="dep_late_v1",
    description="Will the flight leave more than 15 minutes late? Nothing about the aircraft or the route.",
    features=[
        flight_plan[["origin_airport", "airline", "dep_hour", "dep_weekday", "block_minutes"]],
        origin_weather[["temp", "humid", "wind_speed", "precip", "pressure", "visib"]],
        origin_congestion,
        carrier_recent,
    ],
)
