"""The smoke test: the packaged model, in the server that will serve it, gives the scores that it was judged
by.

It closes the gap between evaluation (batch, Parquet) and serving (JSON over HTTP, V1 and V2), where
training/serving skew lives: types, nulls, categories, column order, the wrong bundle.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import ClientSession

from airworthy.errors import DataError, ServingError
from airworthy.model_spec import ModelSpec
from airworthy.serving.local import ServerOptions, ServerProcess
from airworthy.serving.protocol import FeatureLike
from airworthy.serving.replay import (
    Answer,
    Row,
    Traffic,
    sample_rows,
    v1_body,
    v1_path,
    v2_body,
    v2_path,
)
from airworthy.verdict import require_passed

if TYPE_CHECKING:
    from airworthy.bundle import BundleInfo

TOLERANCE = 1e-5
ROWS = 500
SINGLE_ROWS = 200
"""Rows that are also asked one by one, for the latency."""
BATCH = 100
SCORES_FILE = "scores.parquet"


@dataclass(frozen=True)
class Refusal:
    """A bad request, and what the server said to it."""

    what: str
    status: int
    message: str


@dataclass(frozen=True)
class SmokeResult:
    """What the smoke test saw; it exists only if the test passed. Latencies are of single-row V1 requests."""

    rows: int
    largest_difference: float
    start_seconds: float
    p50_ms: float
    p99_ms: float
    refusals: tuple[Refusal, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers for the pipeline's UI."""
        return {
            "rows": self.rows,
            "largest_difference": self.largest_difference,
            "start_seconds": round(self.start_seconds, 3),
            "p50_ms": round(self.p50_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            "bad_requests_refused": len(self.refusals),
        }


def smoke_test(
    spec: ModelSpec,
    *,
    verdict: Path,
    bundle: Path,
    dataset: Path,
    expected_scores: Path,
    report_out: Path | None = None,
    rows: int = ROWS,
) -> SmokeResult:
    """Serve the bundle with KServe on loopback and ask it evaluation rows through V1 and V2.

    Args:
        spec: The model spec; `serving` gives the server's options.
        verdict: The gate's verdict on exactly this bundle.
        bundle: The challenger.
        dataset: The test window.
        expected_scores: `scores.parquet` (or its folder) of the evaluation: columns `id`, `challenger`.
        report_out: HTML file; None writes none.
        rows: How many rows to ask, spread over the window.

    Raises:
        GateError: The verdict did not pass, or is about another bundle. ServingError: The server did not
            start, a score differs by more than 1e-5, or a bad request was accepted. DataError: The scores
            don't cover the rows.
    """
    from airworthy.bundle import read_bundle_info
    from airworthy.datasets import read_info

    judged = require_passed(verdict, bundle)
    info = read_bundle_info(bundle)
    identity = read_info(dataset).id
    asked = sample_rows(dataset, [identity, *(f.name for f in info.features)], rows)
    expected = _expected(expected_scores, [row[identity] for row in asked])
    with tempfile.TemporaryDirectory(prefix="airworthy-smoke-") as folder:
        options = ServerOptions(
            bundle,
            spec.name,
            "smoke",
            judged.bundle_digest,
            spec.serving.max_rows,
            spec.serving.unseen_category,
        )
        server = ServerProcess(options, Path(folder) / "server.log")
        result = asyncio.run(_test(server, info, asked, identity, expected))
    if report_out is not None:
        report_out.parent.mkdir(parents=True, exist_ok=True)
        report_out.write_text(_page(spec, result))
    return result


def _expected(path: Path, ids: Sequence[Any]) -> list[float]:
    import pyarrow.parquet as pq

    file = path / SCORES_FILE if path.is_dir() else path
    try:
        table = pq.read_table(file, columns=["id", "challenger"])
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: no scores of the evaluation: {error}") from None
    scores = dict(zip(table["id"].to_pylist(), table["challenger"].to_pylist(), strict=True))
    missing = [identity for identity in ids if identity not in scores]
    if missing:
        raise DataError(
            f"{file}: row {missing[0]!r} of the test window has no score; evaluate this window again"
        )
    return [scores[identity] for identity in ids]


async def _test(
    server: ServerProcess, info: BundleInfo, rows: list[Row], identity: str, expected: list[float]
) -> SmokeResult:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    server.start()
    try:
        url = await server.ready()
        start_seconds = loop.time() - begun
        name, size = server.options.name, min(BATCH, server.options.max_rows)
        largest = 0.0
        for protocol, path, make in (("V1", v1_path(name), v1_body), ("V2", v2_path(name), v2_body)):
            parts = [rows[first : first + size] for first in range(0, len(rows), size)]
            answers = await _ask_in_order(url + path, [make(part, info.features) for part in parts])
            scores = [score for answer in answers for score in _scores(answer, protocol)]
            largest = max(largest, _compare(protocol, rows, identity, scores, expected))
        singles = rows[:SINGLE_ROWS]
        answers = await _ask_in_order(url + v1_path(name), [v1_body([r], info.features) for r in singles])
        scores = [score for answer in answers for score in _scores(answer, "V1")]
        largest = max(
            largest, _compare("V1, row by row,", singles, identity, scores, expected[: len(singles)])
        )
        refusals = await _ask_badly(url, server.options, info.features, rows[0])
    finally:
        await asyncio.to_thread(server.stop)
    times = sorted(1e3 * answer.seconds for answer in answers)
    return SmokeResult(
        len(rows),
        largest,
        start_seconds,
        times[len(times) // 2],
        times[int(0.99 * (len(times) - 1))],
        refusals,
    )


async def _ask_in_order(url: str, bodies: list[bytes]) -> list[Answer]:
    async with Traffic(url, bodies, concurrency=1) as traffic:
        return await traffic.send(len(bodies))


def _scores(answer: Answer, protocol: str) -> list[float]:
    if answer.status != 200:
        text = answer.body.decode(errors="replace")[:300]
        raise ServingError(
            f"the packaged model refused an evaluation row ({protocol}, HTTP {answer.status}): {text}"
        )
    body = json.loads(answer.body)
    scores: list[float] = body["predictions"] if protocol == "V1" else body["outputs"][0]["data"]
    return scores


def _compare(
    protocol: str, rows: list[Row], identity: str, scores: list[float], expected: list[float]
) -> float:
    if len(scores) != len(rows):
        raise ServingError(f"{protocol} answered {len(scores)} scores to {len(rows)} rows")
    differences = [abs(a - b) for a, b in zip(scores, expected, strict=True)]
    worst = max(range(len(rows)), key=differences.__getitem__)
    if not differences[worst] <= TOLERANCE:
        different = sum(not d <= TOLERANCE for d in differences)
        raise ServingError(
            f"the packaged model does not score as it was evaluated: {protocol} answers {scores[worst]:.7g} "
            f"to row {rows[worst][identity]!r}, the evaluation said {expected[worst]:.7g} "
            f"({different} of {len(rows)} rows differ by more than {TOLERANCE:g})"
        )
    return differences[worst]


async def _ask_badly(
    url: str, options: ServerOptions, features: Sequence[FeatureLike], row: Row
) -> tuple[Refusal, ...]:
    """Bad requests of every sort; each must be refused with 400."""
    refusals = []
    v1, v2 = url + v1_path(options.name), url + v2_path(options.name)
    async with ClientSession() as session:
        for what, address, body in _bad_requests(v1, v2, options.max_rows, features, row):
            headers = {"Content-Type": "application/json"}
            async with session.post(address, data=body, headers=headers) as answer:
                text = await answer.text()
            if answer.status != 400:
                raise ServingError(
                    f"a bad request ({what}) was answered with HTTP {answer.status} instead of 400"
                )
            refusals.append(Refusal(what, answer.status, json.loads(text)["error"]))
    return tuple(refusals)


def _bad_requests(
    v1: str, v2: str, max_rows: int, features: Sequence[FeatureLike], row: Row
) -> list[tuple[str, str, bytes]]:
    names = [feature.name for feature in features]
    good = {name: row[name] for name in names}
    first = features[0]
    wrong: Any = 1.5 if first.kind == "category" else "seven"

    def v1_rows(rows: list[Any]) -> bytes:
        return json.dumps({"instances": rows}).encode()

    tensor = {"name": first.name, "shape": [1], "datatype": "FP16", "data": [1]}
    return [
        ("not JSON", v1, b"{"),
        ("no rows", v1, v1_rows([])),
        ("a feature is missing", v1, v1_rows([{n: v for n, v in good.items() if n != names[-1]}])),
        ("an unknown feature", v1, v1_rows([{**good, "no_such_feature": 1}])),
        ("a value of a wrong type", v1, v1_rows([{**good, first.name: wrong}])),
        ("too many rows", v1, v1_rows([good] * (max_rows + 1))),
        ("V2: a feature is missing", v2, v2_body([row], features[1:]) if len(features) > 1 else b"{}"),
        ("V2: a wrong datatype", v2, json.dumps({"inputs": [tensor]}).encode()),
    ]


def _page(spec: ModelSpec, result: SmokeResult) -> str:
    from airworthy.reports import facts, page, section, table

    body = section(
        "Same scores as in evaluation",
        facts(
            {
                "Rows asked (V1 and V2)": result.rows,
                "Largest difference": result.largest_difference,
                "Tolerated": TOLERANCE,
                "Single-row latency, median": f"{result.p50_ms:.2f} ms",
                "Single-row latency, 99 %": f"{result.p99_ms:.2f} ms",
                "Server start": f"{result.start_seconds:.1f} s",
            }
        ),
    )
    rows = [[refusal.what, refusal.status, refusal.message] for refusal in result.refusals]
    body += section("Bad requests are refused", table(["request", "HTTP", "answer"], rows))
    return page(
        f"Smoke test of {spec.name}",
        body,
        subtitle="The packaged model in a real KServe server answers the evaluation's rows with its scores.",
        outcome="pass",
    )
