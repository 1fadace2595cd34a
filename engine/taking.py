"""Part of the input for a trial: the first prompts, or a sample that does not depend on the order of files.

Both count prompts, not rows, of the files that are trained on and of the held-out ones apart.
"""

import heapq
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from engine import ids
from engine.inputs import Inputs
from schemas.sections import Prompts

# Scanned rows (engine/scanned_rows.py), a batch at a time; a reject has no prompt_id.
Batches = Iterator[pa.Table]
_log = logging.getLogger("prefmill")


def taken(config: Prompts, found: Inputs, batches: Callable[[dict[str, Path]], Batches]) -> Batches:
    """The rows that [prompts] takes of the files; `batches(files)` reads all of theirs, in order."""
    if config.limit:
        for group in found.groups():
            yield from _first(config.limit, batches(group), _name(found, group))
    elif config.sample:
        prompt_ids: set[str] = set()
        for group in found.groups():
            prompt_ids |= _sampled(config.sample, batches(group), _name(found, group))
        yield from _of(prompt_ids, batches(found.files))
    else:
        yield from batches(found.files)


def _name(found: Inputs, group: dict[str, Path]) -> str:
    """What to call a group of files."""
    is_held_out = set(group) <= found.held_out
    return "the held-out files" if is_held_out else "the input"


def _first(limit: int, batches: Batches, name: str) -> Batches:
    """The rows before the one that brings one prompt too many; nothing is read behind it."""
    prompt_ids: set[str] = set()
    for batch in batches:
        for place, prompt_id in enumerate(batch["prompt_id"].to_pylist()):
            if not prompt_id or prompt_id in prompt_ids:
                continue
            if len(prompt_ids) == limit:
                yield batch.slice(0, place)
                where = f"{batch['file'][place]}, line {batch['line'][place]}"
                _log.info("taken of %s: its first %d prompts, those before %s", name, limit, where)
                return
            prompt_ids.add(prompt_id)
        yield batch
    _log.info("taken of %s: all of its %d prompts, limit = %d", name, len(prompt_ids), limit)


def _sampled(size: int, batches: Batches, name: str) -> set[str]:
    """The ids of a sample: the prompts whose share is smallest."""
    known: set[bytes] = set()
    heap: list[
        tuple[float, str]
    ] = []  # the negative share of each prompt taken so far, the largest share first
    for batch in batches:
        for prompt_id in batch["prompt_id"].to_pylist():
            if not prompt_id or bytes.fromhex(prompt_id) in known:
                continue
            known.add(bytes.fromhex(prompt_id))
            heapq.heappush(heap, (-ids.share(prompt_id), prompt_id))
            if len(heap) > size:
                heapq.heappop(heap)
    _log.info("taken of %s: a sample of %d of its %d prompts", name, len(heap), len(known))
    return {prompt_id for _, prompt_id in heap}


def _of(prompt_ids: set[str], batches: Batches) -> Batches:
    """The rows of these prompts, and those that are refused: nobody knows of which prompt they are."""
    for batch in batches:
        taken = [one is None or one in prompt_ids for one in batch["prompt_id"].to_pylist()]
        yield batch.filter(pa.array(taken, pa.bool_()))
