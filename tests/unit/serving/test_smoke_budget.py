"""The budget: what counts of noisy measurements, and what a broken one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from airworthy.errors import GateError
from airworthy.model_spec import Budget
from airworthy.serving import smoke_test
from airworthy.serving.budget import Usage, budget_checks, memory_mib, quantiles, size_mib, usage_rows
from airworthy.verdict import read_smoke, require_smoke
from tests.release_evidence import Evidence, spec

QUIET = Usage((1.0, 1.1, 1.2, 1.0, 1.1), (2.0, 2.2, 90.0, 2.1, 75.0), (3.0,), 5.5, 310.0, 0.4, 4)


def test_without_a_budget_nothing_is_gated_and_all_is_told() -> None:
    assert budget_checks(Budget(), QUIET) == ()
    assert [row[2] for row in usage_rows(Budget(), QUIET)] == ["no limit"] * 5
    assert QUIET.metrics["p99_ms"] == 2.2


def test_two_disturbed_rounds_break_no_budget() -> None:
    (check,) = budget_checks(Budget(p99_ms=3), QUIET)
    assert (check.outcome, check.observed, check.threshold) == ("pass", 2.2, 3)
    assert "2 to 90 ms" in check.reason


@pytest.mark.parametrize(
    ("name", "limit"),
    [("p50_ms", 1.05), ("p99_ms", 2.1), ("start_seconds", 2.9), ("bundle_mib", 5.4), ("memory_mib", 309)],
)
def test_every_limit_is_checked(name: str, limit: float) -> None:
    (check,) = budget_checks(Budget.model_validate({name: limit}), QUIET)
    assert check.stands_in_the_way
    assert check.observed == QUIET.values[name]
    assert f"above the budget of {limit:g}" in check.reason
    (kept,) = budget_checks(Budget.model_validate({name: QUIET.values[name]}), QUIET)
    assert kept.outcome == "pass"


def test_a_busy_machine_is_told_of() -> None:
    busy = Usage(QUIET.p50, QUIET.p99, QUIET.starts, 5.5, 310.0, 9.5, 4)
    slow, large = budget_checks(Budget(p50_ms=1, bundle_mib=1), busy)
    assert "the machine was busy: load 9.5 on 4 cores" in slow.reason
    assert "busy" not in large.reason


def test_quantiles_are_of_the_sorted_round() -> None:
    assert quantiles([i / 1000 for i in range(200, 0, -1)]) == (101.0, 198.0)


def test_memory_is_that_of_the_whole_process_tree(tmp_path: Path) -> None:
    hold = "import sys; x = bytearray(64 * 2**20); print('held', flush=True); sys.stdin.read()"
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {hold!r}], stdin=sys.stdin)\n"
        "child.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == b"held\n"
        assert 64 < memory_mib(process.pid) < 256
        process.stdin.close()
        process.wait(20)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(2**20))
    (tmp_path / "c").write_bytes(bytes(2**19))
    assert size_mib(tmp_path) == 1.5


def test_a_broken_budget_is_refused_after_it_was_written_down(
    judged: Evidence, rows: Path, scores: Path, tmp_path: Path
) -> None:
    limited, _ = spec(
        **{
            "slices: [carrier]": "slices: [carrier]\n"
            "serving: {budget: {p50_ms: 5000, p99_ms: 5000, start_seconds: 0.01, bundle_mib: 50, memory_mib: 1}}"
        }
    )
    record_file, page = tmp_path / "smoke.json", tmp_path / "smoke.html"
    with pytest.raises(
        GateError, match=r"does not keep its budget: Server start: .* \(median of 3 starts"
    ) as no:
        smoke_test(
            limited,
            verdict=judged.verdict,
            bundle=judged.bundle,
            dataset=rows,
            expected_scores=scores,
            report_out=page,
            record_out=record_file,
            rows=50,
        )
    assert no.value.exit_code == 3
    record = read_smoke(record_file)
    outcomes = {check.name: check.outcome for check in record.checks}
    assert outcomes == {
        "scores": "pass",
        "bad_requests": "pass",
        "p50_ms": "pass",
        "p99_ms": "pass",
        "start_seconds": "fail",
        "bundle_mib": "pass",
        "memory_mib": "fail",
    }
    assert not record.passed
    assert 50 < record.metrics["memory_mib"] < 4000
    assert record.metrics["bundle_mib"] == round(size_mib(judged.bundle), 3)
    assert "above the budget of 1 MiB" in page.read_text()
    with pytest.raises(GateError, match="the smoke test did not pass late: Server start"):
        require_smoke(record_file, judged.digest)
    with pytest.raises(GateError, match="but this is 000000000000"):
        require_smoke(record_file, "0" * 64)
    said = json.loads(record_file.read_text())
    record_file.write_text(json.dumps(said | {"passed": True}))
    with pytest.raises(GateError, match="passed: is True, but the checks say False"):
        require_smoke(record_file, judged.digest)
    record_file.unlink()
    with pytest.raises(GateError, match="there is no record of a smoke test"):
        require_smoke(record_file, judged.digest)
