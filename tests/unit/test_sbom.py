"""Bills of materials: valid, complete, reproducible, and no index's address in them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from airworthy import __version__
from airworthy.errors import ConfigError
from airworthy.sbom import bill, read_lock, write_bills

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
GROUPS = {"data", "monitoring", "release", "serving", "training", "training-gpu", "validation"}


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    written = write_bills(REQUIREMENTS, tmp_path_factory.mktemp("sbom"))
    return {path.name.removesuffix(".cdx.json"): path for path in written}


def test_every_image_group_has_one(bills: dict[str, Path]) -> None:
    assert set(bills) == GROUPS


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_it_is_valid_against_the_schema(bills: dict[str, Path], group: str) -> None:
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bills[group].read_text())
    assert problem is None, problem


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_it_says_what_the_standard_tool_reads_from_the_lock_file(bills: dict[str, Path], group: str) -> None:
    """`cyclonedx-py` is the independent reader; it knows one lock file at a time."""
    lock = REQUIREMENTS / f"{group}.txt"
    command = [
        sys.executable,
        "-m",
        "cyclonedx_py",
        "requirements",
        "--of",
        "JSON",
        "--no-validate",
        str(lock),
    ]
    read = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def contents(document: dict[str, object], only: str | None = None) -> dict[tuple[str, str], set[str]]:
        found = {}
        for entry in document["components"]:  # type: ignore[attr-defined]
            places = [p["value"] for p in entry.get("properties", []) if p["name"] == "airworthy:lock"]
            if only is None or places == [only]:
                hashes = {h["content"] for ref in entry["externalReferences"] for h in ref["hashes"]}
                found[entry["name"], entry["version"]] = hashes
        return found

    ours = json.loads(bills[group].read_text())
    assert contents(ours, lock.name) == contents(read)
    executor = {(pin.name, pin.version) for pin in read_lock(REQUIREMENTS / "executor.txt")}
    assert contents(ours).keys() == contents(read).keys() | executor


def test_it_is_reproducible_and_names_what_it_is_about(bills: dict[str, Path], tmp_path: Path) -> None:
    again = {path.name: path.read_bytes() for path in write_bills(REQUIREMENTS, tmp_path)}
    assert again == {path.name: path.read_bytes() for path in bills.values()}
    said = json.loads(bills["release"].read_text())
    about = said["metadata"]["component"]
    assert (about["name"], about["version"]) == ("airworthy", __version__)
    assert {"name": "airworthy:group", "value": "release"} in about["properties"]
    assert "timestamp" not in said["metadata"]
    serials = {json.loads(path.read_text())["serialNumber"] for path in bills.values()}
    assert len(serials) == len(GROUPS)


def test_no_address_of_an_index_is_in_it(bills: dict[str, Path]) -> None:
    for path in bills.values():
        said = json.loads(path.read_text())
        assert "://" not in json.dumps({key: value for key, value in said.items() if key != "$schema"})


def test_extras_markers_and_comments_are_read(tmp_path: Path) -> None:
    lock = tmp_path / "group.txt"
    lock.write_text(
        "# made by make lock\nUvicorn_x[standard]==1.0+cu12 ; sys_platform == 'linux' \\\n"
        f"    --hash=sha256:{'b' * 64} \\\n    --hash=sha256:{'a' * 64}\n    # via x\n"
    )
    (pin,) = read_lock(lock)
    assert (pin.name, pin.version, pin.marker) == ("Uvicorn_x", "1.0+cu12", "sys_platform == 'linux'")
    assert pin.hashes == ("a" * 64, "b" * 64)
    assert pin.purl == "pkg:pypi/uvicorn-x@1.0%2Bcu12"
    document = bill("group", [lock])
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None


@pytest.mark.parametrize(
    "line", ["kfp>=2\n", "kfp==2.17.0\n", "-e .\n", "https://example.com/kfp.whl --hash=sha256:00\n"]
)
def test_what_is_not_pinned_by_hash_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "group.txt").write_text(line)
    with pytest.raises(ConfigError, match="is no exact version with hashes; run `make lock`"):
        read_lock(tmp_path / "group.txt")


def test_without_lock_files_there_is_nothing_to_bill(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no lock files here"):
        write_bills(tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match="can't be read"):
        bill("none", [tmp_path / "none.txt"])
