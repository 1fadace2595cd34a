"""Raw files to `prompts`: each row is read once and given its content id, and with it its shard, for good.

- All input is read in one pass and partitioned by shard (`scan`), since the rows of a prompt may stand
  anywhere.
- Then each shard alone drops exact duplicates and gathers what belongs to one prompt.
- Rows in = rows out + rejects + duplicates.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import ids, raw
from engine.formats import ROWS_TO_RECOGNISE, Format, Reading, recognise
from engine.rejects import Reject, rejects_table
from engine.stage import Context, Made, Planning, Scanned, Stage
from schemas.digest import content_digest, fingerprint
from schemas.errors import UserError
from schemas.extensions import included
from schemas.manifest import Facts
from schemas.sections import Prompts
from schemas.tables import MESSAGES, TABLES

_ROWS_AT_ONCE = 1024
_BYTES_AT_ONCE = 8 << 20
_SHARD_BYTES = 8 << 20
_MAX_SHARDS = 4096  # unless the recipe asks for more: a scan appends to all of their files in turn
_RESPONSES = pa.list_(pa.struct([("text", pa.string()), ("score", pa.float64())]))
# The rows of a shard's file of the scan. Each has either messages or a reason why it cannot be read.
_SCANNED = pa.schema(
    [
        ("file", pa.string()),
        ("line", pa.int64()),
        ("prompt_id", pa.string()),
        ("row_id", pa.string()),
        ("messages", MESSAGES),
        ("responses", _RESPONSES),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("raw", pa.string()),
    ]
)


def facts(config: Prompts, planning: Planning) -> Facts:
    """All that a row's place and reading depend on: the input's content, the format's SQL, the shards.

    Raises UserError where there is no input, or where no format can read it."""
    files = raw.find(config.source)
    if config.format == "auto":
        rows = raw.rows(files, config.max_row_bytes)
        format_file = recognise(list(itertools.islice(rows, ROWS_TO_RECOGNISE)))
    else:
        format_file = included("sql", config.format, ".sql")
    macros = included("sql", "macros", ".sql")
    return {
        "input": {name: content_digest(file) for name, file in files.items()},
        "format": format_file.stem,
        "format_sql": fingerprint([format_file.read_text(), macros.read_text()]),
        "max_row_bytes": config.max_row_bytes,
        "shards": config.shards or _shards_for(files),
    }


def _shards_for(files: dict[str, Path]) -> int:
    """The number of shards for an input, by its estimated size."""
    size = sum(map(raw.estimated_bytes, files.values()))
    return min(max(1, round(size / _SHARD_BYTES)), _MAX_SHARDS)


def scan(config: Prompts, facts: Facts) -> Iterator[Scanned]:
    """All rows of the input, a batch at a time, each with its shard.

    Raises UserError where the input is not what the facts name."""
    files = raw.find(config.source)
    format_name = config.format
    if format_name == "auto":
        format_name = facts["format"]
    reader = Format(included("sql", format_name, ".sql"))
    rows = raw.rows(files, config.max_row_bytes)
    while batch := _next_batch(rows):
        scanned: list[dict[str, Any]] = []
        shards: list[int] = []
        for reading in reader.read(batch):
            row = _scanned_row(reading)
            # A reject has no prompt: its text settles its shard.
            identity = row.get("prompt_id") or row["row_id"]
            scanned.append(row)
            shards.append(ids.shard_of(identity, facts["shards"]))
        yield Scanned(pa.Table.from_pylist(scanned, schema=_SCANNED), shards)
    changed = [name for name, file in files.items() if content_digest(file) != facts["input"].get(name)]
    if changed:
        raise UserError(
            f"{', '.join(changed)} changed while it was read: nothing was made from it; "
            "run the same command again"
        )


def _next_batch(rows: Iterator[raw.Row]) -> list[raw.Row]:
    """The next rows, as many as may be in memory at once."""
    batch: list[raw.Row] = []
    size = 0
    for row in itertools.islice(rows, _ROWS_AT_ONCE):
        batch.append(row)
        size += len(row.text)
        if size > _BYTES_AT_ONCE:
            break
    return batch


def _scanned_row(reading: Reading) -> dict[str, Any]:
    """A row of `_SCANNED`: `row_id` is a digest of all that the row says, so equal rows are duplicates."""
    row = reading.row
    if reading.reason:
        return {
            "file": row.file,
            "line": row.line,
            "row_id": ids.content_id(row.text),
            "reason": reading.reason,
            "detail": reading.detail,
            "raw": row.text,
        }
    prompt_id = ids.prompt_id(reading.messages)
    responses = [[response["text"], response["score"]] for response in reading.responses]
    return {
        "file": row.file,
        "line": row.line,
        "prompt_id": prompt_id,
        "row_id": ids.content_id(prompt_id, responses),
        "messages": reading.messages,
        "responses": reading.responses,
    }


def make(batch: pa.Table, config: Prompts, context: Context) -> Made:
    """One shard's rows, in the order of the input, to prompts and rejects."""
    rows = batch.to_pylist()
    prompts: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    rejects: list[Reject] = []
    for number, row in enumerate(rows):
        if row["reason"]:
            rejects.append(Reject(number, row["reason"], row["detail"]))
        elif row["row_id"] not in seen:
            seen.add(row["row_id"])
            prompt = prompts.setdefault(row["prompt_id"], _prompt_of(row))
            for response in row["responses"]:
                prompt["given"].append(response | {"comparison_id": row["row_id"]})
    by_id = sorted(prompts.values(), key=lambda prompt: prompt["prompt_id"])
    tables = {
        "prompts": pa.Table.from_pylist(by_id, schema=TABLES["prompts"]),
        "rejects": rejects_table("prompts", rejects, batch, [row["raw"] for row in rows]),
    }
    counts = {
        "rows_in": len(batch),
        "rows_out": len(seen),
        "rejects": len(rejects),
        "duplicates": len(batch) - len(seen) - len(rejects),
    }
    return Made(tables, counts)


def _prompt_of(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `prompts`, still without responses."""
    return {
        "prompt_id": row["prompt_id"],
        "messages": row["messages"],
        "prompt": row["messages"][-1]["content"],
        "given": [],
        "file": row["file"],
        "line": row["line"],
    }


STAGE = Stage(
    name="prompts",
    version=1,
    writes=("prompts", "rejects"),
    fn=make,
    facts=facts,
    scan=scan,
)
