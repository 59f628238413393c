"""The two models under comparison, scored on the same rows of the test window in one pass."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airworthy import datasets
from airworthy.bundle import BundleInfo, Scorer, verify_bundle
from airworthy.errors import DataError
from airworthy.evaluation.statistics.metrics import Floats, Labels
from airworthy.model_spec import BLOCKS

if TYPE_CHECKING:
    import pyarrow as pa

    from airworthy.model_spec import ModelSpec

_MOST_THREADS = 8


@dataclass(frozen=True)
class Arm:
    """One model's answers."""

    digest: str
    scorer: Scorer
    scores: Floats
    unseen: dict[str, int]
    """Rows per feature whose category the model never met (scored as missing)."""

    @property
    def info(self) -> BundleInfo:
        return self.scorer.info

    @property
    def improbable(self) -> int:
        """Scores that are no probabilities: not finite, or outside 0 to 1."""
        return int(np.sum(~((self.scores >= 0) & (self.scores <= 1))))


@dataclass(frozen=True)
class Groups:
    """A slice column: `names[codes[i]]` is the value of row i; code -1 stands for missing."""

    codes: np.ndarray[Any, np.dtype[np.int32]]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Scored:
    """The test window with both models' scores, row by row."""

    path: Path
    """The test window, for what needs raw feature values."""
    dataset: datasets.DatasetInfo
    ids: pa.ChunkedArray
    labels: Labels
    challenger: Arm
    champion: Arm | None
    """None on a first release, and when `champion_problem` says why it could not be compared."""
    champion_version: str | None
    champion_digest: str | None
    champion_problem: str | None
    columns: dict[str, Groups]
    """Columns that the spec cuts by (slices, protected, blocks): `ModelSpec.evaluation_columns`."""
    missing_columns: tuple[str, ...]
    blocks: np.ndarray[Any, np.dtype[np.int32]] | None
    """Block of each row by `gate.resampling.block`; None where rows are independent."""

    def sample(self, rows: int, seed: int) -> tuple[pa.Table, np.ndarray[Any, np.dtype[np.intp]]]:
        """A uniform random sample of at most `rows` rows with all columns of the dataset, and their places."""
        import pyarrow as pa

        total = len(self.labels)
        places = np.sort(np.random.default_rng(seed).choice(total, min(rows, total), replace=False))
        parts, first = [], 0
        for batch in datasets.iter_batches(self.path, sorted(_columns(self.dataset))):
            inside = places[(places >= first) & (places < first + batch.num_rows)] - first
            parts.append(batch.take(pa.array(inside)))
            first += batch.num_rows
        return pa.Table.from_batches(parts), places


def has_bundle(path: Path | None) -> bool:
    """Whether there is a bundle at all; an empty folder stands for none (a first release)."""
    return path is not None and path.is_dir() and any(path.iterdir())


def score_arms(
    spec: ModelSpec, test: Path, bundle: Path, champion: Path | None, champion_version: str | None
) -> Scored:
    """Score challenger and champion on every row of the test window.

    A champion that can't score these rows (it was trained on features or a label that they lack) is no error:
    `champion_problem` says why.

    Raises:
        DataError: The window is empty, unlabelled, single-class, or lacks what the challenger needs; or the
            champion's version and bundle don't come together.
        BundleError: A bundle doesn't match its digests.
    """
    info = datasets.read_info(test)
    _require_test_rows(spec, info)
    if has_bundle(champion) != bool(champion_version):
        raise DataError(
            f"champion: version {champion_version or 'none'} and bundle folder {champion or 'none'} don't "
            "come together; load the champion again"
        )
    digest, challenger = verify_bundle(bundle), Scorer.load(bundle, verify=False)
    problem = _unable(challenger.info, spec, info)
    if problem:
        raise DataError(f"the challenger can't score {test}: it {problem}")
    rival, rival_digest, rival_problem = None, "", None
    if champion is not None and champion_version:
        rival_digest, rival = verify_bundle(champion), Scorer.load(champion, verify=False)
        rival_problem = _unable(rival.info, spec, info)
    scorers = [challenger] + ([rival] if rival is not None and rival_problem is None else [])
    named = spec.evaluation_columns
    present = [c for c in named if c in _columns(info)]
    answers, table = _one_pass(test, info, scorers, present)
    arms = [Arm(d, s, *a) for d, s, a in zip([digest, rival_digest], scorers, answers, strict=False)]
    if len(arms) > 1 and arms[1].improbable:
        rival_problem = f"gives {arms[1].improbable:,} scores that are not probabilities"
    columns = {name: _groups(table.column(name)) for name in present}
    return Scored(
        path=test,
        dataset=info,
        ids=table.column(info.id),
        labels=_labels(table.column(spec.label.column), test),
        challenger=arms[0],
        champion=arms[1] if len(arms) > 1 and rival_problem is None else None,
        champion_version=champion_version or None,
        champion_digest=rival_digest or None,
        champion_problem=None if rival_problem is None else f"the champion {rival_problem}",
        columns=columns,
        missing_columns=tuple(name for name in named if name not in present),
        blocks=_blocks(spec.gate.resampling.block, table.column(info.time), columns),
    )


def _require_test_rows(spec: ModelSpec, info: datasets.DatasetInfo) -> None:
    if info.rows == 0:
        raise DataError(f"dataset {info.name}: no rows between {info.start} and {info.end} to evaluate on")
    if info.label != spec.label.column:
        raise DataError(
            f"dataset {info.name}: its label is {info.label}, but the spec asks for {spec.label.column}"
        )


def _unable(model: BundleInfo, spec: ModelSpec, info: datasets.DatasetInfo) -> str | None:
    """Why a model can't score this dataset, as the rest of a sentence; None when it can."""
    if model.label != spec.label.column:
        return f"predicts {model.label}, not {spec.label.column}"
    kinds = {feature.name: feature.kind for feature in info.features}
    absent = [f.name for f in model.features if f.name not in kinds]
    if absent:
        return f"needs features that this dataset lacks: {', '.join(absent)}"
    changed = [f.name for f in model.features if (f.kind == "category") != (kinds[f.name] == "category")]
    if changed:
        return f"knows features as another kind than this dataset: {', '.join(changed)}"
    return None


def _columns(info: datasets.DatasetInfo) -> set[str]:
    return {*info.feature_names, *info.extra, info.id, info.time}


def _one_pass(
    test: Path, info: datasets.DatasetInfo, scorers: Sequence[Scorer], columns: Sequence[str]
) -> tuple[list[tuple[Floats, dict[str, int]]], pa.Table]:
    """Every scorer's scores and unseen counts, and the columns kept (id, time, label, `columns`).

    Batches are scored side by side, as the engines let go of the interpreter while they work; a row's score does
    not depend on its batch. At most `2 * threads()` batches are in memory.
    """
    import pyarrow as pa

    wanted = sorted({f.name for scorer in scorers for f in scorer.info.features})
    kept = list(dict.fromkeys([info.id, info.time, str(info.label), *columns]))
    parts: list[list[Floats]] = [[] for _ in scorers]
    unseen: list[Counter[str]] = [Counter() for _ in scorers]
    batches = []

    def collect(answers: list[tuple[Floats, dict[str, int]]]) -> None:
        for index, (scores, new) in enumerate(answers):
            parts[index].append(scores)
            unseen[index].update(new)

    waiting: deque[Future[list[tuple[Floats, dict[str, int]]]]] = deque()
    with ThreadPoolExecutor(threads()) as pool:
        try:
            for batch in datasets.iter_batches(test, sorted({*wanted, *kept})):
                batches.append(batch.select(kept))
                waiting.append(pool.submit(_score_batch, scorers, batch.select(wanted)))
                if len(waiting) > 2 * threads():
                    collect(waiting.popleft().result())
            while waiting:
                collect(waiting.popleft().result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # nobody waits for batches of a failed evaluation
            raise
    answers = [(np.concatenate(p), dict(u)) for p, u in zip(parts, unseen, strict=True)]
    return answers, pa.Table.from_batches(batches)


def _score_batch(scorers: Sequence[Scorer], batch: pa.RecordBatch) -> list[tuple[Floats, dict[str, int]]]:
    """Every scorer's scores and unseen counts of one batch; its columns are unpacked once for all of them."""
    values = {name: raw_values(batch.column(name)) for name in batch.schema.names}
    answers = []
    for scorer in scorers:
        matrix, unseen = scorer.encode(values)
        answers.append((scorer.score(matrix), unseen))
    return answers


def raw_values(column: pa.Array | pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Numbers (missing as NaN), or objects (text, booleans with missing ones; missing as None)."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values: np.ndarray[Any, Any] = column.to_numpy(zero_copy_only=False)
    return values


def threads() -> int:
    """Things done at the same time: one per CPU of this process, bounded as each needs memory."""
    return min(len(os.sched_getaffinity(0)), _MOST_THREADS)


def _labels(column: pa.ChunkedArray, test: Path) -> Labels:
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count:
        raise DataError(f"{test}: {column.null_count} of {len(column)} rows have no label; retrieve again")
    try:
        values = pc.cast(column, pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(f"{test}: the label must be 0/1 or false/true, not {column.type}") from None
    odd = values[(values != 0) & (values != 1)]
    if len(odd):
        raise DataError(f"{test}: the label must be 0 or 1, found {odd[0]:g}")
    labels = values.astype(np.int8)
    for value, word in ((1, "positive"), (0, "negative")):
        if not np.any(labels == value):
            raise DataError(f"{test}: no {word} row among {len(labels)}; widen the test window")
    return labels


def _groups(column: pa.ChunkedArray) -> Groups:
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = pc.cast(column, pa.string()).dictionary_encode().unify_dictionaries().combine_chunks()
    chunk = encoded if isinstance(encoded, pa.DictionaryArray) else encoded.chunk(0)
    codes = pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32)
    return Groups(codes, tuple(chunk.dictionary.to_pylist()))


def _blocks(
    unit: str, times: pa.ChunkedArray, columns: dict[str, Groups]
) -> np.ndarray[Any, np.dtype[np.int32]] | None:
    """Block of each row.

    Raises:
        DataError: The unit is a column that the dataset lacks.
    """
    import pyarrow.compute as pc

    if unit == "row":
        return None
    if unit in BLOCKS:
        floored = pc.floor_temporal(times, unit=unit).to_numpy()
        return np.unique(floored, return_inverse=True)[1].astype(np.int32)
    if unit not in columns:
        raise DataError(f"gate.resampling.block: the test dataset has no column {unit}")
    return columns[unit].codes
