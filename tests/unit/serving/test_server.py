"""The real KServe server, as a process: right scores, clear refusals, health, metrics, and its end."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from airworthy.bundle import Scorer, read_bundle_info
from airworthy.errors import DataError, GateError, ServingError
from airworthy.serving import smoke_test
from airworthy.serving.local import ServerOptions, ServerProcess
from airworthy.serving.prediction_files import read_predictions
from airworthy.serving.replay import sample_rows, v1_body, v1_path, v2_body, v2_path
from airworthy.verdict import require_smoke
from tests.release_evidence import Evidence, make_evidence, spec

Answer = tuple[int, Any, dict[str, str]]


@pytest.fixture(scope="module")
def server(judged: Evidence, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = ServerOptions(
        judged.bundle, "late", "7", judged.digest, max_rows=400, unseen_category="missing"
    )
    process = ServerProcess(options, tmp_path_factory.mktemp("logs") / "server.log")
    process.start()
    try:
        asyncio.run(process.ready())
        yield process
    finally:
        process.stop()


def ask(
    server: ServerProcess | Address,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    request = urllib.request.Request(
        server.url + path, data=body, headers={"Content-Type": "application/json", **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            content = answer.read()
            kind = answer.headers.get("content-type", "")
            told = {k.lower(): v for k, v in answer.headers.items()}
            return answer.status, json.loads(content) if "json" in kind else content.decode(), told
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read()), dict(error.headers)


def test_both_protocols_give_the_bundles_own_scores(
    server: ServerProcess, judged: Evidence, rows: Path
) -> None:
    scorer = Scorer.load(judged.bundle)
    features = scorer.info.features
    asked = sample_rows(rows, [f.name for f in features], 300)
    expected = scorer.score(scorer.encode({f.name: [r[f.name] for r in asked] for f in features})[0])
    _, v1, headers = ask(server, v1_path("late"), v1_body(asked, features))
    _, v2, _ = ask(server, v2_path("late"), v2_body(asked, features))
    assert v1["predictions"] == pytest.approx(expected.tolist(), abs=1e-12)
    assert v2["outputs"][0]["data"] == v1["predictions"]
    assert headers["x-model-version"] == "7"
    assert headers["x-model-digest"] == judged.digest


GOOD = {"hour": 9, "distance": 800.0, "carrier": "AA"}
HUGE = json.dumps(
    {
        "inputs": [
            {"name": "hour", "shape": [1], "datatype": "INT64", "data": [10**400]},
            {"name": "distance", "shape": [1], "datatype": "FP64", "data": [800.0]},
            {"name": "carrier", "shape": [1], "datatype": "BYTES", "data": ["AA"]},
        ]
    }
).encode()


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (v1_path("late"), b"{", "not valid JSON"),
        (v1_path("late"), b'{"instances": [{"hour": 9}]}', "feature 'distance' is missing"),
        (v1_path("late"), json.dumps({"instances": [{**GOOD, "hour": "9"}]}).encode(), "instances[0].hour"),
        (v1_path("late"), json.dumps({"instances": [{**GOOD, "distance": 1e60}]}).encode(), "too large"),
        (v2_path("late"), HUGE, "too large"),
        (v1_path("late"), json.dumps({"instances": [GOOD] * 401}).encode(), "at most 400"),
        (v2_path("late"), b'{"inputs": ', "not valid JSON"),
        (v2_path("late"), b'{"inputs": [{"name": "hour"}]}', "not a V2 inference request: inputs.0.shape"),
        (v2_path("late"), b'{"inputs": []}', "feature 'hour' is missing"),
    ],
)
def test_bad_requests_get_400_and_one_sentence(
    server: ServerProcess, path: str, body: bytes, message: str
) -> None:
    status, answer, _ = ask(server, path, body)
    assert status == 400
    assert message in answer["error"]
    assert "\n" not in answer["error"]


def test_health_metadata_and_unknown_models(server: ServerProcess) -> None:
    assert ask(server, "/v2/health/ready")[1] == {"ready": True}
    assert ask(server, "/v1/models/late")[0] == 200
    inputs = ask(server, "/v2/models/late")[1]["inputs"]
    assert [(i["name"], i["datatype"]) for i in inputs] == [
        ("hour", "FP64"),
        ("distance", "FP64"),
        ("carrier", "BYTES"),
    ]
    assert ask(server, v1_path("early"), b'{"instances": []}')[0] == 404


def test_metrics_count_requests_statuses_and_unseen_categories(server: ServerProcess) -> None:
    body = json.dumps({"instances": [{**GOOD, "carrier": "ZZ"}]}).encode()
    assert ask(server, v1_path("late"), body)[0] == 200
    ask(server, v1_path("late"), b"{")
    text = ask(server, "/metrics")[1]
    assert 'airworthy_unseen_categories_total{feature="carrier",model_version="7"} 1.0' in text
    assert 'airworthy_requests_total{model_version="7",status="400"}' in text
    assert 'airworthy_request_seconds_bucket{le="0.0001",model_version="7"}' in text
    assert 'request_predict_seconds_count{model_name="late"}' in text  # KServe's own


def test_it_listens_on_loopback_only_and_logs_no_requests(server: ServerProcess) -> None:
    assert server.pid
    sockets = psutil.Process(server.pid).connections("inet")
    assert {c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    log = server.log_file.read_text()
    assert "Traceback" not in log
    assert len(log.splitlines()) == 1


def test_its_log_tells_of_start_and_stop(judged: Evidence, tmp_path: Path) -> None:
    server = ServerProcess(ServerOptions(judged.bundle, "late", "7"), tmp_path / "server.log")
    server.start()
    try:
        asyncio.run(server.ready())
    finally:
        server.stop()
    begun, ended = server.log_file.read_text().splitlines()
    assert "serving late version 7 (" in begun
    assert "stopped serving late version 7" in ended


def test_a_server_that_is_stopped_drains_and_writes_its_log(judged: Evidence, tmp_path: Path) -> None:
    """It says at once that it is to go, answers on, and loses no row of the prediction log."""
    predictions, address = tmp_path / "predictions", tmp_path / "address.json"
    command = [
        *(sys.executable, "-m", "airworthy.serving.server", "--bundle", str(judged.bundle)),
        *("--http_port", "0", "--model_version", "7", "--announce", str(address)),
        *("--prediction_log", str(predictions), "--arm", "canary", "--drain_seconds", "1.5"),
    ]
    with (tmp_path / "log").open("wb") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            wait_for(address.exists)
            server = Address(json.loads(address.read_text())["url"])
            ask(server, v1_path("late"), json.dumps({"instances": [GOOD, GOOD]}).encode())
            ask(server, v2_path("late"), with_parameters("theirs"))
            ask(server, v1_path("late"), b"{")
            process.terminate()
            wait_for(lambda: ask(server, "/v2/health/ready")[0] == 503)
            status, answer, headers = ask(
                server, v1_path("late"), json.dumps({"instances": [GOOD]}).encode(), {"X-Request-Id": "last"}
            )
            assert (status, headers["x-request-id"]) == (200, "last")
            assert process.wait(20) == 0
        finally:
            process.kill()
    window = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
    rows = [row for batch in read_predictions(predictions, *window) for row in batch.to_pylist()]
    assert [(row["status"], row["row"], row["arm"]) for row in rows] == [
        (200, 0, "canary"),
        (200, 1, "canary"),
        (200, 0, "canary"),
        (400, 0, "canary"),
        (200, 0, "canary"),
    ]
    assert [row["request_id"] for row in rows[2:]] == ["theirs", rows[3]["request_id"], "last"]
    assert rows[-1]["score"] == answer["predictions"][0]
    assert {row["feature.carrier"] for row in rows} == {"AA", None}
    assert "not ready any more" in (tmp_path / "log").read_text()


@dataclass(frozen=True)
class Address:
    url: str


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def with_parameters(identity: str) -> bytes:
    """A V2 request that goes KServe's way."""
    tensors = [
        {"name": "hour", "shape": [1], "datatype": "INT64", "data": [9]},
        {"name": "distance", "shape": [1], "datatype": "FP64", "data": [800.0]},
        {"name": "carrier", "shape": [1], "datatype": "BYTES", "data": ["AA"]},
    ]
    return json.dumps({"id": identity, "inputs": tensors, "parameters": {"a": "b"}}).encode()


@pytest.mark.parametrize("how", ["changed", "another"])
def test_a_bundle_that_is_not_the_expected_one_is_refused(judged: Evidence, tmp_path: Path, how: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(judged.bundle, bundle)
    if how == "changed":
        model = bundle / "model.ubj"
        model.write_bytes(model.read_bytes()[:-1] + b"?")
    expected = judged.digest if how == "changed" else "0" * 64
    server = ServerProcess(ServerOptions(bundle, "late", "1", expected), tmp_path / "server.log")
    server.start()
    try:
        with pytest.raises(ServingError, match=r"changed since it was written|was to be served"):
            asyncio.run(server.ready())
    finally:
        server.stop()


def test_the_server_dies_with_its_parent(judged: Evidence, tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from airworthy.serving.local import ServerOptions, ServerProcess\n"
        "s = ServerProcess(ServerOptions(Path(sys.argv[1]), 'late'), Path(sys.argv[2]), 'tests.light_server')\n"
        "s.start(); print(s.pid, flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(judged.bundle), str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        child.wait(timeout=20)
    assert not child.is_running()


def test_smoke_test_passes_and_reports(judged: Evidence, rows: Path, scores: Path, tmp_path: Path) -> None:
    result = smoke_test(
        spec()[0],
        verdict=judged.verdict,
        bundle=judged.bundle,
        dataset=rows,
        expected_scores=scores,
        report_out=tmp_path / "smoke.html",
        record_out=tmp_path / "smoke.json",
        rows=120,
    )
    assert result.rows == 120
    assert result.largest_difference <= 1e-9
    assert result.metrics["bad_requests_refused"] == 8
    assert "no_such_feature" in (tmp_path / "smoke.html").read_text()
    record = require_smoke(tmp_path / "smoke.json", judged.digest)
    assert [check.name for check in record.checks] == ["scores", "bad_requests"]
    assert record.metrics == result.metrics


def test_smoke_test_names_the_worst_row(judged: Evidence, rows: Path, scores: Path, tmp_path: Path) -> None:
    table = pq.read_table(scores / "scores.parquet").to_pydict()
    table["challenger"][17] += 0.01
    import pyarrow as pa

    pq.write_table(pa.table(table), tmp_path / "scores.parquet")
    with pytest.raises(ServingError, match=f"to row '{table['id'][17]}'.*1 of 300 rows differ"):
        smoke_test(
            spec()[0],
            verdict=judged.verdict,
            bundle=judged.bundle,
            dataset=rows,
            expected_scores=tmp_path / "scores.parquet",
            rows=300,
        )


def test_smoke_test_is_locked_by_the_gate(rows: Path, scores: Path, tmp_path: Path) -> None:
    refused = make_evidence(tmp_path / "refused", outcome="fail")
    with pytest.raises(GateError):
        smoke_test(
            spec()[0], verdict=refused.verdict, bundle=refused.bundle, dataset=rows, expected_scores=scores
        )


def test_scores_of_another_window_are_refused(judged: Evidence, rows: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"id": ["x"], "challenger": [0.5]}), tmp_path / "scores.parquet")
    with pytest.raises(DataError, match="has no score"):
        smoke_test(
            spec()[0], verdict=judged.verdict, bundle=judged.bundle, dataset=rows, expected_scores=tmp_path
        )


def test_rows_are_spread_over_the_window(rows: Path, judged: Evidence) -> None:
    names = [f.name for f in read_bundle_info(judged.bundle).features]
    assert len(sample_rows(rows, names, 40)) == 40
    assert len(sample_rows(rows, names, 4000)) == 300
    with pytest.raises(DataError, match="column 'nothing' is missing"):
        sample_rows(rows, ["nothing"], 5)
