"""What the splitter tells Prometheus, in its text format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from airworthy.serving.observation import Arm, Result

CONTENT_TYPE = b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
PREFIX = "airworthy_splitter_"


def exposition(
    results: Mapping[tuple[Arm, Result], int],
    gauges: Iterable[tuple[str, str, float]],
    counters: Iterable[tuple[str, str, float]],
) -> bytes:
    """The text.

    Args:
        results: Prediction requests by drawn arm and result.
        gauges: Name, help and value.
        counters: Name, help and value.
    """
    lines = _head("requests_total", "counter", "Prediction requests by drawn arm and result.")
    for (arm, result), count in sorted(results.items()):
        lines.append(f'{PREFIX}requests_total{{arm="{arm}",result="{result}"}} {count}')
    for kind, metrics in (("gauge", gauges), ("counter", counters)):
        for name, text, value in metrics:
            lines += [*_head(name, kind, text), f"{PREFIX}{name} {value}"]
    return ("\n".join(lines) + "\n").encode()


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} {kind}"]
