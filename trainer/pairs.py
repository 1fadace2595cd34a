"""Read the pairs of a run from its shards, one shard at a time.

A shard is read into flat arrays and a pair holds views into them, so no token passes through a Python list.
Every file's digest is checked before it is opened.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import UserError
from schemas.loading import no_garbage
from schemas.manifest import Facts, Marker, look, verify
from schemas.plans import read_plan
from schemas.store import Store, open_store
from schemas.tables import TABLES
from trainer.disk import at
from trainer.needs import SCORE_COLUMNS, need_of, scorer_of

_TOKEN_COLUMNS = (
    "prompt_ids",
    "chosen_ids",
    "rejected_ids",
    "ref_chosen_token_logps",
    "ref_rejected_token_logps",
)
# What is read for every loss.
COLUMNS = ("pair_id", "split", *_TOKEN_COLUMNS)
_EMPTY: dict[str, Any] = {}  # shared by all pairs that hold nothing more


class Pair(NamedTuple):
    """One pair, as views into its shard's flat arrays.

    Token ids are int32. Reference log-probs are float32, one for each token of their response."""

    pair_id: str
    prompt_ids: np.ndarray
    chosen_ids: np.ndarray
    rejected_ids: np.ndarray
    ref_chosen_token_logps: np.ndarray
    ref_rejected_token_logps: np.ndarray
    more: dict[str, np.ndarray] = _EMPTY  # the columns that the loss needs beside these, by their names
    scores: dict[str, tuple[float, float]] = _EMPTY  # scorer -> (of the chosen response, of the rejected one)

    @property
    def tokens(self) -> int:
        """Tokens of its forward pass."""
        baseline = len(self.more.get("baseline_ids", ()))
        return len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids) + baseline

    @property
    def most_tokens(self) -> int:
        """Tokens of its longest forward pass: the one under the quality prompt may be longer."""
        longer_prompt = len(self.more.get("quality_prompt_ids", ())) - len(self.prompt_ids)
        return self.tokens + max(0, longer_prompt)

    def column(self, name: str) -> np.ndarray:
        """One of its columns of the table `pairs`."""
        values: np.ndarray = self.more[name] if name in self.more else getattr(self, name)
        return values


@dataclass(frozen=True)
class Pairs:
    """A finished pairs folder; `needs` is what is read beside COLUMNS, by the names in trainer/needs.py."""

    folder: Store
    facts: Facts
    markers: tuple[Marker, ...]
    needs: tuple[str, ...] = ()

    def count(self, name: str) -> int:
        """How many pairs the engine counted under a name: train, test, have_quality …"""
        return sum(marker.counts.get(name, 0) for marker in self.markers)


def open_pairs(where: str | Path | Store, needs: tuple[str, ...] = (), loss: str = "the loss") -> Pairs:
    """The pairs that a run's plan names.

    Raises UserError where they are not all there, or lack a column that the loss needs."""
    run = open_store(where)
    planned, shards = read_plan(run)
    name = next((stage.folder for stage in planned if stage.stage == "pairs"), None)
    if name is None:
        raise UserError(
            f"{run} has no pairs: its recipe had no [pairs] section; "
            "add one and run `engine precompute` again"
        )
    folder = run.child(name)
    with no_garbage():
        finished = look(folder)
    markers = finished.shards
    if finished.manifest is None or len(markers) != shards:
        raise UserError(
            f"{folder} is unfinished, {len(markers)} of {shards} shards are there: "
            "run `engine precompute` again to make the rest"
        )
    pairs = Pairs(
        folder=folder,
        facts=finished.manifest.facts,
        markers=tuple(markers),
        needs=needs,
    )
    if not pairs.count("train"):
        held_out = pairs.count("test")
        reason = f"see `engine status {run}` for what was refused"
        if held_out:
            reason = f"{held_out} are held out by pairs.test_share"
        raise UserError(f"{folder} has no pairs to train on: {reason}")
    for need in needs:
        check_need(pairs, need, loss)
    return pairs


def check_need(pairs: Pairs, name: str, loss: str) -> None:
    """Raise UserError where not every pair has what the loss needs. Reads the engine's counts, no shard."""
    have = pairs.count(f"have_{name}")
    total = pairs.count("train") + pairs.count("test")
    if have == total:
        return
    need = need_of(name)
    if not pairs.count("have_edit_mask"):
        raise UserError(
            f"{loss} needs {need.what}, and {pairs.folder}, which an older prefmill made, "
            "does not say whether it has them: run `engine precompute` again"
        )
    lack = f"{pairs.folder.name} lacks"
    remedy = need.remedy
    if have:
        # Only a score can be there for some pairs and not for others.
        lack = f"{total - have:,} of {total:,} pairs lack"
        remedy = f'set scored_by = ["{scorer_of(name)}"] in [pairs], which sends those pairs to rejects'
    raise UserError(
        f"{loss} needs {need.what} (columns {', '.join(need.columns)}), which {lack}: {remedy}, "
        "and run `engine precompute` again"
    )


@dataclass(frozen=True)
class _ListColumn:
    """A list column as one flat array; row i is values[offsets[i] : offsets[i + 1]]."""

    values: np.ndarray
    offsets: list[int]

    def row(self, number: int) -> np.ndarray:
        """A view of one row."""
        return self.values[self.offsets[number] : self.offsets[number + 1]]


def _list_column(column: pa.ChunkedArray) -> _ListColumn:
    """A column of a table as one flat array."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    offsets = array.offsets.to_numpy()
    values = array.flatten().to_numpy(zero_copy_only=False)
    return _ListColumn(values, (offsets - offsets[0]).tolist())


def _scores(rows: pa.Table, scorer: str) -> list[tuple[float, float]]:
    """A scorer's scores of each row's two responses."""
    sides: list[list[float]] = []
    for name in SCORE_COLUMNS:
        sides.append(pc.map_lookup(rows[name], pa.scalar(scorer), "first").to_pylist())
    chosen, rejected = sides
    return list(zip(chosen, rejected, strict=True))


class Rows(Sequence[Pair]):
    """A shard's pairs of one split, in the order of its file. Each is made when it is asked for."""

    def __init__(self, rows: pa.Table, needs: tuple[str, ...], split: str) -> None:
        # Row numbers instead of Table.filter, which would copy every token.
        splits = rows["split"].to_pylist()
        self._rows = [row for row, its_split in enumerate(splits) if its_split == split]
        self._pair_ids = rows["pair_id"].to_pylist()
        self._tokens = {name: _list_column(rows[name]) for name in _TOKEN_COLUMNS}
        self._more: dict[str, _ListColumn] = {}
        self._scores: dict[str, list[tuple[float, float]]] = {}
        for need in needs:
            scorer = scorer_of(need)
            if scorer:
                self._scores[scorer] = _scores(rows, scorer)
                continue
            for name in need_of(need).columns:
                self._more[name] = _list_column(rows[name])

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Pair: ...

    @overload
    def __getitem__(self, place: slice) -> "list[Pair]": ...

    def __getitem__(self, place: int | slice) -> "Pair | list[Pair]":
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        row = self._rows[place]
        more = _EMPTY
        if self._more:
            more = {name: column.row(row) for name, column in self._more.items()}
        scores = _EMPTY
        if self._scores:
            scores = {scorer: of_rows[row] for scorer, of_rows in self._scores.items()}
        return Pair(
            pair_id=self._pair_ids[row],
            prompt_ids=self._tokens["prompt_ids"].row(row),
            chosen_ids=self._tokens["chosen_ids"].row(row),
            rejected_ids=self._tokens["rejected_ids"].row(row),
            ref_chosen_token_logps=self._tokens["ref_chosen_token_logps"].row(row),
            ref_rejected_token_logps=self._tokens["ref_rejected_token_logps"].row(row),
            more=more,
            scores=scores,
        )


def read_shard(pairs: Pairs, shard: int, split: str) -> Rows:
    """A shard's pairs of one split. Raises UserError where a file is not the one its marker names."""
    columns = list(COLUMNS)
    for need in pairs.needs:
        # Two scorers share their columns.
        columns += [name for name in need_of(need).columns if name not in columns]
    tables: list[pa.Table] = []
    for file in pairs.markers[shard].files:
        if file.table == "pairs":
            path = verify(pairs.folder, file)
            with at(path, "run `engine verify`, which says what is wrong with the run"):
                # A third faster here than read_table.
                tables.append(pq.ParquetFile(path, page_checksum_verification=True).read(columns))
    # A shard without pairs has no file.
    rows = pa.concat_tables(tables or [TABLES["pairs"].empty_table()])
    _check_finite(rows, pairs.folder)
    return Rows(rows, pairs.needs, split)


def _check_finite(rows: pa.Table, folder: Store) -> None:
    """Raise UserError, which names a pair, where a cached log-prob or a score is NaN or infinite."""
    for name in set(rows.column_names) & set(SCORE_COLUMNS):
        _check_finite_scores(rows, name, folder)
    for name in rows.column_names:
        if not name.endswith("_token_logps") or not len(rows):
            continue
        column = _list_column(rows[name])
        bad = np.flatnonzero(~np.isfinite(column.values))
        if len(bad):
            row = int(np.searchsorted(column.offsets, bad[0], side="right")) - 1
            raise UserError(
                f"{folder} holds log-probs that are not finite, such as {column.values[bad[0]]} in {name} of "
                f"pair {rows['pair_id'][row].as_py()}, so cache and policy do not agree and nothing can be "
                "learnt: run `engine precompute` again in another folder (-o), with a model whose weights "
                "are whole and a dtype that does not overflow"
            )


def _check_finite_scores(rows: pa.Table, name: str, folder: Store) -> None:
    """Raise UserError, which names a pair, where one of the scores in this column is NaN or infinite."""
    for pair_id, scores in zip(rows["pair_id"].to_pylist(), rows[name].to_pylist(), strict=True):
        for scorer, score in scores or ():
            if score is not None and not math.isfinite(score):
                raise UserError(
                    f"{folder} holds scores that are not finite, such as {score} by {scorer} in {name} of "
                    f"pair {pair_id}: correct the scorer and run `engine precompute` again"
                )
