"""What the whole evaluation costs: ours, loops around scikit-learn, and Evidently's classification preset.

    python -m benchmarks.evaluation [--rows 1000000] [--quick] [--data DIR] [--only ours,scikit-learn,evidently]

A test window of 25 features, 10 of them categories, and two models trained on earlier rows; 50 slices, 1,000
bootstrap replicates. Each contender runs in a process of its own; wall, CPU and peak memory are those of the whole
process, imports and reading included. `--quick`: a tenth of the rows and trees. `--data` keeps the data set for
another run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evaluation_data import ROOT, make

REPLICATES = 1000
LOOPED = 20
"""Replicates that the scikit-learn loop really runs; the rest of the thousand is extrapolated, and told so."""
RIVALS = ROOT / "benchmarks" / "rivals"


@dataclass(frozen=True)
class Cost:
    """Of one process: seconds of wall and CPU, peak resident memory in MiB, and what it printed last (JSON)."""

    wall: float
    cpu: float
    memory: float
    told: dict[str, Any]


def run(command: list[str]) -> Cost:
    """Run to the end; the kernel's own account says what it took.

    Raises:
        SystemExit: It failed.
    """
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "DO_NOT_TRACK": "1"}
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        output.seek(0)
        last = output.read().strip().splitlines()[-1]
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, json.loads(last))


def ours(data: Path) -> dict[str, Any]:
    """The evaluation step, as in a release; the seconds of its parts."""
    from airworthy.evaluation import evaluate
    from airworthy.findings import FILE, read_findings
    from airworthy.model_spec import load_spec

    text = (data / "spec.yaml").read_text()
    out = data / "evaluation"
    evaluate(
        load_spec(text),
        text,
        test=data / "test",
        train=data / "train",
        bundle=data / "challenger",
        champion=data / "champion",
        champion_version="1",
        verdict_out=out / "verdict.json",
        findings_out=out / FILE,
        scores_out=out / "scores",
        report_out=out / "report.html",
        summary_out=out / "summary.md",
    )
    found = read_findings(out / FILE)
    return {
        "seconds": found.seconds,
        "slices": len(found.slices),
        "weak_spots": len(found.weak_spots),
        "report_kib": (out / "report.html").stat().st_size / 1024,
        "findings_kib": (out / FILE).stat().st_size / 1024,
    }


def loops(data: Path) -> dict[str, Any]:
    """What one would write by hand: predict, metrics of both models, of every slice, and a paired bootstrap."""
    import numpy as np
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

    from airworthy.datasets import read_frame
    from airworthy.model_spec import load_spec

    measures = (roc_auc_score, average_precision_score, log_loss, brier_score_loss)
    spec = load_spec((data / "spec.yaml").read_text())
    frame = read_frame(data / "test")
    labels = frame[spec.label.column].to_numpy()
    arms = [_predictions(frame, data / name) for name in ("challenger", "champion")]
    marks = [time.perf_counter()]
    for arm in arms:
        for measure in measures:
            measure(labels, arm)
    marks.append(time.perf_counter())
    slices = 0
    for column in spec.slices:
        for rows in frame.groupby(column, observed=True).indices.values():
            slices += 1
            for arm in arms:
                roc_auc_score(labels[rows], arm[rows])
                log_loss(labels[rows], arm[rows])
    marks.append(time.perf_counter())
    drawn = np.random.default_rng(0)
    for _ in range(LOOPED):
        rows = drawn.integers(0, len(labels), len(labels))
        for arm in arms:
            for measure in measures:
                measure(labels[rows], arm[rows])
    marks.append(time.perf_counter())
    whole, parts, replicates = np.diff(marks).tolist()
    return {"metrics": whole, "slices_seconds": parts, "slices": slices, "replicates": replicates}


def _predictions(frame: Any, bundle: Path) -> Any:
    """XGBoost's own prediction on a frame, on all cores."""
    import pandas as pd
    import xgboost

    from airworthy.bundle import BOOSTER, read_bundle_info

    booster = xgboost.Booster(model_file=bundle / BOOSTER)
    inputs = pd.DataFrame(
        {
            f.name: pd.Categorical(frame[f.name], categories=f.categories)
            if f.kind == "category"
            else frame[f.name]
            for f in read_bundle_info(bundle).features
        }
    )
    return booster.predict(xgboost.DMatrix(inputs, enable_categorical=True))


CONTENDERS = {"ours": ours, "scikit-learn": loops}


def contender(name: str, data: Path) -> Cost:
    """What one of them costs."""
    if name != "evidently":
        return run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.evaluation", "--measure", name, str(data)]
        )
    from airworthy.evaluation import SCORES
    from airworthy.local.environments import Environments

    scores = data / "evaluation" / "scores" / SCORES
    if not scores.exists():
        raise SystemExit("evidently is given the scores that our evaluation wrote: measure ours first")
    home = Path(os.environ.get("AIRWORTHY_HOME", ROOT / ".airworthy"))
    python = Environments(home, say=lambda text: sys.stderr.write(f"{text}\n")).python_of_group("monitoring")
    return run([str(python), "-W", "ignore", str(RIVALS / "evidently_preset.py"), str(scores)])


def table(costs: dict[str, Cost], rows: int) -> str:
    """The results, as Markdown."""
    lines = [
        f"{rows:,} rows x 25 features (10 categories), two models; whole processes on {os.cpu_count()} cores.",
        "",
        "| | wall s | CPU s | peak MiB | what it gives |",
        "|---|---:|---:|---:|---|",
    ]
    if "ours" in costs:
        cost = costs["ours"]
        lines.append(
            f"| Airworthy | {cost.wall:.1f} | {cost.cpu:.1f} | {cost.memory:,.0f} | everything, intervals from "
            f"{REPLICATES:,} replicates, {cost.told['slices']} slices, report ({cost.told['report_kib']:.0f} KiB) |"
        )
    if "scikit-learn" in costs:
        cost, told = costs["scikit-learn"], costs["scikit-learn"].told
        rest = told["replicates"] * (REPLICATES - LOOPED) / LOOPED
        lines += [
            f"| scikit-learn loops, {LOOPED} replicates | {cost.wall:.1f} | {cost.cpu:.1f} | {cost.memory:,.0f} | "
            f"four metrics, AUC and log loss of {told['slices']} slices, {LOOPED} paired replicates |",
            f"| the same, {REPLICATES:,} replicates (**extrapolated** from {LOOPED}) | {cost.wall + rest:,.0f} | "
            f"{cost.cpu + rest:,.0f} | {cost.memory:,.0f} | as above |",
        ]
    if "evidently" in costs:
        cost, told = costs["evidently"], costs["evidently"].told
        lines.append(
            f"| Evidently {told['version']}, classification preset | {cost.wall:.1f} | {cost.cpu:.1f} | "
            f"{cost.memory:,.0f} | {told['metrics']} point values of both models; no intervals, tests or slices; "
            f"predictions given, report {told['report_kib']:.0f} KiB |"
        )
    if "ours" in costs:
        seconds = costs["ours"].told["seconds"]
        parts = ", ".join(
            f"{name} {taken:.1f}" for name, taken in sorted(seconds.items(), key=lambda p: -p[1])
        )
        lines += ["", f"Seconds of our parts: {parts}."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows and of the trees")
    parser.add_argument("--data", type=Path, help="folder for the data set, made if it is empty")
    parser.add_argument("--only", default="ours,scikit-learn,evidently")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "DIR"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(CONTENDERS[options.measure[0]](Path(options.measure[1]))))
        return
    rows = options.rows // 10 if options.quick else options.rows
    with tempfile.TemporaryDirectory() as place:
        data = options.data or Path(place)
        make(data, rows, trees=15 if options.quick else 150)
        print(table({name: contender(name, data) for name in options.only.split(",")}, rows))


if __name__ == "__main__":
    main()
