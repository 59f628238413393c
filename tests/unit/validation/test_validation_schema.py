"""Schema files: what is inferred, and what is refused with a sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import validation_windows as flights
from google.protobuf import text_format
from validation_windows import Validated

from airworthy.errors import ConfigError, DataError
from airworthy.model_spec import read_spec
from airworthy.operations import main
from airworthy.validation import infer_schema
from airworthy.validation.schema import parse_schema

ROOT = Path(__file__).parents[3]
Check = Callable[..., Validated]


def test_inferred_schema_describes_the_data(schema: str) -> None:
    features = {feature.name: feature for feature in parse_schema(schema).feature}
    assert set(features) == {f.name for f in flights.FEATURES} | {"late"}
    assert list(features["late"].not_in_environment) == ["SERVING"]
    assert features["weekend"].WhichOneof("domain_info") == "bool_domain"
    assert features["temp"].presence.min_fraction == 1
    assert features["wind_gust"].presence.min_fraction == 0
    assert schema.startswith("# Schema of the columns that arr_late_v1 brings")
    assert "4,000 rows, 2013-06-03 to 2013-08-02" in schema


def test_text_form_is_exact(schema: str) -> None:
    parsed = parse_schema(schema)
    assert parse_schema(text_format.MessageToString(parsed)) == parsed


def test_long_lists_stay_open(windows: dict[str, Path]) -> None:
    features = {f.name: f for f in parse_schema(infer_schema(windows["train"], max_values=4)).feature}
    assert features["origin"].domain == "origin"
    assert not features["dest"].HasField("domain")


def test_nothing_to_infer_from(windows: dict[str, Path], tmp_path: Path) -> None:
    empty = flights.changed(windows["test"], tmp_path, lambda table: table.slice(0, 0))
    with pytest.raises(DataError, match="the dataset is empty"):
        infer_schema(empty)
    with pytest.raises(DataError, match="no dataset here"):
        infer_schema(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('feature {\n  name: "a"\n  typo: FLOAT\n}', r'flights\.pbtxt:3: not a TFDV schema: .*"typo"'),
        ('feature {\n  name: "a"\n', r"flights\.pbtxt:2: not a TFDV schema: Expected"),
        ("feature { type: FLOTE }", r"flights\.pbtxt:1: not a TFDV schema: .*FLOTE"),
        ("# nothing\n", "the schema lists no features"),
        ('feature {name: "a"}', "feature a: type is missing"),
        ("feature {type: INT}", "feature (without a name): every feature needs a name of its own"),
        ('feature {name: "a" type: INT} feature {name: "a" type: INT}', "a: every feature needs a name"),
        ('feature {name: "a" type: BYTES domain: "b"}', "domain 'b' is not among the string_domain entries"),
        ('feature {name: "a" type: INT not_in_environment: "PROD"}', "environment 'PROD' is not among"),
        ('feature {name: "a" type: INT}', "add default_environment: 'SERVING'"),
    ],
)
def test_wrong_schema_is_refused_with_a_sentence(check: Check, text: str, message: str) -> None:
    pattern = message if message.startswith("flights") else message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ConfigError, match=pattern) as caught:
        check(schema_text=text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("severities", "message"),
    [
        ({"DUPLICATE_ID": "warn"}, "DUPLICATE_ID is not a kind of finding; did you mean DUPLICATE_IDS?"),
        ({"NONSENSE": "warn"}, "NONSENSE is not a kind of finding"),
        ({"EMPTY_WINDOW": "warn"}, "an empty window always blocks"),
        ({"SKEW": "block"}, "set validation.skew.severity instead"),
    ],
)
def test_wrong_severities_are_refused(check: Check, severities: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(policy={"severities": severities})


@pytest.mark.parametrize("spec", sorted((ROOT / "models").glob("*.yaml")), ids=lambda path: path.stem)
def test_schemas_of_the_repo_fit_their_specs(spec: Path) -> None:
    model, _, text = read_spec(spec)
    features = {feature.name: feature for feature in parse_schema(text, spec.name).feature}
    label = features[model.label.column]
    assert list(label.not_in_environment) == ["SERVING"]
    assert label.presence.min_fraction == 1


def test_command_infers_a_schema(windows: dict[str, Path], schema: str, tmp_path: Path) -> None:
    out = tmp_path / "schemas" / "flights.pbtxt"
    assert main(["infer", str(windows["train"]), "--out", str(out)]) == 0
    assert out.read_text() == schema


def test_command_refuses_with_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["infer", str(tmp_path), "--out", str(tmp_path / "x.pbtxt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_importing_the_room_is_cheap() -> None:
    heavy = "('tensorflow', 'pandas', 'pyarrow')"
    code = f"import sys, airworthy.validation; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
