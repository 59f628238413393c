"""Single rows on the quick way: the same matrix to the bit, or none; and the self-check before serving."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airworthy.bundle import Scorer
from airworthy.encoding import Encoder, Feature
from airworthy.errors import DataError, ServingError
from airworthy.serving.predictor import Predictor
from airworthy.serving.protocol import Tensor, TensorRequest
from tests.release_evidence import Evidence

FEATURES = (
    Feature(name="hour", kind="integer", nullable=True),
    Feature(name="wind", kind="number", nullable=True),
    Feature(name="carrier", kind="category", categories=("AA", "", "DL"), nullable=True),
    Feature(name="rain", kind="bool", nullable=True),
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-30, 30),
    st.floats(),
    st.floats(-50, 50, width=32),
    st.sampled_from([1e39, -1e39, 2.0**53, 3.0, 16777217, np.float32(0.1), np.int64(3)]),
)
ANYTHING = st.one_of(st.none(), NUMBERS, st.booleans(), st.sampled_from(["AA", "", "DL", "ZZ"]))
LIKELY = {
    "hour": st.one_of(st.none(), st.integers(0, 23), st.sampled_from([7.0, -0.0])),
    "wind": st.one_of(st.none(), NUMBERS),
    "carrier": st.one_of(st.none(), st.sampled_from(["AA", "", "DL", "ZZ"])),
    "rain": st.one_of(st.none(), st.booleans()),
}


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.fixed_dictionaries(LIKELY), st.fixed_dictionaries(dict.fromkeys(LIKELY, ANYTHING))))
def test_a_row_is_encoded_to_the_bit_as_in_company(row: dict[str, Any]) -> None:
    encoder = Encoder(FEATURES)
    quick = encoder.encode_row(row)
    if quick is None:
        return
    slow, unseen = encoder.encode({name: [value, value] for name, value in row.items()})
    assert quick[0].tobytes() == slow[:1].tobytes()
    assert quick[0].dtype == np.float32
    assert quick[1] == {name: count // 2 for name, count in unseen.items()}


@settings(max_examples=200, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(LIKELY, ANYTHING)))
def test_one_row_fails_as_two_do(row: dict[str, Any]) -> None:
    encoder = Encoder(FEATURES)

    def complaint(rows: int) -> str:
        try:
            encoder.encode({name: [value] * rows for name, value in row.items()})
        except DataError as error:
            return str(error)
        return ""

    assert complaint(1) == complaint(2)


def test_plain_rows_do_take_the_quick_way() -> None:
    encoder = Encoder(FEATURES)
    assert encoder.encode_row({"hour": 7, "wind": 1.5, "carrier": "ZZ", "rain": True}) is not None
    assert encoder.encode_row(dict.fromkeys(LIKELY)) is not None
    assert encoder.encode_row({"hour": 7, "wind": 1.5, "carrier": "AA"}) is None


class Odd:
    """A scorer that answers what it is told to."""

    def __init__(self, scorer: Scorer, *scores: float) -> None:
        self.info, self.encode, self.encode_row = scorer.info, scorer.encode, scorer.encode_row
        self._scores = scores

    def score(self, matrix: Any) -> Any:
        return np.array(self._scores[: len(matrix)])


@pytest.fixture(scope="module")
def scorer(judged: Evidence) -> Scorer:
    return Scorer.load(judged.bundle)


def test_the_self_check_asks_a_row_of_unknown_values(scorer: Scorer) -> None:
    assert 0 < Predictor(scorer).self_check() < 1


@pytest.mark.parametrize("scores", [(float("nan"), 0.5), (0.5, 0.7), (2.0, 2.0)])
def test_a_model_that_fails_its_self_check_is_not_served(scorer: Scorer, scores: tuple[float, ...]) -> None:
    with pytest.raises(ServingError, match="failed its self-check"):
        Predictor(Odd(scorer, *scores)).self_check()  # type: ignore[arg-type]


ROW = {"hour": 9, "distance": 800.0, "carrier": "AA"}


def test_unseen_categories_are_counted_or_refused(scorer: Scorer) -> None:
    document = {"instances": [{**ROW, "carrier": "ZZ"}]}
    assert Predictor(scorer).v1(document).unseen == {"carrier": 1}
    with pytest.raises(DataError, match="'carrier' has a category that was not seen in training"):
        Predictor(scorer, unseen_category="reject").v1(document)


def test_ignored_inputs_do_not_change_the_score(scorer: Scorer) -> None:
    predictor = Predictor(scorer, ignored=frozenset({"gate"}))
    plain = predictor.v1({"instances": [ROW]})
    assert predictor.v1({"instances": [{**ROW, "gate": "B12"}]}).scores == plain.scores
    with pytest.raises(DataError, match="'seat' is not a feature"):
        predictor.v1({"instances": [{**ROW, "seat": "B12"}]})


def test_rows_are_told_alike_on_all_ways(scorer: Scorer) -> None:
    kinds = {"hour": "INT64", "distance": "FP64", "carrier": "BYTES"}

    def tensors(*rows: dict[str, Any]) -> TensorRequest:
        inputs = [Tensor(n, [len(rows)], kind, [row[n] for row in rows]) for n, kind in kinds.items()]
        return TensorRequest("1", inputs)

    predictor = Predictor(scorer)
    for rows in ([ROW], [ROW, {**ROW, "hour": None}]):
        first = predictor.v1({"instances": rows})
        second = predictor.v2(tensors(*rows))
        assert list(first.rows()) == list(second.rows()) == rows
        assert first.scores == second.scores
