"""Raw files to `prompts`: each row is read once and given its content id, and with it its shard, for good.

- All input is read in one pass and partitioned by shard (`scan`), since the rows of a prompt may stand
  anywhere.
- Then each shard alone drops exact duplicates and gathers what belongs to one prompt.
- Rows in = rows out + rejects + duplicates. What limit and sample do not take are no rows in.
- A prompt that is in a held-out file or row and in another is held out. Where its rows bring different
  references it has none. Both are counted.
"""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import ids, raw
from engine.formats import Format
from engine.gathered import GatheredPrompt
from engine.inputs import Inputs, estimated_bytes, inputs
from engine.mapping import mapping_facts
from engine.mapping_checks import check_metadata
from engine.metadata import not_kept
from engine.readings import Reading
from engine.recognise import check_responses, format_of
from engine.rejects import Reject, rejects_table
from engine.stage import Context, Made, Planning, Scanned, Stage
from engine.taking import taken
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
_LETTERS_SHOWN = 80
_PROMPTS_OF_A_SHARD = 1024  # where the recipe takes a number of prompts
_RESPONSES = pa.list_(
    pa.struct(
        [
            ("text", pa.string()),
            ("score", pa.float64()),
            ("rating", pa.float64()),
            ("comparison", pa.int64()),
            ("turn", pa.string()),
        ]
    )
)
# The rows of a shard's file of the scan. Each has either messages or a reason why it cannot be read.
_SCANNED = pa.schema(
    [
        ("file", pa.string()),
        ("line", pa.int64()),
        ("prompt_id", pa.string()),
        ("row_id", pa.string()),
        ("messages", MESSAGES),
        ("chat", pa.string()),
        ("responses", _RESPONSES),
        ("split", pa.string()),
        ("reference", pa.string()),
        ("metadata", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("raw", pa.string()),
    ]
)
_log = logging.getLogger("prefmill")


def facts(config: Prompts, planning: Planning) -> Facts:
    """All that a row's place and reading depend on: the input's content, the format's SQL, the shards.

    Raises UserError where there is no input, or where no format can read it."""
    found = inputs(config, tell=True)
    format_file = format_of(found.files, config, found.of_test_source)
    check_metadata(format_file, found.files, config)
    if "given" in planning.below and "generate" not in planning.below:
        check_responses(format_file, found.files, config)
    macros = included("sql", "macros", ".sql")
    facts = {
        "input": {name: content_digest(file) for name, file in found.files.items()},
        "format": format_file.stem,
        "format_sql": fingerprint([format_file.read_text(), macros.read_text()]),
        "max_row_bytes": config.max_row_bytes,
        "shards": config.shards or _shards_for(found.files, config.limit or config.sample),
    }
    # What is not asked for is no fact: folders made before there were these keys keep their names.
    if found.held_out:
        facts["held_out"] = sorted(found.held_out)
    if config.ignore:
        facts["ignore"] = sorted(set(config.ignore))
    if config.split_column != "split":
        facts["split_column"] = config.split_column
    for key in ("limit", "sample"):
        if getattr(config, key):
            facts[key] = getattr(config, key)
    return facts | mapping_facts(config)


def _shards_for(files: dict[str, Path], prompts: int) -> int:
    """The number of shards for an input, by its estimated size, and by how many prompts are taken of it."""
    size = sum(map(estimated_bytes, files.values()))
    shards = min(max(1, round(size / _SHARD_BYTES)), _MAX_SHARDS)
    if prompts:
        return min(shards, math.ceil(prompts / _PROMPTS_OF_A_SHARD))
    return shards


def scan(config: Prompts, facts: Facts) -> Iterator[Scanned]:
    """The rows of the input that are taken, a batch at a time, each with its shard.

    Raises UserError where the input is not what the facts name."""
    found = inputs(config)
    format_name = config.format
    if format_name == "auto":
        format_name = facts["format"]
    reader = Format.of(included("sql", format_name, ".sql"), config)
    left_out: dict[str, None] = {}
    guessed: list[Reading] = []

    def batches(files: dict[str, Path]) -> Iterator[list[dict[str, Any]]]:
        rows = raw.rows(files, config.max_row_bytes)
        while batch := _next_batch(rows):
            scanned: list[dict[str, Any]] = []
            for reading in reader.read(batch):
                left_out.update(dict.fromkeys(reading.unread.left_out))
                if reading.prompt_is_guessed and not guessed:
                    guessed.append(reading)
                scanned.append(_scanned_row(reading, found.split_of(reading.row.file)))
            yield scanned

    for scanned in taken(config, found, batches):
        # A reject has no prompt: its text settles its shard.
        identities = [row.get("prompt_id") or row["row_id"] for row in scanned]
        shards = [ids.shard_of(identity, facts["shards"]) for identity in identities]
        yield Scanned(pa.Table.from_pylist(scanned, schema=_SCANNED), shards)
    if guessed:
        example = guessed[0].messages[-1]["content"][:_LETTERS_SHOWN]
        _log.info("the prompt is what chosen and rejected begin with, such as %r", example)
    left_out = not_kept(left_out, config)
    if left_out:
        _log.info("left out, since the format %s does not read them: %s", reader.name, ", ".join(left_out))
    changed = [name for name, file in found.files.items() if content_digest(file) != facts["input"].get(name)]
    if changed:
        raise UserError(
            f"{', '.join(changed)} changed while it was read: nothing was made from it; "
            "run the same command again"
        )


def scanned_rows(rows: Sequence[raw.Row], config: Prompts, facts: Facts, found: Inputs) -> pa.Table:
    """Some rows of the input as the scan gives them, without their shards."""
    format_name = facts["format"] if config.format == "auto" else config.format
    reader = Format.of(included("sql", format_name, ".sql"), config)
    scanned: list[dict[str, Any]] = []
    left = iter(rows)
    while batch := _next_batch(left):
        for reading in reader.read(batch):
            scanned.append(_scanned_row(reading, found.split_of(reading.row.file)))
    return pa.Table.from_pylist(scanned, schema=_SCANNED)


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


def _scanned_row(reading: Reading, split_of_file: str | None) -> dict[str, Any]:
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
    prompt_id = ids.prompt_id(reading.messages, reading.chat)
    responses = list(map(_identity, reading.responses))
    split = reading.split or split_of_file
    if split_of_file == "test":
        split = "test"
    return {
        "file": row.file,
        "line": row.line,
        "prompt_id": prompt_id,
        "row_id": ids.content_id(prompt_id, responses),
        "messages": reading.messages,
        "chat": reading.chat,
        "responses": reading.responses,
        "split": split,
        "reference": reading.reference,
        "metadata": reading.metadata,
    }


def _identity(response: dict[str, Any]) -> list[object]:
    """What a response is known by among its row's; a rating, a comparison or a turn counts where it is."""
    identity: list[object] = [response["text"], response["score"]]
    if "rating" in response or "comparison" in response:
        identity += [response.get("rating"), response.get("comparison")]
    if "turn" in response:
        identity.append(response["turn"])
    return identity


def make(batch: pa.Table, config: Prompts, context: Context) -> Made:
    """One shard's rows, in the order of the input, to prompts and rejects."""
    rows = batch.to_pylist()
    prompts: dict[str, GatheredPrompt] = {}
    seen: set[str] = set()
    rejects: list[Reject] = []
    for number, row in enumerate(rows):
        if row["reason"]:
            rejects.append(Reject(number, row["reason"], row["detail"]))
            continue
        if row["prompt_id"] not in prompts:
            prompts[row["prompt_id"]] = GatheredPrompt(row)
        prompt = prompts[row["prompt_id"]]
        prompt.add_what_it_says(row)
        if row["row_id"] not in seen:
            seen.add(row["row_id"])
            prompt.add_responses(row)
    by_id = [prompts[prompt_id].as_row() for prompt_id in sorted(prompts)]
    tables = {
        "prompts": pa.Table.from_pylist(by_id, schema=TABLES["prompts"]),
        "rejects": rejects_table("prompts", rejects, batch, [row["raw"] for row in rows]),
    }
    counts = {
        "rows_in": len(batch),
        "rows_out": len(seen),
        "rejects": len(rejects),
        "duplicates": len(batch) - len(seen) - len(rejects),
        "held_out": sum(prompt["given_split"] == "test" for prompt in by_id),
        "held_out_though_also_in_train": sum(one.splits == {"train", "test"} for one in prompts.values()),
        "references_that_differ": sum(len(one.references) > 1 for one in prompts.values()),
    }
    return Made(tables, counts)


STAGE = Stage(
    name="prompts",
    version=1,
    writes=("prompts", "rejects"),
    fn=make,
    facts=facts,
    scan=scan,
)
