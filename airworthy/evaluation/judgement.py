"""One evaluation from files to files: score, judge, write verdict, scores, report and summary."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from airworthy import datasets
from airworthy.evaluation import gate, metrics, report
from airworthy.evaluation.arms import Scored, has_bundle, score_arms
from airworthy.evaluation.gate import Measured
from airworthy.evaluation.slices import slice_checks, slice_table
from airworthy.files import write_whole
from airworthy.model_spec import spec_digest
from airworthy.verdict import Check, Verdict, write_verdict

if TYPE_CHECKING:
    from airworthy.evaluation.metrics import Floats
    from airworthy.model_spec import ModelSpec

SCORES = "scores.parquet"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    verdict: Verdict
    metrics: dict[str, float]
    """Challenger's metrics by name, the champion's as `champion_…`, and `auc_difference`; finite only."""
    roc: tuple[list[float], list[float], list[float]]
    """False positive rates, true positive rates, thresholds: at most 100 finite points (empty: no curve)."""
    confusion: list[list[int]]
    """[[tn, fp], [fn, tp]] at the bundle's threshold."""


def evaluate(
    spec: ModelSpec,
    spec_text: str,
    *,
    test: Path,
    train: Path | None,
    bundle: Path,
    champion: Path | None,
    champion_version: str | None,
    verdict_out: Path,
    scores_out: Path,
    report_out: Path,
    summary_out: Path,
) -> Evaluation:
    """Judge a bundle on the test window, against the champion where there is one.

    There is always exactly one verdict file afterwards: one that says the gate did not finish is written
    first, so that even a killed process leaves no pass behind.

    Args:
        spec: The model spec; `gate` and `slices` count here.
        spec_text: Its text, whose digest is recorded as the policy.
        test: Dataset to judge on.
        train: Training dataset; None skips the checks of lineage and of windows that overlap.
        bundle: The challenger.
        champion: The champion's bundle; None or an empty folder on a first release.
        champion_version: Its registry version; None (or "") on a first release.
        verdict_out: File for the verdict (JSON).
        scores_out: Folder for `scores.parquet`: id, label, challenger, champion (null without one).
        report_out: File for the report (HTML).
        summary_out: File for the summary (Markdown).

    Raises:
        ConfigError: The policy would judge nothing.
        DataError: The rows can't be judged on (empty, unlabelled, one class, missing features).
        BundleError: A bundle doesn't match its digests.
    """
    champion_version = champion_version or None
    blank = Verdict(
        model=spec.name,
        status="error",
        checks=(),
        bundle_digest="",
        champion_version=champion_version,
        data_fingerprint="",
        policy_digest=spec_digest(spec_text),
        error="the evaluation did not finish",
    )
    write_verdict(blank, verdict_out)
    try:
        gate.require_policy(spec.gate, champion_version if has_bundle(champion) else None)
        scored = score_arms(spec, test, bundle, champion, champion_version)
        lineage = datasets.read_info(train) if train is not None else None
        result = _judge(spec, blank, scored, lineage, report_out, summary_out)
        _write_scores(scored, scores_out)
        write_verdict(result.verdict, verdict_out)
    except BaseException as error:  # also an interrupt: a verdict must say so; the error goes on
        reason = str(error).strip() or type(error).__name__
        broken = blank.model_copy(update={"error": reason})
        write_verdict(broken, verdict_out)
        write_whole(report_out, report.html(broken, None, None, None, []))
        write_whole(summary_out, report.markdown(broken, None, None))
        raise
    _log.info("%s", report.headline(result.verdict))
    return result


def _judge(
    spec: ModelSpec,
    blank: Verdict,
    scored: Scored,
    train: datasets.DatasetInfo | None,
    report_out: Path,
    summary_out: Path,
) -> Evaluation:
    checks: list[Check] = gate.integrity_checks(scored, train)
    measured = rival = None
    slices = []
    # Metrics of scores that are no probabilities mean nothing; the integrity check alone then rejects.
    if scored.challenger.improbable == 0:
        measured = gate.measure(scored, scored.challenger, spec.gate)
        if scored.champion is not None:
            rival = gate.measure(scored, scored.champion, spec.gate)
        checks += [*gate.limit_checks(spec.gate, measured), *gate.champion_checks(scored, spec.gate)]
        slices = slice_table(scored)
        checks += slice_checks(scored, slices)
    clean = all(check.outcome in ("pass", "warn") for check in checks)
    verdict = blank.model_copy(
        update={
            "status": "passed" if clean else "rejected",
            "checks": tuple(checks),
            "bundle_digest": scored.challenger.digest,
            "champion_digest": scored.champion_digest,
            "data_fingerprint": scored.dataset.fingerprint,
            "settings": _settings(spec, scored),
            "error": None,
        }
    )
    write_whole(report_out, report.html(verdict, scored, measured, rival, slices))
    write_whole(summary_out, report.markdown(verdict, measured, rival))
    return Evaluation(
        verdict=verdict,
        metrics=_flat(scored, measured, rival, checks),
        roc=_roc(scored) if measured else ([], [], []),
        confusion=measured.confusion if measured else [[0, 0], [0, 0]],
    )


def _settings(spec: ModelSpec, scored: Scored) -> dict[str, float | int | str | bool | None]:
    comparison = spec.gate.champion
    settings: dict[str, float | int | str | bool | None] = {
        "rows": len(scored.labels),
        "positives": int(scored.labels.sum()),
        "interval_level": gate.LEVEL,
        "calibration_bins": metrics.CALIBRATION_BINS,
        "min_rows_per_class": gate.MIN_PER_CLASS,
        "cost_false_alarm": spec.gate.threshold.cost_false_alarm,
        "cost_miss": spec.gate.threshold.cost_miss,
    }
    if scored.champion_version is None:
        settings["comparison"] = "no champion: absolute limits only"
    elif comparison is None:
        settings["comparison"] = "not asked for by the spec: absolute limits only"
    else:
        settings |= {
            "comparison": f"{comparison.policy} against champion version {scored.champion_version}",
            "comparison_metric": comparison.metric,
            "comparison_margin": comparison.margin,
            "comparison_confidence": comparison.confidence,
        }
    return settings


def _flat(
    scored: Scored, measured: Measured | None, rival: Measured | None, checks: list[Check]
) -> dict[str, float]:
    found = {"rows": float(len(scored.labels)), "positives": float(scored.labels.sum())}
    found["unseen_categories"] = float(sum(scored.challenger.unseen.values()))
    if measured is not None:
        found |= measured.values
    if rival is not None:
        found |= {f"champion_{name}": value for name, value in rival.values.items()}
    differences = {c.name: c.observed for c in checks if c.family == "champion" and c.observed is not None}
    return found | differences


def _roc(scored: Scored) -> tuple[list[float], list[float], list[float]]:
    fpr, tpr, thresholds = (curve.tolist() for curve in metrics.roc(scored.labels, scored.challenger.scores))
    return fpr, tpr, thresholds


def _write_scores(scored: Scored, folder: Path) -> None:
    """`scores.parquet` in `folder`, in the test window's row order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    absent: Floats = np.full(len(scored.labels), np.nan)
    rival = scored.champion.scores if scored.champion is not None else absent
    table = pa.table(
        {
            "id": scored.ids,
            "label": pa.array(scored.labels),
            "challenger": pa.array(scored.challenger.scores),
            "champion": pa.array(rival, from_pandas=True),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{SCORES}.incomplete"
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(folder / SCORES)
