"""The demonstration's plan: what is told first, what after, and that it never changes the shipped spec."""

from pathlib import Path

import pytest

from airworthy.demo import MONTHS, SPEC, _chapters, changed_spec
from airworthy.model_spec import load_spec

ROOT = Path(__file__).parents[2]


def test_on_a_fresh_machine_the_story_has_two_releases() -> None:
    first, second = _chapters("story", None)
    assert (first.as_of, second.as_of) == MONTHS[:2]
    assert first.endings == second.endings == ("released",)


def test_told_again_it_goes_on_with_the_next_months() -> None:
    assert [c.as_of for c in _chapters("story", MONTHS[1])] == list(MONTHS[2:4])
    assert _chapters("story", MONTHS[-1]) == []


def test_the_bad_story_needs_a_champion_first() -> None:
    assert len(_chapters("bad-model", None)) == 3
    worse, failing = _chapters("bad-model", MONTHS[1])
    assert worse.endings == ("gate refused",)
    assert failing.endings == ("rolled back",)
    assert failing.fault


def test_a_changed_spec_is_a_valid_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    before = SPEC.read_text()
    with changed_spec({"trainer.rounds": 3}) as path:
        spec = load_spec(path.read_text())
        assert spec.trainer.rounds == 3
        assert Path(spec.validation.schema_file).is_file()
    assert SPEC.read_text() == before
    assert not path.exists()
