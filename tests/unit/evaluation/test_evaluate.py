"""The gate from files to files: good, worse, foreign and broken models, and always one verdict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airworthy import datasets
from airworthy.errors import AirworthyError, BundleError, ConfigError, DataError, GateError
from airworthy.evaluation import SCORES, Evaluation, evaluate
from airworthy.verdict import Check, Verdict, read_verdict, require_passed
from tests.release_evidence import FEATURES, START, flights, make_bundle, spec, write_flights

ROWS = 2000


@pytest.fixture(scope="module")
def test_window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flights(tmp_path_factory.mktemp("data") / "test", flights(ROWS, seed=3))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make_bundle(tmp_path_factory.mktemp("good") / "bundle")
    return tmp_path_factory.getbasetemp() / "good0" / "bundle"


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worse") / "bundle"
    make_bundle(path, rounds=2, noise=0.45)
    return path


class Outputs:
    """Where one evaluation writes."""

    def __init__(self, folder: Path) -> None:
        self.verdict, self.scores = folder / "verdict.json", folder / "scores"
        self.findings = folder / "findings.json"
        self.report, self.summary = folder / "report.html", folder / "summary.md"

    def run(
        self,
        test: Path,
        bundle: Path,
        champion: tuple[Path, str] | None = None,
        train: Path | None = None,
        **changes: str,
    ) -> Evaluation:
        parsed, text = spec(**changes)
        return evaluate(
            parsed,
            text,
            test=test,
            train=train,
            bundle=bundle,
            champion=champion[0] if champion else None,
            champion_version=champion[1] if champion else None,
            verdict_out=self.verdict,
            findings_out=self.findings,
            scores_out=self.scores,
            report_out=self.report,
            summary_out=self.summary,
        )

    def broken(self, kind: type[AirworthyError], words: str, *args: Path, **changes: str) -> None:
        """The evaluation raises, and its one verdict says error with the same reason."""
        with pytest.raises(kind, match=words) as caught:
            self.run(*args, **changes)
        verdict = read_verdict(self.verdict)
        assert verdict.status == "error"
        assert not verdict.passed
        assert verdict.error == str(caught.value)
        assert "could not judge" in self.summary.read_text()
        assert self.report.exists()


@pytest.fixture
def out(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "out")


def check(verdict: Verdict, name: str) -> Check:
    return next(c for c in verdict.checks if c.name == name)


def test_a_first_release_is_judged_by_absolute_limits_and_says_so(
    out: Outputs, test_window: Path, good: Path
) -> None:
    found = out.run(test_window, good)
    assert found.verdict.passed
    assert found.verdict.champion_version is None
    assert found.verdict.settings["comparison"] == "no champion: absolute limits only"
    assert not [c for c in found.verdict.checks if c.family == "champion"]
    assert "first release" in out.summary.read_text()
    assert require_passed(out.verdict, good) == found.verdict
    assert found.verdict.data_fingerprint == datasets.read_info(test_window).fingerprint


def test_an_empty_champion_folder_is_a_first_release(
    out: Outputs, test_window: Path, good: Path, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    assert out.run(test_window, good, (tmp_path / "none", "")).verdict.passed


def test_a_window_of_too_few_blocks_is_rejected_with_a_report(
    out: Outputs, test_window: Path, good: Path
) -> None:
    blocks = {"champion: {margin: 0.02}": "champion: {margin: 0.02}\n  resampling: {block: day}"}
    verdict = out.run(test_window, good, (good, "1"), **blocks).verdict
    assert verdict.status == "rejected"
    assert check(verdict, "auc_vs_champion").outcome == "inconclusive"
    assert "too few rows or blocks" in check(verdict, "missing_feature").reason
    assert "Reliability" in out.report.read_text()


def test_scores_are_written_row_by_row_and_give_the_metrics_again(
    out: Outputs, test_window: Path, good: Path, worse: Path
) -> None:
    from sklearn.metrics import log_loss, roc_auc_score

    found = out.run(test_window, good, (worse, "1"))
    table = pq.read_table(out.scores / SCORES)
    assert table.column_names == ["id", "label", "challenger", "champion"]
    assert table.column("id").to_pylist() == datasets.read_frame(test_window)["flight_id"].tolist()
    label, challenger, champion = (table.column(c).to_numpy() for c in ("label", "challenger", "champion"))
    assert found.metrics["auc"] == pytest.approx(roc_auc_score(label, challenger))
    assert found.metrics["champion_auc"] == pytest.approx(roc_auc_score(label, champion))
    assert found.metrics["log_loss"] == pytest.approx(log_loss(label, challenger))
    assert found.metrics["auc_vs_champion"] == pytest.approx(
        roc_auc_score(label, challenger) - roc_auc_score(label, champion)
    )
    assert np.array(found.confusion).sum() == ROWS
    assert len(found.roc[0]) <= 100
    assert np.isfinite(found.roc).all()
    assert np.isfinite(list(found.metrics.values())).all()


def test_scores_without_a_champion_are_null_there(out: Outputs, test_window: Path, good: Path) -> None:
    out.run(test_window, good)
    assert pq.read_table(out.scores / SCORES).column("champion").null_count == ROWS


def test_a_clearly_worse_challenger_fails_with_reasons(
    out: Outputs, test_window: Path, good: Path, worse: Path
) -> None:
    found = out.run(test_window, worse, (good, "4"), **{"min_auc: 0.6": "min_auc: 0.5"})
    comparison = check(found.verdict, "auc_vs_champion")
    assert found.verdict.status == "rejected"
    assert comparison.outcome == "fail"
    assert comparison.interval is not None
    assert comparison.interval[1] < -0.02
    assert "champion version 4" in comparison.reason
    assert check(found.verdict, "log_loss_vs_champion").outcome == "warn"
    with pytest.raises(GateError, match=r"did not pass late: .*champion version 4"):
        require_passed(out.verdict, worse)


def test_a_limit_that_is_missed_fails(out: Outputs, test_window: Path, good: Path) -> None:
    found = out.run(test_window, good, **{"min_auc: 0.6": "min_auc: 0.99"})
    failed = check(found.verdict, "auc")
    assert (failed.outcome, failed.threshold) == ("fail", 0.99)
    assert "the limit is at least 0.99" in failed.reason
    assert failed.interval is not None
    assert failed.interval[0] < (failed.observed or 0) < failed.interval[1]


def test_a_clearly_better_challenger_passes_superiority(
    out: Outputs, test_window: Path, good: Path, worse: Path
) -> None:
    superior = {"{margin: 0.02}": "{policy: superiority}"}
    assert (
        check(out.run(test_window, good, (worse, "1"), **superior).verdict, "auc_vs_champion").outcome
        == "pass"
    )


def test_what_the_rows_cannot_tell_is_inconclusive_and_does_not_pass(
    out: Outputs, test_window: Path, good: Path
) -> None:
    superior = {"{margin: 0.02}": "{policy: superiority}"}
    found = out.run(test_window, good, (good, "1"), **superior)
    assert check(found.verdict, "auc_vs_champion").outcome == "inconclusive"
    assert found.verdict.status == "rejected"
    assert not found.verdict.passed


def test_the_same_bundle_again_is_not_inferior_to_itself(out: Outputs, test_window: Path, good: Path) -> None:
    found = out.run(test_window, good, (good, "1"))
    assert found.verdict.passed
    assert found.verdict.champion_digest == found.verdict.bundle_digest


@pytest.mark.parametrize("foreign", ["features", "label"])
def test_a_champion_that_cannot_score_these_rows_is_inconclusive(
    out: Outputs, tmp_path: Path, test_window: Path, good: Path, foreign: str
) -> None:
    champion = good
    if foreign == "label":
        champion = tmp_path / "champion"
        make_bundle(champion, label="cancelled")
        bundle, test, words = good, test_window, "predicts cancelled, not late"
    else:
        bundle = tmp_path / "bundle"
        make_bundle(bundle, drop=("distance",))
        fewer = tuple(f for f in FEATURES if f.name != "distance")
        table = flights(ROWS, seed=3).drop_columns(["distance"])
        test, words = write_flights(tmp_path / "test", table, features=fewer), "lacks: distance"
    found = out.run(test, bundle, (champion, "2"))
    comparison = check(found.verdict, "auc_vs_champion")
    assert comparison.outcome == "inconclusive"
    assert words in comparison.reason
    assert not found.verdict.passed
    assert found.verdict.champion_digest


def test_without_a_comparison_in_the_spec_the_champion_is_recorded_but_does_not_count(
    out: Outputs, test_window: Path, good: Path, worse: Path
) -> None:
    found = out.run(test_window, good, (worse, "7"), **{"  champion: {margin: 0.02}\n": ""})
    assert found.verdict.passed
    assert found.verdict.champion_version == "7"
    assert "not asked for" in str(found.verdict.settings["comparison"])


NO_LIMITS = {"  min_auc: 0.6\n  max_log_loss: 0.68\n": ""}


def test_an_empty_policy_is_an_error_never_a_pass(out: Outputs, test_window: Path, good: Path) -> None:
    empty = NO_LIMITS | {"  champion: {margin: 0.02}\n": ""}
    out.broken(ConfigError, "judges nothing", test_window, good, **empty)
    with pytest.raises(GateError, match="did not pass"):
        require_passed(out.verdict, good)


def test_a_policy_that_only_compares_cannot_judge_a_first_release(
    out: Outputs, test_window: Path, good: Path
) -> None:
    out.broken(ConfigError, "no champion to compare with yet", test_window, good, **NO_LIMITS)


def test_an_empty_window_is_an_error(out: Outputs, tmp_path: Path, good: Path) -> None:
    out.broken(DataError, "no rows", write_flights(tmp_path / "test", flights(0)), good)


def test_a_window_with_one_class_is_an_error(out: Outputs, tmp_path: Path, good: Path) -> None:
    table = flights(300)
    table = table.set_column(table.column_names.index("late"), "late", pa.array([0] * 300))
    out.broken(DataError, "no positive row", write_flights(tmp_path / "test", table), good)


@pytest.mark.parametrize(("value", "words"), [(None, "have no label"), (2, "must be 0 or 1, found 2")])
def test_wrong_labels_are_an_error(
    out: Outputs, tmp_path: Path, good: Path, value: int | None, words: str
) -> None:
    table = flights(300)
    labels = [*table.column("late").to_pylist()[:-1], value]
    table = table.set_column(table.column_names.index("late"), "late", pa.array(labels, pa.int64()))
    out.broken(DataError, words, write_flights(tmp_path / "test", table), good)


def test_a_missing_feature_is_an_error(out: Outputs, tmp_path: Path, good: Path) -> None:
    fewer = tuple(f for f in FEATURES if f.name != "hour")
    test = write_flights(tmp_path / "test", flights(300).drop_columns(["hour"]), features=fewer)
    out.broken(DataError, "lacks: hour", test, good)


def test_a_changed_bundle_is_an_error(out: Outputs, tmp_path: Path, test_window: Path) -> None:
    make_bundle(tmp_path / "bundle")
    with (tmp_path / "bundle" / "airworthy.json").open("a") as file:
        file.write(" ")
    out.broken(BundleError, "airworthy.json was changed", test_window, tmp_path / "bundle")


def test_a_champion_version_without_its_bundle_is_an_error(
    out: Outputs, tmp_path: Path, test_window: Path, good: Path
) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="don't come together"):
        out.run(test_window, good, (tmp_path / "none", "3"))
    assert read_verdict(out.verdict).status == "error"


def test_an_interrupt_leaves_an_error_verdict(
    out: Outputs, test_window: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "iter_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        out.run(test_window, good)
    assert read_verdict(out.verdict).error == "KeyboardInterrupt"


def test_an_earlier_pass_does_not_outlive_a_crash(
    out: Outputs, test_window: Path, good: Path, tmp_path: Path
) -> None:
    assert out.run(test_window, good).verdict.passed
    out.broken(DataError, "no dataset", tmp_path / "nowhere", good)


def test_too_few_rows_of_a_class_are_inconclusive(out: Outputs, tmp_path: Path, good: Path) -> None:
    found = out.run(write_flights(tmp_path / "test", flights(30)), good)
    assert check(found.verdict, "class_counts").outcome == "inconclusive"
    assert not found.verdict.passed


def test_a_calibration_limit_below_the_sampling_floor_is_inconclusive(
    out: Outputs, tmp_path: Path, good: Path
) -> None:
    test = write_flights(tmp_path / "test", flights(400, seed=11))
    strict = {"  max_log_loss: 0.68\n": "  max_log_loss: 0.68\n  max_calibration_error: 0.005\n"}
    found = check(out.run(test, good, **strict).verdict, "calibration_error")
    assert found.outcome == "inconclusive"
    assert "perfectly calibrated" in found.reason


def test_unseen_categories_are_counted_and_warned_about(out: Outputs, tmp_path: Path, good: Path) -> None:
    table = flights(600, seed=5)
    carriers = ["ZZ"] * 25 + table.column("carrier").to_pylist()[25:]
    table = table.set_column(table.column_names.index("carrier"), "carrier", pa.array(carriers))
    found = out.run(write_flights(tmp_path / "test", table), good)
    warned = check(found.verdict, "unseen_categories")
    assert (warned.outcome, warned.observed) == ("warn", 25)
    assert "carrier (25)" in warned.reason
    assert found.metrics["unseen_categories"] == 25


def test_scores_that_are_no_probabilities_are_rejected(
    out: Outputs, test_window: Path, tmp_path: Path
) -> None:
    import xgboost

    matrix = xgboost.DMatrix(
        np.random.default_rng(0).integers(0, 4, size=(50, 3)).astype(np.float32),
        label=np.full(50, 40.0),
        feature_names=["hour", "distance", "carrier"],
        feature_types=["q", "q", "c"],
        enable_categorical=True,
    )
    regression = xgboost.train({"objective": "reg:squarederror", "eta": 1.0, "nthread": 1}, matrix, 3)
    make_bundle(tmp_path / "bundle", rounds=3, booster=bytes(regression.save_raw("ubj")))
    found = out.run(test_window, tmp_path / "bundle")
    assert check(found.verdict, "finite_scores").outcome == "fail"
    assert found.verdict.status == "rejected"
    assert "auc" not in found.metrics


def test_lineage_and_windows_are_checked_against_the_training_window(out: Outputs, tmp_path: Path) -> None:
    train = write_flights(tmp_path / "train", flights(500, seed=1, start=START))
    make_bundle(tmp_path / "bundle", train=train)
    overlapping = write_flights(tmp_path / "test", flights(500, seed=2, start=START))
    found = out.run(overlapping, tmp_path / "bundle", None, train)
    assert check(found.verdict, "training_data").outcome == "pass"
    assert check(found.verdict, "windows_apart").outcome == "fail"
    other = write_flights(tmp_path / "other", flights(400, seed=8, start=START))
    assert (
        check(out.run(overlapping, tmp_path / "bundle", None, other).verdict, "training_data").outcome
        == "fail"
    )


def test_slices_are_reported_and_a_missing_column_is_not_silent(
    out: Outputs, test_window: Path, good: Path, worse: Path
) -> None:
    verdict = out.run(test_window, good, (worse, "1"), **{"[carrier]": "[carrier, nowhere]"}).verdict
    assert "4 of 4 values assessed" in check(verdict, "slice_carrier").reason
    assert check(verdict, "slice_nowhere").outcome == "warn"
    assert verdict.passed
    worsened = check(
        out.run(test_window, worse, (good, "1"), **{"min_auc: 0.6": "min_auc: 0.5"}).verdict, "slice_carrier"
    )
    assert worsened.outcome == "warn"
    assert "UA" in worsened.reason


def test_the_page_stands_alone_and_tells_everything(
    out: Outputs, test_window: Path, good: Path, worse: Path
) -> None:
    verdict = out.run(test_window, good, (worse, "1")).verdict
    page = out.report.read_text()
    assert len(page) < 1_000_000
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "<script" not in page
    for said in (
        "ROC curve",
        "Precision and recall",
        "Reliability",
        "carrier",
        *(c.name for c in verdict.checks),
    ):
        assert said in page


def test_equal_inputs_give_equal_verdicts(out: Outputs, test_window: Path, good: Path) -> None:
    out.run(test_window, good)
    first = out.verdict.read_bytes()
    out.run(test_window, good)
    assert out.verdict.read_bytes() == first
    assert json.loads(first)["format"] == 1
