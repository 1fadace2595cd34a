"""How many shards an input has: so many that losing one costs a few minutes, and every worker has some.

- By its size: a MiB of input each. By the work: a million tokens that a model samples each, which a GPU does
  in about two minutes with a model of 8 B.
- At least four for each worker, so that all are through at about the same time, unless there is too little
  to share.
- A run keeps its number as long as the input is the same, wherever it goes on: another number is another
  folder, and everything in it would be made anew.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow.parquet as pq

from engine.inputs import estimated_bytes
from engine.raw import opened
from schemas.fields import Section
from schemas.manifest import Facts
from schemas.sections import Generate, Prompts

MOST = 99_999  # a file's name has five digits for its shard
_BYTES = 1 << 20  # of input, as JSON text
_TOKENS = 1 << 20  # that a model samples
_ROWS = 64  # of which a shard has at least so many, where only the number of workers asks for more shards
_PER_WORKER = 4
_SAMPLE = 1 << 20  # bytes of a file in which its rows are counted
_ROW_BYTES = 2048  # of a row where no line ends: a JSON array without line breaks


def shards_for(
    config: Prompts,
    files: Mapping[str, Path],
    below: Mapping[str, Section],
    workers: int,
) -> int:
    """The number of shards for input files. `below`: the recipe's sections after [prompts]."""
    size = sum(map(estimated_bytes, files.values()))
    rows = sum(map(estimated_rows, files.values()))
    prompts = config.limit or config.sample
    if 0 < prompts < rows:
        size = math.ceil(size * prompts / rows)
        rows = prompts
    by_size = math.ceil(size / _BYTES)
    by_work = math.ceil(rows * sampled_tokens(below) / _TOKENS)
    by_workers = min(_PER_WORKER * workers, rows // _ROWS) if workers > 1 else 1
    return max(1, min(max(by_size, by_work, by_workers), MOST))


def sampled_tokens(below: Mapping[str, Section]) -> float:
    """Tokens that a model samples for one prompt: half of max_tokens is about what a response comes to."""
    tokens = 0.0
    for section in below.values():
        if isinstance(section, Generate):
            tokens += section.n * section.max_tokens / 2
    return tokens


def estimated_rows(path: Path) -> int:
    """Rows of an input file: what a Parquet file says, else by the lines that its first MiB has."""
    try:
        if path.suffix.lower() == ".parquet":
            return int(pq.read_metadata(path).num_rows)
        with opened(path) as stream:
            head = bytes(stream.read(_SAMPLE))
    except (OSError, EOFError, ValueError):  # whoever reads it says what is wrong
        return 1
    lines = head.count(b"\n") + (not head.endswith(b"\n"))
    is_one_line = lines == 1 and len(head) == _SAMPLE
    row_bytes = _ROW_BYTES if is_one_line else len(head) / lines
    return max(1, round(estimated_bytes(path) / max(1.0, row_bytes)))


def of_same_input(facts: Facts, of_run: Iterable[Facts]) -> int | None:
    """The number of shards that a run already has of the input that `facts` name; None where it has none."""
    wanted = {name: value for name, value in facts.items() if name != "shards"}
    for made in of_run:
        shards = made.get("shards")
        if isinstance(shards, int) and wanted.items() <= made.items() and len(made) == len(wanted) + 1:
            return shards
    return None
