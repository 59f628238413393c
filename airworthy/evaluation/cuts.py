"""Raw columns cut into a few parts each: quantile bins of numbers, the frequent values of everything else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from airworthy.evaluation.statistics.metrics import Floats

if TYPE_CHECKING:
    import pyarrow as pa

BINS = 8
"""Most parts of a number (besides missing); fewer distinct values are parts of their own."""
VALUES = 20
"""Values of a category that are parts, the most frequent first; the rest is one more."""


@dataclass(frozen=True)
class Cut:
    """A column's parts: `names[codes[i]]` says in words where row i belongs."""

    codes: NDArray[np.int16]
    names: tuple[str, ...]


def cut_columns(table: pa.Table, columns: Sequence[str], where: NDArray[np.bool_]) -> list[Cut]:
    """Cut columns of a table; one that has a single part tells nothing and is left out.

    Args:
        table: The rows.
        columns: Which columns; numbers, Booleans, strings, times.
        where: Rows that choose the edges and the frequent values.
    """
    found = [_cut(name, table.column(name), where) for name in columns]
    return [cut for cut in found if len(cut.names) > 1]


def _cut(name: str, column: pa.ChunkedArray, where: NDArray[np.bool_]) -> Cut:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _numbers(name, np.asarray(column.cast(pa.float64()).to_numpy()), where)
    return _values(name, column, where)


def _numbers(name: str, values: Floats, where: NDArray[np.bool_]) -> Cut:
    missing = ~np.isfinite(values)
    if missing.all():
        return Cut(np.zeros(len(values), dtype=np.int16), (f"{name} missing",))
    known = values[where & ~missing]
    distinct = np.unique(known)
    edges: Floats
    if len(distinct) == 0:
        edges, names = distinct, _ranges(name, distinct)
    elif len(distinct) <= BINS and np.isin(values[~missing], distinct).all():
        edges = distinct[1:]
        names = [f"{name} = {value:.6g}" for value in distinct]
    else:
        edges = np.unique(np.quantile(known, np.arange(1, BINS) / BINS, method="closest_observation"))
        edges = edges[edges > distinct[0]]
        names = _ranges(name, edges)
    codes = np.searchsorted(edges, values, side="right").astype(np.int16)
    if missing.any():
        codes[missing] = len(names)
        names = [*names, f"{name} missing"]
    return Cut(codes, tuple(names))


def _ranges(name: str, edges: Floats) -> list[str]:
    """Each range begins with its lower edge and ends below the next."""
    if not len(edges):
        return [f"{name} known"]
    said = [f"{edge:.6g}" for edge in edges]
    inner = [f"{name} {low} to below {high}" for low, high in itertools.pairwise(said)]
    return [f"{name} below {said[0]}", *inner, f"{name} {said[-1]} or more"]


def _values(name: str, column: pa.ChunkedArray, where: NDArray[np.bool_]) -> Cut:
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = pc.cast(column, pa.string()).combine_chunks().dictionary_encode()
    codes: NDArray[Any] = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    dictionary = encoded.dictionary.to_pylist()
    sizes = np.bincount(codes[where & (codes >= 0)], minlength=len(dictionary))
    frequent = [int(i) for i in np.lexsort((np.arange(len(sizes)), -sizes))[:VALUES]]
    names = [f"{name} = {dictionary[i]}" for i in frequent]
    part = np.full(len(dictionary) + 1, len(frequent), dtype=np.int16)  # the last one stands for missing
    part[frequent] = np.arange(len(frequent))
    if len(dictionary) > len(frequent):
        names.append(f"{name} is none of its {VALUES} most frequent values")
    if (codes < 0).any():
        part[-1] = len(names)
        names.append(f"{name} missing")
    return Cut(part[codes], tuple(names))
