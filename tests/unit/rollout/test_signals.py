"""Evidence from counters and from the prediction log, without anything that is scraped."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airworthy.errors import ConfigError, ServingError
from airworthy.rollout.signals.batches import observations
from airworthy.rollout.signals.choose import choose
from airworthy.rollout.signals.counters import (
    Request,
    Scrape,
    Series,
    Target,
    Window,
    read_scrapes,
    requests,
    result_of,
    windows,
)
from airworthy.rollout.signals.families import FAMILIES, find_family
from airworthy.rollout.signals.prediction_log import PredictionLogSignals
from airworthy.rollout.signals.silence import Silence
from airworthy.rollout.signals.watch import Batch, Watch
from airworthy.serving.observation import Arm, Observation

ARMS: dict[Arm, str] = {"stable": "1", "canary": "2"}
STABLE, CANARY = Series("stable", "200", False, ()), Series("canary", "200", False, ())
BROKEN = Series("canary", "500", False, ())
AIRWORTHY, ISTIO = FAMILIES["airworthy"], FAMILIES["istio"]
A, B, C = ("pods", "a"), ("pods", "b"), ("pods", "c")


def counter(**values: int) -> dict[Series, dict[float, int]]:
    known = {"stable": STABLE, "canary": CANARY, "broken": BROKEN}
    return {known[name]: {math.inf: value} for name, value in values.items()}


def scrapes(*found: tuple[float, dict[Series, dict[float, int]]]) -> list[Scrape]:
    return [Scrape(at, sums) for at, sums in found]


def counted(found: Sequence[Window]) -> Counter[str]:
    total: Counter[str] = Counter()
    for window in found:
        for request, number in requests(window, AIRWORTHY).items():
            total[f"{request.arm} {request.result}"] += number
    return total


def all_of(batch: Batch | None) -> Counter[str]:
    return counted([*batch.compared, *batch.lone]) if batch else Counter()


# ---- differences of counters


def test_a_series_that_was_not_there_began_at_zero() -> None:
    first, second = windows(
        scrapes((1, counter(stable=5)), (2, counter(stable=7, broken=2)), (3, counter(stable=7)))
    )
    assert counted([first]) == {"stable ok": 2, "canary error": 2}
    assert not counted([second])


def test_a_value_that_falls_was_reset() -> None:
    found = list(windows(scrapes((1, counter(stable=50)), (2, counter(stable=3)), (3, counter(stable=4)))))
    assert [counted([window])["stable ok"] for window in found] == [3, 1]


def test_a_series_that_comes_back_began_anew() -> None:
    found = list(
        windows(scrapes((1, counter(stable=5)), (2, counter(broken=1)), (3, counter(stable=2, broken=1))))
    )
    assert [counted([window])["stable ok"] for window in found] == [0, 2]


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), min_size=1, max_size=4))
def test_every_request_is_counted_once_whatever_restarts(lives: list[list[int]]) -> None:
    """Each life of a process counts from 0; what it counts after its last scrape is lost with it."""
    shown, at, expected, previous = [Scrape(0.0, counter(stable=0))], 0.0, 0, 0
    for life in lives:
        value = 0
        for more in life:
            at, value = at + 1, value + more
            shown.append(Scrape(at, counter(stable=value)))
        first = life[0]
        # A restart shows only if the value fell; otherwise it looks as if the process had lived on.
        expected += sum(life) if first < previous else sum(life) - previous
        previous = value
    assert counted(list(windows(shown)))["stable ok"] == expected


# ---- latency


def histogram(arm: Arm, counts: Sequence[int], status: str = "") -> dict[Series, dict[float, int]]:
    edges, total, sums = (0.001, 0.01, math.inf), 0, {}
    for edge, count in zip(edges, counts, strict=True):
        total += count
        sums[edge] = total
    return {Series(arm, status, True, ()): sums}


def test_stable_gets_the_upper_edge_and_the_canary_the_lower_one() -> None:
    shown = {**histogram("stable", (2, 1, 1), "200"), **histogram("canary", (2, 1, 1), "200")}
    (window,) = windows(scrapes((1, {}), (2, shown)))
    found = requests(window, ISTIO)
    assert found == {
        Request("stable", "ok", 0.001): 2,
        Request("stable", "ok", 0.01): 1,
        Request("stable", "ok", 86_400.0): 1,
        Request("canary", "ok", 0.0): 2,
        Request("canary", "ok", math.nextafter(0.001, 1)): 1,
        Request("canary", "ok", math.nextafter(0.01, 1)): 1,
    }


@given(st.data(), st.sampled_from([0.0, 0.5, 1.0]), st.floats(1e-4, 0.2))
def test_no_canary_event_is_made_up_and_no_stable_one_left_out(
    data: Any, tolerance: float, limit: float
) -> None:
    edges = sorted(data.draw(st.sets(st.sampled_from([1e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.05, 0.1]), min_size=2)))
    true = data.draw(st.lists(st.floats(1e-5, 0.3), min_size=1, max_size=20))
    sums = {edge: sum(seconds <= edge for seconds in true) for edge in [*edges, math.inf]}
    for arm in ARMS:
        (window,) = windows(scrapes((1, {}), (2, {Series(arm, "200", True, ()): sums})))
        told = [r.seconds for r, number in requests(window, ISTIO).items() for _ in range(number)]
        factor = 1 + tolerance if arm == "canary" else 1.0
        events, really = sum(s / factor > limit for s in told), sum(s / factor > limit for s in true)
        assert len(told) == len(true)
        assert events <= really if arm == "canary" else events >= really


def test_times_that_are_not_split_by_status_are_shared_out_carefully() -> None:
    shown = {**counter(stable=3, canary=1, broken=1)}
    shown |= histogram("stable", (2, 2, 0)) | histogram("canary", (1, 1, 0))
    (window,) = windows(scrapes((1, {}), (2, shown)))
    assert requests(window, AIRWORTHY) == {
        Request("stable", "ok", 0.01): 2,
        Request("stable", "ok", 0.001): 1,
        Request("canary", "ok", 0.0): 1,
        Request("canary", "error", 0.0): 1,
    }


def test_a_scrape_between_count_and_time_loses_no_request() -> None:
    (window,) = windows(scrapes((1, {}), (2, counter(stable=3, canary=2) | histogram("stable", (1, 1, 0)))))
    assert requests(window, AIRWORTHY) == {
        Request("stable", "ok", 0.01): 2,
        Request("stable", "ok", 0.001): 1,
        Request("canary", "ok", 0.0): 2,
    }


@pytest.mark.parametrize(
    ("status", "result"),
    [("200", "ok"), ("2xx", "ok"), ("2", "ok"), ("404", "rejected"), ("5xx", "error"), ("0", "connection")],
)
def test_codes_and_classes_are_results(status: str, result: str) -> None:
    assert result_of(status) == result


def test_observations_of_a_batch_bear_its_beginning_and_put_sums_first() -> None:
    (window,) = windows(scrapes((5, {}), (7, counter(stable=9, canary=2, broken=1))))
    found = observations(Batch(5, [window], []), AIRWORTHY, 0.2, index=4)
    assert [(seen.arm, seen.result, seen.count) for seen in found] == [
        ("stable", "ok", 9),
        ("canary", "ok", 2),
        ("canary", "error", 1),
    ]
    assert {(seen.at, seen.share, seen.score) for seen in found} == {(5, 0.2, None)}
    assert [seen.index for seen in found] == [4, 5, 6]


# ---- which windows may be compared


def test_what_came_before_the_start_is_never_reported() -> None:
    watch = Watch(since=10, scrapes=2)
    watch.add(
        {A: scrapes((9, counter(stable=100)), (11, counter(stable=150)), (12, counter(stable=157)))}, {}
    )
    assert all_of(watch.take(now=12)) == {"stable ok": 7}
    watch.add({A: scrapes((12, counter(stable=157)), (13, counter(stable=158)))}, {})
    assert all_of(watch.take(now=13)) == {"stable ok": 1}
    assert watch.take(now=13) is None


def test_one_target_for_both_arms_is_reported_at_once() -> None:
    watch = Watch(since=0, scrapes=0)
    watch.add(
        {
            A: scrapes(
                (1, counter(stable=5)), (2, counter(stable=9, canary=1)), (3, counter(stable=9, canary=4))
            )
        },
        {},
    )
    batch = watch.take(now=3)
    assert batch is not None
    assert not batch.lone
    assert all_of(batch) == {"stable ok": 4, "canary ok": 4}


def separate(stable: list[Scrape], canary: list[Scrape]) -> dict[Target, list[Scrape]]:
    return {A: stable, B: canary}


def test_a_canary_of_its_own_is_held_back_until_stable_is_known() -> None:
    watch = Watch(since=0, scrapes=2)
    stable = scrapes(*((t, counter(stable=int(10 * t))) for t in (1.0, 2.0, 3.0)))
    canary = scrapes(*((t, counter(canary=int(10 * t))) for t in (0.5, 1.5, 2.5, 3.5)))
    watch.add(separate(stable, canary), {})
    batch = watch.take(now=3.6)
    assert batch is not None
    assert all_of(batch) == {"stable ok": 20, "canary ok": 10}, "from 1.5 to 2.5: within stable's 1 to 3"
    assert not batch.lone
    watch.add(
        separate(
            scrapes((4.0, counter(stable=40)), (5.0, counter(stable=50))), scrapes((4.5, counter(canary=45)))
        ),
        {},
    )
    batch = watch.take(now=5.1)
    assert batch is not None
    assert counted(batch.lone) == {"canary ok": 10}, "from 2.5 to 3.5: partly before stable's 3 to 5"
    assert counted(batch.compared) == {"stable ok": 20, "canary ok": 10}


def test_a_failing_canary_is_reported_at_once() -> None:
    watch = Watch(since=0, scrapes=99)
    stable = scrapes((1, counter(stable=10)), (2, counter(stable=20)))
    canary = scrapes((1.1, counter(canary=1)), (1.9, counter(canary=2)))
    watch.add(separate(stable, canary), {})
    assert watch.take(now=2) is None
    watch.add(
        separate(scrapes((3, counter(stable=30))), scrapes((2.9, counter(canary=2, broken=3)))),
        {},
    )
    assert all_of(watch.take(now=3)) == {"stable ok": 20, "canary ok": 1, "canary error": 3}


def test_a_stable_target_that_went_away_holds_nobody_up() -> None:
    watch = Watch(since=0, scrapes=1)
    stable = scrapes(*((float(t), counter(stable=10 * t)) for t in range(1, 12)))
    canary = scrapes(*((t + 0.1, counter(canary=t)) for t in range(1, 12)))
    gone = scrapes((1.05, counter(stable=5)), (2.05, counter(stable=6)))
    watch.add({A: stable, B: canary, C: gone}, {})
    assert all_of(watch.take(now=11.5)) == {"stable ok": 101, "canary ok": 9}


def test_a_newcomer_counts_from_zero_only_where_that_is_certain() -> None:
    for empty, expected in (({}, {"stable ok": 9}), ({B: 2.5}, {"stable ok": 9, "canary ok": 8})):
        watch = Watch(since=0, scrapes=1)
        watch.add({A: scrapes((1.0, counter(stable=1)))}, {})
        watch.take(now=1)
        found = separate(
            scrapes((2.0, counter(stable=2)), (6.0, counter(stable=10))), scrapes((3.0, counter(canary=8)))
        )
        assert watch.newcomers(found) == [B]
        watch.add(found, empty)
        assert all_of(watch.take(now=6)) == expected


def test_alone_the_canary_waits_for_nobody() -> None:
    watch = Watch(since=0, scrapes=0)
    watch.add({B: scrapes((1, counter(canary=1)), (2, counter(canary=4)))}, {})
    assert all_of(watch.take(now=2)) == {"canary ok": 3}


# ---- families


def matrix(name: str, labels: dict[str, str], values: list[tuple[float, str]]) -> dict[str, Any]:
    return {"metric": {"__name__": name, "job": "j", "instance": "i", **labels}, "values": values}


def test_a_series_of_both_arms_is_refused() -> None:
    name = "httproute/ns/late/rule/0: late-predictor, late-v2-predictor"
    series = matrix("envoy_cluster_upstream_rq_xx", {"envoy_cluster_name": name}, [(1.0, "1")])
    with pytest.raises(ServingError, match="stands for both arms"):
        read_scrapes(
            [series], FAMILIES["gateway"], {"stable": "late-predictor", "canary": "late-v2-predictor"}
        )


def test_the_gateway_tells_similar_names_apart() -> None:
    arms: dict[Arm, str] = {"stable": "late-predictor", "canary": "late-v2-predictor"}
    found = read_scrapes(
        [
            matrix(
                "envoy_cluster_upstream_rq_xx",
                {"envoy_cluster_name": f"ns/{name}:80", "envoy_response_code_class": "2"},
                [(1.0, "4")],
            )
            for name in ("late-predictor", "late-v2-predictor", "too-late-predictor", "late-predictor-b")
        ],
        FAMILIES["gateway"],
        arms,
    )
    (scrape,) = found["j", "i"]
    assert Counter(series.arm for series in scrape.sums) == {"stable": 1, "canary": 1}


def test_users_describe_families_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text(
        "{histogram: mesh_ms, arm_label: dst, status_label: code, unit: 0.001, selector: 'src=\"gw\"'}"
    )
    family = find_family(str(file))
    assert (family.name, family.unit) == ("mesh", 0.001)
    assert family.series(ARMS) == '{__name__=~"mesh_ms_bucket",dst=~"1|2",src="gw"}'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{histogram: h, arm_label: a}", "status_label is missing"),
        ("{histogram: h, arm_label: a, status_label: s, unit: fast}", "unit must be a number"),
        ("{histogram: h, arm_label: a, status_label: s, colour: red}", "colour"),
        ("{histogram: h, arm_label: a, status_label: s, arm_value: x}", "must contain {arm}"),
        ("[1]", "does not describe"),
    ],
)
def test_a_wrong_family_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "family.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        find_family(str(file))


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="use one of knative, knative-otel, istio"):
        find_family("linkerd")


# ---- silence


def test_canary_requests_that_must_have_been_seen_are_missed() -> None:
    silence = Silence("it", patience=10)
    silence.begin(0)
    for now in range(1, 12):
        silence.fresh("stable", now)
        silence.counted(stable=90, canary=0, share=0.1, now=now)
        if now < 11:
            silence.check(now, 0.1)
    with pytest.raises(ServingError, match="not seen one canary request for 10 s, where about 110"):
        silence.check(11, 0.1)


def test_a_quiet_service_is_not_a_dead_one() -> None:
    silence = Silence("it", patience=10)
    silence.begin(0)
    for now in range(100):
        silence.fresh("stable", now)
        silence.counted(stable=0, canary=0, share=0.1, now=now)
        silence.check(now, 0.1)


def test_alone_the_canary_must_be_heard_of() -> None:
    silence = Silence("it", patience=10)
    silence.begin(0)
    silence.fresh("stable", 100)
    with pytest.raises(ServingError, match="no data about the canary model for 10 s"):
        silence.check(11, 1.0)


# ---- prediction log

START = 1_700_000_000.0


class Log:
    """A prediction log, as the model servers write it, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now, self._parts = folder, START, 0
        folder.mkdir()

    def write(self, *rows: tuple[str, float, str, int, float | None], name: str = "late") -> Path:
        """Rows: request id, seconds since the start, version, status, score."""
        table = pa.table(
            {
                "request_id": [row[0] for row in rows],
                "row": pa.array([0] * len(rows), pa.int32()),
                "at": pa.array([round((START + row[1]) * 1e6) for row in rows], pa.timestamp("us", tz="UTC")),
                "model": [name] * len(rows),
                "model_version": [row[2] for row in rows],
                "digest": ["d" + row[2] for row in rows],
                "arm": [""] * len(rows),
                "status": pa.array([row[3] for row in rows], pa.int16()),
                "seconds": [0.001] * len(rows),
                "score": pa.array([row[4] for row in rows], pa.float64()),
                "feature.hour": [1] * len(rows),
            }
        )
        hour = datetime.fromtimestamp(START, UTC)
        folder = self.folder / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}"
        folder.mkdir(parents=True, exist_ok=True)
        self._parts += 1
        part = folder / f"part-{self._parts}-00000000-1-{self._parts}.parquet"
        pq.write_table(table, part)
        return part


@pytest.fixture
def written(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


@pytest.fixture
def signals(written: Log) -> Iterator[PredictionLogSignals]:
    return PredictionLogSignals(written.folder, model="late", lag=5, clock=lambda: written.now)


def poll(signals: PredictionLogSignals, share: float = 0.5) -> list[Observation]:
    return asyncio.run(signals.poll(share, ARMS))


def test_requests_are_told_once_in_order_and_with_scores(written: Log, signals: PredictionLogSignals) -> None:
    assert poll(signals) == []
    written.write(("b", 3, "2", 200, 0.75), ("d", 8, "1", 200, 0.5))
    written.write(("a", 2, "1", 200, 0.25), ("c", 3.5, "2", 500, None), ("x", 1, "9", 200, 0.1))
    written.now = START + 10
    found = poll(signals)
    assert [(s.at - START, s.arm, s.result, s.score) for s in found] == [
        (2, "stable", "ok", 0.25),
        (3, "canary", "ok", 0.75),
        (3.5, "canary", "error", None),
    ]
    assert [s.index for s in found] == [0, 1, 2]
    written.now = START + 20
    assert [s.at - START for s in poll(signals)] == [8], "held back until every server has written"
    assert poll(signals) == []


def test_what_came_before_the_settle_point_is_never_counted(
    written: Log, signals: PredictionLogSignals
) -> None:
    poll(signals)
    written.write(("a", 1, "1", 200, 0.5))
    written.now = START + 10
    asyncio.run(signals.skip())
    written.write(("b", 9.9, "2", 500, None), ("c", 10.5, "2", 200, 0.5))
    written.now = START + 30
    assert [s.at - START for s in poll(signals, 0.9)] == [10.5]


def test_another_share_without_a_skip_begins_anew(written: Log, signals: PredictionLogSignals) -> None:
    poll(signals)
    written.write(("a", 1, "1", 200, 0.5))
    written.now = START + 30
    assert poll(signals, 0.9) == []


def test_a_retry_counts_once(written: Log, signals: PredictionLogSignals) -> None:
    poll(signals)
    written.write(("a", 1.0, "2", 500, None))
    written.write(("a", 1.5, "1", 200, 0.5), ("b", 2, "1", 200, 0.5))
    written.now = START + 10
    assert [(s.arm, s.result) for s in poll(signals)] == [("canary", "error"), ("stable", "ok")]


def test_late_requests_are_told_late(written: Log, signals: PredictionLogSignals, caplog: Any) -> None:
    poll(signals)
    written.now = START + 10
    poll(signals)
    written.write(("a", 1, "2", 200, 0.5), ("c", 1, "1", 500, None))
    assert [(s.arm, s.result) for s in poll(signals)] == [("canary", "ok"), ("stable", "error")]
    assert "2 requests were in the log only after 5 s" in caplog.text


def test_other_models_in_the_log_are_others(written: Log, signals: PredictionLogSignals) -> None:
    poll(signals)
    written.write(("a", 1, "2", 500, None), name="early")
    written.now = START + 10
    assert poll(signals) == []


def test_a_damaged_part_is_an_error_if_it_stays(written: Log, signals: PredictionLogSignals) -> None:
    poll(signals)
    part = written.write(("a", 1, "1", 200, 0.5))
    whole = part.read_bytes()
    part.write_bytes(b"not yet")
    written.now = START + 10
    assert poll(signals) == []
    part.write_bytes(whole)
    assert len(poll(signals)) == 1
    part.with_name("part-x.parquet").write_bytes(b"never")
    poll(signals)
    written.now = START + 200
    with pytest.raises(ServingError, match=r"has not answered for 120 s.*part-x.parquet can't be read"):
        poll(signals)


def test_a_canary_that_is_never_logged_is_an_error(written: Log, signals: PredictionLogSignals) -> None:
    poll(signals)
    written.write(*((f"r{i}", 1 + i / 100, "1", 200, 0.5) for i in range(100)))
    written.now = START + 130
    with pytest.raises(ServingError, match="has not seen one canary request"):
        poll(signals)


def test_what_our_servers_write_is_understood(tmp_path: Path) -> None:
    from airworthy.bundle import read_bundle_info
    from airworthy.serving.prediction_log import LogOptions, PredictionLog
    from airworthy.serving.predictor import Prediction
    from tests.release_evidence import make_bundle

    digest = make_bundle(tmp_path / "bundle", rounds=1)
    info = read_bundle_info(tmp_path / "bundle")
    now = time.time()
    signals = PredictionLogSignals(tmp_path / "log", model="late", lag=0, clock=lambda: now)
    (tmp_path / "log").mkdir()
    assert poll(signals) == []
    row = {"hour": 9, "distance": 800.0, "carrier": "AA"}
    for version in ARMS.values():
        server = PredictionLog(
            LogOptions(tmp_path / "log"), info, model="late", version=version, digest=digest
        )
        for number in range(30):
            at = now + 0.01 + number / 10
            server.offer(f"{version}-{number}", at, 200, 0.002, Prediction([0.25, 0.5], [row, row]), 100)
        server.offer(f"{version}-bad", now + 1, 400, 0.001, None, 100)
        server.close()
    now += 10
    found = poll(signals)
    assert Counter((seen.arm, seen.result, seen.score) for seen in found) == {
        (arm, *rest): number for arm in ARMS for rest, number in ((("ok", 0.25), 30), (("rejected", None), 1))
    }
    assert {seen.seconds for seen in found if seen.result == "ok"} == {0.002}


# ---- choice


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRWORTHY_SIGNALS", f"prediction-log:{tmp_path}")
    assert choose().named_by == "version"
    monkeypatch.setenv("AIRWORTHY_SIGNALS", "prometheus:http://127.0.0.1:9090")
    assert choose(family="knative").named_by == "workload"
    monkeypatch.setenv("AIRWORTHY_SIGNALS_FAMILY", "airworthy")
    assert choose(family="knative").named_by == "version"


@pytest.mark.parametrize("text", [None, "prometheus:", "prometheus:9090", "statsd:x"])
def test_without_a_choice_there_is_no_rollout(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRWORTHY_SIGNALS", raising=False)
    if text:
        monkeypatch.setenv("AIRWORTHY_SIGNALS", text)
    with pytest.raises(ConfigError, match="set it to prometheus:URL or prediction-log:FOLDER"):
        choose()
