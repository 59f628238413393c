"""The quick way in answers as KServe's own route does, and hands on what it doesn't understand."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from typing import Any

import pytest

from airworthy.bundle import Scorer
from airworthy.serving.front import THREAD_BODY, Front
from airworthy.serving.kserve_app import handle_errors, make_model
from airworthy.serving.metrics import Instruments
from airworthy.serving.predictor import Predictor
from airworthy.serving.replay import v1_path, v2_path
from tests.release_evidence import Evidence

JSON = {"content-type": "application/json"}
GOOD = {"hour": 9, "distance": 812.5, "carrier": "AA"}
V1, V2 = v1_path("late"), v2_path("late")
MAX_ROWS = 600


class Answered:
    """What came back."""

    def __init__(self, messages: list[Any]) -> None:
        self.status = messages[0]["status"]
        self.headers = {name.decode().lower(): value.decode() for name, value in messages[0]["headers"]}
        self.body = b"".join(message.get("body", b"") for message in messages[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    app: Any,
    path: str,
    body: bytes,
    headers: dict[str, str] | None = None,
    method: str = "POST",
    parts: int = 1,
) -> Answered:
    """One request to an ASGI application, its body in one part or several."""
    size = math.ceil(len(body) / parts)
    chunks = [body[k * size : (k + 1) * size] for k in range(parts)]
    waiting = [
        {"type": "http.request", "body": chunk, "more_body": k < parts - 1} for k, chunk in enumerate(chunks)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    given = {**JSON, **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    return Answered(sent)


class Ways:
    """The same model behind KServe's application alone, and with the front before it."""

    def __init__(self, judged: Evidence) -> None:
        from kserve.model_repository import ModelRepository
        from kserve.protocol.dataplane import DataPlane
        from kserve.protocol.model_repository_extension import ModelRepositoryExtension
        from kserve.protocol.rest.server import RESTServer

        self.scorer = Scorer.load(judged.bundle)
        self.predictor = Predictor(self.scorer, max_rows=MAX_ROWS)
        self.model = make_model("late", self.predictor, "7")
        models = ModelRepository()
        models.update(self.model)
        server = RESTServer("kserve.model_server:app", DataPlane(models), ModelRepositoryExtension(models), 0)
        server._add_middlewares = lambda app: None
        server.create_application()
        from kserve.model_server import app

        handle_errors(app)
        self.kserve = app
        self.instruments = Instruments("late", "7")
        self.front = self.make_front()

    def make_front(self, **options: Any) -> Front:
        return Front(self.kserve, self.model, self.predictor, self.instruments, version="7", **options)


@pytest.fixture(scope="module")
def ways(judged: Evidence) -> Ways:
    return Ways(judged)


def v1(*rows: Any, **others: Any) -> bytes:
    return json.dumps({"instances": list(rows), **others}).encode()


def v2(*rows: dict[str, Any], identity: Any = "a-1", shape: Any = None, **more: Any) -> bytes:
    kinds = {"hour": "INT64", "distance": "FP64", "carrier": "BYTES"}
    inputs = [
        {"name": n, "shape": shape or [len(rows)], "datatype": kind, "data": [row[n] for row in rows]}
        for n, kind in kinds.items()
    ]
    return json.dumps({"id": identity, "inputs": inputs, **more}).encode()


MANY = [{"hour": k % 24, "distance": None if k % 7 == 0 else 10.0 * k, "carrier": "DL"} for k in range(500)]
SAME = [
    (V1, v1(GOOD)),
    (V1, v1({**GOOD, "hour": None, "distance": None, "carrier": None})),
    (V1, v1({**GOOD, "hour": 9.0, "distance": 3})),
    (V1, v1({**GOOD, "carrier": "ZZ"})),
    (V1, v1({**GOOD, "carrier": ""})),
    (V1, v1({**GOOD, "distance": 2**60, "hour": 2**53 + 1})),
    (V1, v1(GOOD, GOOD)),
    (V1, v1(*MANY)),
    (V1, b'{"instances": [{"hour": 9, "distance": 10000000000000000000000, "carrier": "AA"}]}'),
    (V2, v2(GOOD)),
    (V2, v2(GOOD, shape=[1, 1])),
    (V2, v2(*MANY)),
    (V2, v2({**GOOD, "carrier": "", "hour": None})),
    (V2, v2(GOOD, outputs=[{"name": "score"}])),
    (V2, v2(GOOD, parameters={"why": "test"})),
    # refusals
    (V1, b""),
    (V1, b"{"),
    (V1, b"[1, 2]"),
    (V1, b'"text"'),
    (V1, b'{"instances": [{"hour": NaN}]}'),
    (V1, b'{"instances": [{"hour": -Infinity}]}'),
    (V1, b'{"instances": [{"hour": ' + b"1" * 400 + b"}]}"),
    (V1, b"\xff\xfe"),
    (V1, v1()),
    (V1, v1([1, 2])),
    (V1, v1(GOOD, parameters={})),
    (V1, v1({"hour": 9})),
    (V1, v1({**GOOD, "gate": "B"})),
    (V1, v1({**GOOD, "hour": "9"})),
    (V1, v1({**GOOD, "hour": True})),
    (V1, v1({**GOOD, "hour": 9.5})),
    (V1, v1({**GOOD, "distance": 1e60})),
    (V1, v1({**GOOD, "carrier": 4})),
    (V1, v1(*[GOOD] * (MAX_ROWS + 1))),
    (V2, b"{}"),
    (V2, b'{"inputs": [{"name": "hour"}]}'),
    (V2, b'{"inputs": {"hour": 1}}'),
    (V2, v2(GOOD, identity=4)),
    (V2, v2(GOOD, shape=["one"])),
    (V2, v2(GOOD, shape=[2])),
    (V2, v2(GOOD, shape=[1, 2])),
    (V2, v2({**GOOD, "hour": "9"})),
    (V2, v2({**GOOD, "hour": 1.5})),
    (V2, json.dumps({"inputs": [{"name": "hour", "shape": [1], "datatype": "FP16", "data": [1]}]}).encode()),
    (V2, v2(GOOD, outputs=[{"name": "nothing"}])),
    (v1_path("early"), v1(GOOD)),
    (v2_path("early"), v2(GOOD)),
    ("/v2/models/late/versions/7/infer", v2(GOOD)),
]


@pytest.mark.parametrize(("path", "body"), SAME, ids=[f"{p[1:3]}-{b[:60]!r}" for p, b in SAME])
def test_the_front_answers_as_kserves_route_does(ways: Ways, path: str, body: bytes) -> None:
    async def both() -> tuple[Answered, Answered]:
        return await ask(ways.front, path, body), await ask(ways.kserve, path, body)

    ours, theirs = asyncio.run(both())
    assert (ours.status, ours.json) == (theirs.status, theirs.json)
    assert ours.headers["content-type"] == theirs.headers["content-type"] == "application/json"
    assert ours.headers["x-model-version"] == "7"


def test_binary_tensors_and_cloud_events_are_kserves(ways: Ways) -> None:
    import numpy as np
    from kserve import InferInput, InferRequest

    inputs = []
    for name, kind, values in (
        ("hour", "INT64", np.array([9])),
        ("distance", "FP64", np.array([812.5])),
        ("carrier", "BYTES", np.array(["AA"], dtype=object)),
    ):
        tensor = InferInput(name, [1], kind)
        tensor.set_data_from_numpy(values, binary_data=True)
        inputs.append(tensor)
    body, length = InferRequest("late", inputs, request_id="a-1").to_rest()
    assert isinstance(body, bytes)
    binary = {"content-type": "application/octet-stream", "inference-header-content-length": str(length)}
    event = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "here", "ce-type": "row"}

    async def all_three() -> list[Answered]:
        return [
            await ask(ways.front, V2, body, binary),
            await ask(ways.front, V1, v1(GOOD), event),
            await ask(ways.front, V1, v1(GOOD)),
        ]

    tensors, cloud, plain = asyncio.run(all_three())
    assert tensors.json["outputs"][0]["data"] == plain.json["predictions"]
    assert cloud.json == plain.json
    assert cloud.headers["ce-type"]  # a CloudEvent is answered by one


def test_a_body_in_parts_or_of_a_forms_type_is_read_all_the_same(ways: Ways) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}  # what curl and urllib say by default
    charset = {"content-type": "application/json; charset=utf-8"}

    async def all_three() -> list[Answered]:
        return [
            await ask(ways.front, V1, v1(GOOD), parts=7),
            await ask(ways.front, V1, v1(GOOD), form),
            await ask(ways.front, V1, v1(GOOD), charset),
        ]

    answers = asyncio.run(all_three())
    assert [a.status for a in answers] == [200] * 3
    assert len({a.body for a in answers}) == 1


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (
            V1,
            b'{"instances": [{"hour": 9, "hour": 8, "distance": 1, "carrier": "AA"}]}',
            "names 'hour' twice",
        ),
        (V1, b'{"instances": [], "instances": []}', "names 'instances' twice"),
        (V2, v2(GOOD).replace(b'"name": "hour"', b'"name": "hour", "name": "hour"'), "names 'name' twice"),
        (V2, b'{"parameters": {}, ' + v2(GOOD)[1:].replace(b"{", b'{"name": "x", ', 1), "names 'name' twice"),
        (V1, b'{"instances": [{"hour": ' + b"[" * 990 + b"]" * 990 + b', "carrier": ":::"}]}', "too deeply"),
        (
            V2,
            v2(GOOD, GOOD).replace(b"[812.5, 812.5]", b"[[812.5], 3]"),
            "must be a number or null, not [812.5]",
        ),
        (V2, v2(GOOD).replace(b"812.5", b"NaN"), "NaN at line 1 column"),
        (V2, v2(GOOD).replace(b"812.5", b"-Infinity"), "Infinity at line 1 column"),
    ],
)
def test_what_json_leaves_open_is_refused(ways: Ways, path: str, body: bytes, message: str) -> None:
    answer = asyncio.run(ask(ways.front, path, body))
    assert answer.status == 400
    assert message in answer.json["error"]


def test_finding_the_repeated_name_among_many_takes_no_time(ways: Ways) -> None:
    many = b",".join(b'"%x": 1' % k for k in range(200_000))
    begun = time.perf_counter()
    answer = asyncio.run(ask(ways.front, V1, b'{"instances": [{' + many + b', "30d3f": 2}]}'))
    assert "names '30d3f' twice" in answer.json["error"]
    assert time.perf_counter() - begun < 10, "comparing all with all takes an hour"


@pytest.mark.parametrize(
    ("path", "headers", "status", "message"),
    [
        (V2, {"inference-header-content-length": "many"}, 400, "must be the number of bytes"),
        (V2, {"inference-header-content-length": "-1"}, 400, "must be the number of bytes"),
        (V2, {"inference-header-content-length": "9" * 5000}, 400, "must be the number of bytes"),
        (V1, {"content-type": "text/plain"}, 400, "use Content-Type: application/json"),
        ("/v2/models/late/versions/7/infer", {}, 501, "versioning not supported"),
    ],
)
def test_odd_heads_are_refused_without_a_stack_trace(
    ways: Ways,
    path: str,
    headers: dict[str, str],
    status: int,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = asyncio.run(ask(ways.front, path, v1(GOOD) if path == V1 else v2(GOOD), headers))
    assert answer.status == status
    assert message in answer.json["error"]
    assert not caplog.records


@pytest.mark.parametrize(
    ("change", "tensors"),
    [
        ({}, bytes(7)),
        ({}, b""),
        ({"shape": [2]}, bytes(8)),
        ({"shape": [-1]}, bytes(8)),
        ({"datatype": "BYTES"}, b"\xff" * 8),
        ({"parameters": {"binary_data_size": "8"}}, bytes(8)),
        ({"parameters": {"binary_data_size": 1.5}}, bytes(8)),
    ],
)
def test_binary_tensors_that_cannot_be_read_are_the_senders_to_mend(
    ways: Ways, change: dict[str, Any], tensors: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    document = json.loads(v2(GOOD))
    hour = {
        "name": "hour",
        "shape": [1],
        "datatype": "INT64",
        "parameters": {"binary_data_size": 8},
        **change,
    }
    document["inputs"][0] = hour
    head = json.dumps(document).encode()
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    answer = asyncio.run(ask(ways.front, V2, head + tensors, headers))
    assert answer.status == 400
    assert "can't be read" in answer.json["error"]
    assert not caplog.records


def test_colons_in_values_are_no_names(ways: Ways) -> None:
    answer = asyncio.run(ask(ways.front, V1, v1({**GOOD, "carrier": "a:b::c"})))
    assert answer.status == 200


def test_other_methods_are_refused(ways: Ways) -> None:
    answer = asyncio.run(ask(ways.front, V1, b"", method="GET"))
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("parts", [1, 9])
@pytest.mark.parametrize("path", [V1, v1_path("early")])
def test_a_body_beyond_the_limit_gets_413(ways: Ways, parts: int, path: str) -> None:
    front = ways.make_front(max_body=1000)
    length = {"content-length": "1001"} if parts == 1 else {"transfer-encoding": "chunked"}
    answer = asyncio.run(ask(front, path, b" " * 1001, length, parts=parts))
    assert answer.status == 413
    assert "larger than 1000 bytes" in answer.json["error"]


def test_a_model_that_is_not_ready_gets_503(ways: Ways) -> None:
    ways.model.ready = False
    try:
        answer = asyncio.run(ask(ways.front, V1, v1(GOOD)))
    finally:
        ways.model.ready = True
    assert answer.status == 503
    assert answer.json == {"error": "Model with name late is not ready."}


def test_a_server_that_is_to_go_is_not_ready_but_answers(ways: Ways) -> None:
    front = ways.make_front()
    front.draining = True

    async def statuses() -> list[int]:
        ready = [await ask(front, p, b"", method="GET") for p in ("/v2/health/ready", "/v2/health/live")]
        return [*(a.status for a in ready), (await ask(front, V1, v1(GOOD))).status]

    assert asyncio.run(statuses()) == [503, 200, 200]


def test_models_are_not_unloaded_by_strangers(ways: Ways) -> None:
    answer = asyncio.run(ask(ways.front, "/v2/repository/models/late/unload", b""))
    assert answer.status == 403
    assert asyncio.run(ask(ways.front, V1, v1(GOOD))).status == 200


class Broken:
    """A scorer whose model has gone wrong."""

    def __init__(self, scorer: Scorer, score: float) -> None:
        self.info, self.encode, self.encode_row = scorer.info, scorer.encode, scorer.encode_row
        self._score = score

    def score(self, matrix: Any) -> Any:
        import numpy as np

        return np.full(len(matrix), self._score)


@pytest.mark.parametrize("score", [math.nan, math.inf, 1.5, -0.1])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_score_that_is_no_probability_is_never_sent(ways: Ways, score: float, rows: int) -> None:
    predictor = Predictor(Broken(ways.scorer, score), max_rows=5)  # type: ignore[arg-type]
    instruments = Instruments("late", "7")
    model = make_model("late", predictor)
    front = Front(ways.kserve, model, predictor, instruments)
    answer = asyncio.run(ask(front, V1, v1(*[GOOD] * rows)))
    assert answer.status == 500
    assert "is no probability" in answer.json["error"]
    assert exposition(instruments)['airworthy_unsound_scores_total{model_version="7"}'] == 1


def exposition(instruments: Instruments) -> dict[str, float]:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(instruments)
    lines = [line for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_everything_is_counted_on_either_way(ways: Ways) -> None:
    instruments = Instruments("late", "7", digest="0123456789abcdef", arm="canary", engine="onnx")
    front = Front(ways.kserve, ways.model, ways.predictor, instruments, version="7")

    async def traffic() -> None:
        await ask(front, V1, v1(GOOD, {**GOOD, "carrier": "ZZ"}))
        await ask(front, V2, v2(GOOD, parameters={"why": "KServe's way"}))
        await ask(front, V1, b"{")
        await ask(front, v1_path("early"), v1(GOOD))
        await ask(front, "/v2/health/live", b"", method="GET")

    asyncio.run(traffic())
    found = exposition(instruments)
    label = 'model_version="7"'
    assert found[f'airworthy_requests_total{{{label},status="200"}}'] == 2
    assert found[f'airworthy_requests_total{{{label},status="400"}}'] == 1
    assert found[f'airworthy_requests_total{{{label},status="404"}}'] == 1
    assert found[f"airworthy_rows_total{{{label}}}"] == 3
    assert found[f'airworthy_unseen_categories_total{{feature="carrier",{label}}}'] == 1
    assert found[f'airworthy_prediction_bucket{{le="1.0",{label}}}'] == 3
    assert found[f"airworthy_request_seconds_count{{{label}}}"] == 4
    assert found[f"airworthy_in_flight{{{label}}}"] == 0
    about = (
        f'airworthy_model_info{{arm="canary",digest="0123456789ab",engine="onnx",model_name="late",{label}}}'
    )
    assert found[about] == 1


def test_request_ids_are_given_back_or_made_up(ways: Ways) -> None:
    async def marks() -> list[str]:
        bodies = [{"x-request-id": "mine"}, {}, {}, {"x-request-id": "x" * 500}]
        return [(await ask(ways.front, V1, v1(GOOD), headers)).headers["x-request-id"] for headers in bodies]

    given, first, second, too_long = asyncio.run(marks())
    assert given == "mine"
    assert len({first, second, too_long, "x" * 500}) == 4


class Waiting:
    """A scorer that takes until it is let go."""

    def __init__(self, scorer: Scorer) -> None:
        self.info, self.encode, self.encode_row = scorer.info, scorer.encode, scorer.encode_row
        self._scorer = scorer
        self.go = threading.Event()

    def score(self, matrix: Any) -> Any:
        assert self.go.wait(20), "nobody else was served meanwhile"
        return self._scorer.score(matrix)


def test_a_large_batch_does_not_hold_others_up(ways: Ways) -> None:
    waiting = Waiting(ways.scorer)
    predictor = Predictor(waiting, max_rows=MAX_ROWS)  # type: ignore[arg-type]
    front = Front(ways.kserve, make_model("late", predictor), predictor, Instruments("late", "7"))
    large = v1(*[GOOD] * MAX_ROWS) + b" " * THREAD_BODY

    async def both() -> tuple[Answered, Answered]:
        batch = asyncio.create_task(ask(front, V1, large))
        await asyncio.sleep(0)
        health = await ask(front, "/v2/health/live", b"", method="GET")
        waiting.go.set()
        return health, await batch

    health, batch = asyncio.run(both())
    assert (health.status, batch.status) == (200, 200)
    assert len(batch.json["predictions"]) == MAX_ROWS
