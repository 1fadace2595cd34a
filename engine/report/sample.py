"""The pairs that the page holds: all of them where they have room, else a sample, of which the page says so.

First come the pairs in which the reference disagrees most with the choice: they are worth reading. The others
are drawn by the digest of their ids: at random, and the same ones every time.
"""

import base64
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from engine import sql
from engine.report.pairs import for_page
from engine.story.tokens import Tokens

_MOST_BYTES = 2_700_000  # compressed, so that a page stays below five megabytes
_SURPRISING = 100
_AT_A_TIME = 50  # pairs between two looks at the size
_GZIP = 31  # zlib's name for it
_COLUMNS = """
    pair_id, prompt_id, split, source, prompt, chosen, rejected, chosen_score, rejected_score,
    chosen_scores, rejected_scores, chosen_length, rejected_length, chosen_ids, rejected_ids,
    ref_chosen_logps, ref_rejected_logps, ref_chosen_token_logps, ref_rejected_token_logps
"""
_SAMPLE = f"""
    with surprising as (
        select pair_id, 0 as place from pairs
        where ref_rejected_logps is not null
        order by ref_rejected_logps / rejected_length - ref_chosen_logps / chosen_length desc, pair_id
        limit {_SURPRISING}
    ), drawn as (select pair_id, 1 as place from pairs order by md5(pair_id) limit $1),
    wanted as (
        select pair_id, min(place) as place from (from surprising union all from drawn) group by pair_id
    ), found as (select {_COLUMNS}, place from pairs join wanted using (pair_id))
    select found.*, messages, file, line from found left join prompts using (prompt_id)
    order by place, md5(pair_id) limit $1
"""


@dataclass(frozen=True)
class Sample:
    """Pairs for the page. `packed`: JSON lines, compressed by gzip, in base64."""

    packed: str
    shown: int
    there: int

    @property
    def text(self) -> str:
        """How many of all pairs these are."""
        if self.shown == self.there:
            return f"all {self.there:,} pairs"
        return (
            f"{self.shown:,} of {self.there:,} pairs: the {_SURPRISING} in which the reference disagrees "
            "most with the choice, and others at random"
        )


def sample(con: duckdb.DuckDBPyConnection, tokens: Tokens | None, most: int) -> Sample:
    """At most so many pairs, and no more than a page has room for."""
    with sql.ctrl_c():
        there = con.sql("select count(*) from pairs").fetchall()[0][0]
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    packed: list[bytes] = []
    shown = 0
    for pairs in _pairs(con, most):
        lines = [json.dumps(for_page(row, tokens), ensure_ascii=False, allow_nan=False) for row in pairs]
        text = "".join(f"{line}\n" for line in lines)
        with_these = packer.copy()
        part = with_these.compress(text.encode()) + with_these.flush(zlib.Z_SYNC_FLUSH)
        if sum(map(len, packed)) + len(part) > _MOST_BYTES and shown:
            break
        packer = with_these
        packed.append(part)
        shown += len(lines)
    packed.append(packer.flush())
    return Sample(base64.b64encode(b"".join(packed)).decode(), shown, there)


def _pairs(con: duckdb.DuckDBPyConnection, most: int) -> Iterator[list[dict[str, Any]]]:
    with sql.ctrl_c():
        answer = con.sql(_SAMPLE, params=[most]).to_arrow_table()
    for batch in answer.to_batches(max_chunksize=_AT_A_TIME):
        yield batch.to_pylist()
