"""Raw files to `prompts`: each row is read once and given its content id, and with it its shard, for good.

- All input is read in one pass and partitioned by shard (`scan`), since the rows of a prompt may stand
  anywhere.
- Then each shard alone drops exact duplicates and gathers what belongs to one prompt.
- Rows in = rows out + rejects + duplicates. What limit and sample do not take are no rows in.
- A prompt that is in a held-out file or row and in another is held out. Where its rows bring different
  references it has none. Both are counted.
"""

import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from engine import ids, lone_rows, shard_count
from engine.checked_rows import Row
from engine.gathered import GatheredPrompt
from engine.inputs import Inputs, inputs
from engine.mapping import mapping_facts
from engine.mapping_checks import check_metadata
from engine.metadata import not_kept
from engine.raw_batches import RowBatch
from engine.recognise import check_responses, format_of
from engine.rejects import Reject, rejects_table
from engine.row_reader import RowWork
from engine.scanned_rows import SCANNED
from engine.scanning import Told, scanned_files
from engine.stage import Context, Made, Planning, Scanned, Stage
from engine.taking import taken
from schemas.digest import content_digest, fingerprint
from schemas.errors import UserError
from schemas.extensions import included
from schemas.manifest import Facts
from schemas.sections import Prompts
from schemas.tables import TABLES

_ROWS_AT_ONCE = 1024
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
    facts |= mapping_facts(config)
    # As JSON gives it back from a folder of the run.
    facts = json.loads(json.dumps(facts))
    facts["shards"] = config.shards or shard_count.of_same_input(facts, planning.of_run())
    if not facts["shards"]:
        facts["shards"] = shard_count.shards_for(config, found.files, planning.below, planning.workers)
    return facts


def scan(config: Prompts, facts: Facts) -> Iterator[Scanned]:
    """The rows of the input that are taken, a batch at a time, each with its shard.

    Raises UserError where the input is not what the facts name."""
    found = inputs(config)
    format_name = config.format
    if format_name == "auto":
        format_name = facts["format"]
    path = included("sql", format_name, ".sql")
    told = Told()

    def batches(files: dict[str, Path]) -> Iterator[pa.Table]:
        return scanned_files(files, config, path, found, told)

    for rows in taken(config, found, batches):
        # A reject has no prompt: its text settles its shard.
        identities = pc.coalesce(rows["prompt_id"], rows["row_id"]).to_pylist()
        yield Scanned(rows, [ids.shard_of(identity, facts["shards"]) for identity in identities])
    if told.guessed is not None:
        _log.info("the prompt is what chosen and rejected begin with, such as %r", told.guessed)
    left_out = not_kept(told.left_out, config)
    if left_out:
        _log.info("left out, since the format %s does not read them: %s", path.stem, ", ".join(left_out))
    changed = [name for name, file in found.files.items() if content_digest(file) != facts["input"].get(name)]
    if changed:
        raise UserError(
            f"{', '.join(changed)} changed while it was read: nothing was made from it; "
            "run the same command again"
        )


def scanned_rows(rows: Sequence[Row], config: Prompts, facts: Facts, found: Inputs) -> pa.Table:
    """Some rows of the input as the scan gives them, in their order, without their shards."""
    format_name = facts["format"] if config.format == "auto" else config.format
    reader = RowWork(config, included("sql", format_name, ".sql"), found).reader()
    tables = [SCANNED.empty_table()]
    for _, of_file in itertools.groupby(rows, key=lambda row: row.file):
        left = list(of_file)
        for begin in range(0, len(left), _ROWS_AT_ONCE):
            tables.append(reader.table(RowBatch(left[begin : begin + _ROWS_AT_ONCE])))
    return pa.concat_tables(tables)


def make(batch: pa.Table, config: Prompts, context: Context) -> Made:
    """One shard's rows, in the order of the input, to prompts and rejects."""
    if not len(batch):
        batch = SCANNED.empty_table()
    is_refused = batch["reason"].is_valid().to_numpy()
    is_lone = lone_rows.are_lone(batch)
    rows = lone_rows.prompts_of(batch, is_lone)
    prompts, duplicates = _gathered(batch.filter(pa.array(~is_lone & ~is_refused)))
    if prompts:
        gathered = [prompt.as_row() for prompt in prompts]
        rows = pa.concat_tables([rows, pa.Table.from_pylist(gathered, schema=TABLES["prompts"])])
        rows = rows.sort_by("prompt_id").combine_chunks()
    refused = batch.filter(pa.array(is_refused))
    rejects = _rejects(refused)
    tables = {
        "prompts": rows,
        "rejects": rejects_table("prompts", rejects, refused, refused["raw"].to_pylist() if rejects else []),
    }
    counts = {
        "rows_in": len(batch),
        "rows_out": len(batch) - len(rejects) - duplicates,
        "rejects": len(rejects),
        "duplicates": duplicates,
        "held_out": pc.sum(pc.equal(rows["given_split"], "test"), min_count=0).as_py(),
        "held_out_though_also_in_train": sum(one.splits == {"train", "test"} for one in prompts),
        "references_that_differ": sum(len(one.references) > 1 for one in prompts),
    }
    return Made(tables, counts)


def _gathered(batch: pa.Table) -> tuple[list[GatheredPrompt], int]:
    """The prompts of some rows, and how many of the rows say what another one said."""
    prompts: dict[str, GatheredPrompt] = {}
    seen: set[str] = set()
    for row in batch.to_pylist():
        if row["prompt_id"] not in prompts:
            prompts[row["prompt_id"]] = GatheredPrompt(row)
        prompt = prompts[row["prompt_id"]]
        prompt.add_what_it_says(row)
        if row["row_id"] not in seen:
            seen.add(row["row_id"])
            prompt.add_responses(row)
    return list(prompts.values()), len(batch) - len(seen)


def _rejects(refused: pa.Table) -> list[Reject]:
    """Why some rows of the scan are refused, in their order."""
    rejects: list[Reject] = []
    reasons = refused["reason"].to_pylist()
    details = refused["detail"].to_pylist() if reasons else []
    for number, (reason, detail) in enumerate(zip(reasons, details, strict=True)):
        rejects.append(Reject(number, reason, detail))
    return rejects


STAGE = Stage(
    name="prompts",
    version=1,
    writes=("prompts", "rejects"),
    fn=make,
    facts=facts,
    scan=scan,
)
