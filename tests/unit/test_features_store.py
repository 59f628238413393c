"""The point-in-time join: against brute force, against Feast's DuckDB store, through Feast's own API."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from airworthy.errors import DataError
from airworthy.feast_repo import open_store, prepare_feature_repo

pytestmark = [
    pytest.mark.filterwarnings("ignore:On demand feature view is an experimental"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

T0 = datetime(2024, 3, 1, tzinfo=UTC)
DEFINITIONS = """
import os
from datetime import timedelta
from pathlib import Path
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

DATA = Path(os.environ["AIRWORTHY_HOME"]) / "data"

def source(name, created=""):
    return FileSource(name=name, path=str(DATA / f"{name}.parquet"), timestamp_field="known",
                      created_timestamp_column=created, field_mapping={"raw_level": "level"})

shop = Entity(name="shop", value_type=ValueType.INT64)
city = Entity(name="city", value_type=ValueType.STRING)
sales = FeatureView(name="sales", entities=[shop], ttl=timedelta(hours=3),
    schema=[Field(name="amount", dtype=Float64), Field(name="count", dtype=Int64)],
    source=source("sales", "created"))
stock = FeatureView(name="stock", entities=[shop, city], ttl=timedelta(0),
    schema=[Field(name="level", dtype=Int64), Field(name="note", dtype=String)], source=source("stock"))
market = FeatureView(name="market", entities=[], ttl=timedelta(hours=1),
    schema=[Field(name="rate", dtype=Float64)], source=source("market"))
request = RequestSource(name="request", schema=[Field(name="asked", dtype=Int64)])

@on_demand_feature_view(sources=[request, sales[["amount"]]],
                        schema=[Field(name="missing_by", dtype=Float64)], mode="python")
def wish(inputs):
    return {"missing_by": [None if a is None or b is None else float(a) - b
                           for a, b in zip(inputs["asked"], inputs["amount"])]}

everything = FeatureService(name="everything", features=[sales, stock, wish])
alone = FeatureService(name="alone", features=[market])
"""
CONFIG = """
project: shops
provider: local
registry: {{registry_type: sql, path: "sqlite:///${{AIRWORTHY_HOME}}/feast/registry.db"}}
online_store: {{type: sqlite, path: "${{AIRWORTHY_HOME}}/feast/online.db"}}
{offline}
entity_key_serialization_version: 3
"""
ASOF = "offline_store: {type: airworthy.feast_store.AsofOfflineStore}"
DUCKDB = "offline_store: {type: duckdb}"


@dataclass(frozen=True)
class Shops:
    """A small feature repo with one store per implementation over the same sources."""

    home: Path
    asof: Any
    duckdb: Any

    def write(self, sales: pd.DataFrame, stock: pd.DataFrame) -> None:
        for name, frame in {"sales": sales, "stock": stock, "market": market_frame()}.items():
            frame.to_parquet(self.home / "data" / f"{name}.parquet", index=False)


def sales_frame(rows: list[tuple[int | None, float, float | None, float | None]]) -> pd.DataFrame:
    """Rows (shop, known [h], created [h], amount)."""
    return pd.DataFrame(
        {
            "shop": pd.array([r[0] for r in rows], dtype="Int64"),
            "known": times([r[1] for r in rows]),
            "created": times([r[2] for r in rows]),
            "amount": pd.array([r[3] for r in rows], dtype="Float64"),
            "count": pd.array(range(len(rows)), dtype="Int64"),
        }
    )


def stock_frame(rows: list[tuple[int | None, str | None, float, int | None]]) -> pd.DataFrame:
    """Rows (shop, city, known [h], level)."""
    return pd.DataFrame(
        {
            "shop": pd.array([r[0] for r in rows], dtype="Int64"),
            "city": pd.array([r[1] for r in rows], dtype="string"),
            "known": times([r[2] for r in rows]),
            "raw_level": pd.array([r[3] for r in rows], dtype="Int64"),
            "note": pd.array([None if r[3] is None else f"n{r[3]}" for r in rows], dtype="string"),
        }
    )


def market_frame() -> pd.DataFrame:
    return pd.DataFrame({"known": times([0.0, 1.0, 2.0]), "rate": [1.0, 2.0, 3.0]})


def entity_frame(rows: list[tuple[int, str, float]]) -> pd.DataFrame:
    """Rows (shop, city, time [h])."""
    return pd.DataFrame(
        {
            "rid": range(len(rows)),
            "shop": pd.array([r[0] for r in rows], dtype="int64"),
            "city": [r[1] for r in rows],
            "event_timestamp": times([r[2] for r in rows]),
            "asked": pd.array([10] * len(rows), dtype="int64"),
        }
    )


def times(hours: list[float | None]) -> pd.Series:
    moments = [pd.NaT if h is None else T0 + timedelta(hours=h) for h in hours]
    return pd.Series(moments, dtype="datetime64[us, UTC]")


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Shops:
    home = tmp_path_factory.mktemp("shops")
    (home / "data").mkdir()
    shops = Shops(home, None, None)
    shops.write(sales_frame([(1, 0.0, 0.0, 1.0)]), stock_frame([(1, "A", 0.0, 1)]))
    stores = []
    for name, offline in {"asof": ASOF, "duckdb": DUCKDB}.items():
        repo = home / name
        repo.mkdir()
        (repo / "definitions.py").write_text(DEFINITIONS)
        (repo / "feature_store.yaml").write_text(CONFIG.format(offline=offline))
        stores.append(prepare_feature_repo(repo, home))
    return Shops(home, *stores)


def answer(store: Any, entities: pd.DataFrame, service: str = "everything", **options: Any) -> pd.DataFrame:
    job = store.get_historical_features(
        entity_df=entities, features=store.get_feature_service(service), **options
    )
    return job.to_df().sort_values("rid", ignore_index=True)


def plain(values: Any) -> list[Any]:
    """Values with one spelling of missing."""
    return [
        None if v is None or v is pd.NA or (isinstance(v, float) and math.isnan(v)) else v for v in values
    ]


def brute_force(
    rows: list[dict[str, Any]], keys: dict[str, Any], at: datetime, ttl: timedelta, created: bool
) -> dict[str, Any]:
    """The definition of the point-in-time join, for one entity row, in plain Python."""
    best: dict[str, Any] = {}
    for row in rows:
        if any(row[k] is None or row[k] != v for k, v in keys.items()) or row["known"] > at:
            continue
        if ttl and row["known"] < at - ttl:
            continue
        if best and row["known"] < best["known"]:
            continue
        if best and row["known"] == best["known"] and created:
            mine, theirs = row["created"], best["created"]
            if mine is None and theirs is not None:
                continue
            if mine is not None and theirs is not None and mine < theirs:
                continue
        best = row
    return best


hours = st.integers(0, 8).map(lambda n: n / 2)
shop_ids = st.integers(1, 3)
cities = st.sampled_from(["A", "B"])


def test_asof_equals_brute_force() -> None:
    """Hundreds of small tables: ties, null keys, null creation times, rows right at the ends of the ttl."""
    from airworthy.asof import asof

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(st.tuples(st.none() | shop_ids, hours, st.none() | hours, st.integers(0, 99)), max_size=15),
        st.lists(st.tuples(st.none() | shop_ids, hours), min_size=1, max_size=10),
        st.sampled_from([0.0, 0.5, 2.0]),
        st.booleans(),
    )
    def check(
        source: list[tuple[Any, float, Any, int]], asked: list[tuple[Any, float]], ttl: float, created: bool
    ) -> None:
        moment = pl.Datetime("us", "UTC")
        rows = [
            {
                "shop": shop,
                "known": T0 + timedelta(hours=known),
                "created": None if made is None else T0 + timedelta(hours=made),
                "value": value,
            }
            for shop, known, made, value in source
        ]
        schema = {"shop": pl.Int64, "known": moment, "created": moment, "value": pl.Int64}
        entities = pl.DataFrame(
            [{"shop": shop, "__time": T0 + timedelta(hours=at)} for shop, at in asked],
            schema={"shop": pl.Int32, "__time": moment},
        )
        found = asof(
            entities,
            pl.DataFrame(rows, schema=schema).lazy(),
            keys={"shop": "shop"},
            features=["value"],
            event_time="known",
            created="created" if created else None,
            ttl=timedelta(hours=ttl),
        )
        limit = timedelta(hours=ttl)
        expected = [
            None
            if shop is None
            else brute_force(rows, {"shop": shop}, T0 + timedelta(hours=at), limit, created).get("value")
            for shop, at in asked
        ]
        assert found["value"].to_list() == expected

    check()


def test_through_feast_both_stores_equal_brute_force(shops: Shops) -> None:
    """The same sources and entity rows, through Feast's API, over both stores."""

    # shrinking a failure would take minutes: each example is a whole retrieval
    @settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
    @given(
        st.lists(
            st.tuples(shop_ids, hours, hours, hours), min_size=1, max_size=12, unique_by=lambda r: r[:3]
        ),
        st.lists(
            st.tuples(shop_ids, cities, hours, st.integers(0, 9)), max_size=12, unique_by=lambda r: r[:3]
        ),
        st.lists(st.tuples(shop_ids, cities, hours), min_size=1, max_size=12),
    )
    def check(sales: list[Any], stock: list[Any], asked: list[Any]) -> None:
        shops.write(sales_frame(sales), stock_frame(stock))
        entities = entity_frame(asked)
        ours, theirs = answer(shops.asof, entities), answer(shops.duckdb, entities)
        for column in ours.columns:
            assert plain(ours[column]) == plain(theirs[column])
        sold = [
            {
                "shop": s,
                "known": T0 + timedelta(hours=k),
                "created": T0 + timedelta(hours=c),
                "amount": a,
            }
            for s, k, c, a in sales
        ]
        held = [{"shop": s, "city": c, "known": T0 + timedelta(hours=k), "level": v} for s, c, k, v in stock]
        for i, (shop, city, at) in enumerate(asked):
            moment = T0 + timedelta(hours=at)
            sale = brute_force(sold, {"shop": shop}, moment, timedelta(hours=3), created=True)
            hold = brute_force(held, {"shop": shop, "city": city}, moment, timedelta(0), created=False)
            amount = sale.get("amount")
            wish = None if amount is None else 10 - amount
            got = plain(ours.loc[i, ["amount", "level", "missing_by"]])
            assert got == [amount, hold.get("level"), wish]

    check()


def test_no_row_is_lost_and_none_merged(shops: Shops) -> None:
    """Entity rows whose only feature rows are later or expired, and equal entity rows: all come back."""
    shops.write(
        sales_frame([(1, 5.0, 5.0, 1.0), (2, 0.0, 0.0, 2.0)]),
        stock_frame([(1, "A", 6.0, 7)]),
    )
    asked = [(1, "A", 1.0), (1, "A", 1.0), (2, "A", 4.0), (3, "B", 1.0), (2, "B", 2.0), (2, "B", 2.0)]
    job = shops.asof.get_historical_features(
        entity_df=entity_frame(asked), features=shops.asof.get_feature_service("everything")
    )
    table = job.to_arrow()
    assert table["rid"].to_pylist() == list(range(6))  # in the order given
    assert table["amount"].to_pylist() == [None, None, None, None, 2.0, 2.0]
    assert str(table.schema.field("count").type) == "int64"  # gaps don't turn integers into floats


def test_ties_go_to_the_row_created_last(shops: Shops) -> None:
    shops.write(
        sales_frame([(1, 1.0, 3.0, 30.0), (1, 1.0, 2.0, 20.0), (1, 1.0, None, 0.0)]),
        stock_frame([(1, "A", 0.0, 1)]),
    )
    assert plain(answer(shops.asof, entity_frame([(1, "A", 4.0)]))["amount"]) == [30.0]


def test_filter_by_created_timestamp_is_honoured(shops: Shops) -> None:
    """A backfill (known at 1 h, but written at 3 h) must not be seen by a decision at 2 h when asked so."""
    shops.write(
        sales_frame([(1, 1.0, 3.0, 2.5), (1, 0.5, 0.5, 1.0)]),
        stock_frame([(1, "A", 0.0, 1)]),
    )
    entities = entity_frame([(1, "A", 2.0)])
    assert plain(answer(shops.asof, entities)["amount"]) == [2.5]
    bitemporal = answer(shops.asof, entities, filter_by_created_timestamp=True)
    assert plain(bitemporal["amount"]) == [1.0]


def test_full_names_view_without_keys_and_text_times(shops: Shops) -> None:
    shops.write(sales_frame([(1, 1.0, 1.0, 5.0)]), stock_frame([(1, "A", 0.0, 1)]))
    entities = entity_frame([(1, "A", 1.5)])
    full = answer(shops.asof, entities, full_feature_names=True)
    assert plain(full.loc[0, ["sales__amount", "stock__level", "wish__missing_by"]]) == [5.0, 1, 5.0]
    text = entities.assign(event_timestamp=["2024-03-01T03:30:00+02:00"])  # 01:30 UTC
    assert plain(answer(shops.asof, text, "alone")["rate"]) == [2.0]


def test_times_finer_than_microseconds_never_leak() -> None:
    """A row known 1 ns after the decision is not used, though both are the same microsecond."""
    from airworthy.asof import asof

    known = pl.Series(np.array([1_000_000_001], dtype="int64")).cast(pl.Datetime("ns", "UTC"))
    decided = pl.Series(np.array([1_000_000_000], dtype="int64")).cast(pl.Datetime("ns", "UTC"))
    found = asof(
        pl.DataFrame({"k": [1], "__time": decided}),
        pl.DataFrame({"k": [1], "known": known, "v": [1]}).lazy(),
        keys={"k": "k"},
        features=["v"],
        event_time="known",
        created=None,
        ttl=timedelta(0),
    )
    assert found["v"].to_list() == [None]


def test_saved_dataset_holds_the_result(shops: Shops, tmp_path: Path) -> None:
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    shops.write(sales_frame([(1, 1.0, 1.0, 5.0)]), stock_frame([(1, "A", 0.0, 1)]))
    job = shops.asof.get_historical_features(
        entity_df=entity_frame([(1, "A", 1.5)]), features=["sales:amount"]
    )
    job.persist(SavedDatasetFileStorage(path=str(tmp_path / "saved.parquet")))
    assert pd.read_parquet(tmp_path / "saved.parquet")["amount"].tolist() == [5.0]


def test_what_the_store_refuses(shops: Shops) -> None:
    shops.write(sales_frame([(1, 1.0, 1.0, 5.0)]), stock_frame([(1, "A", 0.0, 1)]))
    with pytest.raises(DataError, match="pandas frame only"):
        shops.asof.get_historical_features(entity_df="SELECT 1", features=["sales:amount"])
    no_city = entity_frame([(1, "A", 1.5)]).drop(columns="city")
    with pytest.raises(DataError, match="feature view stock: the entity rows lack the key city"):
        shops.asof.get_historical_features(entity_df=no_city, features=["stock:level"]).to_df()
    pd.DataFrame({"shop": [1], "known": times([0.0])}).to_parquet(shops.home / "data" / "sales.parquet")
    with pytest.raises(DataError, match="feature view sales: its source sales lacks amount, count, created"):
        answer(shops.asof, entity_frame([(1, "A", 1.5)]))


@pytest.fixture
def online(shops: Shops) -> Any:
    shops.write(
        sales_frame([(1, 1.0, 1.0, 5.0), (1, 2.0, 2.0, 6.0)]),
        stock_frame([(1, "A", 0.0, 1)]),
    )
    store = open_store(shops.home / "asof", shops.home)
    views = ["sales", "stock"]  # Feast can't materialise a view without keys from files
    store.materialize(T0 - timedelta(hours=1), T0 + timedelta(hours=24), feature_views=views)
    return store


def test_online_store_serves_the_latest_row(online: Any) -> None:
    row = {"shop": 1, "city": "A", "asked": 10}
    read = online.get_online_features(online.get_feature_service("everything"), [row]).to_dict()
    assert (read["amount"], read["level"], read["missing_by"]) == ([6.0], [1], [4.0])
