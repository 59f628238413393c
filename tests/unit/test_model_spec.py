"""A wrong spec gets one sentence per problem, with file, line and field."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel

from airworthy.errors import ConfigError
from airworthy.model_spec import ModelSpec, load_spec, read_spec
from airworthy.model_spec.gate import Direction, Invariance, Override, Scenario

MODELS = Path(__file__).parents[2] / "models"
REFERENCE = (MODELS.parent / "docs" / "model-spec.md").read_text()
TEXT = (MODELS / "flight_delay.yaml").read_text()


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_spec_loads_and_names_a_schema_that_exists(path: Path) -> None:
    spec, text, schema = read_spec(path)
    assert spec.name == path.stem
    assert text == path.read_text()
    assert "feature {" in schema


WRONG = {
    "unknown key, near a known one": (
        "min_auc: 0.66",
        "min_acu: 0.66",
        r":{line} gate\.min_acu: .* did you mean min_auc\?",
    ),
    "out of range": (
        "min_auc: 0.66",
        "min_auc: 0.2",
        r":{line} gate\.min_auc: .*greater than or equal to 0\.5 \(it is 0\.2\)",
    ),
    "wrong type": ("train_days: 150", "train_days: soon", r"splits\.train_days: .*number.* \(it is 'soon'\)"),
    "steps that fall": (
        "steps: [10, 50]",
        "steps: [50, 10]",
        r"rollout.*steps: must be traffic percents that rise",
    ),
    "step above 100": (
        "steps: [10, 50]",
        "steps: [10, 150]",
        r"rollout\.steps\.1: .*less than or equal to 100",
    ),
    "no name": ("name: flight_delay", "description: again", r"name: is missing|not valid YAML: .*duplicate"),
    "name with a space": ("name: flight_delay", "name: flight delay", r":{line} name: .*pattern"),
    "not YAML": ("gpu: auto", "gpu: [", r"not valid YAML"),
    "our own XGBoost parameter": ("max_depth: 6", "device: cuda", r"trainer.*device is set by Airworthy"),
    "unknown trainer": ("kind: xgboost", "kind: forest", r"trainer\.kind: .*'xgboost' \(it is 'forest'\)"),
    "unknown policy": ("policy: non_inferiority", "policy: vibes", r"gate\.champion\.policy"),
    "certainty of one": (
        "confidence: 0.95 ",
        "confidence: 1.0 ",
        r"gate\.champion\.confidence: .*less than 1",
    ),
    "the same slice twice": (
        "slices: [origin, carrier, origin*carrier]",
        "slices: [origin*carrier, carrier*origin]",
        r"slices: a column or crossing is named twice",
    ),
    "the same protected column twice": (
        "columns: [origin] ",
        "columns: [origin, origin] ",
        r"gate\.fairness.*columns: one is named twice",
    ),
    "a scenario above itself": (
        "above: quiet morning",
        "above: summer evening with departures piling up",
        r"above itself",
    ),
    "a scenario that no score can keep": (
        "max_score: 0.3",
        "{max_score: 0.3, min_score: 0.4}"[1:-1].replace(", ", "\n      "),
        r"no score can keep both",
    ),
    "endless days": ("test_days: 28", "test_days: .inf", r"splits\.test_days: .*finite"),
    "endless deadline": ("alpha: 0.05", "deadline_seconds: .inf", r"rollout\.deadline_seconds: .*finite"),
    "zero days": ("test_days: 28", "test_days: 0", r"splits\.test_days: .*greater than 0"),
    "service name for no host": ("service: flight-delay", "service: Flight_Delay", r"rollout\.service"),
}


@pytest.mark.parametrize(("old", "new", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_spec_is_named_by_line_and_field(old: str, new: str, message: str) -> None:
    line = TEXT[: TEXT.index(old)].count("\n") + 1
    with pytest.raises(ConfigError, match=message.replace("{line}", str(line))) as caught:
        load_spec(TEXT.replace(old, new, 1), "models/x.yaml")
    assert all(line.startswith("models/x.yaml:") for line in str(caught.value).splitlines())
    assert caught.value.exit_code == 2


def test_several_problems_are_told_together_in_file_order() -> None:
    text = TEXT.replace("gpu: auto", "gpu: maybe").replace("max_rows: 1000", "max_rows: 0")
    with pytest.raises(ConfigError) as caught:
        load_spec(text, "m.yaml")
    first, second = str(caught.value).splitlines()
    assert "trainer.gpu" in first
    assert "serving.max_rows" in second


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_spec_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a model spec is a YAML mapping"):
        load_spec(text)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such model spec"):
        read_spec(tmp_path / "none.yaml")
    spec = tmp_path / "m.yaml"
    spec.write_bytes("description: à demain".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        read_spec(spec)
    spec.write_text(TEXT)
    with pytest.raises(ConfigError, match=r"airworthy schema infer"):
        read_spec(spec)


def test_windows_touch_and_end_at_as_of() -> None:
    windows = load_spec(TEXT).splits.windows()
    assert windows["train"][1] == windows["tune"][0]
    assert windows["tune"][1] == windows["test"][0]
    assert windows["test"][1].total_seconds() == 0


def test_every_field_is_documented_and_nothing_else() -> None:
    assert set(_documented()) == set(_fields(ModelSpec))


def test_every_field_of_a_lists_items_is_documented() -> None:
    for item in (Invariance, Direction, Scenario, Override):
        assert "{" + ", ".join(item.model_fields) + "}" in REFERENCE


def _documented() -> Iterator[str]:
    """Fields in the table's first column: `a.b`, `c` (of a, too), `a.{b,c}`."""
    for row in re.findall(r"^\| (`.+?) \|", REFERENCE, re.M):
        section = ""
        for code in re.findall(r"`([^`]+)`", row):
            section = code.rpartition(".")[0] or section
            pieces = re.split(
                r"[{}]", f"{section}.{code.rpartition('.')[2]}".lstrip(".")
            )  # every other is a list
            yield from map("".join, itertools.product(*(piece.split(",") for piece in pieces)))


def _fields(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Paths of all fields; sections are entered, lists are not."""
    for name, field in section.model_fields.items():
        parts = [field.annotation, *get_args(field.annotation)]
        found = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
        path = prefix + (field.alias or name)
        if found and get_origin(field.annotation) is not tuple:
            yield from _fields(found[0], f"{path}.")
        else:
            yield path
