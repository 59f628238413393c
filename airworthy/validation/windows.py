"""A dataset as validation sees it: its description, what its files' footers say, and its rows, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airworthy import datasets
from airworthy.errors import DataError
from airworthy.validation.findings import Finding

if TYPE_CHECKING:
    import pyarrow as pa

    Chooser = Callable[[pa.Array], pa.BooleanArray]


@dataclass(frozen=True)
class Window:
    """A dataset on disk.

    Attributes:
        name: `train`, `tune` or `test`.
        path: The dataset's folder.
        info: Its description.
        rows: Rows really in the files.
        types: Arrow type of every column that has the same type in all files.
        mixed: Columns whose type differs from file to file, with the types.
    """

    name: str
    path: Path
    info: datasets.DatasetInfo
    rows: int
    types: dict[str, pa.DataType]
    mixed: dict[str, list[str]]

    def finding(
        self, feature: str | None, kind: str, expectation: str, observed: str, example: str = ""
    ) -> Finding:
        """A finding of this window; the spec's severities are applied at the end."""
        return Finding(self.name, feature, kind, "block", expectation, observed, example)

    @property
    def measured_columns(self) -> list[str]:
        """Columns that statistics are made of: all but id, times, extras and what TFDV can't read.

        Columns that `dataset.json` doesn't know stay in, so that TFDV reports them as new.
        """
        info = self.info
        left_out = {info.id, info.time, info.label_known_at, *info.extra}
        return [c for c, arrow_type in self.types.items() if c not in left_out and readable(arrow_type)]

    def batches(self, *columns: str) -> Iterator[dict[str, pa.Array]]:
        """The named columns, batch by batch."""
        for batch in datasets.iter_batches(self.path, list(dict.fromkeys(columns))):
            yield dict(zip(batch.schema.names, batch.columns, strict=True))

    def first(self, column: str, chosen: Chooser) -> str:
        """A real value for a finding: the first row whose value is chosen, with the row's id.

        Args:
            column: Where to look.
            chosen: Takes the column's values; returns a boolean array (null: not chosen).

        Returns:
            Such as `'ZZ' in row UA-123`; "" when no row is chosen.
        """
        named = self.info.id in self.types
        for batch in self.batches(column, *([self.info.id] if named else [])):
            rows = chosen(batch[column]).fill_null(False).to_numpy(zero_copy_only=False).nonzero()[0]
            if len(rows):
                value = batch[column][int(rows[0])].as_py()
                shown = "no value" if value is None else repr(value) if isinstance(value, str) else str(value)
                return f"{shown} in row {batch[self.info.id][int(rows[0])].as_py()}" if named else shown
        return ""


def open_window(name: str, path: Path) -> Window:
    """Read a dataset's description and footers (no rows).

    Raises:
        DataError: There is no dataset, or a file is not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    info = datasets.read_info(path)
    seen: dict[str, list[pa.DataType]] = {}
    rows = 0
    files = datasets.files(path)
    for file in files:
        try:
            parquet = pq.ParquetFile(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{file}: not a readable Parquet file ({error}); retrieve the features again"
            ) from None
        rows += parquet.metadata.num_rows
        for column in parquet.schema_arrow:
            seen.setdefault(column.name, []).append(column.type)
    whole = {c: kinds[0] for c, kinds in seen.items() if len(kinds) == len(files) and len(set(kinds)) == 1}
    mixed = {c: sorted({f"type {kind}" for kind in kinds}) for c, kinds in seen.items() if c not in whole}
    for column, kinds in mixed.items():
        if len(seen[column]) < len(files):
            kinds.append("no such column")
    return Window(name, path, info, rows, whole, mixed)


def readable(arrow_type: pa.DataType) -> bool:
    """Whether TFDV can be given a column of this type (after `statistics.canonical`)."""
    import pyarrow.types as types

    arrow_type = arrow_type.value_type if types.is_dictionary(arrow_type) else arrow_type
    return bool(
        types.is_null(arrow_type)
        or types.is_boolean(arrow_type)
        or types.is_integer(arrow_type)
        or types.is_floating(arrow_type)
        or is_text(arrow_type)
    )


def count_true(mask: pa.BooleanArray) -> int:
    """How many are true (pyarrow 10 crashes the process on `true_count` of an array without nulls)."""
    import pyarrow.compute as pc

    return pc.sum(mask).as_py() or 0


def is_text(arrow_type: pa.DataType) -> bool:
    """Whether the values are strings, dictionary-encoded or not."""
    import pyarrow.types as types

    arrow_type = arrow_type.value_type if types.is_dictionary(arrow_type) else arrow_type
    return bool(types.is_string(arrow_type) or types.is_large_string(arrow_type))
