"""The card of a spec may take its texts from docs/; they travel and are recorded with the spec."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airworthy.dossier.card import statements, unstated
from airworthy.errors import ConfigError
from airworthy.model_spec import load_spec, read_spec
from airworthy.model_spec.documents import MAX_BYTES, inline_documents, split_document
from tests.release_evidence import SPEC_TEXT

CARD = "card:\n  owner: Ops\n  purpose: docs/purpose.md   # why\n  risks: 'docs/risks.md'\nretention: {days: 9}\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a spec in models/ and texts in docs/; gives the spec's path."""
    (tmp_path / "models").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "purpose.md").write_text('# Why\n\nTo "warn", \\ and: more — ✓.\n')
    (tmp_path / "docs" / "risks.md").write_text("None | known\n")
    (tmp_path / "models" / "late.pbtxt").write_text("feature {}\n")
    spec = tmp_path / "models" / "late.yaml"
    spec.write_text(SPEC_TEXT + CARD)
    return spec


def test_the_text_is_written_into_the_spec_and_no_line_moves(project: Path) -> None:
    before = project.read_text().splitlines()
    spec, text, _ = read_spec(project)
    assert spec.card.purpose == 'docs/purpose.md\n# Why\n\nTo "warn", \\ and: more — ✓.'
    assert load_spec(text) == spec
    after = text.splitlines()
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert [before[i].split(":")[0].strip() for i in changed] == ["purpose", "risks"]
    assert "  # why" in text, "comments stay"
    assert inline_documents(text, project) == text, "a text that is in already is left alone"


def test_the_dossier_names_the_file_that_it_was_taken_from(project: Path) -> None:
    said = {s.field: s for s in statements(read_spec(project)[0])}
    assert said["purpose"].text == '# Why\n\nTo "warn", \\ and: more — ✓.'
    assert said["purpose"].source == "docs/purpose.md, named by card.purpose of the model spec"
    assert said["owner"].source == "card.owner of the model spec"


def test_a_file_beside_the_spec_comes_first(project: Path) -> None:
    near = project.parent / "docs"
    near.mkdir()
    (near / "purpose.md").write_text("near")
    assert read_spec(project)[0].card.purpose == "docs/purpose.md\nnear"


def test_a_name_whose_text_never_came_along_is_missing() -> None:
    spec = load_spec(SPEC_TEXT + CARD)
    points = {point.field: point for point in unstated(statements(spec))}
    assert "names docs/purpose.md, but its text was not recorded" in points["card.purpose"].sentence
    assert points["card.purpose"].mandatory


def test_flow_style_and_plain_texts(project: Path) -> None:
    project.write_text(
        SPEC_TEXT + "card: {purpose: docs/purpose.md, risks: docs/risks.md, users: see docs/x.md}\n"
    )
    card = read_spec(project)[0].card
    assert card.purpose
    assert card.purpose.startswith("docs/purpose.md\n# Why")
    assert card.risks == "docs/risks.md\nNone | known"
    assert card.users == "see docs/x.md"


WRONG = {
    "missing": ("docs/none.md", None, r"late.yaml:\d+ card.purpose: docs/none.md is neither"),
    "empty": ("docs/purpose.md", b" \n", "docs/purpose.md is empty"),
    "not text": ("docs/purpose.md", b"\xff\xfe", "is not UTF-8 text"),
    "too long": ("docs/purpose.md", b"x" * (MAX_BYTES + 1), "over 64 KiB together"),
    "not on the line": (">-\n    docs/purpose.md", b"why", "on the line of the field"),
}


@pytest.mark.parametrize(("name", "content", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_what_can_not_be_taken_is_said_with_its_line(
    project: Path, name: str, content: bytes | None, sentence: str
) -> None:
    project.write_text(SPEC_TEXT + f"card:\n  purpose: {name}\n")
    if content is not None:
        (project.parent.parent / "docs" / "purpose.md").write_bytes(content)
    with pytest.raises(ConfigError, match=sentence):
        read_spec(project)


def test_a_link_out_of_the_documents_is_not_followed(project: Path, tmp_path: Path) -> None:
    docs = project.parent.parent / "docs"
    (tmp_path / "secret").write_text("password")
    (docs / "purpose.md").unlink()
    (docs / "purpose.md").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match=r"docs/purpose.md is a link out of docs/"):
        read_spec(project)
    (docs / "purpose.md").unlink()
    (docs / "purpose.md").symlink_to(docs / "risks.md")
    assert read_spec(project)[0].card.purpose == "docs/purpose.md\nNone | known"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_any_text_arrives_as_it_was(content: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "late.yaml"
        (Path(folder) / "docs").mkdir()
        (Path(folder) / "docs" / "x.md").write_text(content, encoding="utf-8", newline="")
        text = inline_documents(SPEC_TEXT + "card:\n  purpose: docs/x.md\n", path)
        value = load_spec(text).card.purpose or ""
        read = (Path(folder) / "docs" / "x.md").read_text(encoding="utf-8").strip()
        assert value == f"docs/x.md\n{read}"
        assert split_document(value) == ("docs/x.md", read)
