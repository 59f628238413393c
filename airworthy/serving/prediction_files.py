"""The prediction log on disk: `date=YYYY-MM-DD/hour=HH/part-<start>-<host>-<pid>-<n>.parquet`, UTC.

A part is written under a temporary name, synced and renamed: what is visible is whole. One row per predicted row:

| column | |
| --- | --- |
| `request_id` | `X-Request-Id` or V2 `id` of the caller, else one that the server made up; also in the answer |
| `row` | place in the request, from 0 |
| `at` | when the request arrived, UTC |
| `model`, `model_version`, `digest`, `arm` | who answered |
| `status` | HTTP status; score, decision and features are null unless it is 200 |
| `seconds` | what the server took for the whole request |
| `score` | probability |
| `decision` | whether the score reaches the bundle's threshold |
| `feature.<name>` | as the caller sent it |
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

FEATURE = "feature."
"""Prefix of the columns that hold features."""
INCOMPLETE = ".incomplete"
STALE_SECONDS = 3600.0
"""Temporary files of other hosts are left alone for so long."""
_PART = re.compile(r"part-\d+-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-\d+\.parquet")
_HOUR = re.compile(r"date=(\d{4}-\d{2}-\d{2})/hour=(\d{2})$")


def host_tag() -> str:
    """Eight hexadecimal digits for this machine."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def part_prefix() -> str:
    """Start of the names of this process's parts; no two processes share it."""
    return f"part-{time.time_ns()}-{host_tag()}-{os.getpid()}"


def write_part(folder: Path, at: datetime, name: str, table: pa.Table) -> Path:
    """Write one part into the hour that `at` lies in.

    Raises:
        OSError: The disk is full, the folder can't be written, …
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = pa.BufferOutputStream()
    # Many parts are small: their size is what is said about the columns, of which only the time is searched by.
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(
        table, content, compression="zstd", use_dictionary=texts, write_statistics=["at"], store_schema=False
    )
    part = folder / f"date={at:%Y-%m-%d}" / f"hour={at:%H}" / f"{name}.parquet"
    part.parent.mkdir(parents=True, exist_ok=True)
    temporary = part.with_name(part.name + INCOMPLETE)
    try:
        with temporary.open("wb") as handle:
            handle.write(content.getvalue())
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(part)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(part.parent)
    return part


def remove_stale(folder: Path) -> int:
    """Remove temporary files whose process is gone; returns how many."""
    removed = 0
    for file in folder.glob(f"date=*/hour=*/part-*{INCOMPLETE}"):
        found = _PART.fullmatch(file.name.removesuffix(INCOMPLETE))
        with contextlib.suppress(FileNotFoundError):
            old = time.time() - file.stat().st_mtime > STALE_SECONDS
            here = found is not None and found["host"] == host_tag()
            # A process of our own id that writes there was another one: we have not begun yet.
            if old or (
                found and here and (int(found["pid"]) == os.getpid() or not _alive(int(found["pid"])))
            ):
                file.unlink()
                removed += 1
    return removed


def retain(folder: Path, keep_days: float, max_bytes: int, now: datetime | None = None) -> int:
    """Delete the hours that are too old, then the oldest parts until the rest is small enough.

    Safe beside other processes that write there and retain.

    Returns:
        How many parts were deleted.
    """
    oldest = (now or datetime.now(UTC)) - timedelta(days=keep_days)
    parts, removed = _parts(folder), 0
    sizes: list[tuple[Path, int]] = []
    for hour, part in parts:
        if hour + timedelta(hours=1) <= oldest:
            removed += _unlink(part)
            continue
        with contextlib.suppress(FileNotFoundError):
            sizes.append((part, part.stat().st_size))
    excess = sum(size for _, size in sizes) - max_bytes
    for part, size in sizes:
        if excess <= 0:
            break
        removed += _unlink(part)
        excess -= size
    if removed:
        _remove_empty(folder, now or datetime.now(UTC))
    return removed


def read_predictions(
    folder: Path,
    start: datetime,
    end: datetime,
    *,
    model: str | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Logged rows that arrived in a window, part by part, in bounded memory and no particular order.

    Parts written or deleted meanwhile may or may not be seen; each is seen whole. Versions that read other features
    have other columns: batches differ in schema.

    Args:
        folder: The log.
        start: First moment, with a time zone.
        end: First moment that is not read any more.
        model: Only this model's rows.
        columns: Only these, where they exist; None for all.

    Raises:
        DataError: A part is damaged.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from airworthy.errors import DataError

    begin, stop = (pa.scalar(moment.astimezone(UTC), pa.timestamp("us", tz="UTC")) for moment in (start, end))
    for hour, part in _parts(folder):
        if hour >= end or hour + timedelta(hours=1) <= start:
            continue
        try:
            with part.open("rb") as handle:
                file = pq.ParquetFile(handle)
                known = file.schema_arrow.names
                wanted = known if columns is None else [name for name in columns if name in known]
                table = file.read(columns=list(dict.fromkeys([*wanted, "at", "model"])))
        except FileNotFoundError:
            continue
        except pa.ArrowInvalid as error:
            raise DataError(f"{part}: is no Parquet file ({error}); move it away") from None
        chosen = pc.and_(pc.greater_equal(table["at"], begin), pc.less(table["at"], stop))
        if model is not None:
            chosen = pc.and_(chosen, pc.equal(table["model"], model))
        yield from table.filter(chosen).select(wanted).to_batches()


def _parts(folder: Path) -> list[tuple[datetime, Path]]:
    """Visible parts with the beginning of their hour, oldest first."""
    found = []
    for hour_folder in folder.glob("date=*/hour=*"):
        named = _HOUR.search(hour_folder.as_posix())
        if not named:
            continue
        hour = datetime.fromisoformat(f"{named[1]}T{named[2]}:00+00:00")
        with contextlib.suppress(FileNotFoundError):
            found += [(hour, part) for part in hour_folder.iterdir() if _PART.fullmatch(part.name)]
    return sorted(found)


def _unlink(file: Path) -> bool:
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    return True


def _remove_empty(folder: Path, now: datetime) -> None:
    """Remove folders of past hours that hold nothing any more."""
    present = f"date={now:%Y-%m-%d}/hour={now:%H}"
    for pattern in ("date=*/hour=*", "date=*"):
        for empty in folder.glob(pattern):
            if not present.startswith(empty.relative_to(folder).as_posix()):
                with contextlib.suppress(OSError):  # not empty
                    empty.rmdir()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """So that the new name survives a loss of power, too."""
    handle: Any = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
