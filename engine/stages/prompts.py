"""Raw files to `prompts`: each row read once, given its content id and with it its shard, for good.

All input is read in one pass and laid down by shard (`scan`), since rows of one prompt may stand anywhere; then each shard alone drops exact
duplicates and gathers what belongs to one prompt. Rows in = rows out + rejects + duplicates.
"""

import itertools
from collections.abc import Iterator

import pyarrow as pa

from engine import ids, raw
from engine.formats import Format, Reading, recognise
from engine.stage import Made, Scanned, Stage
from schemas.commit import content_digest, fingerprint
from schemas.errors import UserError
from schemas.extensions import included
from schemas.recipe import Recipe
from schemas.sections import Prompts
from schemas.tables import MESSAGES, table

_ROWS_AT_ONCE = 1024
_BYTES_AT_ONCE = 8 << 20
_SHARD_BYTES = 8 << 20
_MAX_SHARDS = 4096  # unless the recipe asks for more: a scan appends to all of their files in turn
_RESPONSES = pa.list_(pa.struct([("text", pa.string()), ("score", pa.float64())]))
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


def facts(recipe: Recipe) -> dict:
    """The input's content, the format's SQL and the number of shards: all that a row's place and reading depend on."""
    config: Prompts = recipe.section("prompts")
    files = raw.find(config.source)
    if config.format == "auto":
        path = recognise(list(itertools.islice(raw.rows(files, config.max_row_bytes), 100)))
    else:
        path = included("sql", config.format, ".sql")
    wanted = round(sum(map(raw.estimated_bytes, files.values())) / _SHARD_BYTES)
    shards = config.shards or min(max(1, wanted), _MAX_SHARDS)
    return {
        "input": {name: content_digest(file) for name, file in files.items()},
        "format": path.stem,
        "format_sql": fingerprint([path.read_text(), included("sql", "macros", ".sql").read_text()]),
        "max_row_bytes": config.max_row_bytes,
        "shards": shards,
    }


def scan(recipe: Recipe, facts: dict) -> Iterator[Scanned]:
    """All rows of the input, a batch at a time, each with its shard; raises UserError where the input is not what the facts name."""
    config: Prompts = recipe.section("prompts")
    files = raw.find(config.source)
    form = Format(included("sql", facts["format"] if config.format == "auto" else config.format, ".sql"))
    rows = raw.rows(files, config.max_row_bytes)
    while batch := _some(rows):
        readings = form.read(batch)
        laid = [_lay(reading) for reading in readings]
        # A reject has no prompt: its text settles its shard.
        shards = [ids.shard_of(row.get("prompt_id") or row["row_id"], facts["shards"]) for row in laid]
        yield Scanned(pa.Table.from_pylist(laid, schema=_SCANNED), shards)
    if changed := [name for name, file in files.items() if content_digest(file) != facts["input"].get(name)]:
        raise UserError(
            f"{', '.join(changed)} changed while it was read: nothing was made from it; run the same command again"
        )


def _some(rows: Iterator[raw.Row]) -> list[raw.Row]:
    """The next rows, as many as may be in memory at once."""
    batch, size = [], 0
    for row in itertools.islice(rows, _ROWS_AT_ONCE):
        batch.append(row)
        size += len(row.text)
        if size > _BYTES_AT_ONCE:
            break
    return batch


def _lay(reading: Reading) -> dict:
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
    row_id = ids.content_id(
        prompt_id, [[response["text"], response["score"]] for response in reading.responses]
    )
    return {
        "file": row.file,
        "line": row.line,
        "prompt_id": prompt_id,
        "row_id": row_id,
        "messages": reading.messages,
        "responses": reading.responses,
    }


def make(batch: pa.Table, recipe: Recipe, model: object) -> Made:
    """One shard's rows, in the order of the input, to prompts and rejects."""
    prompts: dict[str, dict] = {}
    seen: set[str] = set()
    rejects = []
    for row in batch.to_pylist():
        if row["reason"]:
            rejects.append(
                {key: row[key] for key in ("reason", "detail", "file", "line", "raw")} | {"stage": "prompts"}
            )
        elif row["row_id"] not in seen:
            seen.add(row["row_id"])
            prompt = prompts.setdefault(
                row["prompt_id"], row | {"prompt": row["messages"][-1]["content"], "given": []}
            )
            prompt["given"] += [response | {"comparison_id": row["row_id"]} for response in row["responses"]]
    kept = sorted(prompts.values(), key=lambda prompt: prompt["prompt_id"])
    names = ("prompt_id", "messages", "prompt", "given", "file", "line")
    counts = {
        "rows_in": len(batch),
        "rows_out": len(seen),
        "rejects": len(rejects),
        "duplicates": len(batch) - len(seen) - len(rejects),
    }
    tables = {
        "prompts": table("prompts", {name: [prompt[name] for prompt in kept] for name in names}),
        "rejects": table(
            "rejects",
            {
                name: [row[name] for row in rejects]
                for name in ("stage", "reason", "detail", "file", "line", "raw")
            },
        ),
    }
    return Made(tables, counts)


STAGE = Stage(name="prompts", version=1, writes=("prompts", "rejects"), fn=make, facts=facts, scan=scan)
