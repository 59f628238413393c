"""A dossier states what is recorded, says what is not, and notices what was changed since."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from airworthy import operations
from airworthy.client import LocalClient
from airworthy.dossier import compose, html, markdown, read_dossier, record, write
from airworthy.dossier.chapters import chapters
from airworthy.dossier.document import Dossier
from airworthy.errors import GateError, RegistryError
from airworthy.registry import Registry
from tests.release_evidence import SPEC_TEXT, make_evidence, new_store, spec
from tests.whole_releases import TEXT, Release, release

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two releases, the second compared with the first."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", new_store(folder / "mlflow"))
        registry = Registry()
        first = release(registry, folder / "first")
        text = TEXT.replace("min_auc: 0.6", "min_auc: 0.65")
        release(registry, folder / "second", champion=first.version, text=text, rounds=3)
    return folder


@pytest.fixture
def registry(store: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store / 'mlflow' / 'mlflow.db'}")
    return Registry()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry of one test's own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path / "mlflow"))
    return Registry()


def broken(dossier: Dossier) -> dict[str, str]:
    return {entry.name: entry.sentence for entry in dossier.broken}


def test_everything_a_release_recorded_is_in_it(registry: Registry) -> None:
    found = compose(registry, "late", "2")
    assert found.identity.status == "champion: serves"
    assert found.identity.pipeline_run == "release-3"
    assert {s.field: s.text for s in found.card}["purpose"] == "Warn passengers an hour before departure."
    assert [(w.role, w.rows) for w in found.data.windows] == [("train", 60), ("tune", 30), ("test", 84_000)]
    assert found.data.statistics["train"]["carrier"].top[0] == ("AA", 20.0)
    assert found.training.curves["tune_logloss"] == ((0, 0.61), (1, 0.58), (2, 0.56))
    assert found.training.metrics["tune_auc"] == 0.74
    assert found.training.device == "cpu"
    assert found.verdict
    assert found.verdict.passed
    assert found.findings
    assert found.findings.challenger
    assert found.smoke
    assert found.smoke.metrics["p99_ms"] == 3.0
    assert found.rollout
    assert found.rollout.stable_version == "1"
    assert [event.action for event in found.history][-1] == "promoted"
    assert {(r.role, r.version) for r in found.references} == {
        ("replaced champion", "1"),
        ("compared champion", "1"),
    }
    assert not found.broken
    assert not found.missing


def test_the_change_log_tells_policy_training_and_metrics_apart(registry: Registry) -> None:
    found = compose(registry, "late", "2").changes
    assert found
    assert found.version == "1"
    assert {c.what: (c.before, c.after) for c in found.facts}["Trees kept"] == (2, 3)
    assert found.spec_diff
    assert "-  min_auc: 0.6\n+  min_auc: 0.65" in found.spec_diff
    auc = next(m for m in found.metrics if m.metric == "auc")
    assert auc.difference
    assert auc.difference.interval


def test_a_first_release_has_nothing_to_compare_with(registry: Registry) -> None:
    found = compose(registry, "late", "1")
    assert found.changes is None
    assert found.references == ()
    assert found.identity.status == "served before; version 2 is champion now"
    assert "A first release" in markdown(found)
    assert not found.broken


def test_metrics_and_probes_have_names_for_people(registry: Registry) -> None:
    text = markdown(compose(registry, "late", "2"))
    performance = text[text.index("## Performance") : text.index("## What the scores")]
    assert "| AUC |" in performance
    assert not re.search(r"\| (calibration_error\w*|pr_auc|missing_feature \| missing) \|", performance)


def test_the_same_facts_give_the_same_bytes(registry: Registry, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(compose(registry, "late", "2"), tmp_path / name)
    for file in ("dossier.json", "dossier.md", "dossier.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    again = read_dossier(tmp_path / "a")
    assert html(again).encode() == (tmp_path / "a" / "dossier.html").read_bytes(), "the JSON is all it takes"


def test_the_page_loads_nothing_and_escapes_what_people_wrote(own: Registry, tmp_path: Path) -> None:
    text = TEXT.replace("Flight operations", "<script>alert(1)</script> *Ops* | [x](http://example.com)")
    release(own, tmp_path / "first", text=text)
    found = compose(own, "late", "1")
    page, document = html(found), markdown(found)
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!#)|url\(|@import", page)
    assert "&lt;script&gt;" in page
    assert "<script" not in document.replace("\\<", "")
    assert "\\[x](http" in document
    assert len(page) < 400_000


def test_the_markdown_is_tables_and_quotes_and_never_html(own: Registry, tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    text = TEXT.replace("Flight operations", "A | B <b>bold</b> _c_ `d`")
    release(own, tmp_path / "first", text=text)
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown(compose(own, "late", "1")))
    kinds = [token.type for token in tokens]
    inline = [child for token in tokens for child in token.children or ()]
    assert kinds.count("table_open") >= 12
    assert "html_block" not in kinds
    assert not {"html_inline", "link", "image"} & {child.type for child in inline}
    assert "A | B <b>bold</b> _c_ `d`" in "".join(child.content for child in inline)
    assert kinds.count("heading_open") == 1 + len(chapters(compose(own, "late", "1")))


def test_person_and_record_can_be_told_apart(registry: Registry) -> None:
    document = markdown(compose(registry, "late", "2"))
    said = "**Intended purpose** *(stated by the owner in card.purpose of the model spec)*"
    assert said in document
    assert "> Safety decisions of any kind.\n> Rating of pilots." in document
    assert "no legal advice" in document


def test_what_nobody_stated_is_listed_and_not_invented(own: Registry, tmp_path: Path) -> None:
    release(own, tmp_path / "first", text=SPEC_TEXT + "card: {purpose: Warn., mandatory: [purpose, owner]}\n")
    found = compose(own, "late", "1")
    assert [point.field for point in found.missing] == ["card.owner"]
    document = markdown(found)
    assert "**1 MANDATORY POINT MISSING**" in document
    assert "Owner: to be supplied by the owner in card.owner of the model spec." in document
    assert "card.contact" in document, "what is not mandatory is listed, too"


def test_a_version_of_an_older_library_is_described_as_far_as_it_goes(own: Registry, tmp_path: Path) -> None:
    evidence = make_evidence(tmp_path / "old")
    own.register(spec()[0], verdict=evidence.verdict, bundle=evidence.bundle)
    found = compose(own, "late", "1")
    assert not found.broken
    assert {p.field for p in found.open_points} >= {"findings", "statistics", "spec", "card.purpose"}
    assert found.findings is None
    assert "Not recorded with this version." in markdown(found)
    assert "Not recorded with this version." in html(found)


def test_overrides_are_shouted(own: Registry, tmp_path: Path) -> None:
    release(own, tmp_path / "first")
    release(own, tmp_path / "second", champion=own.champion("late"), rounds=3, overridden=True)
    found = compose(own, "late", "2")
    assert [limit.kind for limit in found.limits[:2]] == ["overridden", "overridden"]
    assert "R. Mensah" in found.oversight.overrides[0]
    assert "FAILED CHECKS WERE LET PASS" in markdown(found)
    page = html(found)
    assert page.index("R. Mensah") < page.index("<h1>")


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def tampering() -> dict[str, tuple[Callable[[Release], None], str, str]]:
    """What is done, which record it breaks, and a word of the sentence."""
    return {
        "the model in the bundle": (
            lambda r: (r.stored("bundle") / "model.ubj").write_bytes(b"another model"), "bundle", "model.ubj"),
        "what the bundle says of itself": (
            lambda r: edit(r.stored("bundle") / "airworthy.json", lambda t: t.replace('"late"', '"early"')),
            "bundle", "airworthy.json"),
        "the verdict": (
            lambda r: edit(r.stored("verdict"), lambda t: t.replace("0.768", "0.968")), "verdict", "changed"),
        "the findings": (
            lambda r: edit(r.stored("findings"), lambda t: t.replace("0.768", "0.968")), "findings", "changed"),
        "the statistics": (
            lambda r: (r.stored("statistics") / "train.pb").write_bytes(b"x"), "statistics", "changed"),
        "the spec": (
            lambda r: edit(r.stored("spec"), lambda t: t.replace("Flight operations", "Nobody")), "spec", "changed"),
        "the rollout record": (
            lambda r: edit(r.stored("rollout") / "record.jsonl", lambda t: t + "{}\n"), "rollout", "changed"),
        "the smoke test": (
            lambda r: edit(r.stored("smoke"), lambda t: t.replace("1.4", "0.4")), "smoke", "changed"),
        "the verdict is gone": (lambda r: r.stored("verdict").unlink(), "verdict", "could not fetch"),
        "the registry forgets the verdict": (
            lambda r: r.client.delete_model_version_tag("late", "1", "airworthy.verdict"), "verdict", "any more"),
        "the data's fingerprint in the registry": (
            lambda r: r.client.set_model_version_tag("late", "1", "airworthy.training_fingerprint", "f" * 64),
            "training data", "the registry says ffffffffffff"),
        "the time of the data in the registry": (
            lambda r: r.client.set_model_version_tag("late", "1", "airworthy.as_of", "2014-01-01"),
            "time of the data", "2014-01-01"),
    }  # fmt: skip


@pytest.mark.parametrize("what", tampering().keys())
def test_tampering_is_detected_and_named(what: str, own: Registry, tmp_path: Path) -> None:
    made = release(own, tmp_path / "first")
    tamper, name, word = tampering()[what]
    tamper(made)
    found = compose(own, "late", "1")
    assert list(broken(found)) == [name]
    assert word in broken(found)[name]
    assert str(tmp_path) not in broken(found)[name].replace(str(tmp_path / "mlflow"), "")
    document, page = markdown(found), html(found)
    assert "TAMPERING OR LOSS DETECTED" in document
    assert page.index("do not rely on this version") < page.index("<h1>")
    if name == "verdict":
        assert found.verdict is None, "what was changed is not shown as a fact"
    if name == "spec":
        assert "Nobody" not in document


def test_no_byte_of_any_stored_file_can_be_flipped_unnoticed(own: Registry, tmp_path: Path) -> None:
    made = release(own, tmp_path / "first")
    root = Path(made.client.get_run(str(made.version.run_id)).info.artifact_uri.removeprefix("file://"))
    files = sorted(path for path in root.rglob("*") if path.is_file())
    assert len(files) > 15
    draw = random.Random(0)
    for file in files:
        content = file.read_bytes()
        at = draw.randrange(len(content))
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert compose(own, "late", "1").broken, file.relative_to(root)
        file.write_bytes(content)
    assert not compose(own, "late", "1").broken


def test_changing_a_file_together_with_its_digest_contradicts_the_kept_dossier(
    own: Registry, tmp_path: Path
) -> None:
    made = release(own, tmp_path / "first")
    record(own, "late", "1", tmp_path / "dossier")
    assert not compose(own, "late", "1", earlier=True).broken
    edit(made.stored("findings"), lambda text: text.replace("0.768", "0.968"))
    from airworthy.registry.evidence import content_digest

    digest = content_digest(made.stored("findings"))
    made.client.set_model_version_tag("late", "1", "airworthy.findings_sha256", digest)
    assert not compose(own, "late", "1").broken
    assert "findings" in broken(compose(own, "late", "1", earlier=True))["dossier"]


def test_a_damaged_kept_dossier_is_noticed(own: Registry, tmp_path: Path) -> None:
    made = release(own, tmp_path / "first")
    record(own, "late", "1", tmp_path / "dossier")
    edit(made.stored("dossier") / "dossier.md", lambda text: text + "all is well\n")
    assert "dossier" in broken(compose(own, "late", "1", earlier=True))


def test_recording_is_repeatable_and_refused_for_records_that_do_not_hold(
    own: Registry, tmp_path: Path
) -> None:
    made = release(own, tmp_path / "first", promote=False)
    for name in ("once", "twice"):
        record(own, "late", "1", tmp_path / name)
    digests = own.evidence(own.version("late", "1"))
    assert (tmp_path / "once" / "dossier.json").read_bytes() == (
        tmp_path / "twice" / "dossier.json"
    ).read_bytes()
    made.stored("findings").write_text("{}")
    with pytest.raises(GateError, match=r"the records of late version 1 do not hold: .*findings was changed"):
        record(own, "late", "1", tmp_path / "third")
    assert own.evidence(own.version("late", "1")) == digests
    assert "TAMPERING" in (tmp_path / "third" / "dossier.md").read_text()


def test_an_answer_about_the_approval_is_in_it_and_forging_one_is_noticed(
    own: Registry, tmp_path: Path
) -> None:
    from airworthy.registry import approval

    made = release(own, tmp_path / "first", text=TEXT + "approval: {required: true}\n", promote=False)
    approval.answer(own, "late", "1", approved=True, reason="read it all", by="ada")
    found = compose(own, "late", "1")
    assert "approved by ada" in (found.oversight.approval or "")
    assert not found.broken
    key = "airworthy.approval_answer"
    said = json.loads(made.client.get_model_version("late", "1").tags[key])
    made.client.set_model_version_tag("late", "1", key, json.dumps({**said, "by": "grace"}))
    assert "grace" in broken(compose(own, "late", "1"))["answer about the approval"]


def test_a_champion_that_nobody_approved_is_noticed_where_its_spec_asks(
    own: Registry, tmp_path: Path
) -> None:
    text = TEXT + "approval: {required: true}\n"
    made = release(own, tmp_path / "first", text=text, promote=False)
    made.client.delete_model_version_tag("late", "1", "airworthy.approval_required")
    made.client.set_registered_model_alias("late", "champion", "1")
    sentence = broken(compose(own, "late", "1"))["approval of the champion"]
    assert "the spec says required; the registry says nobody approved it" in sentence


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("approval_answer", "approval of the champion"),
        ("training_rows", "training rows"),
        ("rolled_back", None),
        ("retention", None),
    ],
)
def test_damaged_tags_are_findings_not_crashes(
    own: Registry, tmp_path: Path, tag: str, name: str | None
) -> None:
    made = release(own, tmp_path / "first", text=TEXT + "approval: {required: true}\n", promote=False)
    made.client.set_registered_model_alias("late", "champion", "1")
    made.client.set_model_version_tag("late", "1", f"airworthy.{tag}", "{")
    found = broken(compose(own, "late", "1"))
    assert name is None or name in found


def test_a_damaged_history_is_one_sentence(own: Registry, tmp_path: Path) -> None:
    made = release(own, tmp_path / "first")
    made.client.set_registered_model_tag("late", "airworthy.move.2030-01-01T00:00:00.000000", "{")
    with pytest.raises(RegistryError, match=r"history is damaged: its tag airworthy.move.2030"):
        compose(own, "late", "1")


def test_a_lost_champion_leaves_an_open_point(own: Registry, tmp_path: Path) -> None:
    first = release(own, tmp_path / "first")
    release(own, tmp_path / "second", champion=first.version, rounds=3)
    first.client.delete_model_version("late", "1")
    found = compose(own, "late", "2")
    assert found.changes is None
    assert any(
        "Version 1, the champion before, is not in the registry" in p.sentence for p in found.open_points
    )


def test_the_operation_writes_checks_and_refuses(
    own: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = release(own, tmp_path / "first")
    out = tmp_path / "out"
    assert operations.main(["dossier", "late", "champion", "--out", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["dossier.html", "dossier.json", "dossier.md"]
    shutil.rmtree(out)
    assert operations.main(["dossier", "late", "1", "--check"]) == 0
    assert not out.exists()
    assert "verified      bundle: As recorded." in capsys.readouterr().out
    made.stored("verdict").write_text("{}")
    assert operations.main(["dossier", "late", "1", "--check"]) == 3
    assert "the records of late version 1 do not hold" in capsys.readouterr().err
    assert operations.main(["dossier", "late", "9"]) == 2
    assert "late@9: no such version; there are 1 (champion)" in capsys.readouterr().err


def test_a_notebook_writes_it_too(own: Registry, tmp_path: Path) -> None:
    made = release(own, tmp_path / "first")
    client = LocalClient(home=tmp_path / "home")
    folder = client.dossier("late")
    assert (folder, (folder / "dossier.html").is_file()) == (tmp_path / "home/dossiers/late-1", True)
    made.stored("verdict").write_text("{}")
    with pytest.raises(GateError, match="do not hold"):
        client.dossier("late@1", tmp_path / "out")
    assert (tmp_path / "out/dossier.html").is_file()


def test_a_version_is_named_after_the_model() -> None:
    from airworthy.client import model_version
    from airworthy.errors import ConfigError

    assert model_version("late@3") == ("late", "3")
    assert model_version("late", "champion") == ("late", "champion")
    with pytest.raises(ConfigError, match="give MODEL@VERSION"):
        model_version("late")


def test_the_component_puts_out_all_three_forms(own: Registry, tmp_path: Path) -> None:
    from kfp import dsl

    from components.write_dossier.component import write_dossier

    made = release(own, tmp_path / "first", promote=False)
    outputs = {
        "dossier": dsl.HTML(uri=str(tmp_path / "dossier")),
        "document": dsl.Markdown(uri=str(tmp_path / "document")),
        "facts": dsl.Artifact(uri=str(tmp_path / "facts")),
    }
    write_dossier.python_func(spec=TEXT, version="1", **outputs)
    assert (tmp_path / "dossier").read_text().startswith("<!doctype html>")
    assert (tmp_path / "document").read_text().startswith("# Dossier of late version 1")
    assert read_dossier(tmp_path / "facts").identity.status.startswith("challenger")
    assert "dossier" in own.evidence(own.version("late", "1"))
    made.stored("findings").write_text("{}")
    with pytest.raises(GateError, match="findings"):
        write_dossier.python_func(spec=TEXT, version="1", **outputs)
    assert "TAMPERING" in (tmp_path / "document").read_text(), "the dossier that says so is there to be read"


def test_a_reproduction_kept_with_the_version_is_told(own: Registry, tmp_path: Path) -> None:
    made = release(own, tmp_path / "first")
    said = {"headline": "bit-identical: made again byte for byte", "recorded_digest": made.version.digest}
    (tmp_path / "reproduction.json").write_text(json.dumps(said))
    own.attach(made.version, "reproduction", tmp_path / "reproduction.json")
    found = compose(own, "late", "1")
    assert found.training.reproduced == said["headline"]
    assert "bundle that was made again" in {entry.name for entry in found.integrity}
