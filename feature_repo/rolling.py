"""Sums and quantiles of events over a time window, at many snapshot times, in one pass.

All windows are [t - window, t): what happens at t itself is not known at t.
"""

from __future__ import annotations

import numpy as np
import polars as pl

DAY = 86400


def snapshot_times(due: pl.Series, every: int, offset: int = 0) -> np.ndarray:
    """Times [s since 1970], one in `every` seconds, from a day before the first of `due` to past the last."""
    moments = seconds(due)
    first = (int(moments.min()) - DAY) // DAY * DAY + offset
    return np.arange(first, int(moments.max()) + DAY, every, dtype=np.int64)


def seconds(times: pl.Series) -> np.ndarray:
    """Whole seconds since 1970."""
    return times.dt.epoch("s").to_numpy().astype(np.int64)


def timestamps(seconds: np.ndarray) -> pl.Series:
    """The inverse of `seconds`, UTC."""
    return pl.Series(seconds * 1_000_000).cast(pl.Datetime("us", "UTC"))


def before(times: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """How many of `times` lie strictly before each grid time."""
    return np.searchsorted(np.sort(times), grid, side="left").astype(np.int64)


def sums(times: np.ndarray, values: list[np.ndarray], grid: np.ndarray, window: int) -> list[np.ndarray]:
    """Count, and sum of each of `values`, over the events in [t - window, t), for each grid time t."""
    order = np.argsort(times, kind="stable")
    first, last = (np.searchsorted(times[order], grid - back, side="left") for back in (window, 0))
    results = [(last - first).astype(np.int64)]
    for value in values:
        running = np.concatenate([[0], np.cumsum(value[order].astype(np.int64))])
        results.append(running[last] - running[first])
    return results


def quantiles(
    times: np.ndarray, values: np.ndarray, grid: np.ndarray, window: int, quantile: float
) -> pl.Series:
    """Quantile (linear) of the events in [t - window, t), for each grid time t; null where there is none."""
    order = np.argsort(times, kind="stable")
    ranked, out = values[order], np.full(len(grid), np.nan)
    first, last = (np.searchsorted(times[order], grid - back, side="left") for back in (window, 0))
    for i, (a, b) in enumerate(zip(first, last, strict=True)):
        if b > a:
            position = quantile * (b - a - 1)
            low = int(position)
            high = min(low + 1, b - a - 1)
            part = np.partition(ranked[a:b], [low, high])
            out[i] = part[low] + (part[high] - part[low]) * (position - low)
    return pl.Series(out).fill_nan(None)


def ratio(total: np.ndarray, count: np.ndarray) -> pl.Series:
    """total / count; null where nothing was counted."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return pl.Series(total / count).fill_nan(None)
