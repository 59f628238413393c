"""The run page: what ran, in which order, for how long, with which results."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from airworthy.files import write_whole
from airworthy.reports import details, facts, link, page, section, table

if TYPE_CHECKING:
    from airworthy.local import RunResult, TaskRecord
    from airworthy.local.ir import Pipeline

OUTCOMES = {
    "SUCCEEDED": "pass",
    "FAILED": "fail",
    "CANCELED": "warn",
    "SKIPPED": "skipped",
    "NOT_RUN": "not run",
}
COLUMNS = 7
"""Boxes of the graph side by side."""
REASONS = 6
"""Most reasons for an outcome that stand unfolded."""


def write_run_page(result: RunResult) -> Path:
    """Write `report.html` into the run's folder, with the steps' own pages copied beside it in `reports/`."""
    from airworthy.local.ir import load_pipeline

    pipeline = load_pipeline(result.directory / "pipeline.yaml")
    pages = _copy_pages(result)
    leaves = {path: record for path, record in result.tasks.items() if record.is_leaf}
    outcome, sentence, reasons = _result(result)
    rest = reasons[REASONS:]
    body = (
        _list(reasons[:REASONS])
        + (details(f"{len(rest)} more reasons", _list(rest)) if rest else "")
        + facts(
            {
                "run": result.run_id,
                "pipeline": pipeline.name,
                "started": _moment(result.started),
                "took": _seconds(result.started, result.ended),
                "steps run": sum(r.started is not None for r in leaves.values()),
                "from cache": sum(r.cached for r in leaves.values()),
            }
        )
        + section("Graph", graph(pipeline, result.tasks))
        + section("Time", gantt(leaves))
        + section("Steps", _steps(leaves, result))
        + section("Pages", _links(pages), note="What the steps themselves have to show.")
        + section("Metrics", _metrics(leaves))
        + section("Parameters", _parameters(result))
    )
    target = result.directory / "report.html"
    html = page(
        f"Run {result.run_id}",
        body,
        subtitle=sentence,
        outcome=outcome,
    )
    write_whole(target, html)
    return target


def graph(pipeline: Pipeline, records: Mapping[str, TaskRecord]) -> str:
    """The steps as boxes coloured by state, upstream to the left, with lines along what they wait for; what is
    wider than the page goes on below, like a text."""
    upstream = leaf_dependencies(pipeline)
    depth: dict[str, int] = {}
    for path, parents in upstream.items():  # upstream before downstream
        depth[path] = max((depth[p] + 1 for p in parents if p in depth), default=0)
    columns: dict[int, list[str]] = {}
    for path, column in depth.items():
        columns.setdefault(column, []).append(path)
    width, height, gap_x, gap_y = 140, 40, 14, 14
    tallest: dict[int, int] = {}
    for column, paths in columns.items():
        tallest[column // COLUMNS] = max(tallest.get(column // COLUMNS, 1), len(paths))
    tops = [sum(tallest[line] for line in range(line)) for line in range(len(tallest) + 1)]
    place = {
        path: (
            4 + column % COLUMNS * (width + gap_x),
            4 + (tops[line] + row + (tallest[line] - len(paths)) / 2) * (height + gap_y),
        )
        for column, paths in columns.items()
        for line in [column // COLUMNS]
        for row, path in enumerate(paths)
    }
    parts = []
    for path, parents in upstream.items():
        x, y = place[path]
        for parent in _closest(parents, upstream):
            px, py = place[parent][0] + width, place[parent][1] + height / 2
            bend = (px + x) / 2
            parts.append(
                f'<path class="axis" d="M{px:.0f} {py:.0f}C{bend:.0f} {py:.0f} {bend:.0f} {y + height / 2:.0f} '
                f'{x:.0f} {y + height / 2:.0f}"/>'
            )
    for path, (x, y) in place.items():
        record = records.get(path)
        css = {"pass": "pass", "fail": "fail"}.get(OUTCOMES.get(record.state, "") if record else "", "node")
        first, second = _two_lines(record.display_name if record else path.rpartition("/")[2])
        parts.append(
            f'<g><title>{escape(path)}</title><rect class="{css}" x="{x:.0f}" y="{y:.0f}" width="{width}" '
            f'height="{height}" rx="5"/><text class="label" x="{x + 8:.0f}" y="{y + 17:.0f}">{escape(first)}'
            f'</text><text class="label" x="{x + 8:.0f}" y="{y + 31:.0f}">{escape(second)}</text></g>'
        )
    total = 8 + min(max(columns, default=0) + 1, COLUMNS) * (width + gap_x) - gap_x
    tall = 8 + max(tops[-1], 1) * (height + gap_y) - gap_y
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Graph"><svg viewBox="0 0 {total} {tall}" '
        f'style="min-width:{total * 0.8:.0f}px" role="img" aria-label="Steps and what they wait for">'
        f"{''.join(parts)}</svg></div>"
    )


def leaf_dependencies(pipeline: Pipeline) -> dict[str, list[str]]:
    """The steps (no groups) by path, upstream first, each with the steps it waits for."""
    from airworthy.local.ir import dependencies

    found: dict[str, list[str]] = {}

    def visit(prefix: str, component: Mapping[str, object], inherited: list[str]) -> list[str]:
        leaves_of: dict[str, list[str]] = {}
        for name, task in pipeline.tasks(component).items():
            waits = [leaf for n in dependencies(task.spec) for leaf in leaves_of.get(n, [])] or inherited
            if task.is_dag:
                leaves_of[name] = visit(f"{prefix}{name}/", task.component, waits)
            else:
                found[prefix + name] = list(dict.fromkeys(waits))
                leaves_of[name] = [prefix + name]
        return [leaf for leaves in leaves_of.values() for leaf in leaves]

    visit("", pipeline.root, [])
    return found


def gantt(records: Mapping[str, TaskRecord]) -> str:
    """One bar per step on the run's time axis."""
    ran = [r for r in records.values() if r.started is not None and r.ended is not None]
    if not ran:
        return '<p class="note">No step has run.</p>'
    begin = min(r.started or 0.0 for r in ran)
    span = max(max(r.ended or begin for r in ran) - begin, 0.001)
    label, width, row = 230, 700, 22
    parts = []
    for index, record in enumerate(sorted(ran, key=lambda r: r.started or 0)):
        start, end = (record.started or begin) - begin, (record.ended or begin) - begin
        x, y = label + start / span * width, index * row + 3
        css = "f2" if record.cached else "f1" if record.state == "FAILED" else "f0"
        parts.append(
            f'<text class="label" x="{label - 8}" y="{y + 13}" text-anchor="end">{escape(record.display_name)}</text>'
            f'<rect class="{css}" x="{x:.1f}" y="{y + 2}" width="{max((end - start) / span * width, 2):.1f}" '
            f'height="14" rx="2"/><text x="{x + (end - start) / span * width + 5:.1f}" '
            f'y="{y + 13}">{end - start:.1f} s{" (cache)" if record.cached else ""}</text>'
        )
    tall = len(ran) * row + 8
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Time"><svg viewBox="0 0 {label + width + 110} '
        f'{tall}" style="min-width:640px" role="img" aria-label="When each step ran">{"".join(parts)}</svg></div>'
    )


def _steps(leaves: Mapping[str, TaskRecord], result: RunResult) -> str:
    rows, outcomes = [], []
    for record in leaves.values():
        outcomes.append(OUTCOMES.get(record.state, "warn"))
        log = result.directory / record.log if record.log else None
        memory = f"{record.peak_memory_bytes / 2**20:,.0f} MiB" if record.peak_memory_bytes else "–"
        rows.append(
            (
                record.display_name,
                _seconds(record.started, record.ended),
                memory,
                record.attempts or "–",
                link("log", _from(result, log)) if log and log.exists() else "–",
                record.error or ("from cache" if record.cached else ""),
            )
        )
    return table(["step", "took", "peak memory", "attempts", "log", "remark"], rows, outcomes=outcomes)


def _copy_pages(result: RunResult) -> dict[str, Path]:
    """Artifacts that a browser can show, under names that tell it how."""
    from airworthy.local.executor import VIEWABLE

    folder = result.directory / "reports"
    pages: dict[str, Path] = {}
    for record in result.tasks.values():
        for name, artifact in _artifacts(record):
            source = Path(artifact["uri"])
            suffix = VIEWABLE.get(_type(artifact))
            if suffix is None or not source.is_file():
                continue
            folder.mkdir(exist_ok=True)
            target = folder / f"{record.name}-{name}{suffix}"
            shutil.copyfile(source, target)
            form = " (Markdown)" if suffix == ".md" else ""
            pages[f"{record.display_name}: {name}{form}"] = target
    return pages


def _artifacts(record: TaskRecord) -> list[tuple[str, Mapping[str, Any]]]:
    """The artifacts that a step (not a group) put out, with their names."""
    if not record.is_leaf:
        return []
    found = record.outputs.get("artifacts", {})
    return [(name, artifact) for name, artifacts in found.items() for artifact in artifacts]


def _type(artifact: Mapping[str, Any]) -> str:
    kind = artifact["type"]
    return str(kind.get("schemaTitle", "")) if isinstance(kind, dict) else str(kind)


def _links(pages: Mapping[str, Path]) -> str:
    if not pages:
        return '<p class="note">No step has left a page.</p>'
    return _list([link(title, f"reports/{path.name}") for title, path in pages.items()])


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""


def _metrics(leaves: Mapping[str, TaskRecord]) -> str:
    parts = []
    for record in leaves.values():
        for _, artifact in _artifacts(record):
            values = {k: v for k, v in artifact["metadata"].items() if isinstance(v, (int, float))}
            if _type(artifact) == "system.Metrics" and values:
                content = table(["metric", "value"], list(values.items()))
                parts.append(details(f"{record.display_name} ({len(values)})", content))
    return "".join(parts) or '<p class="note">No metrics.</p>'


def _parameters(result: RunResult) -> str:
    parts = []
    for name, value in result.arguments.items():
        text = str(value)
        shown = (
            Markup("<pre>{}</pre>").format(text) if "\n" in text else Markup("<code>{}</code>").format(text)
        )
        parts.append(details(name, str(shown)) if "\n" in text else f"<p>{escape(name)}: {shown}</p>")
    return "".join(parts)


def _result(result: RunResult) -> tuple[str, str, tuple[str, ...]]:
    """Outcome for the badge, one sentence, and the reasons for it."""
    if result.pipeline == "release" and result.state in ("SUCCEEDED", "FAILED"):
        from airworthy.outcome import release_outcome

        outcome = release_outcome(result)
        sentence = f"{outcome.headline[0].upper()}{outcome.headline[1:]}."
        return "pass" if outcome.ending == "released" else "fail", sentence, outcome.reasons
    reasons = tuple(f"{r.display_name}: {r.error}" for r in result.failures if r.is_leaf and r.error)
    return OUTCOMES.get(result.state, "warn"), f"The run {result.state.lower()}.", reasons


def _closest(parents: list[str], upstream: Mapping[str, list[str]]) -> list[str]:
    """Without arrows that a longer way already tells."""
    seen: set[str] = set()
    stack = [grand for parent in parents for grand in upstream.get(parent, [])]
    while stack:
        path = stack.pop()
        if path not in seen:
            seen.add(path)
            stack.extend(upstream.get(path, []))
    return [parent for parent in parents if parent not in seen]


def _two_lines(text: str, width: int = 20) -> tuple[str, str]:
    if len(text) <= width:
        return text, ""
    cut = text.rfind(" ", 0, width + 1)
    cut = cut if cut > 0 else width
    second = text[cut:].strip()
    return text[:cut], second if len(second) <= width else second[: width - 1] + "…"


def _from(result: RunResult, path: Path) -> str:
    try:
        return str(path.relative_to(result.directory))
    except ValueError:
        return path.as_uri()


def _moment(value: float | None) -> str:
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if value else "–"


def _seconds(started: float | None, ended: float | None) -> str:
    return f"{ended - started:.1f} s" if started is not None and ended is not None else "–"
