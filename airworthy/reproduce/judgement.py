"""The last step of a reproduction: both bundles score the test window, and the result is written down."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
from markupsafe import Markup

from airworthy.bundle import Scorer
from airworthy.datasets import read_info
from airworthy.errors import DataError
from airworthy.files import write_whole
from airworthy.reports import facts, page, paragraph, section, table
from airworthy.reproduce.comparison import Reproduction, ScoreComparison, compare
from airworthy.reproduce.facts import BUNDLE, DATA, RECORDED, made_now, read_recorded

RESULT, PAGE = "reproduction.json", "reproduction.html"


def judge(out: Path) -> Reproduction:
    """Compare what lies in a reproduction's folder; writes `reproduction.json` and `reproduction.html` there.

    Raises:
        BundleError: A bundle is missing or can't be loaded.
        DataError: A window is missing.
    """
    recorded, now = read_recorded(out), made_now(out)
    problem, scores = None, None
    try:
        scores = _scores(out / RECORDED / BUNDLE, out / BUNDLE, out / DATA / "test")
    except DataError as error:  # the recorded model asks for features that there are no longer
        problem = f"the recorded model can't score the test window of today: {error}"
    result = compare(recorded, now, scores, problem)
    write_whole(out / RESULT, result.model_dump_json(indent=2) + "\n")
    write_whole(out / PAGE, html(result))
    return result


def html(result: Reproduction) -> str:
    """The result as a page that loads nothing."""
    order = {False: 0, None: 1, True: 2}
    rows = [
        [_mark(line.same), line.what, shown(line.recorded), shown(line.now)]
        for line in sorted(result.lines, key=lambda line: order[line.same])
    ]
    which = {
        "model": result.model,
        "version": result.version,
        "data as of": result.as_of,
        "bundle recorded": result.recorded_digest,
        "bundle made now": result.now_digest,
    }
    return page(
        f"{result.model} version {result.version}, made again: {result.kind}",
        section(
            "Recorded and now",
            table(["", "What", "Recorded", "Now"], rows),
            note="Differences first. Digests are cut to twelve characters here; reproduction.json has them whole.",
        )
        + _scores_section(result)
        + section("Which version", facts(which)),
        subtitle=result.headline,
        outcome="fail" if result.kind == "different" else "pass",
    )


def shown(value: str) -> str:
    """A value short enough for a table: digests are cut."""
    return value[:12] if re.fullmatch("[0-9a-f]{64}", value) else value


def _mark(same: bool | None) -> Markup:
    kind, word = {True: ("pass", "same"), False: ("warn", "differs"), None: ("other", "not recorded")}[same]
    return Markup('<span class="badge {}">{}</span>').format(kind, word)


def _scores_section(result: Reproduction) -> str:
    title = "On the test window"
    if result.scores is None:
        return section(title, paragraph(result.scores_problem or "Not compared."))
    scores = result.scores
    rows = [
        [name, result.recorded_metrics.get(name), *scores.metrics[name]] for name in sorted(scores.metrics)
    ]
    apart = f"differ by {scores.largest_difference:.1e} at most" if scores.largest_difference else "are equal"
    return section(
        title,
        table(["Metric", "Recorded by the gate", "Recorded bundle, now", "Bundle made now"], rows),
        note=f"{scores.rows:,} rows as retrieved now; the two bundles' scores {apart}.",
    )


def _scores(recorded: Path, now: Path, test: Path) -> ScoreComparison:
    """Both bundles on every row of a window; memory grows by 17 bytes per row."""
    from airworthy.evaluation.statistics import (
        metrics,  # with all that an evaluation imports; the command line needs none of it
    )

    label = read_info(test).label
    sides = []
    for bundle in (recorded, now):
        scorer, scores, labels = Scorer.load(bundle, verify=False), [], []
        if scorer.info.label != label:
            raise DataError(f"it predicts {scorer.info.label}, but the window's label is {label}")
        for _, known, batch, _ in scorer.score_dataset(test):
            scores.append(batch)
            labels.append(np.asarray(known, dtype=np.int8))
        sides.append(np.concatenate(scores))
    truth = np.concatenate(labels)
    measures = {
        "auc": metrics.auc,
        "log_loss": lambda y, s: float(metrics.log_losses(y, s).mean()),
        "brier": lambda y, s: float(metrics.squared_errors(y, s).mean()),
    }
    values = {
        name: tuple(float(measure(truth, side)) for side in sides) for name, measure in measures.items()
    }
    return ScoreComparison(
        rows=len(truth),
        largest_difference=float(np.max(np.abs(sides[0] - sides[1]))),
        metrics={name: (old, new) for name, (old, new) in values.items() if math.isfinite(old + new)},
    )
