"""Reading requests: every mistake gets one sentence that names the place; good requests become columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from airworthy.encoding import Feature
from airworthy.errors import DataError
from airworthy.serving.protocol import read_v1, read_v2

FEATURES = (
    Feature(name="hour", kind="integer", nullable=False),
    Feature(name="wind", kind="number", nullable=True),
    Feature(name="carrier", kind="category", categories=("AA", "DL"), nullable=False),
    Feature(name="rain", kind="bool", nullable=True),
)
ROW = {"hour": 7, "wind": 3.5, "carrier": "AA", "rain": False}


@dataclass
class Tensor:
    """What is used of KServe's `InferInput`."""

    name: str
    datatype: str
    data: list[Any]
    shape: list[int]


@dataclass
class Request:
    inputs: list[Tensor] = field(default_factory=list)


def tensors(**changes: Tensor | None) -> Request:
    made = {
        "hour": Tensor("hour", "INT64", [7, 8], [2]),
        "wind": Tensor("wind", "FP32", [3.5, None], [2, 1]),
        "carrier": Tensor("carrier", "BYTES", ["AA", ""], [2]),
        "rain": Tensor("rain", "BOOL", [True, None], [2]),
        **changes,
    }
    return Request([tensor for tensor in made.values() if tensor])


def test_v1_rows_become_columns_with_unknown_values() -> None:
    body = {"instances": [ROW, {"hour": 8.0, "wind": None, "carrier": None, "rain": None}]}
    assert read_v1(body, FEATURES, 10) == {
        "hour": [7, 8.0],
        "wind": [3.5, None],
        "carrier": ["AA", None],
        "rain": [False, None],
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], 'the body must be a JSON object with a list "instances"'),
        ({"instances": ROW}, 'the body must be a JSON object with a list "instances"'),
        ({"instances": [ROW], "params": 1}, "the body has an unknown field 'params'"),
        ({"instances": []}, "the request has no rows"),
        ({"instances": [ROW] * 11}, "the request has 11 rows; this server takes at most 10 at a time"),
        ({"instances": [ROW, [1, 2]]}, "instances[1] must be an object"),
        ({"instances": [{**ROW, "wimd": 1}]}, "instances[0]: 'wimd' is not a feature of this model"),
        ({"instances": [{"hour": 7, "wimd": 1}]}, "feature 'wind' is missing; send null"),
        ({"instances": [{**ROW, "hour": "7"}]}, "instances[0].hour must be a whole number or null, not '7'"),
        ({"instances": [{**ROW, "hour": 7.5}]}, "instances[0].hour must be a whole number or null, not 7.5"),
        ({"instances": [{**ROW, "hour": True}]}, "instances[0].hour must be a whole number or null"),
        ({"instances": [{**ROW, "wind": "calm"}]}, "instances[0].wind must be a number or null, not 'calm'"),
        ({"instances": [{**ROW, "carrier": 3}]}, "instances[0].carrier must be a string or null, not 3"),
        ({"instances": [{**ROW, "rain": 1}]}, "instances[0].rain must be true, false or null, not 1"),
    ],
)
def test_v1_mistakes_are_named(body: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_v1(body, FEATURES, 10)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_v2_tensors_become_columns_and_empty_text_is_unknown() -> None:
    assert read_v2(tensors(), FEATURES, 10) == {
        "hour": [7, 8],
        "wind": [3.5, None],
        "carrier": ["AA", None],
        "rain": [True, None],
    }


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (tensors(hour=None), "inputs: feature 'hour' is missing"),
        (tensors(x=Tensor("x", "FP32", [1], [1])), "inputs: 'x' is not a feature of this model"),
        (tensors(x=Tensor("hour", "INT64", [1, 2], [2])), "input 'hour' is there twice"),
        (tensors(hour=Tensor("hour", "BYTES", ["7", "8"], [2])), "input 'hour' has datatype BYTES; for this"),
        (tensors(wind=Tensor("wind", "FP32", [1.0], [2])), "has shape [2] but 1 values"),
        (tensors(hour=Tensor("hour", "INT64", [[7], 8], [2])), "input 'hour'[0] must be a whole number"),
        (tensors(hour=Tensor("hour", "INT64", [[7], [8, 9]], [2, 1])), "input 'hour'[0] must be a whole"),
        (tensors(carrier=Tensor("carrier", "BYTES", [["AA"], "DL"], [2, 1])), "input 'carrier'[0] must be a"),
        (
            tensors(**{"x" * 99: Tensor("x" * 99, "FP32", [1], [1])}),
            "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...",
        ),
        (tensors(wind=Tensor("wind", "FP32", [1.0], [1])), "has 1 rows, but 'hour' has 2"),
        (tensors(wind=Tensor("wind", "FP32", [1.0] * 4, [2, 2])), "has shape [2, 2]; give it shape [rows]"),
        (tensors(hour=Tensor("hour", "FP64", [7.5, 8], [2])), "input 'hour'[0] must be a whole number"),
    ],
)
def test_v2_mistakes_are_named(request_: Request, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_v2(request_, FEATURES, 10)
    assert message in str(caught.value)


def test_named_inputs_may_be_sent_and_are_not_read() -> None:
    ignored = frozenset({"gate", "hour"})  # the name of a feature stays a feature
    body = {"instances": [{**ROW, "gate": "B12"}]}
    assert read_v1(body, FEATURES, 10, ignored) == read_v1({"instances": [ROW]}, FEATURES, 10)
    extra = tensors(gate=Tensor("gate", "BYTES", ["B12"], [1]))
    assert read_v2(extra, FEATURES, 10, ignored) == read_v2(tensors(), FEATURES, 10)
    with pytest.raises(DataError, match="'gate' is not a feature"):
        read_v1(body, FEATURES, 10)
