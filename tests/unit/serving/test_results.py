"""What replies are worth: a canary can't talk itself into being valid, nor keep the loop busy with talking."""

from __future__ import annotations

import json
import time

import pytest

from airworthy.serving.results import MAX_REPLY, first_score, result_of, rows_of

ONE = b'{"predictions": [0.25]}'
THREE = b'{"predictions": [0.25, 0, 1]}'
ROWS = b'{"instances": [{"hour": 1}, {"hour": 2}, {"hour": 3}]}'
TENSORS = b'{"inputs": [{"name": "hour", "shape": [3, 1], "datatype": "INT64", "data": [[1], [2], [3]]}]}'


def test_the_first_score_is_read_of_both_protocols() -> None:
    assert first_score(b'{"predictions": [0.1, 0.9]}') == 0.1
    assert first_score(b'{"outputs": [{"data": [0.2]}]}') == 0.2
    assert first_score(b'{"predictions": [1]}') == 1.0
    assert first_score(b'{"specversion": "1.0", "data": {"predictions": [0.3]}}') == 0.3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'"predictions"',
        b"\xff",
        b'{"predictions": []}',
        b'{"predictions": [0.1, 7]}',
        b'{"predictions": [0.1, NaN]}',
        b'{"predictions": [NaN, 0.1]}',
        b'{"predictions": [1e999]}',
        b'{"predictions": [-Infinity]}',
        b'{"predictions": ["0.1"]}',
        b'{"predictions": "0.1"}',
        b'{"predictions": [true]}',
        b'{"predictions": [null]}',
        b'{"predictions": [[0.1]]}',
        b'{"predictions": {"0.1": 1}}',
        b'{"predictions": [' + b"1" * 5000 + b"]}",
        b"[" * 100_000,
        b'{"outputs": []}',
        b'{"specversion": "1.0", "data": 1}',
        b'{"specversion": "1.0"}',
        b'{"outputs": [{"data": null}]}',
        '{"predictions": [0.1]}'.encode("utf-16"),
    ],
)
def test_what_is_no_prediction_has_no_score(content: bytes) -> None:
    assert first_score(content) is None


@pytest.mark.parametrize("request_", [ROWS, TENSORS])
def test_there_is_one_prediction_per_row(request_: bytes) -> None:
    assert result_of(200, THREE, request_) == ("ok", 0.25)
    assert result_of(200, ONE, request_) == ("invalid", None)


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b'{"instances": 1}',
        b'{"inputs": []}',
        b'{"inputs": [{"shape": []}]}',
    ],
)
def test_requests_whose_rows_cannot_be_counted_are_judged_all_the_same(request_: bytes) -> None:
    assert rows_of(request_) is None
    assert result_of(200, ONE, request_) == ("ok", 0.25)


@pytest.mark.parametrize(
    ("status", "result"), [(201, "ok"), (302, "invalid"), (399, "invalid"), (404, "rejected"), (999, "error")]
)
def test_the_status_comes_before_what_the_body_says(status: int, result: str) -> None:
    assert result_of(status, ONE)[0] == result


def test_a_long_reply_is_read_quickly_or_not_at_all() -> None:
    long = json.dumps({"predictions": [0.123456789] * 70_000}).encode()
    assert first_score(long) == 0.123456789
    begun = time.perf_counter()
    assert first_score(b'{"predictions": [' + b"0," * (16 * MAX_REPLY) + b"0]}") is None
    assert first_score(b'{"predictions": [' + b"[]," * (MAX_REPLY // 4) + b"0]}") is None
    assert time.perf_counter() - begun < 4, "users wait meanwhile"
