"""The pairs that the page holds: all of them where they have room, else a sample, of which the page says so.

First come the pairs in which the reference disagrees most with the choice, by log-prob a token: they are
worth reading. The others are drawn by the digest of their ids: at random, and the same ones every time.

The ids are chosen first. Then the pairs are read, more at a time, until there is no more room: each reading
is a scan of the tables, and what it holds in memory is bounded.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from engine import sql
from engine.report.packing import Packer
from engine.report.pairs import for_page
from engine.story.tokens import Tokens

_SURPRISING = 100
_FIRST_READ = 200  # pairs; then twice as many each time
_AT_A_TIME = 10  # pairs between two looks at the size
_COLUMNS = """
    pair_id, prompt_id, split, source, prompt, chosen, rejected, chosen_score, rejected_score,
    chosen_scores, rejected_scores, chosen_length, rejected_length, chosen_ids, rejected_ids,
    ref_chosen_logps, ref_rejected_logps, ref_chosen_token_logps, ref_rejected_token_logps
"""
_SURPRISING_IDS = """
    select pair_id from pairs where ref_rejected_logps is not null and ref_chosen_logps is not null
    order by ref_rejected_logps / rejected_length - ref_chosen_logps / chosen_length desc, pair_id limit $1
"""
_DRAWN_IDS = "select pair_id from pairs order by md5(pair_id) limit $1"
_PAIRS = f"select {_COLUMNS} from pairs where pair_id in (select unnest($1))"
_PROMPTS = "select prompt_id, messages, file, line from prompts where prompt_id in (select unnest($1))"


@dataclass(frozen=True)
class Sample:
    """Pairs for the page. `packed`: JSON lines, as packing.py packs them. `surprising`: so many of the first
    ones are there since the reference disagrees with them."""

    packed: str
    shown: int
    there: int
    surprising: int

    @property
    def text(self) -> str:
        """How many of all pairs these are."""
        if self.shown == self.there:
            return f"all {self.there:,} pairs"
        said = f"{self.shown:,} of {self.there:,} pairs"
        surprising = min(self.surprising, self.shown)
        if not self.shown or not surprising:
            return f"{said}, drawn at random" if self.shown else said
        first = f"the {surprising} in which the reference disagrees most with the choice, by log-prob a token"
        return f"{said}: {first}" + (", and others at random" if self.shown > surprising else "")


def sample(con: duckdb.DuckDBPyConnection, tokens: Tokens | None, most: int, room: int) -> Sample:
    """At most so many pairs, in at most so many bytes of the page."""
    (counted,) = sql.rows(con, "select count(*) as there from pairs")
    there = counted["there"]
    surprising = [row["pair_id"] for row in sql.rows(con, _SURPRISING_IDS, min(most, _SURPRISING))]
    drawn = [row["pair_id"] for row in sql.rows(con, _DRAWN_IDS, most)]
    wanted = list(dict.fromkeys([*surprising, *drawn]))[:most]
    packer = Packer(room)
    shown = 0
    for rows in _read(con, wanted):
        lines = [json.dumps(for_page(row, tokens), ensure_ascii=False, allow_nan=False) for row in rows]
        if not packer.add("".join(f"{line}\n" for line in lines)):
            break
        shown += len(lines)
    return Sample(packer.packed(), shown, there, len(surprising))


def _read(con: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """The pairs of these ids with their prompts, in this order, a few at a time."""
    begin, count = 0, _FIRST_READ
    while begin < len(wanted):
        ids = wanted[begin : begin + count]
        pairs = {row["pair_id"]: row for row in sql.rows(con, _PAIRS, list(ids))}
        prompt_ids = sorted({row["prompt_id"] for row in pairs.values()})
        prompts = {row["prompt_id"]: row for row in sql.rows(con, _PROMPTS, prompt_ids)}
        rows = [pairs[pair_id] | prompts.get(pairs[pair_id]["prompt_id"], {}) for pair_id in ids]
        for place in range(0, len(rows), _AT_A_TIME):
            yield rows[place : place + _AT_A_TIME]
        begin, count = begin + count, 2 * count
