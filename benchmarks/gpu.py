"""Training time and score parity, GPU against CPU, on synthetic rows shaped like the flights demo's.

Needs NumPy and an XGBoost built with CUDA, nothing else:
    python benchmarks/gpu.py --rows 336000 3000000 --out gpu.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

LEVELS = (3, 7, 16, 24, 105, 400)
"""Categories of the last columns; the others are numbers."""
COLUMNS = 30
HOLDOUT = 50_000
PARAMS: dict[str, Any] = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "eval_metric": "logloss",
    "max_depth": 6,
    "learning_rate": 0.1,
    "min_child_weight": 20,
    "subsample": 0.9,
    "colsample_bytree": 0.6,
    "seed": 7,
}
Rows = tuple[np.ndarray, np.ndarray]


def make_rows(count: int, seed: int) -> Rows:
    """Features (float32, a tenth missing) and labels, about a fifth of them positive."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(0)
    rows = rng.standard_normal((count, COLUMNS), dtype=np.float32)
    logit = 0.6 * rows[:, 0] + 0.4 * rows[:, 1] * rows[:, 2] + 0.5 * (rows[:, 3] > 1) - 1.6
    for place, levels in enumerate(LEVELS):
        column = COLUMNS - len(LEVELS) + place
        code = rng.integers(0, levels, count)
        rows[:, column] = code
        logit += truth.normal(0, 0.4, levels)[code]
    labels = rng.random(count) < 1 / (1 + np.exp(-logit))
    rows[rng.random(rows.shape, dtype=np.float32) < 0.1] = np.nan
    return rows, labels.astype(np.float32)


def fit(data: Rows, device: str, rounds: int, threads: int) -> tuple[xgboost.Booster, dict[str, Any]]:
    """Matrix and training, timed apart; says which device XGBoost really used."""
    types = ["float"] * (COLUMNS - len(LEVELS)) + ["c"] * len(LEVELS)
    begin = time.perf_counter()
    matrix = xgboost.QuantileDMatrix(*data, feature_types=types, enable_categorical=True, nthread=threads)
    between = time.perf_counter()
    model = xgboost.train({**PARAMS, "device": device, "nthread": threads}, matrix, rounds)
    end = time.perf_counter()
    used = json.loads(model.save_config())["learner"]["generic_param"]["device"]
    return model, {"matrix_s": between - begin, "train_s": end - between, "used": used}


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    positives = labels.sum()
    return float(
        (ranks[labels == 1].sum() - positives * (positives + 1) / 2) / positives / (len(labels) - positives)
    )


def on_cpu(model: xgboost.Booster, rows: np.ndarray) -> np.ndarray:
    """Scores as a server without a GPU gives them."""
    served = xgboost.Booster({"nthread": 1})
    served.load_model(model.save_raw("ubj"))
    served.set_param({"device": "cpu"})
    return served.inplace_predict(rows, validate_features=False)


def compare(count: int, rounds: int, repeats: int, threads: int) -> dict[str, Any]:
    """One size on both devices."""
    data, (rows, labels) = make_rows(count, 1), make_rows(HOLDOUT, 2)
    result: dict[str, Any] = {"rows": count, "rounds": rounds}
    scores = {}
    for device in ("cpu", "cuda"):
        runs = [fit(data, device, rounds, threads) for _ in range(repeats)]
        model, about = runs[0]
        if not about["used"].startswith(device):
            raise SystemExit(
                f"asked for {device}, XGBoost used {about['used']}: no GPU, or a wheel without CUDA"
            )
        scores[device] = on_cpu(model, rows)
        result[device] = {
            "used": about["used"],
            **{key: statistics.median(run[key] for _, run in runs) for key in ("matrix_s", "train_s")},
            "train_s_all": [run["train_s"] for _, run in runs],
            "auc": auc(labels, scores[device]),
            "same_bytes_every_time": len({bytes(m.save_raw("ubj")) for m, _ in runs}) == 1,
        }
        if device == "cuda":
            model.set_param({"device": "cuda"})
            there = model.predict(_matrix(rows))
            result["gpu_model_scored_on_gpu_vs_cpu_max"] = float(np.abs(there - scores[device]).max())
    apart = np.abs(scores["cpu"] - scores["cuda"])
    result["models_apart"] = {"mean": float(apart.mean()), "p99": float(np.quantile(apart, 0.99))}
    result["auc_difference"] = result["cuda"]["auc"] - result["cpu"]["auc"]
    result["speedup"] = result["cpu"]["train_s"] / result["cuda"]["train_s"]
    return result


def _matrix(rows: np.ndarray) -> xgboost.DMatrix:
    types = ["float"] * (COLUMNS - len(LEVELS)) + ["c"] * len(LEVELS)
    return xgboost.DMatrix(rows, feature_types=types, enable_categorical=True)


def machine(threads: int) -> dict[str, Any]:
    """What the figures were taken on."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        gpu = "unknown"
    return {
        "gpu": gpu,
        "cpu_threads": threads,
        "load_average": os.getloadavg()[0],
        "xgboost": xgboost.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def table(results: list[dict[str, Any]]) -> str:
    """Markdown for the results page."""
    lines = [
        "| rows | rounds | CPU train s | GPU train s | speed-up | AUC CPU | AUC GPU | mean difference |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        lines.append(
            f"| {r['rows']:,} | {r['rounds']} | {r['cpu']['train_s']:.2f} | {r['cuda']['train_s']:.2f} "
            f"| {r['speedup']:.1f}× | {r['cpu']['auc']:.4f} | {r['cuda']['auc']:.4f} "
            f"| {r['models_apart']['mean']:.5f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[336_000, 3_000_000])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    options = parser.parse_args()
    fit(make_rows(10_000, 3), "cuda", 2, options.threads)  # the driver's start-up is not training time
    about = machine(options.threads)
    results = [compare(n, options.rounds, options.repeats, options.threads) for n in options.rows]
    print(json.dumps(about))
    print(table(results))
    for result in results:
        print(json.dumps(result))
    if options.out:
        options.out.write_text(json.dumps({"machine": about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
