"""Point-in-time retrieval: our ASOF store against Feast's DuckDB store, same rows, same run.

    python benchmarks/retrieval.py [--rows 195000] [--repeat 2]

Prints the seconds for making the sources and applying the definitions, then one table row per store: best
time of `--repeat` retrievals of all 8 views of `arr_late_v1`, peak memory of the process, and the ratio. Each
store runs in a process of its own; both must return equal content.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STORES = {"asof": "airworthy.feast_store.AsofOfflineStore", "duckdb": "duckdb"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=195_000)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--measure", nargs=2, metavar=("REPO", "HOME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        repo, home = map(Path, options.measure)
        print(json.dumps(measure(repo, home, options.rows, options.repeat)))
        return
    with tempfile.TemporaryDirectory() as place:
        compare(Path(place), options.rows, options.repeat)


def compare(place: Path, rows: int, repeat: int) -> None:
    """Measure each store in a process of its own and print the table."""
    results = {}
    for name, store in STORES.items():
        repo = place / name
        shutil.copytree(ROOT / "feature_repo", repo)
        config = repo / "feature_store.yaml"
        config.write_text(config.read_text().replace(STORES["asof"], store))
        command = [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "--measure",
            str(repo),
            str(place / f"{name}-home"),
        ]
        options = ["--rows", str(rows), "--repeat", str(repeat)]
        done = subprocess.run([*command, *options], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
    asof, duckdb = results["asof"], results["duckdb"]
    if asof["content"] != duckdb["content"]:
        raise SystemExit("the two stores returned different content")
    print(f"sources {asof['sources_s']:.1f} s, apply {asof['apply_s']:.1f} s")
    print("| store | rows | features | seconds | peak memory [MB] | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, result in results.items():
        print(
            f"| {name} | {result['rows']} | {result['features']} | {result['seconds']:.2f} "
            f"| {result['peak_mb']:.0f} | {result['seconds'] / asof['seconds']:.1f} |"
        )


def measure(repo: Path, home: Path, rows: int, repeat: int) -> dict[str, float | int | str]:
    """Prepare one repo and time its retrieval."""
    sys.path.insert(0, str(ROOT))
    import polars as pl
    import pyarrow as pa

    from airworthy.datasets import BATCH_ROWS, fingerprint
    from airworthy.feast_repo import get_service, prepare_feature_repo, quiet
    from airworthy.features import feature_columns, point_in_time
    from airworthy.model_spec import load_spec

    said = Timings()
    logging.getLogger("airworthy").setLevel(logging.INFO)
    logging.getLogger("airworthy").addHandler(said)
    store = prepare_feature_repo(repo, home)
    service = get_service(store, "arr_late_v1")
    features = feature_columns(service)
    spec = load_spec((ROOT / "models" / "flight_delay.yaml").read_text())
    entities = pl.read_parquet(home / "feast" / "sources" / "flights.parquet").head(rows).to_arrow()
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        with quiet():
            table = point_in_time(store, service, entities, features, spec)
        seconds.append(time.perf_counter() - started)
    plain = pa.table({f.name: table[f.name] for f in features}).combine_chunks()
    return {
        "sources_s": said.seconds("sources of"),
        "apply_s": said.seconds("definitions of"),
        "seconds": min(seconds),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rows": table.num_rows,
        "features": len(features),
        "content": fingerprint(plain.to_batches(BATCH_ROWS)),
    }


class Timings(logging.Handler):
    """Reads the seconds that the library reports in its log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def seconds(self, start: str) -> float:
        """The number of seconds at the end of the first message that starts so."""
        line = next(line for line in self.lines if line.startswith(start))
        return float(line.split()[-2])


if __name__ == "__main__":
    main()
