"""The smoke test: the packaged model, in the server that will serve it, gives the scores that it was judged
by.

It closes the gap between evaluation (batch, Parquet) and serving (JSON over HTTP, V1 and V2), where
training/serving skew lives: types, nulls, categories, column order, the wrong bundle.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import ClientSession

from airworthy.errors import DataError, GateError, ServingError
from airworthy.files import write_whole
from airworthy.model_spec import Budget, ModelSpec
from airworthy.serving.budget import (
    ROUND_REQUESTS,
    ROUNDS,
    Usage,
    machine_load,
    memory_mib,
    quantiles,
    size_mib,
)
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
from airworthy.serving.smoke_report import TOLERANCE, smoke_page, smoke_record
from airworthy.verdict import require_passed

if TYPE_CHECKING:
    from airworthy.bundle import BundleInfo

ROWS = 500
BATCH = 100
STARTS = 3
"""How often the start is measured when it takes too long the first time."""
SCORES_FILE = "scores.parquet"


@dataclass(frozen=True)
class Refusal:
    """A bad request, and what the server said to it."""

    what: str
    status: int
    message: str


@dataclass(frozen=True)
class SmokeResult:
    """What the smoke test saw; it exists only if the scores agreed and bad requests were refused."""

    rows: int
    largest_difference: float
    usage: Usage
    refusals: tuple[Refusal, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers for the pipeline's UI and the record. Latencies are of single-row V1 requests."""
        return {
            "rows": self.rows,
            "largest_difference": self.largest_difference,
            **self.usage.metrics,
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
    record_out: Path | None = None,
    rows: int = ROWS,
) -> SmokeResult:
    """Serve the bundle with KServe on loopback, ask it evaluation rows through V1 and V2, and see what it takes.

    Args:
        spec: The model spec; `serving` gives the server's options.
        verdict: The gate's verdict on exactly this bundle.
        bundle: The challenger.
        dataset: The test window.
        expected_scores: `scores.parquet` (or its folder) of the evaluation: columns `id`, `challenger`.
        report_out: HTML file; None writes none.
        record_out: File for the `SmokeRecord`; None writes none.
        rows: How many rows to ask, spread over the window.

    Raises:
        GateError: The verdict did not pass, or is about another bundle; or the model breaks its budget, which is
            raised after report and record are written.
        ServingError: The server did not start, a score differs by more than 1e-5, or a bad request was accepted.
        DataError: The scores don't cover the rows.
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
        result = asyncio.run(_test(server, info, spec.serving.budget, asked, identity, expected))
    record = smoke_record(spec, judged.bundle_digest, result)
    if report_out is not None:
        write_whole(report_out, smoke_page(spec, result, record))
    if record_out is not None:
        write_whole(record_out, record.model_dump_json(indent=2) + "\n")
    if not record.passed:
        broken = " ".join(check.reason for check in record.checks if check.stands_in_the_way)
        raise GateError(f"the packaged model does not keep its budget: {broken}")
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
    server: ServerProcess,
    info: BundleInfo,
    budget: Budget,
    rows: list[Row],
    identity: str,
    expected: list[float],
) -> SmokeResult:
    starts = [await _start(server)]
    try:
        url = server.url
        name, size = server.options.name, min(BATCH, server.options.max_rows)
        largest = 0.0
        for protocol, path, make in (("V1", v1_path(name), v1_body), ("V2", v2_path(name), v2_body)):
            parts = [rows[first : first + size] for first in range(0, len(rows), size)]
            answers = await _ask_in_order(url + path, [make(part, info.features) for part in parts])
            scores = [score for answer in answers for score in _scores(answer, protocol)]
            largest = max(largest, _compare(protocol, rows, identity, scores, expected))
        singles = rows[:ROUND_REQUESTS]
        bodies = [v1_body([row], info.features) for row in singles]
        answers = await _ask_in_order(url + v1_path(name), bodies)
        scores = [score for answer in answers for score in _scores(answer, "V1")]
        largest = max(
            largest, _compare("V1, row by row,", singles, identity, scores, expected[: len(singles)])
        )
        p50, p99 = await _latencies(url + v1_path(name), bodies)
        load, cores = machine_load()
        refusals = await _ask_badly(url, server.options, info.features, rows[0])
        assert server.pid is not None
        memory = memory_mib(server.pid)
    finally:
        await asyncio.to_thread(server.stop)
    while budget.start_seconds is not None and starts[0] > budget.start_seconds and len(starts) < STARTS:
        starts.append(await _start(server))
        await asyncio.to_thread(server.stop)
    usage = Usage(p50, p99, tuple(starts), size_mib(server.options.bundle), memory, load, cores)
    return SmokeResult(len(rows), largest, usage, refusals)


async def _start(server: ServerProcess) -> float:
    """Start it; returns the seconds until it was ready. If it doesn't get there it is stopped."""
    begun = time.monotonic()
    server.start()
    try:
        await server.ready()
    except BaseException:
        await asyncio.to_thread(server.stop)
        raise
    return time.monotonic() - begun


async def _latencies(url: str, bodies: list[bytes]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Median and 99th percentile of each round of single-row requests, in ms."""
    rounds = []
    async with Traffic(url, bodies, concurrency=1) as traffic:
        for _ in range(ROUNDS):
            answers = await traffic.send(ROUND_REQUESTS)
            for answer in answers:
                _scores(answer, "V1")  # a refusal is quick
            rounds.append(quantiles([answer.seconds for answer in answers]))
    return tuple(p50 for p50, _ in rounds), tuple(p99 for _, p99 in rounds)


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
