"""One evaluation from files to files: score, judge, write verdict, scores, report and summary."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from airworthy import datasets
from airworthy.evaluation import (
    behaviour,
    comparison,
    explanations,
    fairness,
    gate,
    overrides,
    performance,
    report,
    scenarios,
    slices,
    weak_spots,
)
from airworthy.evaluation.arms import Scored, has_bundle, score_arms
from airworthy.evaluation.statistics import metrics
from airworthy.evaluation.statistics.parts import partition
from airworthy.evaluation.statistics.resampling import Bootstrap
from airworthy.files import write_whole
from airworthy.findings import FairnessFinding, Findings, write_findings
from airworthy.model_spec import spec_digest
from airworthy.verdict import Check, Verdict, write_verdict

if TYPE_CHECKING:
    from airworthy.evaluation.statistics.metrics import Floats
    from airworthy.model_spec import ModelSpec

LEVEL = 0.95
"""Coverage of the intervals, but for the primary comparison's, which the spec sets."""
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
    findings_out: Path,
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
        findings_out: File for all that was measured (JSON).
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
        verdict, findings = _judge(spec, blank, scored, lineage)
        _write_scores(scored, scores_out)
        write_findings(findings, findings_out)
        write_whole(report_out, report.html(verdict, findings))
        write_whole(summary_out, report.markdown(verdict, findings))
        write_verdict(verdict, verdict_out)
    except BaseException as error:  # also an interrupt: a verdict must say so; the error goes on
        reason = str(error).strip() or type(error).__name__
        broken = blank.model_copy(update={"error": reason})
        write_verdict(broken, verdict_out)
        write_whole(report_out, report.html(broken, None))
        write_whole(summary_out, report.markdown(broken, None))
        raise
    _log.info("%s", report.headline(verdict))
    return _result(verdict, findings, scored)


def _judge(
    spec: ModelSpec, blank: Verdict, scored: Scored, train: datasets.DatasetInfo | None
) -> tuple[Verdict, Findings]:
    checks: list[Check] = gate.integrity_checks(scored, train)
    findings = _nothing_measured(scored, spec.name)
    # Metrics of scores that are no probabilities mean nothing; the integrity check alone then rejects.
    if scored.challenger.improbable == 0:
        measured, findings = _measure(spec, scored, findings)
        checks += measured
    checks = overrides.apply(checks, spec.gate.overrides, datetime.now(UTC).date())
    verdict = blank.model_copy(
        update={
            "status": "rejected" if any(check.stands_in_the_way for check in checks) else "passed",
            "checks": tuple(checks),
            "bundle_digest": scored.challenger.digest,
            "champion_digest": scored.champion_digest,
            "data_fingerprint": scored.dataset.fingerprint,
            "settings": _settings(spec, scored),
            "error": None,
        }
    )
    return verdict, findings


def _nothing_measured(scored: Scored, model: str) -> Findings:
    return Findings(
        model=model,
        rows=len(scored.labels),
        positives=int(scored.labels.sum()),
        start=scored.dataset.start.isoformat(),
        end=scored.dataset.end.isoformat(),
    )


def _measure(spec: ModelSpec, scored: Scored, blank: Findings) -> tuple[list[Check], Findings]:
    """Every part of the evaluation in turn: its checks, and what it found."""
    policy, seed = spec.gate, spec.gate.resampling.seed
    boot = Bootstrap.plan(len(scored.labels), policy.resampling.replicates, seed, scored.blocks)
    clock = _Clock()
    checks: list[Check] = []
    with clock("performance"):
        ours = performance.measure(scored.labels, scored.challenger, None, policy, boot, LEVEL)
        theirs = (
            performance.measure(scored.labels, rival, scored.champion_version, policy, boot, LEVEL)
            if (rival := scored.champion)
            else None
        )
        checks += performance.limit_checks(policy, ours, LEVEL)
    with clock("comparison"):
        more, differences, effective = comparison.compare(scored, policy, boot, LEVEL)
        checks += more
    with clock("slices"):
        more, sliced = slices.assess(scored, spec.slices, policy.slices, boot, LEVEL)
        checks += more
    with clock("search for weak spots"):
        more, weak = weak_spots.search(scored, spec.slices, policy.slices, boot, LEVEL)
        checks += more
    fair: tuple[FairnessFinding, ...] = ()
    if policy.fairness:
        with clock("fairness"):
            more, fair = fairness.assess(scored, policy.fairness, boot, LEVEL)
            checks += more
    with clock("robustness"):
        more, behaved = behaviour.probe(scored, policy.robustness, seed, LEVEL)
        played, answers = scenarios.play(scored, policy.scenarios, seed)
        checks += [*more, *played]
    with clock("explanations"):
        more, explained = explanations.explain(
            scored, policy.explanations, _largest(spec, scored), seed, LEVEL
        )
        checks += more
    return checks, blank.model_copy(
        update={
            "challenger": ours,
            "champion": theirs,
            "differences": differences,
            "slices": sliced,
            "weak_spots": weak,
            "fairness": fair,
            "behaviour": (*behaved, *answers),
            "explained": explained,
            "effective_rows": effective,
            "seconds": clock.seconds,
        }
    )


class _Clock:
    """What each part took, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[part] = round(time.perf_counter() - begun, 3)
        _log.info("%s: %.1f s", part, self.seconds[part])


def _largest(spec: ModelSpec, scored: Scored) -> list[tuple[str, NDArray[np.intp]]]:
    """The slices by single columns, and the places of their rows."""
    found = []
    for column in spec.slices:
        if column in scored.columns:
            cut = partition(column, scored.columns)
            found += [(name, np.flatnonzero(cut.codes == code)) for code, name in enumerate(cut.names)]
    return found


def _settings(spec: ModelSpec, scored: Scored) -> dict[str, float | int | str | bool | None]:
    policy, champion = spec.gate, spec.gate.champion
    settings: dict[str, float | int | str | bool | None] = {
        "rows": len(scored.labels),
        "positives": int(scored.labels.sum()),
        "interval_level": LEVEL,
        "bootstrap_replicates": policy.resampling.replicates,
        "bootstrap_seed": policy.resampling.seed,
        "bootstrap_block": policy.resampling.block,
        "calibration_bins": metrics.CALIBRATION_BINS,
        "min_rows_per_class": gate.MIN_PER_CLASS,
        "limits_by": policy.limits_by,
        "cost_false_alarm": policy.threshold.cost_false_alarm,
        "cost_miss": policy.threshold.cost_miss,
        "slice_margin": policy.slices.margin,
        "slice_level": policy.slices.level,
        "slice_correction": policy.slices.correction,
    }
    if scored.champion_version is None:
        settings["comparison"] = "no champion: absolute limits only"
    elif champion is None:
        settings["comparison"] = "not asked for by the spec: absolute limits only"
    else:
        settings |= {
            "comparison": f"{champion.policy} against champion version {scored.champion_version}",
            "comparison_metric": champion.metric,
            "comparison_margin": champion.margin,
            "comparison_confidence": champion.confidence,
        }
    return settings


def _result(verdict: Verdict, findings: Findings, scored: Scored) -> Evaluation:
    found = {"rows": float(findings.rows), "positives": float(findings.positives)}
    found["unseen_categories"] = float(sum(scored.challenger.unseen.values()))
    ours, theirs = findings.challenger, findings.champion
    if ours is None:
        return Evaluation(verdict, found, ([], [], []), [[0, 0], [0, 0]])
    found |= {name: number.value for name, number in ours.metrics.items()}
    if theirs:
        found |= {f"champion_{name}": number.value for name, number in theirs.metrics.items()}
    found |= {f"{d.metric}_vs_champion": d.difference.value for d in findings.differences}
    curve = metrics.roc(scored.labels, scored.challenger.scores)
    fpr, tpr, thresholds = (points.tolist() for points in curve)
    return Evaluation(verdict, found, (fpr, tpr, thresholds), [list(row) for row in ours.confusion])


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
